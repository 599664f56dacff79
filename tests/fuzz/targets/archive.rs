//! Archives of images: images that are what they say, or a sentence; never a panic, never for ever.
//!
//! An input that begins with `!` is a list of files, since nobody finds a digest by trying: the first line of each is
//! its name (one that ends with `/` is a folder, `a -> b` a link), the rest its content, and a line `!` ends it. `%3`
//! is the digest of the fourth file, in hexadecimal, `#3` its size.

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_svc::images::archive::{Image, Shelf as _, memory::Memory, plan, read};
use slipway_image::{
    Digest, Platform, archive as compressed,
    layer::{Entry, Kind, limits::Limits, tar_write::TarWriter},
};

/// Most bytes of a layer and of an archive: little enough to be quick.
const BYTES: u64 = 4 << 20;

fuzz_target!(|data: &[u8]| {
    let archive = match data.strip_prefix(b"!\n") {
        Some(list) => made(list),
        None => data.to_vec(),
    };
    for platform in [None, Some("linux/amd64"), Some("linux/arm64")] {
        let platform: Option<Platform> = platform.map(|p| p.parse().unwrap());
        let first = load(&archive, platform.as_ref());
        match &first {
            Err(sentence) => assert!(!sentence.trim().is_empty()),
            Ok(images) => assert!(!images.is_empty()),
        }
        assert_eq!(first, load(&archive, platform.as_ref()));
    }
});

fn load(archive: &[u8], platform: Option<&Platform>) -> Result<Vec<Image>, String> {
    let limits = Limits {
        bytes: BYTES,
        ..Limits::default()
    };
    let mut shelf = Memory::within(limits);
    let plain = compressed::plain(archive, limits).map_err(|e| e.to_string())?;
    let listing = read(plain, limits, &mut shelf).map_err(|e| e.to_string())?;
    let images = plan(&listing, &mut shelf, platform).map_err(|e| e.to_string())?;
    for image in &images {
        for planned in image.children.iter().chain([&image.top]) {
            assert_eq!(Digest::of(&planned.content), planned.digest);
        }
        // Its config came with it.
        assert!(shelf.small(&image.id).is_ok(), "{}", image.id);
        assert!(image.names.iter().all(|name| name.tag().is_some()));
    }
    Ok(images)
}

fn made(list: &[u8]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    let mut known: Vec<(String, String)> = Vec::new();
    for file in list.split(|b| *b == b'!').take(32) {
        let file = file.strip_prefix(b"\n").unwrap_or(file);
        let file = file.strip_suffix(b"\n").unwrap_or(file);
        let (name, content) = match file.iter().position(|b| *b == b'\n') {
            Some(at) => (&file[..at], &file[at + 1..]),
            None => (file, &[][..]),
        };
        let (name, content) = (with_digests(name, &known), with_digests(content, &known));
        known.push((
            Digest::of(&content).encoded().to_owned(),
            content.len().to_string(),
        ));
        let text = String::from_utf8_lossy(&name).into_owned();
        let (path, kind) = match text.split_once(" -> ") {
            Some((path, target)) => (path.to_owned(), Kind::Symlink(target.into())),
            None if text.ends_with('/') => (text, Kind::Folder),
            None => (text, Kind::File),
        };
        let content = match kind {
            Kind::File => content,
            _ => Vec::new(),
        };
        let entry = Entry {
            path: path.into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: content.len() as u64,
            xattrs: Vec::new(),
        };
        if tar.append(&entry, &mut &content[..]).is_err() {
            return Vec::new();
        }
    }
    tar.finish().unwrap_or_default()
}

fn with_digests(text: &[u8], known: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        let digit = bytes.as_slice().first();
        let place = digit.and_then(|d| char::from(*d).to_digit(32));
        let named = place.and_then(|at| known.get(at as usize));
        match (byte, named) {
            (b'%', Some((digest, _))) => out.extend(digest.bytes()),
            (b'#', Some((_, size))) => out.extend(size.bytes()),
            _ => {
                out.push(*byte);
                continue;
            }
        }
        bytes.next();
    }
    out
}
