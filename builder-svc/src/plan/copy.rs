//! COPY and ADD, all decided: where each source is, and what is done to it.

use super::{chmod::Chmod, values::join};
use crate::context::{fetch::redacted, git::GitSource};
use slipway_dockerfile::{Content, Copy};

/// A COPY or ADD, all decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyAction {
    /// It is an ADD.
    pub add: bool,
    /// In their order.
    pub origins: Vec<Origin>,
    /// Absolute; ends with `/` when it must be a folder.
    pub destination: String,
    /// Text of `--from`.
    pub from: Option<String>,
    /// `user[:group]`, "" = as the source.
    pub chown: String,
    /// `--chmod`
    pub chmod: Option<Chmod>,
    /// A layer that depends on nothing below it.
    pub link: bool,
    /// Sources keep the folders above them.
    pub parents: bool,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// What a URL must give.
    pub checksum: Option<String>,
    /// Local archives are unpacked.
    pub unpack: bool,
    /// Archives behind URLs are unpacked.
    pub unpack_urls: bool,
}

/// Where a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the context, or in what `--from` names; may hold wildcards.
    Path(String),
    /// http or https.
    Url(String),
    /// A git repository.
    Git(GitSource),
    /// In the Dockerfile.
    Content {
        /// The file's name.
        name: String,
        /// What is in it.
        data: String,
    },
}

impl CopyAction {
    /// Reads an instruction. `expand` expands variables of a word, `expand_document` those of a
    /// here-document, `working_dir` is where relative
    /// destinations are.
    pub fn read(
        copy: &Copy,
        working_dir: &str,
        expand: &dyn Fn(&str) -> Result<String, String>,
        expand_document: &dyn Fn(&str) -> Result<String, String>,
    ) -> Result<(Self, String), String> {
        let name = if copy.add { "ADD" } else { "COPY" };
        let optional = |text: &Option<String>| text.as_deref().map(expand).transpose();
        let mut shown = name.to_owned();
        let mut origins = Vec::new();
        if copy.parents {
            shown.push_str(" --parents");
        }
        let chown = optional(&copy.chown)?.unwrap_or_default();
        if !chown.is_empty() {
            shown.push_str(&format!(" --chown={chown}"));
        }
        let chmod = optional(&copy.chmod)?;
        if let Some(text) = &chmod {
            shown.push_str(&format!(" --chmod={text}"));
        }
        for word in &copy.sources {
            let source = expand(word)?;
            // The history goes wherever the image goes.
            shown.push_str(&format!(" {}", redacted(&source)));
            origins.push(origin(source, copy.add)?);
        }
        for content in &copy.contents {
            shown.push_str(&format!(" <<{}", content.name));
            origins.push(document(content, expand_document)?);
        }
        let mut written = expand(&copy.destination)?;
        if written.is_empty() {
            // As docker: the working directory.
            written.push_str("./");
        }
        shown.push_str(&format!(" {written}"));
        let folder =
            written.ends_with('/') || matches!(written.rsplit('/').next(), Some("." | ".."));
        let mut destination = join(working_dir, &written);
        if folder && !destination.ends_with('/') {
            destination.push('/');
        }
        let checksum = optional(&copy.checksum)?;
        if checksum.is_some() {
            match &origins[..] {
                [Origin::Url(_) | Origin::Git(_)] => {}
                [_] => return Err("checksum requires HTTP(S) or Git sources".to_owned()),
                _ => return Err("checksum can't be specified for multiple sources".to_owned()),
            }
        }
        for origin in &mut origins {
            if let Origin::Git(source) = origin {
                settle(source, checksum.as_ref(), copy.keep_git_dir)?;
            }
        }
        let exclude = copy.exclude.iter().map(|p| expand(p));
        let action = Self {
            add: copy.add,
            origins,
            destination,
            from: copy.from.clone(),
            chown,
            chmod: chmod.as_deref().map(Chmod::parse).transpose()?,
            // BuildKit, dispatchCopy: with a mode it is copied upon what is there.
            link: copy.link && chmod.is_none(),
            parents: copy.parents,
            exclude: exclude.collect::<Result<_, _>>()?,
            checksum,
            unpack: copy.unpack.unwrap_or(copy.add),
            unpack_urls: copy.unpack.unwrap_or(false),
        };
        slipway_pattern::PatternList::new(&action.exclude)
            .map_err(|e| format!("--exclude: {e}"))?;
        Ok((action, shown))
    }
}

