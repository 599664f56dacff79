//! The grammar of COPY and ADD: their options, and which words are here-documents.

use super::{
    flags::Flags,
    instruction::{Content, Copy},
    lex::{Heredoc, heredoc::beginning},
};

/// Parses what follows the keyword.
pub(crate) fn copy(
    add: bool,
    flags: &mut Flags,
    rest: &str,
    json: Option<Vec<String>>,
    heredocs: &[Heredoc],
) -> Result<Copy, String> {
    let name = if add { "ADD" } else { "COPY" };
    // No quotes: what holds blanks is written as JSON.
    let mut all = json.unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
    let count = ["no", "only one"].get(all.len()).copied();
    let destination = all.pop().unwrap_or_default();
    if let Some(count) = count {
        return Err(format!(
            "{name} requires at least two arguments, but {count} was provided. Destination could not be determined"
        ));
    }
    let document = |word: &str| beginning(word).filter(|_| !heredocs.is_empty());
    if document(&destination).is_some() {
        return Err(format!("{name} cannot accept a heredoc as a destination"));
    }
    let mut sources = Vec::new();
    let mut contents = Vec::new();
    for word in all {
        match document(&word) {
            Some(begun) => {
                let found = heredocs.iter().find(|h| h.name == begun.name);
                contents.push(Content {
                    body: found.map(Heredoc::content).unwrap_or_default(),
                    name: begun.name,
                    expand: begun.expands,
                });
            }
            None => sources.push(word),
        }
    }
    let mut parsed = Copy {
        add,
        sources,
        contents,
        destination,
        chown: flags.raw("chown")?,
        chmod: flags.raw("chmod")?,
        link: flags.switch("link")?,
        exclude: flags.all("exclude")?,
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

#[cfg(test)]
mod tests {
    use crate::{Copy, Instruction, lex::Heredoc, parse::parse};

    fn on(text: &str, heredocs: &[(&str, &str)]) -> Result<Copy, String> {
        let heredocs: Vec<Heredoc> = heredocs
            .iter()
            .map(|(name, body)| Heredoc {
                name: (*name).to_owned(),
                body: (*body).to_owned(),
                strip_tabs: false,
                expands: true,
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
