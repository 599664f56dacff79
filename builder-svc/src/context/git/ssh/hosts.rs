//! Which hosts are believed to be themselves: by a file of known hosts that somebody keeps for us
//! (`ssh_known_hosts` in `builder.toml`), or else by the key that a host showed first.
//!
//! Both are files as sshd(8) has them ("SSH_KNOWN_HOSTS FILE FORMAT"), read anew for each connection.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use russh::keys::{
    Algorithm, HashAlg, PublicKey,
    ssh_key::known_hosts::{Entry, HostPatterns, Marker},
};

/// Most bytes of a file of known hosts.
const LARGEST: u64 = 4 << 20;

/// The hosts that this service knows.
#[derive(Debug, Clone)]
pub struct Hosts {
    file: PathBuf,
    /// Nobody keeps the file for us: what is not in it is added.
    learns: bool,
    /// Held while a key is added.
    adding: Arc<Mutex<()>>,
}

/// What a file says of a host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    keys: Vec<PublicKey>,
    revoked: Vec<PublicKey>,
}

impl Hosts {
    /// Those of a file, and no others.
    pub fn of_file(file: PathBuf) -> Self {
        Self {
            file,
            learns: false,
            adding: Arc::default(),
        }
    }

    /// Those that were met before; who is not in the file yet is believed, and added to it.
    pub fn met(file: PathBuf) -> Self {
        Self {
            learns: true,
            ..Self::of_file(file)
        }
    }

    /// In which order a host is asked for its keys: first for those that are known of it, as ssh(1) does
    /// (sshconnect2.c, order_hostkeyalgs): it has several, and would show another one.
    pub fn order(&self, name: &str, all: &[Algorithm]) -> Result<Vec<Algorithm>, String> {
        let known = self.known(name)?;
        // An RSA key goes with several algorithms.
        let kind = |algorithm: &Algorithm| match algorithm {
            Algorithm::Rsa { .. } => Algorithm::Rsa { hash: None },
            other => other.clone(),
        };
        let is_known = |a: &&Algorithm| known.keys.iter().any(|k| kind(&k.algorithm()) == kind(a));
        let (mut first, rest): (Vec<_>, Vec<_>) = all.iter().partition(is_known);
        first.extend(rest);
        Ok(first.into_iter().cloned().collect())
    }

    /// Whether a host that shows such a key may be it. Errors are sentences.
    pub fn judge(&self, name: &str, key: &PublicKey) -> Result<(), String> {
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known(name)?;
        let same = |other: &PublicKey| other.key_data() == key.key_data();
        let (shown, file) = (shown(key), self.file.display());
        if known.revoked.iter().any(same) {
            return Err(format!(
                "the host {name} shows the key {shown}, which {file} revokes"
            ));
        }
        if known.keys.iter().any(same) {
            return Ok(());
        }
        let Some(other) = known.keys.first() else {
            if self.learns {
                return self.add(name, key);
            }
            return Err(format!(
                "the host {name} is not in {file} (ssh_known_hosts in builder.toml): if {shown} is its key, add the line \"{}\"",
                line(name, key)?
            ));
        };
        let before = self::shown(other);
        Err(match self.learns {
            true => format!(
                "the host {name} shows the key {shown}, and showed {before} before: somebody may have come between. If its key was changed, take its line out of {file}"
            ),
            false => format!(
                "the host {name} shows the key {shown}, and {file} (ssh_known_hosts in builder.toml) has {before}: somebody may have come between. If its key was changed, change it there"
            ),
        })
    }

    fn known(&self, name: &str) -> Result<Known, String> {
        let text = self.read().map_err(|e| self.failed("read", &e))?;
        Ok(known(&text, name))
    }

    fn read(&self) -> io::Result<String> {
        let size = match fs::metadata(&self.file) {
            Err(e) if self.learns && e.kind() == io::ErrorKind::NotFound => {
                return Ok(String::new());
            }
            found => found?.len(),
        };
        match size {
            0..=LARGEST => fs::read_to_string(&self.file),
            _ => Err(io::Error::other(format!(
                "it has more than {LARGEST} bytes"
            ))),
        }
    }

    /// Keeps a key for good: who is answered believes in it from now on, also after a power cut.
    fn add(&self, name: &str, key: &PublicKey) -> Result<(), String> {
        let mut text = self.read().map_err(|e| self.failed("read", &e))?;
        text.push_str(&line(name, key)?);
        text.push('\n');
        if text.len() as u64 > LARGEST {
            return Err(format!(
                "the host {name} cannot be remembered: {} is full, take hosts out of it that are not used any more",
                self.file.display()
            ));
        }
        write_durably(&self.file, text.as_bytes()).map_err(|e| self.failed("write", &e))?;
        tracing::info!(
            host = name,
            key = shown(key),
            "a host is met for the first time, and believed"
        );
        Ok(())
    }

    fn failed(&self, what: &str, error: &io::Error) -> String {
        format!(
            "cannot {what} the known hosts in {}: {error}",
            self.file.display()
        )
    }
}

