//! Manifests and indexes: parsed strictly, since two readings of one digest are an attack.

mod other;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

use crate::{Digest, Platform, media_type};
pub use other::OtherManifest;

/// Largest manifest that is accepted, bytes (distribution-spec: registries should accept 4 MiB).
pub const MAX_SIZE: usize = 4 * 1024 * 1024;

/// Most values in a manifest, whatever they are: in memory each takes many times the few bytes that it may have here.
/// An index of [`MAX_SIZE`] that names one manifest after the other has 150,000.
pub const MAX_VALUES: usize = 200_000;

/// An OCI descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content, bytes.
    pub size: u64,
    /// Where else it may be had. Kept, never followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations, sorted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: which platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// In an index: which kind of artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The content itself, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing but the three required fields.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
            data: None,
        }
    }
}

/// An image manifest, OCI or docker schema 2; also the manifest of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Always 2.
    pub schema_version: u8,
    /// Own media type; OCI allows it to be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Kind of artifact, when it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, base first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about (referrers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations, sorted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl ImageManifest {
    /// Whether this is an image to run, not some other artifact.
    pub fn is_image(&self) -> bool {
        media_type::is_config(&self.config.media_type)
    }
}

/// An image index or manifest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// Always 2.
    pub schema_version: u8,
    /// Own media type; OCI allows it to be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Kind of artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one is about (referrers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations, sorted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl ImageIndex {
    /// The manifest for a platform: the first that fits exactly, else the first that fits at all.
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let fits = |d: &&Descriptor| {
            media_type::is_manifest(&d.media_type)
                && d.platform.as_ref().is_some_and(|p| p.satisfies(wanted))
        };
        let exact = |d: &&Descriptor| {
            d.platform.as_ref().is_some_and(|p| {
                Platform::new(&p.os, &p.architecture, &p.variant).variant == wanted.variant
            })
        };
        self.manifests
            .iter()
            .find(|d| fits(d) && exact(d))
            .or_else(|| self.manifests.iter().find(fits))
    }
}

/// A manifest of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are never many of them at once"
)]
pub enum Manifest {
    /// One image or artifact.
    Image(ImageManifest),
    /// Several, by platform.
    Index(ImageIndex),
    /// Something else.
    Other(OtherManifest),
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// More than [`MAX_SIZE`] bytes.
    #[error("manifest of {0} bytes is larger than {MAX_SIZE}")]
    TooLarge(usize),
    /// More than [`MAX_VALUES`] values.
    #[error("manifest of {0} values, more than {MAX_VALUES}")]
    TooMany(usize),
    /// A media type that is no manifest.
    #[error("unsupported manifest media type {0:?}")]
    MediaType(String),
    /// Docker's schema 1 is obsolete and not content-addressable.
    #[error(
        "docker schema 1 manifests are no longer supported: push the image again with a current client"
    )]
    Schema1,
    /// Not JSON, or fields missing.
    #[error("invalid manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// It says to be one thing and looks like another (CVE-2021-41190).
    #[error("invalid manifest: {0}")]
    Shape(String),
}

impl Manifest {
    /// Parses and checks that the shape is that of the media type.
    pub fn parse(media_type: &str, content: &[u8]) -> Result<Self, ManifestError> {
        if content.len() > MAX_SIZE {
            return Err(ManifestError::TooLarge(content.len()));
        }
        // A content type may have parameters ("; charset=utf-8").
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        if matches!(
            media_type,
            media_type::DOCKER_SCHEMA1 | media_type::DOCKER_SCHEMA1_SIGNED
        ) {
            return Err(ManifestError::Schema1);
        }
        let index = media_type::is_index(media_type);
        let known = index || media_type::is_manifest(media_type);
        if !known && !media_type::may_be_manifest(media_type) {
            return Err(ManifestError::MediaType(media_type.to_owned()));
        }
        check_values(content)?;
        if !known {
            let (manifest, own) = other::read(content)?;
            check_media_type(own.as_deref(), media_type)?;
            return Ok(Self::Other(manifest));
        }
        let shape: Shape = serde_json::from_slice(content)?;
        shape.check(media_type, index)?;
        Ok(if index {
            Self::Index(serde_json::from_slice(content)?)
        } else {
            Self::Image(serde_json::from_slice(content)?)
        })
    }

    /// Forgets what a manifest of an unknown kind names, but for what is to be kept. What the others name is
    /// theirs.
    pub fn hold_only(&mut self, keep: impl Fn(&Descriptor) -> bool) {
        if let Self::Other(other) = self {
            other.descriptors.retain(keep);
        }
    }

