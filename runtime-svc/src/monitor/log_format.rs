//! What a log consists of: a sequence of records, each a header and what one read gave.
//!
//! Header, 16 bytes, little-endian: nanoseconds since the epoch (8), length of the payload (4), stream
//! (1), reserved (1), check (2: the low half of the CRC-32 of the 14 bytes before). A record that was
//! cut off by a power loss ends the file for readers and is cut away by the next writer.

use std::io::{self, Read};

/// Length of a header, bytes.
pub const HEADER: usize = 16;
/// Largest payload, bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
}

/// A parsed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// Length of the payload, bytes.
    pub length: u32,
    /// Where it came from.
    pub stream: Stream,
}

impl Header {
    /// As bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&self.time.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12] = self.stream as u8;
        let check = check(&bytes);
        bytes[14..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// From bytes; `None` when they are no header.
    pub fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let stored = u16::from_le_bytes([bytes[14], bytes[15]]);
        let length = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        let stream = match bytes[12] {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => return None,
        };
        let (time, _) = bytes.split_first_chunk::<8>()?;
        (stored == check(bytes) && length as usize <= MAX_PAYLOAD).then(|| Self {
            time: u64::from_le_bytes(*time),
            length,
            stream,
        })
    }
}

fn check(bytes: &[u8; HEADER]) -> u16 {
    crc32fast::hash(&bytes[..14]) as u16
}

/// Reads one record into `payload`. `None` at the end, also when the last record is not whole yet.
pub fn read_record(reader: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<Option<Header>> {
    let mut header = [0; HEADER];
    if !read_whole(reader, &mut header)? {
        return Ok(None);
    }
    let Some(header) = Header::decode(&header) else {
        return Ok(None);
    };
    payload.resize(header.length as usize, 0);
    Ok(read_whole(reader, payload)?.then_some(header))
}

fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(time: u64, stream: Stream, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Header {
            time,
            length: payload.len() as u32,
            stream,
        }
        .encode()
        .to_vec();
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_torn_tail_is_not_read() {
        let mut bytes = record(1, Stream::Stdout, b"whole");
        bytes.extend(&record(2, Stream::Stderr, b"torn")[..18]);
        let mut payload = Vec::new();
        let mut reader = &bytes[..];
        let first = read_record(&mut reader, &mut payload).unwrap().unwrap();
        assert_eq!(
            (first.time, first.stream, &payload[..]),
            (1, Stream::Stdout, &b"whole"[..])
        );
        assert_eq!(read_record(&mut reader, &mut payload).unwrap(), None);
    }

    proptest::proptest! {
        #[test]
        fn records_round_trip(time: u64, stderr: bool, payload in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            let bytes = record(time, stream, &payload);
            let mut read = Vec::new();
            let header = read_record(&mut &bytes[..], &mut read).unwrap().unwrap();
            proptest::prop_assert_eq!((header.time, header.stream), (time, stream));
            proptest::prop_assert_eq!(read, payload);
        }

        #[test]
        fn garbage_is_never_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            let mut payload = Vec::new();
            let _ = read_record(&mut &bytes[..], &mut payload);
        }
    }
}
