//! Who a process is: `user[:group]` looked up in the container's own /etc/passwd and /etc/group.
//!
//! Runs inside the container's root, so nothing it opens can be outside. The files belong to the
//! image and are not trusted: a FIFO, a device or a giant is not read.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::{StartError, Step as _, plan::Identity};

/// Longest passwd or group file that is read, bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// Largest id that docker takes: those above are negative for programs that use signed numbers.
const MAX_ID: u32 = i32::MAX as u32;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, the primary one first: a program that changes its group keeps it, and what
    /// is forbidden to that group stays forbidden (CVE-2022-2989, CVE-2022-36109).
    pub groups: Vec<u32>,
    /// Home folder; "/" when unknown.
    pub home: String,
}

/// A user that is given in numbers. Its home is that of the first user of that number, as with runc; files
/// that cannot be read, or say nothing, make it "/".
pub fn exactly(identity: &Identity) -> User {
    let passwd = read("/etc/passwd").unwrap_or_default();
    let mut entries = passwd.lines().filter_map(PasswdEntry::parse);
    let home = entries
        .find(|entry| entry.uid == identity.uid)
        .map(|entry| entry.home)
        .filter(|home| !home.is_empty());
    User {
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
        home: home.unwrap_or_else(|| "/".to_owned()),
    }
}

/// Looks `spec` up below the current root.
pub fn resolve(spec: &str, extra_groups: &[String]) -> Result<User, StartError> {
    let passwd = read("/etc/passwd")?;
    let group = read("/etc/group")?;
    resolve_in(spec, extra_groups, &passwd, &group)
}

fn read(path: &str) -> Result<String, StartError> {
    // O_NONBLOCK: opening a FIFO must not wait for a writer that never comes.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    // A link of the image may lead through /proc, to what this process has open, or the host's root.
    let inside = ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(CWD, path, flags, Mode::empty(), inside) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(e) => return Err(e).step(|| format!("cannot open the container's {path}")),
    };
    let metadata = file
        .metadata()
        .step(|| format!("cannot look at the container's {path}"))?;
    let kind = metadata.file_type();
    if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_dir() {
        return Err(StartError::Failed {
            step: format!("cannot read the container's {path}"),
            why: "it is not a regular file".to_owned(),
        });
    }
    if metadata.size() > MAX_FILE {
        return Err(StartError::Failed {
            step: format!("cannot read the container's {path}"),
            why: format!("it is larger than {MAX_FILE} bytes"),
        });
    }
    let mut content = Vec::new();
    file.take(MAX_FILE)
        .read_to_end(&mut content)
        .step(|| format!("cannot read the container's {path}"))?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// The pure part: docker's rules on the two files' contents.
pub fn resolve_in(
    spec: &str,
    extra_groups: &[String],
    passwd: &str,
    group: &str,
) -> Result<User, StartError> {
    let (user_word, group_word) = match spec.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (spec, None),
    };
    let user_word = if user_word.is_empty() { "0" } else { user_word };
    let entry = passwd
        .lines()
        .filter_map(PasswdEntry::parse)
        .find(|entry| entry.name == user_word || user_word.parse() == Ok(entry.uid));
    let uid = match (&entry, number(user_word)) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid?,
        (None, None) => {
            return Err(lookup(format!(
                "unable to find user {user_word}: no matching entries in passwd file"
            )));
        }
    };
    let gid = match group_word {
        Some(word) => group_id(word, group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = vec![gid];
    // An explicit group replaces the user's memberships, as docker does.
    if let (Some(entry), None) = (&entry, group_word) {
        groups.extend(memberships(&entry.name, group));
    }
    for word in extra_groups {
        groups.push(group_id(word, group)?);
    }
    groups.sort_unstable();
    groups.dedup();
    groups.retain(|g| *g != gid);
    groups.insert(0, gid);
    let home = entry
        .map(|e| e.home)
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| "/".to_owned());
    Ok(User {
        uid,
        gid,
        groups,
        home,
    })
}

