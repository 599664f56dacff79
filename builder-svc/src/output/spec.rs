//! An output as the caller describes it: a type and attributes, BuildKit's names (docs: build/exporters).
//! What we do not have is refused by name; nothing is passed over.

use std::collections::BTreeMap;

use slipway_image::Reference;

use super::annotation::Annotations;
use crate::error::{Error, Result};

/// What kind of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// An image in registry-svc.
    Image {
        /// And in the registries that its names say.
        push: bool,
    },
    /// An archive that is streamed to the caller, who may unpack it (`tar=false`).
    Archive {
        /// docker's, rather than OCI's.
        docker: bool,
    },
    /// The files of the root filesystem, streamed as tar: the caller keeps it or unpacks it.
    Files,
    /// Only the cache.
    Nothing,
}

/// An algorithm of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Any tool reads it.
    Gzip,
    /// docker from 23.0 on, containerd from 1.5, podman from 3.
    Zstd,
    /// None.
    Plain,
}

/// How an image is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// None = layers stay as they are (those that we make are gzip).
    pub compression: Option<Algorithm>,
    /// The algorithm's own.
    pub level: Option<i32>,
    /// Layers of base images too.
    pub force: bool,
    /// OCI's media types, not docker's.
    pub oci: bool,
}

/// One `-o`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What is made.
    pub kind: Kind,
    /// What it is called.
    pub names: Vec<Reference>,
    /// How it is written.
    pub format: Format,
    /// What is written on it.
    pub annotations: Annotations,
}

/// Parses names of images: `-t`, or `name=` of an output.
pub fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Reference>> {
    names
        .into_iter()
        .map(|name| {
            let reference: Reference = name
                .parse()
                .map_err(|e| Error::Invalid(format!("invalid tag {name:?}: {e}")))?;
            if reference.digest().is_some() {
                return Err(Error::Invalid(format!(
                    "invalid tag {name:?}: a tag cannot have a digest"
                )));
            }
            Ok(reference.with_default_tag())
        })
        .collect()
}

impl Output {
    /// Reads one. `tags` are the build's, and come before the output's own names, as in buildx.
    pub fn parse(
        kind: &str,
        attributes: &BTreeMap<String, String>,
        tags: &[Reference],
        mut annotations: Annotations,
        latest: Option<i64>,
    ) -> Result<Self> {
        let mut push = false;
        let mut kind = match kind {
            "" | "image" => Kind::Image { push: false },
            "registry" => {
                push = true;
                Kind::Image { push: true }
            }
            "oci" => Kind::Archive { docker: false },
            "docker" => Kind::Archive { docker: true },
            "tar" | "local" => Kind::Files,
            "cacheonly" => Kind::Nothing,
            other => {
                return Err(Error::Unsupported(format!(
                    "output type {other:?} is not supported: image, registry, local, tar, oci, docker or cacheonly"
                )));
            }
        };
        let mut names = tags.to_vec();
        let mut format = Format {
            compression: None,
            level: None,
            force: false,
            oci: true,
        };
        let is_image = matches!(kind, Kind::Image { .. } | Kind::Archive { .. });
        let mut chosen = false;
        for (name, value) in attributes {
            match name.as_str() {
                "name" if is_image => {
                    if tags.is_empty() {
                        names = self::names(value.split(',').map(str::trim))?;
                    }
                }
                "push" if matches!(kind, Kind::Image { .. }) => push |= truth(name, value)?,
                // An image is stored always, which is what `true` asks for.
                "store" if matches!(kind, Kind::Image { .. }) && truth(name, value)? => {}
                "tar" if matches!(kind, Kind::Archive { .. }) => drop(truth(name, value)?),
                "compression" if is_image => format.compression = Some(algorithm(value)?),
                "compression-level" if is_image => {
                    format.level = Some(value.parse().map_err(|_| invalid(name, value))?);
                }
                "force-compression" if is_image => format.force = truth(name, value)?,
                "oci-mediatypes" if is_image => {
                    format.oci = truth(name, value)?;
                    chosen = true;
                }
                "rewrite-timestamp" if is_image => match (truth(name, value)?, latest) {
                    (true, None) => {
                        return Err(Error::Invalid(
                            "rewrite-timestamp needs SOURCE_DATE_EPOCH: give --build-arg SOURCE_DATE_EPOCH=SECONDS"
                                .to_owned(),
                        ));
                    }
                    (false, Some(_)) => {
                        return Err(Error::Unsupported(
                            "rewrite-timestamp=false is not supported with SOURCE_DATE_EPOCH: no time in the layers of such a build is later"
                                .to_owned(),
                        ));
                    }
                    _ => {}
                },
                "platform-split" if matches!(kind, Kind::Files) && truth(name, value)? => {}
                other => {
                    if !(is_image && annotations.attribute(other, value)?) {
                        return Err(unknown(&kind, other, value));
                    }
                }
            }
        }
        if let Kind::Image { push: wanted } = &mut kind {
            *wanted = push;
        }
        if push && names.is_empty() {
            // buildx' sentence.
            return Err(Error::Invalid(
                "tag is needed when pushing to registry".to_owned(),
            ));
        }
        if format.level.is_some() && format.compression.is_none() {
            format.compression = Some(Algorithm::Gzip);
        }
        format.check_level()?;
        // As BuildKit: docker's archive has docker's types unless something asks for OCI's.
        if matches!(kind, Kind::Archive { docker: true }) && !chosen {
            format.oci = format.compression == Some(Algorithm::Zstd) || !annotations.is_empty();
        }
        if !format.oci {
            let needs = match () {
                () if format.compression == Some(Algorithm::Zstd) => Some("compression=zstd"),
                () if !annotations.is_empty() => Some("an annotation"),
                () => None,
            };
            if let Some(what) = needs {
                return Err(Error::Invalid(format!(
                    "{what} needs oci-mediatypes=true: docker's own media types do not know it"
                )));
            }
        }
        Ok(Self {
            kind,
            names,
            format,
            annotations,
        })
    }
}

