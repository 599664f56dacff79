//! What stands where files are to go: whether a builder can make a layer of them without this snapshot.

use std::os::fd::OwnedFd;

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::owner::owner;
use crate::error::{Error, Tried as _};

/// Most names of a survey.
const MOST: usize = 10_000;

/// A question.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The folder that files are to go into.
    pub path: String,
    /// Whose they are to be; "" = root's.
    pub owner: String,
    /// What is to be put into it, but for folders.
    pub names: Vec<String>,
    /// Folders that are to be put into it.
    pub folders: Vec<String>,
}

/// The answer.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Folders on the way, and whether they have attributes that a layer keeps.
    pub folders: Vec<(Stat, bool)>,
    /// Something else than a folder is on the way.
    pub blocked: bool,
    /// Names that are taken; a regular file may be replaced, but not by a folder.
    pub taken: Vec<String>,
    /// Whose they will be.
    pub owner: (u32, u32),
}

/// Looks at a snapshot. No link is followed: the builder could not follow it, either.
pub fn survey(root: &OwnedFd, asked: &Survey) -> Result<Standing, Error> {
    if asked.names.len().max(asked.folders.len()) > MOST {
        let sentence = format!("a survey has at most {MOST} names");
        return Err(Error::Invalid(sentence));
    }
    let what = || format!("cannot look at {}", asked.path);
    let mut standing = Standing::default();
    if !asked.owner.is_empty() {
        standing.owner = owner(root, &asked.owner)?;
    }
    let mut folder = open(root, ".").tried(what)?;
    for name in asked.path.split('/').filter(|p| !matches!(*p, "" | ".")) {
        if name == ".." {
            standing.blocked = true;
            return Ok(standing);
        }
        folder = match open(&folder, name) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(standing),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                standing.blocked = true;
                return Ok(standing);
            }
            Err(e) => return Err(e).tried(what),
        };
        let stat = rustix::fs::fstat(&folder).tried(what)?;
        let has_xattrs = has_xattrs(&folder).tried(what)?;
        standing.folders.push((stat, has_xattrs));
    }
    let files = asked.names.iter().map(|n| (n, true));
    for (name, may_replace) in files.chain(asked.folders.iter().map(|n| (n, false))) {
        if name.contains('/') || name == ".." {
            let sentence = format!("{name:?} is no name of something in a folder");
            return Err(Error::Invalid(sentence));
        }
        match rustix::fs::statat(&folder, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if may_replace && FileType::from_raw_mode(stat.st_mode).is_file() => {}
            Ok(_) => standing.taken.push(name.clone()),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e).tried(what),
        }
    }
    Ok(standing)
}

fn open(folder: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Those that a layer is packed with.
fn has_xattrs(folder: &OwnedFd) -> rustix::io::Result<bool> {
    let mut list = vec![0; 64 * 1024];
    let length = match rustix::fs::flistxattr(folder, &mut list) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(e) => return Err(e),
    };
    let mut names = list[..length].split(|b| *b == 0);
    Ok(names.any(|n| n == b"security.capability" || n.starts_with(b"user.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn what_stands_in_the_way_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("app/src")).unwrap();
        fs::write(at("app/file"), "").unwrap();
        fs::write(at("app/lib"), "").unwrap();
        symlink("app", at("link")).unwrap();
        let root = OwnedFd::from(fs::File::open(folder.path()).unwrap());
        let ask = |path: &str, names: &[&str]| {
            let asked = Survey {
                path: path.to_owned(),
                owner: "7".to_owned(),
                names: names.iter().map(|n| (*n).to_owned()).collect(),
                folders: vec!["lib".to_owned(), "bin".to_owned()],
            };
            survey(&root, &asked)
        };
        let there = ask("/app", &["src", "file", "new"]).unwrap();
        assert_eq!((there.folders.len(), there.blocked), (1, false));
        assert_eq!(
            (there.taken, there.owner),
            (vec!["src".to_owned(), "lib".to_owned()], (7, 7))
        );
        let missing = ask("/app/none/below/", &["src"]).unwrap();
        assert_eq!((missing.folders.len(), missing.blocked), (1, false));
        assert!(missing.taken.is_empty());
        for blocked in ["/link", "/link/src", "/app/file", "/app/../app"] {
            assert!(ask(blocked, &[]).unwrap().blocked, "{blocked}");
        }
        assert_eq!(ask("/", &["app"]).unwrap().taken, ["app"]);
        assert!(ask("/", &["../app"]).is_err() && ask("/", &[".."]).is_err());
    }
}
