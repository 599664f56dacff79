//! Made-up content of any size, no two alike, of which little is in memory.

use slipway_image::Digest;

/// Bytes that are repeated.
const BLOCK: usize = 1 << 20;

/// A name of its own, then the same block again and again.
#[derive(Clone)]
pub struct Content {
    size: u64,
    head: [u8; 16],
}

impl Content {
    /// The `number`th of a seed.
    pub fn new(seed: u64, number: u64, size: u64) -> Self {
        let mut head = [0; 16];
        head[..8].copy_from_slice(&seed.to_le_bytes());
        head[8..].copy_from_slice(&number.to_le_bytes());
        Self { size, head }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What follows behind `offset`, as much of it as is in one piece; empty at the end.
    pub fn at(&self, offset: u64) -> &[u8] {
        let left = self.size - offset;
        let piece = match self.head.get(offset as usize..) {
            Some(head) if !head.is_empty() => head,
            _ => &block()[((offset - self.head.len() as u64) % BLOCK as u64) as usize..],
        };
        &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))]
    }

    /// Its name.
    pub fn digest(&self) -> Digest {
        let mut digester = slipway_image::Digester::default();
        let mut offset = 0;
        while offset < self.size {
            let piece = self.at(offset);
            digester.update(piece);
            offset += piece.len() as u64;
        }
        digester.finish()
    }
}

/// No disk or file system makes less of it than it is (xorshift, Marsaglia 2003).
fn block() -> &'static [u8] {
    static ONCE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    ONCE.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..BLOCK / 8).flat_map(|_| next()).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_as_long_as_it_says_and_no_two_are_alike() {
        for size in [0, 1, 16, 17, BLOCK as u64 + 16, 2 * BLOCK as u64 + 5] {
            let content = Content::new(1, 2, size);
            let (mut all, mut offset) = (Vec::new(), 0);
            while offset < size {
                all.extend_from_slice(content.at(offset));
                offset = all.len() as u64;
            }
            assert_eq!(all.len() as u64, size);
            assert_eq!(content.digest(), Digest::of(&all));
            assert!(content.at(size).is_empty());
        }
        let digests = [(1, 1), (1, 2), (2, 1)].map(|(s, n)| Content::new(s, n, 64).digest());
        assert!(digests[0] != digests[1] && digests[1] != digests[2] && digests[0] != digests[2]);
    }
}
