//! The `.git` of a checkout without history, as `git fetch --depth=1` and `git checkout` leave it
//! (moby/buildkit, source/git/source.go, `checkout`; gitrepository-layout(5)).
//!
//! The same commit gives the same bytes: there are no times of a checkout in the index, and no log of references.

use std::io::Write as _;

use sha1::{Digest as _, Sha1};

use super::{
    super::{ContentStore, Entry, Kind, Manifest},
    Id,
    pack::{self, Objects},
};

/// What a `.git` knows besides its commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// References that it has: full names, and what they are.
    pub references: Vec<(String, Id)>,
    /// The URL of `origin`, without a password.
    pub remote: String,
    /// Submodules: name and URL, without a password.
    pub modules: Vec<(String, String)>,
    /// Where the files are, relative to it, if that is not the folder that it is in.
    pub worktree: Option<String>,
}

/// What is checked out.
#[derive(Debug, Default)]
pub struct Checkout {
    /// What it takes to have the commit.
    pub objects: Vec<Id>,
    /// Files, links and submodules, in any order.
    pub files: Vec<Tracked>,
    /// When it was committed, nanoseconds since the epoch.
    pub mtime: i64,
}

/// A file of a checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// From the root of the repository.
    pub path: String,
    /// As a tree has it.
    pub mode: u32,
    /// Its content, or a submodule's commit.
    pub id: Id,
    /// Bytes; 0 for a submodule.
    pub size: u64,
}

/// What is in the folder. Errors are sentences.
pub fn folder(
    (store, objects): (&ContentStore, &Objects),
    commit: Id,
    checkout: Checkout,
    keep: &Keep,
) -> Result<Manifest, String> {
    let mtime = checkout.mtime;
    let io = |e: std::io::Error| e.to_string();
    let mut manifest = Manifest::default();
    let mut add = |path: &str, kind: Kind, mode: u32| {
        let entry = Entry {
            kind,
            mode,
            mtime,
            same: 0,
            capability: None,
        };
        manifest.insert(path, entry)
    };
    let text = |bytes: &[u8]| -> Result<Kind, String> {
        let digest = store.put(bytes).map_err(io)?;
        let size = bytes.len() as u64;
        Ok(Kind::File { digest, size })
    };
    for path in [
        "objects",
        "objects/info",
        "objects/pack",
        "refs",
        "refs/heads",
        "refs/tags",
    ] {
        add(path, Kind::Folder, 0o755)?;
    }
    let line = |id: &Id| text(format!("{id}\n").as_bytes());
    add("HEAD", line(&commit)?, 0o644)?;
    add("shallow", line(&commit)?, 0o644)?;
    add("config", text(config(keep)?.as_bytes())?, 0o644)?;
    add("index", text(&index(checkout.files))?, 0o644)?;
    for (name, id) in &keep.references {
        add(name, line(id)?, 0o644)?;
    }
    let packed = pack::write(store, objects, &checkout.objects).map_err(io)?;
    for ((digest, size), ending) in [(packed.pack, "pack"), (packed.index, "idx")] {
        let path = format!("objects/pack/{}.{ending}", packed.name);
        add(&path, Kind::File { digest, size }, 0o444)?;
    }
    Ok(manifest)
}

/// git-config(1), as `git init`, `git remote add` and `git submodule init` write it.
fn config(keep: &Keep) -> Result<String, String> {
    let mut out = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n".to_owned();
    if let Some(path) = &keep.worktree {
        out.push_str(&format!("\tworktree = {}\n", quoted(path)?));
    }
    let url = quoted(&keep.remote)?;
    out.push_str(&format!(
        "[remote \"origin\"]\n\turl = {url}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    ));
    for (name, url) in &keep.modules {
        let name = escaped(name)?;
        let url = quoted(url)?;
        out.push_str(&format!(
            "[submodule \"{name}\"]\n\tactive = true\n\turl = {url}\n"
        ));
    }
    Ok(out)
}

fn escaped(text: &str) -> Result<String, String> {
    match text.chars().any(char::is_control) {
        true => Err(format!("{text:?} cannot stand in git's settings")),
        false => Ok(text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

fn quoted(text: &str) -> Result<String, String> {
    let plain = !text.contains(['#', ';', '"', '\\']) && text.trim() == text;
    match plain {
        true => escaped(text),
        false => Ok(format!("\"{}\"", escaped(text)?)),
    }
}

/// An index of version 2 (gitformat-index(5)). Times are unknown: git looks at a file's content then.
fn index(mut files: Vec<Tracked>) -> Vec<u8> {
    files.sort_unstable_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    let mut out = b"DIRC\0\0\0\x02".to_vec();
    let mut put = |bytes: &[u8]| {
        // A vector takes everything.
        let _ = out.write_all(bytes);
    };
    put(&(files.len() as u32).to_be_bytes());
    for file in &files {
        let mode: u32 = match file.mode {
            0o120_000 | 0o160_000 => file.mode,
            mode if mode & 0o100 == 0 => 0o100_644,
            _ => 0o100_755,
        };
        // Times of change and of content, device and inode; user and group.
        put(&[0; 24]);
        put(&mode.to_be_bytes());
        put(&[0; 8]);
        put(&(file.size as u32).to_be_bytes());
        put(&file.id.0);
        let name = file.path.as_bytes();
        put(&(name.len().min(0xfff) as u16).to_be_bytes());
        put(name);
        // 62 bytes are in front of the name; 1 to 8 zeros follow it.
        put(&[0; 8][..8 - (62 + name.len()) % 8]);
    }
    let hash = Sha1::digest(&out);
    out.extend_from_slice(&hash);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_hold_what_they_are_given_and_no_more() {
        let mut keep = Keep {
            remote: "https://h/r.git".to_owned(),
            modules: vec![("a\"b\\".to_owned(), "https://h/#x".to_owned())],
            worktree: Some("../../../lib".to_owned()),
            ..Keep::default()
        };
        let text = config(&keep).unwrap();
        assert!(text.contains("\turl = https://h/r.git\n"), "{text}");
        assert!(text.contains("[submodule \"a\\\"b\\\\\"]\n"), "{text}");
        assert!(text.contains("\turl = \"https://h/#x\"\n"), "{text}");
        assert!(text.contains("\tworktree = ../../../lib\n"), "{text}");
        keep.modules[0].0.push('\n');
        assert!(config(&keep).is_err());
    }

    #[test]
    fn entries_of_an_index_are_aligned() {
        for length in 1..20 {
            let file = Tracked {
                path: "x".repeat(length),
                mode: 0o100_664,
                id: Id([7; 20]),
                size: 3,
            };
            let bytes = index(vec![file]);
            assert_eq!((bytes.len() - 12 - 20) % 8, 0);
            assert_eq!(bytes[bytes.len() - 21], 0);
            assert_eq!(bytes[12 + 24..12 + 28], 0o100_644_u32.to_be_bytes());
        }
    }
}
