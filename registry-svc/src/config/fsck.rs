//! `[fsck]`: how the store is checked.

use serde::Deserialize;

use super::{ConfigError, units::parse_size};

/// How many bytes a second a check of the store reads, by default: a disk has room for others beside it.
pub const FSCK_RATE: u64 = 100_000_000;

/// `[fsck]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FsckFile {
    /// Bytes a second that a check reads.
    pub rate: Option<String>,
}

impl FsckFile {
    /// Bytes a second.
    pub fn rate(&self) -> Result<u64, ConfigError> {
        let parse = |text: &String| {
            parse_size(text).filter(|rate| *rate > 0).ok_or_else(|| {
                let message = format!("{text:?}: write bytes a second, as 100MB");
                ConfigError::of("fsck: rate", message)
            })
        };
        self.rate.as_ref().map_or(Ok(FSCK_RATE), parse)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::RegistryFile;

    #[test]
    fn a_check_reads_at_some_rate() {
        let file: RegistryFile = toml::from_str("[fsck]\nrate = \"0MB\"\n").unwrap();
        let error = file.fsck.rate().unwrap_err().to_string();
        assert!(error.contains("bytes a second"), "{error}");
    }
}
