//! Maps of sparse files: where in the file the content of the stream belongs.

use std::io::Read;

use super::{BLOCK, TarError, TarReader, header::number, pax::decimal};

/// Most pieces of a sparse file.
pub(super) const MAX_PIECES: usize = 64 * 1024;

/// Pieces that were not read yet, last first: offset and length.
pub(super) struct Pieces(Vec<(u64, u64)>);

impl Pieces {
    /// Checks a map against the file's real size and the content that the stream has.
    pub fn new(real: u64, in_stream: u64, mut pieces: Vec<(u64, u64)>) -> Result<Self, TarError> {
        let (mut end, mut sum) = (0, 0u64);
        for (offset, length) in &pieces {
            let next = offset
                .checked_add(*length)
                .filter(|next| *offset >= end && *next <= real);
            end = next.ok_or(TarError::Invalid(
                "the map of a sparse file is out of order",
            ))?;
            // Not more than `end`, which is no overflow.
            sum += length;
        }
        if sum != in_stream {
            return Err(TarError::Invalid(
                "the map of a sparse file does not fit its content",
            ));
        }
        pieces.retain(|(_, length)| *length > 0);
        pieces.reverse();
        Ok(Self(pieces))
    }

    /// From `position` on: whether there is a hole, and how much of it or of a piece, at most `most`.
    pub fn stretch(&self, position: u64, most: u64) -> (bool, u64) {
        match self.0.last() {
            Some((offset, length)) if position >= *offset => (false, most.min(*length)),
            Some((offset, _)) => (true, most.min(*offset - position)),
            None => (true, most),
        }
    }

    /// So many bytes of a piece were read.
    pub fn read(&mut self, n: u64) {
        if let Some((offset, length)) = self.0.last_mut() {
            *offset += n;
            *length -= n;
            if *length == 0 {
                self.0.pop();
            }
        }
    }
}

impl<R: Read> TarReader<R> {
    /// The map of an old GNU sparse file, with the real size.
    pub(super) fn read_old_sparse(
        &mut self,
        header: &[u8; BLOCK],
    ) -> Result<(u64, Vec<(u64, u64)>), TarError> {
        let real = number(&header[483..495])?;
        let mut pieces = Vec::new();
        let mut more = header[482] != 0;
        let mut take = |field: &[u8]| -> Result<(), TarError> {
            let (offset, length) = (number(&field[..12])?, number(&field[12..24])?);
            if length > 0 {
                pieces.push((offset, length));
            }
            within(pieces.len())
        };
        for field in header[386..482].chunks(24) {
            take(field)?;
        }
        // Blocks of nothing are as bad as too many pieces.
        let mut blocks = 0;
        while more {
            blocks += 1;
            within(blocks)?;
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                return Err(TarError::Truncated);
            }
            for field in block[..504].chunks(24) {
                take(field)?;
            }
            more = block[504] != 0;
        }
        Ok((real, pieces))
    }

    /// The map in front of the content, in lines: how many pieces, then offset and length of each; filled up
    /// to a block.
    pub(super) fn read_sparse_map(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        const BAD: TarError = TarError::Invalid("the map of a sparse file is malformed");
        let mut lines = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        loop {
            let wanted = numbers.first().map_or(1, |count| 1 + 2 * count);
            if numbers.len() as u64 >= wanted {
                break;
            }
            if self.remaining < BLOCK as u64 {
                return Err(BAD);
            }
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                return Err(TarError::Truncated);
            }
            self.remaining -= BLOCK as u64;
            lines.extend_from_slice(&block);
            while let Some(end) = lines.iter().position(|b| *b == b'\n') {
                if numbers
                    .first()
                    .is_some_and(|count| numbers.len() as u64 == 1 + 2 * count)
                {
                    break;
                }
                numbers.push(decimal(&lines[..end]).ok_or(BAD)?);
                lines.drain(..=end);
                within(usize::try_from(numbers[0]).unwrap_or(usize::MAX))?;
            }
            // A number has 20 digits at most. What follows the last one fills up the block.
            let is_whole = numbers
                .first()
                .is_some_and(|count| numbers.len() as u64 == 1 + 2 * count);
            if !is_whole && lines.len() > 20 {
                return Err(BAD);
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|p| (p[0], p[1])).collect())
    }
}

fn within(pieces: usize) -> Result<(), TarError> {
    if pieces > MAX_PIECES {
        return Err(TarError::Invalid("a sparse file has too many pieces"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_holes() {
        let mut pieces = Pieces::new(100, 30, vec![(0, 10), (40, 20), (100, 0)]).unwrap();
        let mut seen = Vec::new();
        let mut at = 0;
        while at < 100 {
            let (hole, n) = pieces.stretch(at, 100 - at);
            if !hole {
                pieces.read(n);
            }
            seen.push((hole, n));
            at += n;
        }
        assert_eq!(seen, [(false, 10), (true, 30), (false, 20), (true, 40)]);
    }

    #[test]
    fn maps_that_lie() {
        for (real, in_stream, map) in [
            (100, 30, vec![(0, 10)]),
            (100, 20, vec![(50, 10), (0, 10)]),
            (100, 20, vec![(0, 10), (5, 10)]),
            (100, 10, vec![(95, 10)]),
            (100, 10, vec![(u64::MAX, 10)]),
        ] {
            assert!(
                Pieces::new(real, in_stream, map.clone()).is_err(),
                "{map:?}"
            );
        }
    }
}
