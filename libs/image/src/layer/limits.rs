//! What is the most that a layer may be: a small download must not fill the host.

/// Limits of a layer. An operator changes them in `runtime.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries, with the folders that had to be made for them.
    pub entries: u64,
    /// Content written, bytes; holes of sparse files are not.
    pub bytes: u64,
    /// Plain bytes for one compressed byte, beyond [`RATIO_FREE`]; 0 = any.
    pub ratio: u64,
    /// Largest window of a zstd stream, as a power of two.
    pub zstd_window_log: u32,
}

/// A layer of at most so many plain bytes may be compressed as much as it likes: a gigabyte of zeros is
/// a megabyte of gzip, and harmless.
pub const RATIO_FREE: u64 = 1 << 30;

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 5_000_000,
            bytes: 256 << 30,
            // Software compresses 3 times, logs 20 times. gzip cannot exceed 1032, zstd can by far.
            ratio: 200,
            zstd_window_log: ZSTD_WINDOW_LOG,
        }
    }
}

/// 128 MiB, what `zstd -d` allows. A hostile stream could ask for gigabytes.
pub const ZSTD_WINDOW_LOG: u32 = 27;

impl Limits {
    /// Whether so many plain bytes of so many compressed ones are too good to be true.
    pub const fn is_bomb(&self, plain: u64, compressed: u64) -> bool {
        self.ratio > 0 && plain > RATIO_FREE.saturating_add(compressed.saturating_mul(self.ratio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bombs_are_told_from_what_compresses_well() {
        let limits = Limits::default();
        assert!(!limits.is_bomb(1 << 30, 1));
        assert!(limits.is_bomb((1 << 30) + 201, 1));
        assert!(!limits.is_bomb(40 << 30, 1 << 30));
        let any = Limits { ratio: 0, ..limits };
        assert!(!any.is_bomb(u64::MAX, 1));
    }
}
