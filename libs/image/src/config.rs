//! The image config: how to run an image, and what it is made of.
//!
//! OCI's (image-spec, config.md) with the fields that docker adds. Unknown fields are kept, and the
//! bytes that are written depend on nothing but the values, so that a build is reproducible.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{Digest, Platform};

pub mod change;

/// An image's config blob.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Go's name of the processor.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: RunConfig,
    /// What it is made of.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How it came about, oldest first.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<History>,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// `rootfs` of an image config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, base first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        }
    }
}

/// A line of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// It made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// `config` of an image config.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user[:group]`, names or numbers; "" = root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `80/tcp`; for information only.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `KEY=value`
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// ENTRYPOINT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// CMD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// HEALTHCHECK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Windows only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// VOLUME.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub volumes: BTreeMap<String, Value>,
    /// WORKDIR; "" = /.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// LABEL.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// STOPSIGNAL; "" = SIGTERM.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// ONBUILD.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub on_build: Vec<String>,
    /// SHELL.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub shell: Vec<String>,
    /// Fields that we don't know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// HEALTHCHECK. Times in nanoseconds, 0 = the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", "..."]`.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// Until a check counts as failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// Failures before this age of the container don't count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Between two checks within the start period.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub retries: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

/// Go writes absent lists and maps as `null`.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl ImageConfig {
    /// Parses a config blob.
    pub fn parse(content: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(content)
    }

    /// The bytes to store: the same values always give the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Maps with string keys and plain values: there is nothing that could fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Which platform it runs on.
    pub fn platform(&self) -> Platform {
        Platform::new(
            &self.os,
            &self.architecture,
            self.variant.as_deref().unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_write_is_what_the_specs_own_types_read() {
        let mut config = ImageConfig {
            created: Some("2026-01-02T03:04:05Z".to_owned()),
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            ..ImageConfig::default()
        };
        config.config.env = vec!["A=b".to_owned()];
        config.config.cmd = Some(vec!["sh".to_owned()]);
        config.config.exposed_ports = [("80/tcp".to_owned(), serde_json::json!({}))].into();
        config.config.volumes = [("/data".to_owned(), serde_json::json!({}))].into();
        config.config.labels = [("k".to_owned(), "v".to_owned())].into();
        config.config.stop_signal = "SIGINT".to_owned();
        config.rootfs.diff_ids = vec![Digest::of("layer")];
        config.history = vec![History {
            created_by: Some("RUN x".to_owned()),
            ..History::default()
        }];
        let bytes = config.to_bytes();
        let read = oci_spec::image::ImageConfiguration::from_reader(&bytes[..]).unwrap();
        let run = read.config().as_ref().unwrap();
        assert_eq!(run.env().as_deref(), Some(&["A=b".to_owned()][..]));
        assert_eq!(
            run.exposed_ports().as_deref(),
            Some(&["80/tcp".to_owned()][..])
        );
        assert_eq!(run.stop_signal().as_deref(), Some("SIGINT"));
        assert_eq!(read.rootfs().diff_ids(), &[Digest::of("layer").to_string()]);
        // And the other way round.
        let theirs = read.to_string().unwrap();
        assert_eq!(
            ImageConfig::parse(theirs.as_bytes()).unwrap().config,
            config.config
        );
    }

    #[test]
    fn a_docker_config_with_nulls_parses_and_unknown_fields_stay() {
        let text = r#"{"architecture":"amd64","os":"linux","container":"abc",
            "config":{"Env":["A=b"],"Cmd":["sh"],"Volumes":null,"Labels":null,"OnBuild":null,"Image":"sha256:x"},
            "rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config.env, ["A=b"]);
        let written = ImageConfig::parse(&config.to_bytes()).unwrap();
        assert_eq!(written, config);
        assert_eq!(written.other["container"], "abc");
        assert_eq!(written.config.other["Image"], "sha256:x");
    }
}
