//! Annotations, and which part of an image each belongs to.
//!
//! The grammar is buildx' (docs: build/metadata/annotations): `[TYPE[PLATFORM]...:]KEY=VALUE` of
//! `--annotation`, `annotation[-TYPE][PLATFORM].KEY` of an output.

use std::collections::BTreeMap;

use slipway_image::Platform;

use crate::error::{Error, Result};

/// A part of an image that has annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The manifest.
    Manifest,
    /// The manifest's descriptor in the index.
    ManifestDescriptor,
    /// The index.
    Index,
    /// The index' descriptor in an OCI layout.
    IndexDescriptor,
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "manifest" => Self::Manifest,
            "manifest-descriptor" => Self::ManifestDescriptor,
            "index" => Self::Index,
            "index-descriptor" => Self::IndexDescriptor,
            _ => return None,
        })
    }
}

/// All annotations of an output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations(Vec<(Part, Option<Platform>, String, String)>);

impl Annotations {
    /// Adds one of `--annotation`: `index,manifest[linux/amd64]:key`.
    pub fn option(&mut self, text: &str, value: &str) -> Result<()> {
        let (parts, key) = match text.split_once(':') {
            Some((parts, key)) => (parts.split(',').collect(), key),
            None => (vec!["manifest"], text),
        };
        for part in parts {
            self.add(part, key, value, text)?;
        }
        Ok(())
    }

    /// Adds one of an output's attributes, if it is one: `annotation-index.key`, `annotation.key`,
    /// `annotation[linux/amd64].key`.
    pub fn attribute(&mut self, name: &str, value: &str) -> Result<bool> {
        let Some(rest) = name.strip_prefix("annotation") else {
            return Ok(false);
        };
        // The platform may have no dot, the key has many.
        let Some((part, key)) = rest.split_once('.') else {
            return Ok(false);
        };
        let part = match part.strip_prefix('-') {
            Some(part) => part.to_owned(),
            None if part.is_empty() || part.starts_with('[') => format!("manifest{part}"),
            None => return Ok(false),
        };
        self.add(&part, key, value, name)?;
        Ok(true)
    }

    fn add(&mut self, part: &str, key: &str, value: &str, whole: &str) -> Result<()> {
        let (kind, platform) = match part.split_once('[') {
            None => (part, None),
            Some((kind, platform)) => {
                let parsed = platform.strip_suffix(']').and_then(|p| p.parse().ok());
                let refused = || Error::Invalid(format!("invalid annotation type {part:?}"));
                (kind, Some(parsed.ok_or_else(refused)?))
            }
        };
        let Some(kind) = Part::parse(kind) else {
            return Err(Error::Invalid(format!("unknown annotation type {kind:?}")));
        };
        if key.is_empty() {
            return Err(Error::Invalid(format!(
                "invalid annotation {whole:?}: no key"
            )));
        }
        self.0
            .push((kind, platform, key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Those of a part; of one platform, where it has one.
    pub fn of(&self, part: Part, platform: Option<&Platform>) -> BTreeMap<String, String> {
        self.0
            .iter()
            .filter(|(p, wanted, ..)| {
                *p == part
                    && match (wanted, platform) {
                        (None, _) => true,
                        (Some(wanted), Some(own)) => own.satisfies(wanted),
                        (Some(_), None) => false,
                    }
            })
            .map(|(.., key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Whether something is for this part.
    pub fn has(&self, part: Part) -> bool {
        self.0.iter().any(|(p, ..)| *p == part)
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_annotated() {
        let mut all = Annotations::default();
        all.option("a", "1").unwrap();
        all.option("index,manifest[linux/arm64]:b", "2").unwrap();
        assert!(
            all.attribute("annotation-manifest-descriptor.c.d", "3")
                .unwrap()
        );
        assert!(all.attribute("annotation[linux/amd64].e", "4").unwrap());
        assert!(!all.attribute("name", "x").unwrap());
        assert!(!all.attribute("annotations.x", "x").unwrap());
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let of = |part, platform| -> Vec<String> {
            all.of(part, platform)
                .into_iter()
                .map(|(k, v)| k + &v)
                .collect()
        };
        assert_eq!(of(Part::Manifest, Some(&amd64)), ["a1", "e4"]);
        assert_eq!(of(Part::Index, None), ["b2"]);
        assert_eq!(of(Part::ManifestDescriptor, Some(&amd64)), ["c.d3"]);
        assert!(all.option("layer:x", "1").is_err());
        assert!(all.option("manifest[:x", "1").is_err());
        assert!(all.option("index:", "1").is_err());
    }
}
