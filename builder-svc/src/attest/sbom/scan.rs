//! A layer, looked through once as it streams by: files that name packages are read, everything else is passed
//! over. A file whose content stands elsewhere in the layer (a hard link) needs a second look.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use slipway_image::{
    Digest, Digester, archive,
    digest::DigestReader,
    layer::{Kind, OPAQUE, WHITEOUT, limits::Limits, tar_read::TarReader},
};

use super::found::{Database, Facts, Found, may_replace};

/// Most files of a layer that name packages, most packages, and most names that are noted besides.
const MOST: usize = 500_000;

/// Files whose content is wanted for other names: by path, the names.
pub type Wanted = BTreeMap<String, Vec<String>>;

/// What was found, and which names have their content elsewhere.
#[derive(Debug, Default)]
pub struct Scanned {
    /// What is known.
    pub facts: Facts,
    links: Wanted,
}

impl Scanned {
    /// Files that a second look must find.
    pub fn unresolved(&self) -> Option<Wanted> {
        (!self.links.is_empty()).then(|| self.links.clone())
    }

    /// Adds what a second look found.
    pub fn add(&mut self, more: Self) {
        self.facts.files.extend(more.facts.files);
    }
}

/// Looks through a layer; also tells the digest of the plain stream. With `wanted` only those are looked for.
pub fn scan(
    compressed: impl Read,
    wanted: &Wanted,
    limits: Limits,
) -> io::Result<(Scanned, Digest)> {
    let plain = archive::plain(compressed, limits)?;
    let mut reader = TarReader::new(DigestReader::new(plain, Digester::default()));
    let mut scanned = Scanned::default();
    let mut packages = 0;
    let mut entries: u64 = 0;
    while let Some(entry) = reader.next_entry().map_err(io::Error::other)? {
        entries += 1;
        if entries > limits.entries || packages > MOST || scanned.count() > MOST {
            return Err(io::Error::other("it has too many files"));
        }
        let Some(path) = clean(&entry.path) else {
            continue;
        };
        if !wanted.is_empty() {
            let Some(names) = wanted.get(&path).filter(|_| entry.kind == Kind::File) else {
                continue;
            };
            let most = names.iter().filter_map(|n| Database::of(n));
            let most = most.map(Database::most).max().unwrap_or(0);
            let content = read(&mut reader, &path, entry.size, most)?;
            for name in names {
                let Some(database) = Database::of(name) else {
                    continue;
                };
                scanned.found(name, database.read(&content), &mut packages);
            }
            continue;
        }
        if scanned.hide(&path) {
            continue;
        }
        let Some(database) = Database::of(&path) else {
            if entry.kind != Kind::Folder && may_replace(&path) {
                scanned.facts.hidden.push(path);
            }
            continue;
        };
        match &entry.kind {
            Kind::File => {
                let content = read(&mut reader, &path, entry.size, database.most())?;
                scanned.found(&path, database.read(&content), &mut packages);
            }
            Kind::HardLink(target) => {
                let target = clean(target).unwrap_or_default();
                match scanned.facts.files.get(&target).cloned() {
                    // Both are of one kind, or what was read of it is of no use.
                    Some(found) if Database::of(&target) == Some(database) => {
                        scanned.found(&path, found, &mut packages);
                    }
                    _ => scanned.links.entry(target).or_default().push(path),
                }
            }
            _ => {}
        }
    }
    let mut rest = reader.into_inner();
    // Whatever stands behind the end of the archive counts in its digest.
    io::copy(&mut rest, &mut io::sink())?;
    Ok((scanned, rest.into_parts().1.finish()))
}

impl Scanned {
    fn count(&self) -> usize {
        let facts = &self.facts;
        facts.files.len() + facts.hidden.len() + facts.opaque.len() + self.links.len()
    }

    fn found(&mut self, path: &str, found: Found, packages: &mut usize) {
        if let Found::Packages(new) = &found {
            *packages += new.len();
        }
        self.facts.files.insert(path.to_owned(), found);
    }

