//! Where repositories are that are reached over ssh: `ssh://[user@]host[:port]/path`, or as scp(1) has it
//! `user@host:path`.

use url::Url;

use crate::context::fetch::{percent_decoded, redacted};

/// A repository's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshUrl {
    /// Who asks. Without one it is root, who BuildKit's daemon is.
    pub user: String,
    /// A name or an address, the latter without brackets.
    pub host: String,
    pub port: u16,
    /// As the host is asked for it: from its root, or (as scp has it) from the user's home.
    pub path: String,
}

impl SshUrl {
    /// Reads a place; none when it is something else (moby/buildkit, util/gitutil and util/sshutil: as scp has
    /// it there must be a user, so no name of a file is taken for a host's). Errors are sentences.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let found = match text.get(..6).map(str::to_ascii_lowercase).as_deref() {
            Some("ssh://") => Some(Self::of_url(text)?),
            _ => Self::of_scp(text),
        };
        found.map(|found| found.checked(text)).transpose()
    }

    fn of_url(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| format!("git repository {:?}: {why}", redacted(text));
        let url = Url::parse(text).map_err(|e| refuse(&e.to_string()))?;
        if url.password().is_some() {
            return Err(refuse(
                "passwords are not used over ssh: leave it out, and pass keys with --ssh",
            ));
        }
        let host = url.host_str().unwrap_or_default();
        let path = percent_decoded(url.path());
        Ok(Self {
            user: match url.username() {
                "" => "root".to_owned(),
                user => percent_decoded(user),
            },
            host: host.trim_matches(['[', ']']).to_ascii_lowercase(),
            port: url.port().unwrap_or(22),
            // As git: somebody's home is no folder of the root (connect.c, parse_connect_url).
            path: match path.strip_prefix('/') {
                Some(home) if home.starts_with('~') => home.to_owned(),
                _ => path,
            },
        })
    }

    fn of_scp(text: &str) -> Option<Self> {
        let (login, path) = text.split_once(':')?;
        let (user, host) = login.split_once('@')?;
        let fits = |text: &str, more: &str| {
            let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            !text.is_empty() && text.chars().all(fits)
        };
        (fits(user, "-_") && fits(host, "-.")).then(|| Self {
            user: user.to_owned(),
            host: host.to_ascii_lowercase(),
            port: 22,
            path: path.to_owned(),
        })
    }

    /// Nothing that a program could take for an option (CVE-2017-1000117 and its kin), nor what would end a
    /// line.
    fn checked(self, text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        let words = [&self.user, &self.host, &self.path];
        let why = match self.path.trim_matches('/') {
            _ if self.host.is_empty() || !self.host.chars().all(fits) => "it names no host",
            "" => "it names no repository",
            _ if words.iter().any(|w| w.starts_with('-')) => "no part of it may begin with -",
            _ if words.iter().any(|w| w.contains(char::is_control)) => "it has control characters",
            _ => return Ok(self),
        };
        Err(format!("git repository {:?}: {why}", redacted(text)))
    }

    /// The host as files of known hosts name it (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").
    pub fn known_as(&self) -> String {
        match self.port {
            22 => self.host.clone(),
            port => format!("[{}]:{port}", self.host),
        }
    }

    /// What the host is to run: its shell reads it, so the path is quoted (git's quote.c, sq_quote_buf).
    pub fn command(&self) -> String {
        let mut path = String::new();
        for c in self.path.chars() {
            match c {
                '\'' | '!' => path.extend(["'\\", c.encode_utf8(&mut [0; 4]), "'"]),
                c => path.push(c),
            }
        }
        format!("git-upload-pack '{path}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_or_refused() {
        let of = |text: &str| {
            let found = SshUrl::parse(text).unwrap();
            found.map(|u| format!("{} {} {} {}", u.user, u.host, u.port, u.path))
        };
        // Those of BuildKit's own tests first.
        for (text, expected) in [
            (
                "git@github.com:moby/buildkit.git",
                "git github.com 22 moby/buildkit.git",
            ),
            (
                "nonstandarduser@example.com:/srv/repos/weird/project.git",
                "nonstandarduser example.com 22 /srv/repos/weird/project.git",
            ),
            (
                "other_Funky-username52@example.com:/to/really:odd:repo.git/",
                "other_Funky-username52 example.com 22 /to/really:odd:repo.git/",
            ),
            (
                "teddy@4houses-down.com:/~/catnip.git/",
                "teddy 4houses-down.com 22 /~/catnip.git/",
            ),
            (
                "ssh://root@subdomain.example.hostname:2222/root/my/really/weird/path/foo.git",
                "root subdomain.example.hostname 2222 /root/my/really/weird/path/foo.git",
            ),
            (
                "ssh://someuser@192.168.0.123:456/~/repo-in-my-home-dir.git",
                "someuser 192.168.0.123 456 ~/repo-in-my-home-dir.git",
            ),
            ("SSH://Me@Host/a%20b", "Me host 22 /a b"),
            ("ssh://host/a", "root host 22 /a"),
            ("ssh://a%2Db@[fd00::1]:22/a", "a-b fd00::1 22 /a"),
        ] {
            assert_eq!(of(text).as_deref(), Some(expected), "{text}");
        }
        for other in [
            "github.com/moby/buildkit",
            "github.com:moby/buildkit.git",
            "helloworld.net",
            "git@helloworld.net",
            "git@helloworld.net/foo/bar.git",
            "bad:user@helloworld.net:foo/bar.git",
            "@h:x",
            "a b@h:x",
            "C:/x",
            "./git@h",
            "",
            "https://git@h:22/x",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        for (bad, why) in [
            ("git@h:", "names no repository"),
            ("ssh://git@h", "names no repository"),
            ("ssh://git@h/", "names no repository"),
            ("ssh:///x", "names no host"),
            ("ssh://h%20x/a", "h"),
            ("git@-oProxyCommand=x:a", "-"),
            ("git@-h:a", "begin with -"),
            ("-u@h:a", "begin with -"),
            ("git@h:-x", "begin with -"),
            ("ssh://%2dx@h/a", "begin with -"),
            ("ssh://h/a%0ab", "control characters"),
            ("git@h:a\nb", "control characters"),
            (
                "ssh://git:word@h/a",
                "\"ssh://xxxxx:xxxxx@h/a\": passwords are not used over ssh",
            ),
            ("ssh://:word@h/a", "passwords are not used over ssh"),
        ] {
            match SshUrl::parse(bad) {
                Err(error) => assert!(error.contains(why) && !error.contains("word@"), "{error}"),
                found => assert_eq!((found, why), (Ok(None), "-"), "{bad}"),
            }
        }
    }

    #[test]
    fn a_path_stays_one_word_of_the_command() {
        let of = |path: &str| SshUrl::parse(&format!("git@h:{path}")).unwrap().unwrap();
        assert_eq!(of("a b").command(), "git-upload-pack 'a b'");
        assert_eq!(
            of("x'; touch /y '!").command(),
            "git-upload-pack 'x'\\''; touch /y '\\'''\\!''"
        );
        assert_eq!(of("x").known_as(), "h");
        let port = SshUrl::parse("ssh://H:2222/x").unwrap().unwrap();
        assert_eq!(port.known_as(), "[h]:2222");
    }

    proptest::proptest! {
        #[test]
        fn anything_may_stand_there(text in ".{0,60}", rest in "[a-z:@/~%0-9\\[\\]'!-]{0,60}") {
            for text in [text, rest.clone(), format!("ssh://{rest}"), format!("a@b:{rest}")] {
                if let Ok(Some(url)) = SshUrl::parse(&text) {
                    assert!(url.command().starts_with("git-upload-pack '"));
                }
            }
        }
    }
}
