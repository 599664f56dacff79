//! What a caller wants attested: BuildKit's types and parameters (docs/attestations). What we do not have is
//! refused by name; nothing is passed over.

use std::collections::BTreeMap;

use crate::{
    error::{Error, Result},
    output::spec::truth,
};

/// `--attest`, `--provenance`, `--sbom`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// How the result came about.
    pub provenance: Option<Provenance>,
    /// What is in it.
    pub sbom: bool,
}

/// Version of SLSA's provenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `https://slsa.dev/provenance/v0.2`
    V02,
    /// `https://slsa.dev/provenance/v1`
    V1,
}

/// How much is told, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// Everything, rather than what is safe to tell of any build.
    pub max: bool,
    /// In which form.
    pub version: Version,
    /// Who vouches for the builder.
    pub builder_id: String,
    /// The caller says that the build gives the same bytes again.
    pub reproducible: bool,
    /// Not where the result is files.
    pub inline_only: bool,
    /// The file's name there.
    pub filename: String,
}

impl Wanted {
    /// Reads types and attributes; each type at most once.
    pub fn parse<'a>(
        asked: impl IntoIterator<Item = (&'a str, &'a BTreeMap<String, String>)>,
    ) -> Result<Self> {
        let mut wanted = Self::default();
        for (kind, attributes) in asked {
            let again = match kind {
                "provenance" => {
                    let provenance = Provenance::parse(attributes)?;
                    wanted.provenance.replace(provenance).is_some()
                }
                "sbom" => {
                    check_sbom(attributes)?;
                    std::mem::replace(&mut wanted.sbom, true)
                }
                other => {
                    return Err(Error::Unsupported(format!(
                        "unknown attestation type {other:?}: provenance and sbom are supported"
                    )));
                }
            };
            if again {
                // buildx' sentence (util/buildflags/attests.go).
                return Err(Error::Invalid(format!(
                    "duplicate attestation field {kind}"
                )));
            }
        }
        Ok(wanted)
    }

    /// Whether anything is.
    pub const fn any(&self) -> bool {
        self.provenance.is_some() || self.sbom
    }
}

impl Provenance {
    fn parse(attributes: &BTreeMap<String, String>) -> Result<Self> {
        let mut provenance = Self {
            max: true,
            version: Version::V1,
            builder_id: String::new(),
            reproducible: false,
            inline_only: false,
            filename: "provenance.json".to_owned(),
        };
        for (name, value) in attributes {
            match name.as_str() {
                "mode" => {
                    provenance.max = match value.as_str() {
                        "max" | "full" => true,
                        "min" => false,
                        other => return Err(Error::Invalid(format!("invalid mode {other:?}"))),
                    }
                }
                "version" => {
                    provenance.version = match value.as_str() {
                        "v1" => Version::V1,
                        "v0.2" => Version::V02,
                        // BuildKit's sentence (solver/llbsolver/provenance/types).
                        other => {
                            return Err(Error::Invalid(format!(
                                "invalid provenance SLSA version: {other}"
                            )));
                        }
                    }
                }
                "builder-id" => provenance.builder_id.clone_from(value),
                "reproducible" => provenance.reproducible = truth(name, value)?,
                "inline-only" => provenance.inline_only = truth(name, value)?,
                "filename" => provenance.filename = file_name(value)?,
                other => {
                    return Err(Error::Unsupported(format!(
                        "{other}={value} of --provenance is not supported"
                    )));
                }
            }
        }
        Ok(provenance)
    }
}

/// Nothing can be chosen of it.
fn check_sbom(attributes: &BTreeMap<String, String>) -> Result<()> {
    match attributes.iter().next() {
        None => Ok(()),
        Some((name, value)) if name == "generator" => Err(Error::Unsupported(format!(
            "generator={value} of --sbom is not supported: builder-svc lists packages itself, and runs no image for it. Leave it out"
        ))),
        Some((name, value)) => Err(Error::Unsupported(format!(
            "{name}={value} of --sbom is not supported"
        ))),
    }
}

/// A name that stays in the result's own folder.
fn file_name(value: &str) -> Result<String> {
    match value {
        "" | "." | ".." => {}
        name if name.len() <= 255 && !name.contains(['/', '\0']) => return Ok(name.to_owned()),
        _ => {}
    }
    Err(Error::Invalid(format!(
        "filename={value} of an attestation is no name of a file"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(asked: &[(&str, &[(&str, &str)])]) -> Result<Wanted> {
        let asked: Vec<(&str, BTreeMap<String, String>)> = asked
            .iter()
            .map(|(kind, attributes)| {
                let pairs = attributes.iter();
                let pairs = pairs.map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
                (*kind, pairs.collect())
            })
            .collect();
        Wanted::parse(asked.iter().map(|(k, a)| (*k, a)))
    }

    #[test]
    fn parameters_are_buildkits() {
        let whole = parse(&[("provenance", &[])]).unwrap().provenance.unwrap();
        assert!(whole.max && whole.version == Version::V1 && !whole.inline_only);
        let wanted = parse(&[(
            "provenance",
            &[
                ("mode", "min"),
                ("version", "v0.2"),
                ("reproducible", "true"),
                ("builder-id", "https://ci/1"),
            ],
        )]);
        let small = wanted.unwrap().provenance.unwrap();
        assert!(!small.max && small.reproducible && small.version == Version::V02);
        assert_eq!(small.builder_id, "https://ci/1");
        assert!(!parse(&[]).unwrap().any());
    }

    #[test]
    fn what_we_do_not_have_is_refused() {
        for asked in [
            &[("provenance", &[("mode", "most")][..])][..],
            &[("provenance", &[("version", "v2")])],
            &[("provenance", &[("filename", "../x")])],
            &[("provenance", &[("capture-usage", "true")])],
            &[("provenance", &[]), ("provenance", &[])],
            &[("sbom", &[("generator", "docker/scout-sbom-indexer")])],
            &[("signature", &[])],
        ] {
            assert!(parse(asked).is_err(), "{asked:?}");
        }
    }
}
