//! Words of a mount's `options` (config-linux.md, "Linux mount options").

use libc::{
    MOUNT_ATTR__ATIME as ATIME, MOUNT_ATTR_NOATIME as NOATIME, MOUNT_ATTR_NODEV as NODEV,
    MOUNT_ATTR_NODIRATIME as NODIRATIME, MOUNT_ATTR_NOEXEC as NOEXEC, MOUNT_ATTR_NOSUID as NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW as NOSYMFOLLOW, MOUNT_ATTR_RDONLY as RDONLY,
    MOUNT_ATTR_RELATIME as RELATIME, MOUNT_ATTR_STRICTATIME as STRICTATIME,
};

use crate::executor::plan::Propagation;

/// What all words together mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// `Some(true)` = with what is mounted below.
    pub bind: Option<bool>,
    /// Bits that are set and cleared on the mount.
    pub attributes: (u64, u64),
    /// And on what is mounted below, too.
    pub deep: (u64, u64),
    /// Of whose mounts it hears.
    pub propagation: Propagation,
    /// The file system's own options.
    pub data: Vec<(String, Option<String>)>,
    /// It begins with what it covers.
    pub copy_up: bool,
    /// Owners are shown by a map; `true` = also below.
    pub idmap: Option<bool>,
}

/// Reads them; the last word about a thing counts.
pub fn parse(options: &[String]) -> Result<Words, String> {
    let mut words = Words::default();
    for option in options {
        words.take(option)?;
    }
    Ok(words)
}

/// Bits that a word sets and clears.
fn attribute(word: &str) -> Option<(u64, u64)> {
    Some(match word {
        "ro" => (RDONLY, 0),
        "rw" => (0, RDONLY),
        "nosuid" => (NOSUID, 0),
        "suid" => (0, NOSUID),
        "nodev" => (NODEV, 0),
        "dev" => (0, NODEV),
        "noexec" => (NOEXEC, 0),
        "exec" => (0, NOEXEC),
        "nosymfollow" => (NOSYMFOLLOW, 0),
        "symfollow" => (0, NOSYMFOLLOW),
        "nodiratime" => (NODIRATIME, 0),
        "diratime" => (0, NODIRATIME),
        // One field with three values: the kernel wants it cleared before it is set.
        "noatime" => (NOATIME, ATIME),
        "strictatime" => (STRICTATIME, ATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (RELATIME, ATIME),
        _ => return None,
    })
}

fn merge(bits: &mut (u64, u64), (set, clear): (u64, u64)) {
    bits.0 = bits.0 & !clear | set;
    // What is set is not to be cleared, but for the field of several bits.
    bits.1 = (bits.1 | clear) & !(set & !ATIME);
}

impl Words {
    fn take(&mut self, word: &str) -> Result<(), String> {
        if let Some(bits) = attribute(word) {
            merge(&mut self.attributes, bits);
            return Ok(());
        }
        let recursive = word.strip_prefix('r');
        if let Some(bits) = recursive.and_then(attribute) {
            merge(&mut self.deep, bits);
            return Ok(());
        }
        if let Some(propagation) = propagation(word) {
            self.propagation = propagation;
            return Ok(());
        }
        match word {
            // silent: the kernel says nothing to who mounts in this way.
            "" | "defaults" | "silent" | "loud" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
            "ridmap" => self.idmap = Some(true),
            "async" | "nolazytime" => {
                let undone = if word == "async" { "sync" } else { "lazytime" };
                self.data.retain(|(key, _)| key != undone);
            }
            "remount" | "mand" | "nomand" | "iversion" | "noiversion" => {
                return Err(format!("option {word} is not supported"));
            }
            _ => self.data.push(match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (word.to_owned(), None),
            }),
        }
        Ok(())
    }
}

fn propagation(word: &str) -> Option<Propagation> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(word) => (word, true),
        None => (word, false),
    };
    Some(match word {
        "private" => Propagation::Private,
        "slave" => Propagation::Slave { recursive },
        "shared" => Propagation::Shared { recursive },
        "unbindable" => Propagation::Unbindable { recursive },
        _ => return None,
    })
}

/// All words that are understood besides file systems' own, for `features`.
pub const KNOWN: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "lazytime",
    "loud",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "nolazytime",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Words, String> {
        let words: Vec<String> = text.split(',').map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn words_mean_what_mount_says() {
        let found = words("rbind,ro,nosuid,rslave").unwrap();
        assert_eq!(found.bind, Some(true));
        assert_eq!(found.attributes, (RDONLY | NOSUID, 0));
        assert_eq!(found.propagation, Propagation::Slave { recursive: true });
        let found = words("nosuid,mode=755,size=65536k,newinstance").unwrap();
        assert_eq!(found.data.len(), 3);
        assert_eq!(words("ro,rw").unwrap().attributes, (0, RDONLY));
        assert_eq!(words("rw,ro").unwrap().attributes, (RDONLY, 0));
        assert_eq!(words("noatime").unwrap().attributes, (NOATIME, ATIME));
        assert_eq!(words("noatime,relatime").unwrap().attributes, (0, ATIME));
        assert_eq!(words("bind,rro").unwrap().deep, (RDONLY, 0));
        assert_eq!(words("bind,ridmap").unwrap().idmap, Some(true));
        assert_eq!(words("sync,async").unwrap().data, []);
        assert!(words("mand").is_err());
    }

    #[test]
    fn what_features_lists_is_understood() {
        for word in KNOWN {
            words(word).unwrap();
        }
        assert!(KNOWN.is_sorted());
    }
}
