//! Packed segments: complete ones, made small by runtime-svc, which has the memory for it.
//!
//! A packed segment is a sequence of blocks of some 256 KiB, each a header and that part of the segment
//! as a zstd frame. The headers carry what the index of a plain segment does, so that the last lines are
//! found without unpacking the rest. Header, 32 bytes, little-endian: lengths of the part (4) and of the
//! frame (4), ends of lines in the part (8), latest time up to its end (8), CRC-32 of the frame (4),
//! CRC-32 of the 28 bytes before (4).

use std::{
    fs::File,
    io::{self, BufReader, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::monitor::{
    log_files::{self, Mark},
    log_format::{self, Header},
};

/// How much of a segment makes a block, bytes.
const BLOCK: usize = 256 * 1024;
/// A block may be longer by a record.
const MAX_BLOCK: usize = BLOCK + log_format::MAX_PAYLOAD + log_format::HEADER;
const BLOCK_HEADER: usize = 32;
/// zstd's level: fast, and logs become a tenth.
const LEVEL: i32 = 3;

/// Replaces a complete segment by its packed form. The monitor may remove it at the same time.
pub fn pack(folder: &Path, base: u64) -> io::Result<()> {
    let plain = log_files::plain(folder, base);
    let mut file = BufReader::with_capacity(BLOCK, File::open(&plain)?);
    let packed = log_files::packed(folder, base);
    let temporary = log_files::packing(folder, base);
    let mut out = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    let (mut block, mut payload) = (Vec::with_capacity(MAX_BLOCK), Vec::new());
    let (mut lines, mut latest) = (0, 0);
    loop {
        let header = log_format::read_record(&mut file, &mut payload)?;
        if let Some(header) = &header {
            block.extend_from_slice(&header.encode());
            block.extend_from_slice(&payload);
            lines += log_files::newlines(&payload);
            latest = header.time.max(latest);
        }
        if !block.is_empty() && (block.len() >= BLOCK || header.is_none()) {
            let frame = zstd::bulk::compress(&block, LEVEL)?;
            let info = Info {
                length: block.len() as u32,
                frame: frame.len() as u32,
                lines,
                latest,
                check: crc32fast::hash(&frame),
            };
            out.write_all(&info.encode())?;
            out.write_all(&frame)?;
            block.clear();
            lines = 0;
        }
        if header.is_none() {
            break;
        }
    }
    drop(out);
    std::fs::rename(&temporary, &packed)?;
    match std::fs::remove_file(&plain) {
        Ok(()) => {}
        // The monitor removed the segment meanwhile: it stays removed.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let _ = std::fs::remove_file(&packed);
        }
        Err(e) => return Err(e),
    }
    match std::fs::remove_file(log_files::index(folder, base)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Packs every complete segment of a log.
pub fn pack_all(folder: &Path) -> io::Result<()> {
    let bases = log_files::list(folder)?;
    for base in bases.iter().rev().skip(1).rev() {
        match pack(folder, *base) {
            // Packed or removed already.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// A block's header.
#[derive(Debug, Clone, Copy)]
struct Info {
    length: u32,
    frame: u32,
    lines: u64,
    latest: u64,
    check: u32,
}

impl Info {
    fn encode(&self) -> [u8; BLOCK_HEADER] {
        let mut bytes = [0; BLOCK_HEADER];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.frame.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lines.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.latest.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.check.to_le_bytes());
        let own = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; BLOCK_HEADER]) -> Option<Self> {
        let short = |at: usize| {
            let mut part = [0; 4];
            part.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(part)
        };
        let long = |at: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(part)
        };
        let info = Self {
            length: short(0),
            frame: short(4),
            lines: long(8),
            latest: long(16),
            check: short(24),
        };
        (short(28) == crc32fast::hash(&bytes[..28])
            && info.length as usize <= MAX_BLOCK
            && info.frame as usize <= 2 * MAX_BLOCK)
            .then_some(info)
    }
}

/// An open packed segment.
#[derive(Debug)]
pub struct Packed {
    file: File,
    /// Where the next block begins in the file.
    next: u64,
    block: Vec<u8>,
    /// How much of the block was read.
    used: usize,
}

impl Packed {
    /// Opens one at its beginning.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            next: 0,
            block: Vec::new(),
            used: 0,
        })
    }

    fn info(&self, at: u64) -> io::Result<Option<Info>> {
        let mut bytes = [0; BLOCK_HEADER];
        match self.file.read_exact_at(&mut bytes, at) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        match Info::decode(&bytes) {
            Some(info) => Ok(Some(info)),
            None => Err(damaged()),
        }
    }

    /// Goes to an offset of the segment.
    pub fn seek(&mut self, offset: u64) -> io::Result<()> {
        let (mut at, mut before) = (0, 0);
        self.block.clear();
        self.used = 0;
        while let Some(info) = self.info(at)? {
            if offset < before + u64::from(info.length) {
                self.next = at;
                self.load()?;
                self.used = (offset - before) as usize;
                return Ok(());
            }
            before += u64::from(info.length);
            at += BLOCK_HEADER as u64 + u64::from(info.frame);
        }
        self.next = at;
        Ok(())
    }

    /// Unpacks the next block; false at the end.
    fn load(&mut self) -> io::Result<bool> {
        let Some(info) = self.info(self.next)? else {
            return Ok(false);
        };
        let mut frame = vec![0; info.frame as usize];
        self.file
            .read_exact_at(&mut frame, self.next + BLOCK_HEADER as u64)?;
        if crc32fast::hash(&frame) != info.check {
            return Err(damaged());
        }
        self.block = zstd::bulk::decompress(&frame, info.length as usize)?;
        if self.block.len() != info.length as usize {
            return Err(damaged());
        }
        self.used = 0;
        self.next += BLOCK_HEADER as u64 + u64::from(info.frame);
        Ok(true)
    }

    /// The next record; `None` at the end.
    pub fn read_record(&mut self, payload: &mut Vec<u8>) -> io::Result<Option<Header>> {
        if self.used >= self.block.len() && !self.load()? {
            return Ok(None);
        }
        let mut rest = &self.block[self.used..];
        let before = rest.len();
        let header = log_format::read_record(&mut rest, payload)?.ok_or_else(damaged)?;
        self.used += before - rest.len();
        Ok(Some(header))
    }

    /// What the headers know: a mark at the beginning of each block, and one at the end.
    pub fn marks(&self) -> io::Result<Vec<Mark>> {
        let (mut at, mut now) = (0, Mark::default());
        let mut marks = Vec::new();
        while let Some(info) = self.info(at)? {
            marks.push(now);
            now = Mark {
                offset: now.offset + u64::from(info.length),
                lines: now.lines + info.lines,
                latest: now.latest.max(info.latest),
            };
            at += BLOCK_HEADER as u64 + u64::from(info.frame);
        }
        marks.push(now);
        Ok(marks)
    }
}

fn damaged() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a packed part of the log is damaged",
    )
}
