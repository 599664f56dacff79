//! A context that comes as a tar stream: its names into a manifest, its files into the store.
//!
//! Nothing is unpacked to the disk under a name of the archive's, so nothing in it can lead anywhere; names
//! that try are refused all the same.

use std::{
    io::{self, Read},
    sync::Arc,
};

use slipway_image::{
    Digest, archive,
    layer::{self as tar, limits::Limits, tar_read::TarReader},
};

use super::{Capability, ContentStore, Entry, Kind, Manifest, capability};

/// Files up to this size are kept in memory until their digest is known.
const SMALL: u64 = 256 << 10;

/// Takes a stream in, compressed or not. Errors are sentences.
pub fn read(
    store: &Arc<ContentStore>,
    stream: impl Read,
    limits: Limits,
) -> Result<Manifest, String> {
    let broken = |e: &dyn std::fmt::Display| format!("the context's archive: {e}");
    let plain = archive::plain(stream, limits).map_err(|e| broken(&e))?;
    let mut reader = TarReader::new(plain);
    let mut manifest = Manifest::default();
    let mut buffer = vec![0; 128 << 10];
    // How many files have had another name so far.
    let mut named = 0;
    while let Some(entry) = reader.next_entry().map_err(|e| broken(&e))? {
        let path = name(&entry.path)?;
        if path.is_empty() {
            continue;
        }
        let (mut same, mut own) = (0, None);
        let kind = match &entry.kind {
            tar::Kind::Folder => Kind::Folder,
            tar::Kind::Symlink(target) => Kind::Symlink(
                String::from_utf8(target.clone())
                    .map_err(|_| format!("the context's link {path:?} is not UTF-8"))?,
            ),
            tar::Kind::HardLink(target) => {
                let target = name(target)?;
                match manifest.get_mut(&target) {
                    Some(first) if first.kind != Kind::Folder => {
                        if first.same == 0 {
                            named += 1;
                            first.same = named;
                        }
                        (same, own) = (first.same, first.capability.clone());
                        first.kind.clone()
                    }
                    _ => {
                        return Err(format!(
                            "the context's {path:?} is a hard link to {target:?}, which is no file in front of it"
                        ));
                    }
                }
            }
            tar::Kind::File => {
                own = capability_of(&entry).map_err(|why| broken(&format!("{path:?} {why}")))?;
                content(store, &entry, &mut reader, &mut buffer).map_err(|e| broken(&e))?
            }
            // As with a folder: sockets, pipes and devices are no content.
            _ => continue,
        };
        let entry = Entry {
            kind,
            mode: entry.mode & 0o7777,
            mtime: entry
                .mtime
                .0
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(entry.mtime.1)),
            same,
            capability: own,
        };
        manifest.insert(&path, entry)?;
    }
    // What stands behind the end is of no interest, but whoever sends it waits.
    io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(|e| broken(&e))?;
    Ok(manifest)
}

/// The capability of a file, if it has one. Its other attributes are left out: no layer of BuildKit's has them.
fn capability_of(entry: &tar::Entry) -> Result<Option<Capability>, &'static str> {
    let mut attributes = entry.xattrs.iter();
    let Some((_, value)) = attributes.find(|(name, _)| name == capability::NAME) else {
        return Ok(None);
    };
    let capability = Capability::parse(value);
    let capability = capability.ok_or("has a security.capability that no file can have")?;
    Ok(Some(capability))
}

fn content<R: Read>(
    store: &Arc<ContentStore>,
    entry: &tar::Entry,
    reader: &mut TarReader<R>,
    buffer: &mut [u8],
) -> io::Result<Kind> {
    if entry.size <= SMALL {
        let mut whole = Vec::new();
        loop {
            match reader.read_content(buffer).map_err(io::Error::other)? {
                0 => break,
                n => whole.extend_from_slice(&buffer[..n]),
            }
        }
        return Ok(Kind::File {
            size: whole.len() as u64,
            digest: store.put(&whole)?,
        });
    }
    let mut incoming = store.begin_unknown()?;
    loop {
        let n = reader.read_content(buffer).map_err(io::Error::other)?;
        if n == 0 {
            break;
        }
        let at = incoming.bytes();
        incoming.write(at, &buffer[..n])?;
    }
    let size = incoming.bytes();
    let digest: Digest = store.finish(incoming)?;
    Ok(Kind::File { size, digest })
}