    /// Everything that this manifest names and that must be stored with it: config and layers, or
    /// manifests. Nondistributable layers are not among them, nor is the subject.
    pub fn references(&self) -> Vec<&Descriptor> {
        match self {
            Self::Image(m) => std::iter::once(&m.config)
                .chain(
                    m.layers
                        .iter()
                        .filter(|l| !media_type::is_nondistributable(&l.media_type)),
                )
                .collect(),
            Self::Index(i) => i.manifests.iter().collect(),
            Self::Other(o) => o.descriptors.iter().collect(),
        }
    }

    /// The manifest that this one is about.
    pub const fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Image(m) => m.subject.as_ref(),
            Self::Index(i) => i.subject.as_ref(),
            Self::Other(o) => o.subject.as_ref(),
        }
    }
}

fn check_media_type(own: Option<&str>, media_type: &str) -> Result<(), ManifestError> {
    match own {
        Some(own) if own != media_type => Err(ManifestError::Shape(format!(
            "mediaType is {own:?} but it was sent as {media_type:?}"
        ))),
        _ => Ok(()),
    }
}

/// Checks that there are no more than [`MAX_VALUES`] in some JSON.
pub fn check_values(content: &[u8]) -> Result<(), ManifestError> {
    match values_in(content) {
        values if values > MAX_VALUES => Err(ManifestError::TooMany(values)),
        _ => Ok(()),
    }
}

/// Counts values without making any: each begins an object or a list, or follows another one. Of what is no JSON it is
/// some number.
fn values_in(content: &[u8]) -> usize {
    let (mut values, mut text, mut escaped) = (0, false, false);
    for byte in content {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = text,
            b'"' => text = !text,
            b'{' | b'[' | b',' if !text => values += 1,
            _ => {}
        }
    }
    values
}

/// What tells an image from an index. Both are read for their own fields only, so this looks at the other's.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Present,
    layers: Present,
    fs_layers: Present,
    manifests: Present,
}

/// Whether a field is there, whatever is in it.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