fn lookup(why: String) -> StartError {
    StartError::Failed {
        step: "cannot set the user".to_owned(),
        why,
    }
}

/// The ids of a user that passwd names.
pub fn user_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let mut entries = passwd.lines().filter_map(PasswdEntry::parse);
    let found = entries.find(|entry| entry.name == name)?;
    Some((found.uid, found.gid))
}

/// The id of a group that the file of groups names.
pub fn group_of(group: &str, name: &str) -> Option<u32> {
    let mut entries = group.lines().filter_map(GroupEntry::parse);
    Some(entries.find(|entry| entry.name == name)?.gid)
}

/// `Some` when the word is a number, checked against the range.
fn number(word: &str) -> Option<Result<u32, StartError>> {
    let digits = word.strip_prefix('-').unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(word.parse().ok().filter(|id| *id <= MAX_ID).ok_or_else(|| {
        lookup(format!(
            "uids and gids must be in range 0-{MAX_ID}, not {word}"
        ))
    }))
}

fn group_id(word: &str, group: &str) -> Result<u32, StartError> {
    let entry = group
        .lines()
        .filter_map(GroupEntry::parse)
        .find(|entry| entry.name == word);
    match (entry, number(word)) {
        (Some(entry), _) => Ok(entry.gid),
        (None, Some(gid)) => gid,
        (None, None) => Err(lookup(format!(
            "unable to find group {word}: no matching entries in group file"
        ))),
    }
}

fn memberships<'a>(name: &'a str, group: &'a str) -> impl Iterator<Item = u32> + 'a {
    group
        .lines()
        .filter_map(GroupEntry::parse)
        .filter(move |entry| entry.members.split(',').any(|m| m == name))
        .map(|entry| entry.gid)
}

struct PasswdEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

impl PasswdEntry {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|n| !n.is_empty() && !n.starts_with('#'))?
            .to_owned();
        let uid = fields.nth(1)?.parse().ok().filter(|id| *id <= MAX_ID)?;
        let gid = fields.next()?.parse().ok().filter(|id| *id <= MAX_ID)?;
        Some(Self {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or_default().to_owned(),
        })
    }
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|n| !n.is_empty() && !n.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok().filter(|id| *id <= MAX_ID)?;
        Some(Self {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\nbroken\nhuge:x:4294967295:1::/:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nadm:x:4:web,other\nstaff:x:50:web\n";

    fn ids(spec: &str) -> Result<(u32, u32, Vec<u32>, String), String> {
        resolve_in(spec, &[], PASSWD, GROUP)
            .map(|u| (u.uid, u.gid, u.groups, u.home))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn names_and_numbers_as_docker() {
        assert_eq!(ids(""), Ok((0, 0, vec![0], "/root".into())));
        assert_eq!(ids("web"), Ok((33, 34, vec![34, 4, 50], "/var/www".into())));
        assert_eq!(ids("33"), Ok((33, 34, vec![34, 4, 50], "/var/www".into())));
        assert_eq!(ids("web:staff"), Ok((33, 50, vec![50], "/var/www".into())));
        assert_eq!(ids("1234"), Ok((1234, 0, vec![0], "/".into())));
        assert_eq!(ids("1234:5"), Ok((1234, 5, vec![5], "/".into())));
        assert_eq!(ids(":adm"), Ok((0, 4, vec![4], "/root".into())));
    }

    #[test]
    fn what_cannot_be_found_is_said() {
        assert!(
            ids("nobody-here")
                .unwrap_err()
                .contains("unable to find user nobody-here")
        );
        assert!(
            ids("web:nogroup")
                .unwrap_err()
                .contains("unable to find group nogroup")
        );
        for spec in [
            "2147483648",
            "4294967295",
            "99999999999",
            "-1",
            "0:2147483648",
            "0:-1",
        ] {
            assert!(ids(spec).unwrap_err().contains("range"), "{spec}");
        }
    }
}
