//! A pack's bytes: headers of objects, and their content as it is inflated (gitformat-pack(5)).

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use flate2::bufread::ZlibDecoder;

use super::broken;

/// Where the content of an object comes from.
pub trait Inflate {
    /// Gives exactly so many bytes, piece by piece.
    fn inflate(
        &mut self,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()>;
}

impl Inflate for Counted {
    fn inflate(
        &mut self,
        size: u64,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut plain = ZlibDecoder::new(self);
        let mut buffer = vec![0; 64 << 10];
        let mut given = 0;
        loop {
            let n = plain.read(&mut buffer)?;
            given += n as u64;
            if given > size || (n == 0 && given < size) {
                return Err(broken("an object has another size than it says"));
            }
            if n == 0 {
                return Ok(());
            }
            take(&buffer[..n])?;
        }
    }
}

/// An object that was put together in memory.
pub struct Stored<'a>(pub &'a [u8]);

impl Inflate for Stored<'_> {
    fn inflate(&mut self, _: u64, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        take(self.0)
    }
}

/// A reader that knows where it is.
pub struct Counted {
    pub inner: BufReader<File>,
    pub at: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl BufRead for Counted {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount as u64;
        self.inner.consume(amount);
    }
}

pub fn byte(input: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    input.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// Kind and size of an object.
pub fn object_header(input: &mut impl Read) -> io::Result<(u8, u64)> {
    let first = byte(input)?;
    let mut size = u64::from(first & 0x0f);
    let mut shift = 4;
    let mut last = first;
    while last & 0x80 != 0 {
        last = byte(input)?;
        if shift > 56 {
            return Err(broken("an object's size is none"));
        }
        size |= u64::from(last & 0x7f) << shift;
        shift += 7;
    }
    Ok((first >> 4 & 7, size))
}

/// How far back the base of a change is.
pub fn base_offset(input: &mut impl Read) -> io::Result<u64> {
    let mut last = byte(input)?;
    let mut offset = u64::from(last & 0x7f);
    while last & 0x80 != 0 {
        last = byte(input)?;
        offset = offset
            .checked_add(1)
            .and_then(|o| o.checked_mul(128))
            .ok_or_else(|| broken("an offset is none"))?
            | u64::from(last & 0x7f);
    }
    Ok(offset)
}