fn origin(source: String, add: bool) -> Result<Origin, String> {
    let git = GitSource::parse(&source)?;
    let url = source.starts_with("http://") || source.starts_with("https://");
    match (git, url, add) {
        (Some(git), _, true) => Ok(Origin::Git(git)),
        (Some(_), _, false) => Err("source can't be a git ref for COPY".to_owned()),
        (None, true, true) => Ok(Origin::Url(source)),
        (None, true, false) => Err("source can't be a URL for COPY".to_owned()),
        (None, false, _) => Ok(Origin::Path(source)),
    }
}

/// What an ADD says of a repository, beside what its URL says (moby/buildkit, dispatchCopy: sentences).
fn settle(
    source: &mut GitSource,
    checksum: Option<&String>,
    keep: Option<bool>,
) -> Result<(), String> {
    if let (Some(said), Some(keep)) = (source.keep_git_dir, keep)
        && said != keep
    {
        return Err("inconsistent keep-git-dir configuration".to_owned());
    }
    if let (Some(said), Some(checksum)) = (&source.checksum, checksum)
        && said != checksum
    {
        return Err(format!("checksum mismatch {checksum:?} != {said:?}"));
    }
    source.keep_git_dir = source.keep_git_dir.or(keep);
    if let Some(checksum) = checksum {
        source.checksum = Some(checksum.clone());
    }
    Ok(())
}

fn document(
    content: &Content,
    expand: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Origin, String> {
    let data = match content.expand {
        true => expand(&content.body)?,
        false => content.body.clone(),
    };
    if content.name.contains('/') || matches!(content.name.as_str(), "." | "..") {
        return Err(format!("{:?} is not a name for a file", content.name));
    }
    Ok(Origin::Content {
        name: content.name.clone(),
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_dockerfile::{Instruction, parse::parse};

    fn read(text: &str) -> Result<CopyAction, String> {
        let Instruction::Copy(copy) = parse(text, &[], '\\').unwrap() else {
            panic!("not a copy");
        };
        let expand = |word: &str| Ok(word.replace("$x", "X").replace("${x}", "X"));
        CopyAction::read(&copy, "/w", &expand, &expand).map(|(action, _)| action)
    }

    #[test]
    fn no_password_of_a_url_is_in_the_history() {
        let text = "ADD https://me:word@h/x https://me:word@h/r.git plain /d/";
        let Ok(Instruction::Copy(copy)) = parse(text, &[], '\\') else {
            panic!("not a copy");
        };
        let expand = |word: &str| Ok(word.to_owned());
        let (action, shown) = CopyAction::read(&copy, "/w", &expand, &expand).unwrap();
        assert_eq!(
            shown,
            "ADD https://xxxxx:xxxxx@h/x https://xxxxx:xxxxx@h/r.git plain /d/"
        );
        assert_eq!(
            action.origins[0],
            Origin::Url("https://me:word@h/x".to_owned())
        );
    }

    #[test]
    fn origins_are_told_apart() {
        let add = read("ADD a https://h/x/y.tgz https://h/r.git#v1:sub b$x d/").unwrap();
        assert_eq!(add.origins.len(), 4);
        assert!(matches!(&add.origins[1], Origin::Url(_)));
        assert!(matches!(&add.origins[2], Origin::Git(git) if git.subfolder == "sub"));
        assert_eq!(add.origins[3], Origin::Path("bX".to_owned()));
        assert_eq!(add.destination, "/w/d/");
        assert!(add.unpack && !add.unpack_urls);
        for (text, part) in [
            ("COPY https://h/x /d", "can't be a URL"),
            ("COPY https://h/r.git /d", "can't be a git ref"),
            ("ADD --checksum=sha256:1 a /d", "requires HTTP(S)"),
            (
                "ADD --checksum=sha256:1 https://h/a b /d/",
                "multiple sources",
            ),
            (
                "ADD --keep-git-dir https://h/r.git?keep-git-dir=0 /d",
                "inconsistent keep-git-dir",
            ),
            (
                "ADD --checksum=abc https://h/r.git?commit=abd /d",
                "checksum mismatch \"abc\" != \"abd\"",
            ),
            ("COPY --exclude=[ a b", "syntax error in pattern"),
            ("COPY --chmod=u+q a b", "invalid chmod"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
