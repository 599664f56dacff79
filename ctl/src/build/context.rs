//! The context: what is in a folder after the ignore rules, by content.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use slipway_proto::builder::v1::{ContextEntry, context_entry::Type};

use super::ignore::Matcher;
use crate::failure::{Failure, Outcome};

/// Entries sorted by path, and where each content is.
#[derive(Debug, Default)]
pub struct Context {
    pub entries: Vec<ContextEntry>,
    pub files: HashMap<Vec<u8>, PathBuf>,
}

/// Reads a folder. `<Dockerfile>.dockerignore` comes before `.dockerignore`, as docker has it.
pub fn read(root: &Path, dockerfile: &str) -> Outcome<Context> {
    let mut matcher = Matcher::default();
    for name in [
        format!("{dockerfile}.dockerignore"),
        ".dockerignore".to_owned(),
    ] {
        match fs::read_to_string(root.join(&name)) {
            Ok(text) => {
                matcher = Matcher::parse(&text)?;
                break;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::new(format!("cannot read {name}: {e}"))),
        }
    }
    let mut context = Context::default();
    walk(root, root, &matcher, &mut context)?;
    context.entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(context)
}

fn walk(root: &Path, folder: &Path, matcher: &Matcher, out: &mut Context) -> Outcome<()> {
    let fail = |path: &Path, e: io::Error| {
        Failure::new(format!(
            "cannot read {} of the context: {e}",
            path.display()
        ))
    };
    for entry in fs::read_dir(folder).map_err(|e| fail(folder, e))? {
        let path = entry.map_err(|e| fail(folder, e))?.path();
        let inside = path.strip_prefix(root).unwrap_or(&path);
        let Some(name) = inside.to_str() else {
            return Err(Failure::new(format!(
                "{} of the context is not UTF-8: rename it, or leave it out in .dockerignore",
                path.display()
            )));
        };
        let excluded = matcher.excludes(name);
        let meta = fs::symlink_metadata(&path).map_err(|e| fail(&path, e))?;
        if meta.is_dir() && (!excluded || matcher.may_return_below(name)) {
            walk(root, &path, matcher, out)?;
        }
        if excluded {
            continue;
        }
        let mut item = ContextEntry {
            path: name.to_owned(),
            mode: meta.permissions().mode() & 0o7777,
            mtime: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            ..ContextEntry::default()
        };
        if meta.is_dir() {
            item.set_type(Type::Directory);
        } else if meta.is_symlink() {
            item.set_type(Type::Symlink);
            let target = fs::read_link(&path).map_err(|e| fail(&path, e))?;
            item.link_target = target.to_string_lossy().into_owned();
        } else if meta.is_file() {
            item.set_type(Type::File);
            let (digest, size) = hash(&path).map_err(|e| fail(&path, e))?;
            item.size = size;
            out.files.insert(digest.clone(), path.clone());
            item.digest = digest.into();
        } else {
            // Sockets, FIFOs and devices are no content: docker leaves them out too.
            continue;
        }
        out.entries.push(item);
    }
    Ok(())
}

fn hash(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((hasher.finalize().to_vec(), size));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_files_are_left_out_and_exceptions_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("docs")).unwrap();
        for (name, text) in [
            ("a", "1"),
            ("docs/b.md", "2"),
            ("docs/keep.md", "3"),
            (".dockerignore", "docs\n!docs/keep.md\n"),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
        let context = read(root, "Dockerfile").unwrap();
        let names: Vec<_> = context.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(names, [".dockerignore", "a", "docs/keep.md"]);
        assert_eq!(context.files.len(), 3);
    }
}
