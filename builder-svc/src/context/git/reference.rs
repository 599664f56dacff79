//! References to git repositories, as contexts and ADD have them: `URL[?KEY=VALUE&...][#REF[:SUBFOLDER]]`.

use super::{super::fetch::redacted, query, ssh::SshUrl};

/// A place in a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitSource {
    /// Without query and fragment.
    pub remote: String,
    /// The same where it is reached over ssh, not over http or https.
    pub ssh: Option<SshUrl>,
    /// Branch, tag, full name of a reference, or commit; "" = the remote's HEAD.
    pub reference: String,
    /// "" = all of it.
    pub subfolder: String,
    /// The commit, or the tag, that the reference must be: its beginning.
    pub checksum: Option<String>,
    /// Whether `.git` is wanted, if that was said.
    pub keep_git_dir: Option<bool>,
    /// The repositories inside of it are not wanted.
    pub skip_submodules: bool,
}

impl GitSource {
    /// Reads a reference; none when it is something else (moby/buildkit, dfgitutil.ParseGitRef: an http URL
    /// is one only if its path ends with `.git`). Errors are sentences.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let (location, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = location.split_once('?').unwrap_or((location, ""));
        let lower = remote.to_ascii_lowercase();
        if lower.starts_with("git://") {
            return Err(format!(
                "git repository {:?}: git:// is not supported: nobody knows there who answers; give its https:// or ssh:// address",
                redacted(location)
            ));
        }
        let http = lower.starts_with("http://") || lower.starts_with("https://");
        let ssh = SshUrl::parse(remote)?;
        if !(http && remote.ends_with(".git")) && ssh.is_none() {
            return Ok(None);
        }
        let (reference, subfolder) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut source = Self {
            remote: remote.to_owned(),
            ssh,
            reference: reference.to_owned(),
            subfolder: subfolder.to_owned(),
            ..Self::default()
        };
        query::apply(&mut source, query)?;
        check(text, &source.reference)?;
        let subfolder = slipway_pattern::list::clean(&format!("/{}", source.subfolder));
        subfolder
            .trim_start_matches('/')
            .clone_into(&mut source.subfolder);
        Ok(Some(source))
    }

    /// For people: without a password.
    pub fn shown(&self) -> String {
        let remote = redacted(&self.remote);
        match (self.reference.as_str(), self.subfolder.as_str()) {
            ("", "") => remote,
            (reference, "") => format!("{remote}#{reference}"),
            (reference, folder) => format!("{remote}#{reference}:{folder}"),
        }
    }
}

/// git-check-ref-format(1), and above all: nothing that a program could take for an option (CVE-2017-1000117
/// and its kin), nor what would end a line of the protocol.
fn check(text: &str, reference: &str) -> Result<(), String> {
    let bad = reference.starts_with('-')
        || reference.len() > 1024
        || reference.contains("..")
        || reference.ends_with(".lock")
        || reference
            .chars()
            .any(|c| c.is_control() || " ~^:?*[\\".contains(c));
    match bad {
        true => Err(format!("invalid git reference in {:?}", redacted(text))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_or_refused() {
        let of = |text: &str| {
            GitSource::parse(text)
                .unwrap()
                .map(|g| (g.remote, g.reference, g.subfolder))
        };
        let three = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(of("https://h/r.git"), three("https://h/r.git", "", ""));
        assert_eq!(of("https://h/r.git#v1"), three("https://h/r.git", "v1", ""));
        assert_eq!(
            of("https://h/r.git#refs/heads/a:x/../y/"),
            three("https://h/r.git", "refs/heads/a", "y")
        );
        assert_eq!(
            of("https://h/r.git#:../../x"),
            three("https://h/r.git", "", "x")
        );
        assert_eq!(
            of("git@h:a/b.git#v1:sub"),
            three("git@h:a/b.git", "v1", "sub")
        );
        assert_eq!(
            of("ssh://git@h:22/a?branch=b&subdir=c"),
            three("ssh://git@h:22/a", "refs/heads/b", "c")
        );
        let ssh = |text: &str| GitSource::parse(text).unwrap().unwrap().ssh;
        assert_eq!(ssh("git@h:a/b.git?ref=x#:y").unwrap().path, "a/b.git");
        assert_eq!(ssh("https://h/r.git"), None);
        for other in [
            "a/b.git",
            "https://h/r.tgz",
            "./x",
            "github.com/a/b",
            "h:a/b",
            "a#b@c:d",
            "C:/x",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        for bad in [
            "https://h/r.git#--upload-pack=touch",
            "https://h/r.git#-x:sub",
            "https://h/r.git#a..b",
            "https://h/r.git#a\nb",
            "https://h/r.git#a b",
            "git@h:a/b.git#--upload-pack=touch",
            "git@h:",
            "ssh://u:p@h/a.git",
            "git://h/a.git",
            "https://h/r.git?ref=x y",
            "https://h/r.git?what=x",
        ] {
            assert!(GitSource::parse(bad).is_err(), "{bad}");
        }
    }
}