/// A name of the archive as a path below the context's root.
fn name(raw: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(raw).map_err(|_| {
        format!(
            "{:?} of the context is not UTF-8: rename it",
            String::from_utf8_lossy(raw)
        )
    })?;
    if text.split('/').any(|part| part == "..") {
        return Err(format!("{text:?} of the context leads out of it"));
    }
    let parts: Vec<&str> = text
        .split('/')
        .filter(|p| !matches!(*p, "" | "."))
        .collect();
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_image::layer::pack::{Plain, Sink as _};

    fn entry(path: &str, kind: tar::Kind, content: &str) -> (tar::Entry, String) {
        let entry = tar::Entry {
            path: path.as_bytes().to_vec(),
            kind,
            mode: 0o4755,
            uid: 5,
            gid: 5,
            mtime: (7, 0),
            size: content.len() as u64,
            xattrs: Vec::new(),
        };
        (entry, content.to_owned())
    }

    fn on(entries: &[(tar::Entry, String)], limits: Limits) -> Result<Manifest, String> {
        let mut out = Plain::new(Vec::new());
        for (entry, content) in entries {
            out.append(entry, &mut content.as_bytes()).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(ContentStore::open(folder.path().join("content")).unwrap());
        read(&store, &out.finish().unwrap()[..], limits)
    }

    #[test]
    fn an_archive_becomes_a_context() {
        let large = "x".repeat(300_000);
        let manifest = on(
            &[
                entry("./", tar::Kind::Folder, ""),
                able("./a/b", &VALUE),
                entry("/a/hard", tar::Kind::HardLink(b"./a/b".to_vec()), ""),
                entry("a/large", tar::Kind::File, &large),
                entry("link", tar::Kind::Symlink(b"/etc".to_vec()), ""),
                entry("pipe", tar::Kind::Fifo, ""),
                entry("disk", tar::Kind::BlockDevice(8, 0), ""),
                entry("a/b", tar::Kind::File, "two"),
            ],
            Limits::default(),
        )
        .unwrap();
        let names: Vec<_> = manifest.below("").map(|(path, _)| path).collect();
        assert_eq!(names, ["a", "a/b", "a/hard", "a/large", "link"]);
        let digest = |path: &str| match &manifest.get(path).unwrap().kind {
            Kind::File { digest, .. } => digest.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            digest("a/b"),
            Digest::of("two"),
            "the last of a name counts"
        );
        assert_eq!(digest("a/hard"), Digest::of("one"));
        assert_eq!(digest("a/large"), Digest::of(&large));
        assert_eq!(manifest.get("a/b").unwrap().mode, 0o4755);
        // Of the file, not of its name.
        let able = |path: &str| manifest.get(path).unwrap().capability.is_some();
        assert!(able("a/hard") && !able("a/b") && !able("a/large"));
    }

    /// `cap_net_bind_service=p`
    const VALUE: [u8; 20] = *b"\0\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

    /// A file "one" with attributes.
    fn able(path: &str, value: &[u8]) -> (tar::Entry, String) {
        let (mut header, content) = entry(path, tar::Kind::File, "one");
        header.xattrs = vec![
            (b"user.x".to_vec(), b"1".to_vec()),
            (capability::NAME.to_vec(), value.to_vec()),
            (b"trusted.overlay.opaque".to_vec(), b"y".to_vec()),
        ];
        (header, content)
    }

    #[test]
    fn a_capability_that_nobody_could_set_is_refused() {
        let error = on(&[able("a", &VALUE[..19])], Limits::default()).unwrap_err();
        assert!(error.contains("\"a\" has a security.capability"), "{error}");
    }

    #[test]
    fn archives_that_lead_out_are_refused() {
        let file = |path: &str| entry(path, tar::Kind::File, "");
        let symlink = |path: &str, to: &str| entry(path, tar::Kind::Symlink(to.into()), "");
        let hard = |path: &str, to: &str| entry(path, tar::Kind::HardLink(to.into()), "");
        for entries in [
            vec![file("../a")],
            vec![file("a/../../b")],
            vec![file("/..")],
            vec![symlink("l", "/etc"), file("l/passwd")],
            vec![symlink("l", ".."), hard("l/x", "l")],
            vec![hard("h", "/etc/passwd")],
            vec![hard("h", "../x")],
            vec![file("f"), file("f/below")],
            vec![file("d/x"), file("d")],
            vec![file(&"n".repeat(5000))],
        ] {
            assert!(on(&entries, Limits::default()).is_err(), "{entries:?}");
        }
        let limits = Limits {
            bytes: 10_000,
            ..Limits::default()
        };
        assert!(on(&[entry("a", tar::Kind::File, &"x".repeat(20_000))], limits).is_err());
    }
}