/// As people compare it.
fn shown(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

fn line(name: &str, key: &PublicKey) -> Result<String, String> {
    let mut key = key.clone();
    key.set_comment("");
    let text = key
        .to_openssh()
        .map_err(|e| format!("the key of {name} cannot be written: {e}"))?;
    Ok(format!("{name} {}", text.trim_end()))
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
    File::open(folder)?.sync_all()
}

/// What the lines of a file say of a host. A line that cannot be read says nothing, as to ssh(1); nor does one of
/// an authority: certificates of hosts are not asked for.
fn known(text: &str, name: &str) -> Known {
    let mut known = Known::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let entry: Result<Entry, _> = words.join(" ").parse();
        let Ok(entry) = entry else { continue };
        if !fits(entry.host_patterns(), name) {
            continue;
        }
        let keys = match entry.marker() {
            None => &mut known.keys,
            Some(Marker::Revoked) => &mut known.revoked,
            Some(Marker::CertAuthority) => continue,
        };
        keys.push(entry.public_key().clone());
    }
    known
}

fn fits(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            // What the format has (hostfile.c, host_hash): it hides names, it protects nothing.
            let salt = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            ring::hmac::verify(&salt, name.as_bytes(), hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => {
            let (not, yes): (Vec<_>, Vec<_>) = patterns.iter().partition(|p| p.starts_with('!'));
            // Of wildcards there are two (match.c, match_pattern): a bracket is one.
            let fits = |pattern: &str| {
                let pattern = pattern.to_ascii_lowercase().replace('[', "\\[");
                slipway_pattern::matches(&pattern, name)
            };
            yes.iter().any(|p| fits(p)) && !not.iter().any(|p| fits(&p[1..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO4CS5zPeLG+5ruyJaqHZ0BZvxIZE+Q6xAVO4MwYpglV";
    const TWO: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINrPycVbtB1ZQFKsBTA5KNZEsPuRbnJvaF3iz/djPVcK";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBDdi0wBXJHyZoNpMrAIpUSFD7iUUlSb0M9rp7bAQ6nnhl6IIff9T5SppgbOJyAAnK4cVCkoCZ4HpVf0e9zstJIA=";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).unwrap()
    }

    fn strict(text: &str) -> (tempfile::TempDir, Hosts) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hosts");
        fs::write(&file, text).unwrap();
        (folder, Hosts::of_file(file))
    }

    #[test]
    fn hosts_are_known_by_their_lines() {
        // `ssh-keygen -H` made the hash of example.com.
        let (_folder, hosts) = strict(&format!(
            "# a comment\n\nnonsense\nplain.example,192.0.2.1 {ONE} me@here\n[port.example]:2222\t{ONE}\n\
             *.wild.example,!not.wild.example  {ONE}\n\
             |1|s2lCjr4+kKPhMtR7FyJmZ7CSVIs=|MJmE3Ugh5vUNbnAlRz1cWf13aBA= {TWO}\n\
             gone.example {ONE}\n@revoked * {ECDSA}\n@revoked gone.example {ONE}\n@cert-authority * {TWO}\n"
        ));
        for name in [
            "plain.example",
            "192.0.2.1",
            "[port.example]:2222",
            "a.wild.example",
        ] {
            assert_eq!(hosts.judge(name, &key(ONE)), Ok(()), "{name}");
        }
        assert_eq!(hosts.judge("example.com", &key(TWO)), Ok(()));
        for (name, shown, part) in [
            ("port.example", ONE, "is not in "),
            ("p:2222", ONE, "is not in "),
            (
                "other.example",
                ONE,
                "add the line \"other.example ssh-ed25519 AAAA",
            ),
            ("not.wild.example", ONE, "is not in "),
            ("plain.example", TWO, "somebody may have come between"),
            ("example.com", ONE, "somebody may have come between"),
            ("plain.example", ECDSA, "revokes"),
            ("gone.example", ONE, "revokes"),
        ] {
            let error = hosts.judge(name, &key(shown)).unwrap_err();
            assert!(error.contains(part), "{name}: {error}");
        }
        let hosts = Hosts::of_file("/nowhere/hosts".into());
        let error = hosts.judge("h", &key(ONE)).unwrap_err();
        assert!(
            error.contains("cannot read the known hosts in /nowhere/hosts"),
            "{error}"
        );
    }

    #[test]
    fn the_first_key_is_kept_and_no_other_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hosts");
        let hosts = Hosts::met(file.clone());
        assert_eq!(hosts.judge("h", &key(ONE)), Ok(()));
        assert_eq!(hosts.judge("[h]:2222", &key(TWO)), Ok(()));
        // Another instance has it from the disk.
        let hosts = Hosts::met(file.clone());
        assert_eq!(hosts.judge("h", &key(ONE)), Ok(()));
        for other in [TWO, ECDSA] {
            let error = hosts.judge("h", &key(other)).unwrap_err();
            assert!(error.contains("take its line out of"), "{error}");
        }
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("h {ONE}\n[h]:2222 {TWO}\n"));
        fs::write(&file, format!("#{}\n", "x".repeat(LARGEST as usize - 10))).unwrap();
        let error = hosts.judge("h", &key(ONE)).unwrap_err();
        assert!(error.contains("is full"), "{error}");
    }

    #[test]
    fn a_host_is_asked_for_what_is_known_of_it() {
        let all = [
            Algorithm::Ed25519,
            key(ECDSA).algorithm(),
            Algorithm::Rsa { hash: None },
        ];
        let (_folder, hosts) = strict(&format!("h {ECDSA}\n"));
        let order = hosts.order("h", &all).unwrap();
        assert_eq!(order[0], all[1]);
        assert_eq!(order.len(), 3);
        assert_eq!(hosts.order("other", &all).unwrap(), all);
    }
}
