//! The grammar of COPY and ADD: their options, and which words are here-documents.

use super::{
    expand::words,
    flags::Flags,
    instruction::{Content, Copy},
    lex::Heredoc,
};

/// Parses what follows the keyword.
pub(crate) fn copy(
    add: bool,
    flags: &mut Flags,
    rest: &str,
    json: Option<Vec<String>>,
    escape: char,
    heredocs: &[Heredoc],
) -> Result<Copy, String> {
    let name = if add { "ADD" } else { "COPY" };
    let mut all = json.unwrap_or_else(|| words(rest, escape));
    let count = all.len();
    let destination = all.pop().unwrap_or_default();
    if all.is_empty() {
        return Err(format!(
            "{name} requires at least two arguments, but only {count} were provided. Destination could not be determined"
        ));
    }
    if document(&destination).is_some_and(|(name, _)| heredocs.iter().any(|h| h.name == name)) {
        return Err(format!("{name} cannot accept a heredoc as a destination"));
    }
    let mut sources = Vec::new();
    let mut contents = Vec::new();
    for word in all {
        let found = document(&word).and_then(|(name, quoted)| {
            let heredoc = heredocs.iter().find(|h| h.name == name)?;
            Some((heredoc, quoted))
        });
        match found {
            Some((heredoc, quoted)) => contents.push(Content {
                name: heredoc.name.clone(),
                body: heredoc.body.clone(),
                expand: !quoted,
            }),
            None => sources.push(word),
        }
    }
    let mut exclude = Vec::new();
    while let Some(pattern) = flags.raw("exclude")? {
        exclude.push(pattern);
    }
    let mut parsed = Copy {
        add,
        sources,
        contents,
        destination,
        chown: flags.raw("chown")?,
        chmod: flags.raw("chmod")?,
        link: flags.switch("link")?,
        exclude,
        ..Copy::default()
    };
    if add {
        parsed.checksum = flags.raw("checksum")?;
        parsed.keep_git_dir = flags.optional_switch("keep-git-dir")?;
        parsed.unpack = flags.optional_switch("unpack")?;
    } else {
        parsed.from = flags.raw("from")?;
        parsed.parents = flags.switch("parents")?;
    }
    Ok(parsed)
}

/// `<<NAME`, `<<-NAME`, `<<"NAME"`: the name, and whether it is quoted, which leaves its text as it is.
fn document(word: &str) -> Option<(String, bool)> {
    let name = word.strip_prefix("<<")?;
    let name = name.strip_prefix('-').unwrap_or(name);
    let plain = name.replace(['"', '\'', '\\'], "");
    let quoted = plain.len() != name.len();
    (!plain.is_empty()).then_some((plain, quoted))
}

#[cfg(test)]
mod tests {
    use crate::{Copy, Instruction, lex::Heredoc, parse::parse};

    fn on(text: &str, heredocs: &[(&str, &str)]) -> Result<Copy, String> {
        let heredocs: Vec<Heredoc> = heredocs
            .iter()
            .map(|(name, body)| Heredoc {
                name: (*name).to_owned(),
                body: (*body).to_owned(),
            })
            .collect();
        match parse(text, &heredocs, '\\')? {
            Instruction::Copy(copy) => Ok(copy),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_of_copy() {
        let copy = on(
            "COPY --parents --exclude=*.md --exclude=**/tmp --chmod=u=rwX --link=false a/./b c /d/",
            &[],
        )
        .unwrap();
        assert!(copy.parents && !copy.link);
        assert_eq!(copy.exclude, ["*.md", "**/tmp"]);
        assert_eq!(copy.chmod.as_deref(), Some("u=rwX"));
        assert_eq!(copy.sources, ["a/./b", "c"]);
    }

    #[test]
    fn options_of_add() {
        let add = on(
            "ADD --checksum=sha256:00 --keep-git-dir --unpack=false https://x/y /d",
            &[],
        )
        .unwrap();
        assert_eq!(add.checksum.as_deref(), Some("sha256:00"));
        assert_eq!((add.keep_git_dir, add.unpack), (Some(true), Some(false)));
        for (text, part) in [
            ("ADD --from=x a b", "--from"),
            ("ADD --parents a b", "--parents"),
            ("COPY --checksum=x a b", "--checksum"),
            ("COPY --unpack a b", "--unpack"),
            ("COPY a", "at least two"),
        ] {
            let error = on(text, &[]).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn documents_are_sources() {
        let copy = on(
            "COPY <<one.txt <<-\"two\" plain /d/",
            &[("one.txt", "a $x\n"), ("two", "b\n")],
        )
        .unwrap();
        assert_eq!(copy.sources, ["plain"]);
        let told: Vec<_> = copy
            .contents
            .iter()
            .map(|c| (c.name.as_str(), c.body.as_str(), c.expand))
            .collect();
        assert_eq!(told, [("one.txt", "a $x\n", true), ("two", "b\n", false)]);
        assert!(
            on("COPY a <<d", &[("d", "")])
                .unwrap_err()
                .contains("destination")
        );
    }
}