impl Output {
    /// Refuses forms that have no place for attestations.
    pub fn takes_attestations(&self) -> Result<()> {
        match &self.kind {
            // BuildKit's sentence (exporter/oci/export.go).
            Kind::Archive { docker: true } => Err(Error::Unsupported(
                "docker exporter does not currently support exporting manifest lists: use type=oci, or build without attestations"
                    .to_owned(),
            )),
            Kind::Image { .. } | Kind::Archive { .. } if !self.format.oci => Err(Error::Invalid(
                "attestations need oci-mediatypes=true: docker's own media types do not know them"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

impl Format {
    fn check_level(&self) -> Result<()> {
        let most = match self.compression {
            Some(Algorithm::Gzip) => 9,
            Some(Algorithm::Zstd) => 22,
            _ => 0,
        };
        match self.level {
            Some(level) if !(0..=most).contains(&level) => Err(Error::Invalid(format!(
                "compression-level={level}: it goes from 0 to {most} here"
            ))),
            _ => Ok(()),
        }
    }
}

fn algorithm(value: &str) -> Result<Algorithm> {
    Ok(match value {
        "gzip" => Algorithm::Gzip,
        "zstd" => Algorithm::Zstd,
        "uncompressed" => Algorithm::Plain,
        "estargz" => {
            return Err(Error::Unsupported(
                "compression=estargz is not supported: use gzip, zstd or uncompressed".to_owned(),
            ));
        }
        other => {
            return Err(Error::Invalid(format!(
                "unsupported layer compression type {other:?}: use gzip, zstd or uncompressed"
            )));
        }
    })
}

/// Go's strconv.ParseBool.
pub fn truth(name: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(name, value)),
    }
}

fn invalid(name: &str, value: &str) -> Error {
    Error::Invalid(format!("invalid value {value:?} for {name} of an output"))
}

fn unknown(kind: &Kind, name: &str, value: &str) -> Error {
    let kind = match kind {
        Kind::Image { .. } => "image",
        Kind::Archive { docker: false } => "oci",
        Kind::Archive { docker: true } => "docker",
        Kind::Files => "local or tar",
        Kind::Nothing => "cacheonly",
    };
    Error::Unsupported(format!(
        "{name}={value} is not supported for an output of type {kind}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, attributes: &[(&str, &str)]) -> Result<Output> {
        let attributes = attributes
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Output::parse(kind, &attributes, &[], Annotations::default(), None)
    }

    #[test]
    fn names_are_names() {
        let parsed = names(["goals", "localhost:5000/a:b"]).unwrap();
        assert_eq!(parsed[0].familiar(), "goals:latest");
        assert_eq!(parsed[1].tag(), Some("b"));
        assert!(names(["Goals"]).is_err());
        assert!(names([&*format!("a@sha256:{}", "0".repeat(64))]).is_err());
    }

    #[test]
    fn attributes_are_buildkits() {
        let one = parse("image", &[("name", "a,b"), ("push", "true")]).unwrap();
        assert_eq!(one.kind, Kind::Image { push: true });
        assert_eq!(one.names.len(), 2);
        assert_eq!(
            parse("registry", &[("name", "a")]).unwrap().kind,
            Kind::Image { push: true }
        );
        assert!(parse("oci", &[]).unwrap().format.oci);
        assert!(!parse("docker", &[]).unwrap().format.oci);
        assert!(
            parse("docker", &[("compression", "zstd")])
                .unwrap()
                .format
                .oci
        );
        assert!(
            parse("docker", &[("annotation.a", "b")])
                .unwrap()
                .format
                .oci
        );
        let level = parse("oci", &[("compression-level", "3")]).unwrap().format;
        assert_eq!(
            (level.compression, level.level),
            (Some(Algorithm::Gzip), Some(3))
        );
    }

    #[test]
    fn what_we_do_not_have_is_refused() {
        for (kind, attributes) in [
            ("image", &[("push", "maybe")][..]),
            ("image", &[("unpack", "true")]),
            ("image", &[("store", "false")]),
            ("image", &[("name", "a"), ("push-by-digest", "true")]),
            ("registry", &[]),
            ("oci", &[("compression", "estargz")]),
            ("oci", &[("compression", "lzma")]),
            (
                "oci",
                &[("compression", "zstd"), ("compression-level", "23")],
            ),
            (
                "oci",
                &[("compression", "zstd"), ("oci-mediatypes", "false")],
            ),
            ("oci", &[("annotation.a", "b"), ("oci-mediatypes", "false")]),
            ("oci", &[("push", "true")]),
            ("tar", &[("name", "a")]),
            ("tar", &[("platform-split", "false")]),
            ("oci", &[("rewrite-timestamp", "true")]),
            ("moby", &[]),
        ] {
            assert!(parse(kind, attributes).is_err(), "{kind} {attributes:?}");
        }
    }
}
