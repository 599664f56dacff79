//! A build to compare: a Dockerfile and its context in one text.
//!
//! Lines that begin with `#` before the first file tell how: `# docker 23` (the oldest docker whose builder
//! knows what it uses), `# buildah` (that one is asked as well), `# args --build-arg A=b`, `# fails` (everybody
//! must refuse it). Files begin with `-- NAME --`, `-- NAME 0755 --` or `-- NAME -> TARGET --`.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

/// See the module's page.
#[derive(Debug, Default)]
pub struct Case {
    pub name: String,
    pub needs: u32,
    pub buildah: bool,
    pub fails: bool,
    pub arguments: Vec<String>,
    files: Vec<(String, Kind)>,
}

#[derive(Debug)]
enum Kind {
    File(u32, String),
    Link(String),
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
                (None, Some((_, Kind::Link(_)))) => assert!(line.is_empty(), "{name}: {line}"),
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
            match kind {
                Kind::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
                Kind::File(mode, content) => {
                    fs::write(&path, content).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                    let file = fs::File::open(&path).unwrap();
                    file.set_modified(then).unwrap();
                }
            }
        }
    }
}

fn file(title: &str) -> (String, Kind) {
    if let Some((name, target)) = title.split_once(" -> ") {
        return (name.to_owned(), Kind::Link(target.to_owned()));
    }
    let (name, mode) = title.split_once(' ').unwrap_or((title, "0644"));
    let mode = u32::from_str_radix(mode, 8).unwrap();
    (name.to_owned(), Kind::File(mode, String::new()))
}
