//! `[mirror]`: what upstreams may take.

use serde::Deserialize;

use super::{ConfigError, units::parse_size};
use crate::mirror::MirrorLimits;

/// `[mirror]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MirrorFile {
    /// The largest blob.
    pub max_blob: Option<String>,
    /// What broken transfers may leave.
    pub partial: Option<String>,
    /// What stays free.
    pub min_free: Option<String>,
}

impl MirrorFile {
    /// Checks the sizes.
    pub fn check(&self) -> Result<MirrorLimits, ConfigError> {
        let size = |name: &str, text: &Option<String>| {
            let parse = |text: &String| {
                parse_size(text).ok_or_else(|| {
                    ConfigError::of(format!("mirror: {name}"), format!("{text:?}: write 20GB"))
                })
            };
            text.as_ref().map(parse).transpose()
        };
        let default = MirrorLimits::default();
        Ok(MirrorLimits {
            max_blob: size("max_blob", &self.max_blob)?.unwrap_or(default.max_blob),
            partial: size("partial", &self.partial)?.unwrap_or(default.partial),
            min_free: size("min_free", &self.min_free)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RegistryFile;

    #[test]
    fn what_upstreams_may_take_is_sizes() {
        let check = |text: &str| {
            let file: RegistryFile = toml::from_str(text).unwrap();
            file.mirror.check().map_err(|e| e.to_string())
        };
        assert_eq!(check(""), Ok(MirrorLimits::default()));
        let set = MirrorLimits {
            max_blob: 1000,
            partial: 2000,
            min_free: Some(0),
        };
        let text = "[mirror]\nmax_blob = '1kB'\npartial = '2kB'\nmin_free = '0'";
        assert_eq!(check(text), Ok(set));
        let error = check("[mirror]\nmin_free = 'much'").unwrap_err();
        assert!(error.contains("mirror: min_free: \"much\""), "{error}");
    }
}
