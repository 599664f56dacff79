//! Who owns what a COPY brings, by the files of the root that it goes to.

use std::{io::Read as _, os::fd::OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};

use super::paths;
use crate::{
    error::{Error, Tried as _},
    executor::{
        rootfs,
        user::{self, group_of, user_of},
    },
};

/// Where users and groups have their names.
const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

/// Larger files of names are none.
const MAX_FILE: i64 = 4 << 20;

/// Who `user[:group]` of a `--chown`, or of the USER that a WORKDIR is made for, is in a root.
///
/// The rules are BuildKit's (client/llb/fileop.go, `WithUser`; solver/llbsolver/file/user_linux.go), which are
/// not those of a process's user: a number is a group, too, `root` and nothing are 0 without a look, and a name that
/// the root does not know is root, or leaves the user's group.
pub fn owner(root: &OwnedFd, spec: &str) -> Result<(u32, u32), Error> {
    by_name(spec, &|path| read(root, path))
}

fn by_name(spec: &str, read: &dyn Fn(&str) -> Result<String, Error>) -> Result<(u32, u32), Error> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let (uid, mut gid) = match number(user) {
        Some(id) => (id, id),
        None => user_of(&read(PASSWD)?, user).unwrap_or_default(),
    };
    if let Some(group) = group {
        gid = match number(group) {
            Some(id) => id,
            None => group_of(&read(GROUP)?, group).unwrap_or(gid),
        };
    }
    Ok((uid, gid))
}

fn number(word: &str) -> Option<u32> {
    match word {
        "root" | "" => Some(0),
        _ => word.parse().ok(),
    }
}

/// Who `user[:group]` is in a root: as when a process is started, with the user's own group.
pub fn user_in(root: &OwnedFd, spec: &str) -> Result<(u32, u32), Error> {
    let user = user::resolve_in(spec, &[], &read(root, PASSWD)?, &read(root, GROUP)?)?;
    Ok((user.uid, user.gid))
}

/// A file of the root; "" where there is none.
fn read(root: &OwnedFd, path: &str) -> Result<String, Error> {
    let found = paths::find(root, path, true)?;
    let is_file = |stat: &rustix::fs::Stat| {
        FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_size < MAX_FILE
    };
    if !found.is_some_and(|found| is_file(&found.stat)) {
        return Ok(String::new());
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat2(root, path, flags, Mode::empty(), rootfs::INSIDE)
        .tried(|| format!("cannot open {path}"))?;
    let mut text = Vec::new();
    std::fs::File::from(file)
        .read_to_end(&mut text)
        .tried(|| format!("cannot read {path}"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_as_buildkit_has_them() {
        let files = |path: &str| -> Result<String, Error> {
            Ok(match path {
                PASSWD => "root:x:7:7::/:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n".to_owned(),
                _ => "root:x:7:\nweb:x:2002:app\n".to_owned(),
            })
        };
        for (spec, expected) in [
            ("app", (1000, 1001)),
            ("app:web", (1000, 2002)),
            ("app:55", (1000, 55)),
            ("app:", (1000, 0)),
            ("app:nobody", (1000, 1001)),
            ("66", (66, 66)),
            ("1000", (1000, 1000)),
            ("1000:", (1000, 0)),
            ("4294967294", (4_294_967_294, 4_294_967_294)),
            ("66:web", (66, 2002)),
            ("66:nobody", (66, 66)),
            (":web", (0, 2002)),
            ("nobody", (0, 0)),
            ("nobody:web", (0, 2002)),
            ("root:root", (0, 0)),
        ] {
            assert_eq!(by_name(spec, &files).unwrap(), expected, "{spec}");
        }
    }
}
