//! A build to compare: a Dockerfile and its context in one text.
//!
//! Lines that begin with `#` before the first file tell how: `# docker 23` (the oldest docker whose builder
//! knows what it uses), `# buildah` (that one is asked as well), `# args --build-arg A=b`, `# fails` (everybody
//! must refuse it), `# differs PATH WHY` (what is not compared), `# attribute FILE NAME` (an extended attribute
//! that a file has), `# stdin` (the context is an archive on stdin). Files begin with `-- NAME --` or `-- NAME 0755 --`. `-- NAME/ 0700 --` is a folder, `-- NAME -> TARGET --`
//! a symbolic link, `-- NAME = OTHER --` a hard link, and `-- NAME < FOLDER --` an archive of a folder of the
//! context, compressed as its name says, owned by 7:8.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use rustix::fs::XattrFlags;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Case {
    pub name: String,
    pub needs: u32,
    pub buildah: bool,
    pub fails: bool,
    pub arguments: Vec<String>,
    /// The context is an archive on stdin.
    pub stdin: bool,
    /// Extended attributes: file and name.
    attributes: Vec<(String, String)>,
    /// What differs for a reason that the case tells.
    pub differs: Vec<String>,
    files: Vec<(String, Kind)>,
}

const CAPABILITY: &str = "security.capability";

/// `cap_net_bind_service=ep` (capabilities(7)).
const VALUE: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[derive(Debug)]
enum Kind {
    File(u32, String),
    Folder(u32),
    Link(String),
    HardLink(String),
    Archive(String),
}

impl Case {
    pub fn parse(name: &str, text: &str) -> Self {
        let mut case = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        for line in text.lines() {
            let title = line.strip_prefix("-- ").and_then(|l| l.strip_suffix(" --"));
            match (title, case.files.last_mut()) {
                (Some(title), _) => case.files.push(file(title)),
                (None, Some((_, Kind::File(_, content)))) => {
                    content.push_str(line);
                    content.push('\n');
                }
                (None, Some(_)) => assert!(line.is_empty(), "{name}: {line}"),
                (None, None) => case.option(line),
            }
        }
        case
    }

    fn option(&mut self, line: &str) {
        let words: Vec<&str> = line.trim_start_matches('#').split_whitespace().collect();
        match words[..] {
            [] => {}
            ["docker", version] => self.needs = version.parse().unwrap(),
            ["buildah"] => self.buildah = true,
            ["fails"] => self.fails = true,
            ["stdin"] => self.stdin = true,
            ["attribute", file, name] => {
                self.attributes.push((file.to_owned(), name.to_owned()));
            }
            ["differs", path, _, ..] => self.differs.push(path.to_owned()),
            ["args", ..] => self.arguments = words[1..].iter().map(|w| (*w).to_owned()).collect(),
            _ => panic!("{}: {line:?}", self.name),
        }
    }

    /// Writes the context. Everything in it is from 2001, so that a time that was kept is seen to be kept.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let then = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (name, kind) in &self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            kind.write(folder, &path, then);
            let own = self.attributes.iter().filter(|(file, _)| file == name);
            for (_, attribute) in own {
                let value = match attribute.as_str() {
                    CAPABILITY => VALUE,
                    _ => b"value",
                };
                rustix::fs::setxattr(&path, attribute, value, XattrFlags::empty()).unwrap();
            }
        }
    }

    /// The context as an archive. Docker looks for one in the first kilobyte: what comes first has no extended
    /// header.
    pub fn archive(&self, folder: &str) -> Vec<u8> {
        let options = ["--xattrs", "--xattrs-include=*", "--exclude=./Dockerfile"];
        let mut tar = Command::new("tar");
        tar.args(options)
            .args(["--pax-option=delete=atime,delete=ctime", "-C", folder])
            .args(["-cf", "-", "Dockerfile", "."]);
        let done = tar.output().unwrap();
        assert!(done.status.success());
        done.stdout
    }
}

impl Kind {
    fn write(&self, folder: &Path, path: &Path, then: SystemTime) {
        match self {
            Self::Folder(mode) => {
                fs::create_dir_all(path).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Self::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            Self::HardLink(other) => fs::hard_link(folder.join(other), path).unwrap(),
            Self::Archive(of) => {
                let options = ["--owner=7", "--group=8", "--mtime=@1000000000", "-caf"];
                let mut tar = Command::new("tar");
                if has_capability(&folder.join(of)) {
                    tar.args(["--xattrs", "--xattrs-include=security.capability"]);
                }
                tar.args(options).arg(path).arg("-C").arg(folder.join(of));
                assert!(tar.arg(".").status().unwrap().success());
            }
            Self::File(mode, content) => {
                fs::write(path, content).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
                let file = fs::File::open(path).unwrap();
                file.set_modified(then).unwrap();
            }
        }
    }
}

/// Whether a file of a folder has one.
fn has_capability(folder: &Path) -> bool {
    let mut files = fs::read_dir(folder).unwrap().map(Result::unwrap);
    files.any(|file| rustix::fs::getxattr(file.path(), CAPABILITY, &mut [0; 24]).is_ok())
}

fn file(title: &str) -> (String, Kind) {
    for (sign, kind) in [
        (" -> ", Kind::Link as fn(String) -> Kind),
        (" = ", Kind::HardLink),
        (" < ", Kind::Archive),
    ] {
        if let Some((name, other)) = title.split_once(sign) {
            return (name.to_owned(), kind(other.to_owned()));
        }
    }
    // Names may have spaces.
    let mode = |text: &str| {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|_| text.len() == 4)
    };
    let (name, mode) = match title
        .rsplit_once(' ')
        .map(|(name, last)| (name, mode(last)))
    {
        Some((name, Some(mode))) => (name, Some(mode)),
        _ => (title, None),
    };
    match name.strip_suffix('/') {
        Some(name) => (name.to_owned(), Kind::Folder(mode.unwrap_or(0o755))),
        None => (
            name.to_owned(),
            Kind::File(mode.unwrap_or(0o644), String::new()),
        ),
    }
}