impl Shape {
    fn check(&self, media_type: &str, index: bool) -> Result<(), ManifestError> {
        check_media_type(self.media_type.as_deref(), media_type)?;
        if self.schema_version != Some(2) {
            return Err(ManifestError::Shape("schemaVersion must be 2".to_owned()));
        }
        let foreign = [
            ("config", index && self.config.0),
            ("layers", index && self.layers.0),
            ("manifests", !index && self.manifests.0),
            ("fsLayers", self.fs_layers.0),
        ];
        match foreign.into_iter().find(|(_, present)| *present) {
            Some((field, _)) => Err(ManifestError::Shape(format!(
                "a {media_type} must not have {field:?}"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(extra: &str) -> String {
        let digest = Digest::of(b"{}");
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{digest}","size":2}},"layers":[]{extra}}}"#,
            media_type::OCI_MANIFEST,
            media_type::OCI_CONFIG,
        )
    }

    #[test]
    fn what_we_write_is_what_the_specs_own_types_read() {
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::new(media_type::OCI_CONFIG, Digest::of("{}"), 2),
            layers: vec![Descriptor::new(
                media_type::OCI_LAYER_GZIP,
                Digest::of("x"),
                1,
            )],
            subject: None,
            annotations: [("a".to_owned(), "b".to_owned())].into(),
        };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let read = oci_spec::image::ImageManifest::from_reader(&bytes[..]).unwrap();
        assert_eq!(
            read.config().digest().to_string(),
            Digest::of("{}").to_string()
        );
        assert_eq!(read.layers()[0].size(), 1);
        let theirs = read.to_string().unwrap();
        let again = Manifest::parse(media_type::OCI_MANIFEST, theirs.as_bytes()).unwrap();
        assert_eq!(again, Manifest::Image(manifest));
    }

    #[test]
    fn a_manifest_that_is_also_an_index_is_refused() {
        assert!(Manifest::parse(media_type::OCI_MANIFEST, manifest("").as_bytes()).is_ok());
        let both = manifest(r#","manifests":[]"#);
        let error = Manifest::parse(media_type::OCI_MANIFEST, both.as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::Shape(_)), "{error}");
        let error = Manifest::parse(media_type::OCI_INDEX, manifest("").as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::Shape(_)), "{error}");
    }

    #[test]
    fn what_a_manifest_of_an_unknown_kind_names_is_found_wherever_it_stands() {
        let named = |name: &str| {
            let digest = Digest::of(name);
            format!(r#"{{"mediaType":"x/{name}","digest":"{digest}","size":3,"more":true}}"#)
        };
        let (one, two, subject) = (named("one"), named("two"), named("subject"));
        let text = format!(
            r#"{{"mediaType":"application/x+json","artifactType":"kind","subject":{subject},
                "blobs":[{one},{{"deep":[{{"er":{two}}}]}},{one},{{"digest":"sha256:x"}}]}}"#
        );
        let parsed = Manifest::parse("application/x+json", text.as_bytes()).unwrap();
        let names: Vec<_> = parsed.references().iter().map(|d| &*d.media_type).collect();
        assert_eq!(names, ["x/one", "x/two"]);
        assert_eq!(parsed.subject().unwrap().media_type, "x/subject");
        for (media_type, content) in [
            ("application/y+json", &*text),
            ("application/json", &*text),
            ("text/html", "{}"),
            ("text/x+json", "{}"),
            ("application/x+json", "[]"),
            ("application/x+json", "{"),
            (media_type::OCI_CONFIG, "{}"),
        ] {
            let parsed = Manifest::parse(media_type, content.as_bytes());
            assert!(parsed.is_err(), "{media_type} {content}");
        }
    }

    #[test]
    fn what_would_take_a_hundred_times_its_size_in_memory_is_refused() {
        let many = vec![r#"{"":0}"#; 590_000].join(",");
        let known = manifest(&format!(r#","x":[{many}]"#));
        let other = format!(r#"{{"x":[{many}]}}"#);
        let flat = format!(r#"{{"x":[{}]}}"#, vec!["0"; 2_000_000].join(","));
        for (media_type, content) in [
            (media_type::OCI_MANIFEST, &known),
            ("application/x+json", &other),
            ("application/x+json", &flat),
        ] {
            assert!(content.len() < MAX_SIZE);
            let parsed = Manifest::parse(media_type, content.as_bytes());
            assert!(matches!(parsed, Err(ManifestError::TooMany(_))));
        }
        // What stands in text is no value.
        let text = ",{[\\\",".repeat(300_000);
        let noted = manifest(&format!(r#","annotations":{{"x":"{text}"}}"#));
        assert!(Manifest::parse(media_type::OCI_MANIFEST, noted.as_bytes()).is_ok());
        // The fullest index that there is.
        let named = manifest("").len() as u64;
        let mut index = String::from(r#"{"schemaVersion":2,"manifests":["#);
        for number in 0..20_000 {
            let mut entry =
                Descriptor::new(media_type::OCI_MANIFEST, Digest::of([number as u8]), named);
            entry.platform = Some("linux/amd64".parse().unwrap());
            index += &serde_json::to_string(&entry).unwrap();
            index += if number < 19_999 { "," } else { "]}" };
        }
        assert!(
            index.len() > 3_900_000 && index.len() < MAX_SIZE,
            "{}",
            index.len()
        );
        assert!(Manifest::parse(media_type::OCI_INDEX, index.as_bytes()).is_ok());
    }

    #[test]
    fn of_annotations_of_an_unknown_kind_the_texts_are_known() {
        let text = r#"{"annotations":{"b":"2","n":1,"o":{"c":"3"},"a":"\u00e4"}}"#;
        let parsed = Manifest::parse("application/x+json", text.as_bytes()).unwrap();
        let Manifest::Other(other) = parsed else {
            panic!("{parsed:?}")
        };
        let texts: Vec<_> = other
            .annotations
            .iter()
            .map(|(k, v)| (&**k, &**v))
            .collect();
        assert_eq!(texts, [("a", "\u{e4}"), ("b", "2")]);
    }

    #[test]
    fn the_index_chooses_the_platform() {
        let entry = |platform: &str| {
            let mut d = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(platform), 1);
            d.platform = Some(platform.parse().unwrap());
            d
        };
        let index = ImageIndex {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            manifests: vec![
                entry("linux/arm/v6"),
                entry("linux/arm/v7"),
                entry("linux/amd64"),
            ],
            subject: None,
            annotations: BTreeMap::new(),
        };
        let pick = |p: &str| index.select(&p.parse().unwrap()).map(|d| d.digest.clone());
        assert_eq!(pick("linux/amd64"), Some(Digest::of("linux/amd64")));
        assert_eq!(pick("linux/arm"), Some(Digest::of("linux/arm/v7")));
        assert_eq!(pick("linux/s390x"), None);
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(content in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Manifest::parse(media_type::OCI_MANIFEST, &content);
        }
    }
}