    /// Notes what a mark says of the layers below; whether it is one.
    fn hide(&mut self, path: &str) -> bool {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.as_bytes() == OPAQUE {
            self.facts.opaque.push(folder.to_owned());
            return true;
        }
        let mark = std::str::from_utf8(WHITEOUT).unwrap_or_default();
        let Some(name) = name.strip_prefix(mark) else {
            return false;
        };
        self.facts.hidden.push(match folder {
            "" => name.to_owned(),
            folder => format!("{folder}/{name}"),
        });
        true
    }
}

/// A name of the archive as a path below the root; none for what is no text, which is no name of interest.
fn clean(raw: &[u8]) -> Option<String> {
    let path = slipway_pattern::list::clean(&format!("/{}", std::str::from_utf8(raw).ok()?));
    Some(path.trim_start_matches('/').to_owned())
}

fn read<R: Read>(
    reader: &mut TarReader<R>,
    path: &str,
    size: u64,
    most: u64,
) -> io::Result<Vec<u8>> {
    if size > most {
        return Err(io::Error::other(format!(
            "{path} has {size} bytes, and the most is {most}"
        )));
    }
    let mut content = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        match reader.read_content(&mut buffer).map_err(io::Error::other)? {
            0 => return Ok(content),
            n => content.extend_from_slice(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_image::layer::{Entry, pack::Plain, pack::Sink as _};

    fn archive(entries: &[(&str, Kind, &str)]) -> Vec<u8> {
        let mut out = Plain::new(Vec::new());
        for (path, kind, content) in entries {
            let entry = Entry {
                path: path.as_bytes().to_vec(),
                kind: kind.clone(),
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: (0, 0),
                size: content.len() as u64,
                xattrs: Vec::new(),
            };
            out.append(&entry, &mut content.as_bytes()).unwrap();
        }
        out.finish().unwrap()
    }

    #[test]
    fn a_layer_is_looked_through() {
        let hard = |target: &str| Kind::HardLink(target.as_bytes().to_vec());
        let package = r#"{"name":"a","version":"1"}"#;
        let bytes = archive(&[
            ("./app/node_modules/.wh.gone", Kind::File, ""),
            ("app/node_modules/a/package.json", hard("store/x"), ""),
            ("app/node_modules/b", Kind::Symlink(b"../b".to_vec()), ""),
            ("opt/.wh..wh..opq", Kind::File, ""),
            ("store/x", Kind::File, package),
            (
                "var/lib/dpkg/status",
                Kind::File,
                "Package: p\nVersion: 1\n",
            ),
        ]);
        let (mut scanned, digest) = scan(&bytes[..], &Wanted::new(), Limits::default()).unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        assert_eq!(
            scanned.facts.hidden,
            ["app/node_modules/gone", "app/node_modules/b"]
        );
        assert_eq!(scanned.facts.opaque, ["opt"]);
        let wanted = scanned.unresolved().unwrap();
        let (more, again) = scan(&bytes[..], &wanted, Limits::default()).unwrap();
        assert_eq!(again, digest);
        scanned.add(more);
        let files: Vec<_> = scanned.facts.files.keys().collect();
        assert_eq!(
            files,
            ["app/node_modules/a/package.json", "var/lib/dpkg/status"]
        );
        let Found::Packages(found) = &scanned.facts.files[files[0]] else {
            panic!();
        };
        assert_eq!(found[0].name, "a");
    }

    #[test]
    fn too_much_is_refused() {
        let large = " ".repeat(5 << 20);
        let bytes = archive(&[("node_modules/a/package.json", Kind::File, &large)]);
        let error = scan(&bytes[..], &Wanted::new(), Limits::default()).unwrap_err();
        assert!(error.to_string().contains("the most is 4194304"), "{error}");
        let few = Limits {
            entries: 1,
            ..Limits::default()
        };
        let bytes = archive(&[("a", Kind::File, ""), ("b", Kind::File, "")]);
        assert!(scan(&bytes[..], &Wanted::new(), few).is_err());
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_never_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
            let _ = scan(&bytes[..], &Wanted::new(), Limits::default());
        }
    }
}
