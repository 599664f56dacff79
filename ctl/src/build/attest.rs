//! `--attest`, `--provenance` and `--sbom`, as buildx reads them (docker/buildx, util/buildflags/attests.go).

use slipway_proto::builder::v1::Attestation;

use crate::{
    failure::{Failure, Outcome},
    spec::mount,
};

/// All that is asked for; a type that is disabled is not.
pub fn attestations(
    attest: &[String],
    provenance: Option<&str>,
    sbom: Option<&str>,
) -> Outcome<Vec<Attestation>> {
    let mut words = attest.to_vec();
    for (kind, value) in [("provenance", provenance), ("sbom", sbom)] {
        words.extend(value.and_then(|value| canonical(kind, value)));
    }
    let mut all: Vec<(Attestation, bool)> = Vec::new();
    for word in &words {
        let parsed = parse(word)?;
        let kind = &parsed.0.r#type;
        if all.iter().any(|(known, _)| known.r#type == *kind) {
            return Err(Failure::new(format!("duplicate attestation field {kind}")));
        }
        all.push(parsed);
    }
    let wanted = all.into_iter().filter(|(_, disabled)| !disabled);
    Ok(wanted.map(|(attestation, _)| attestation).collect())
}

/// `--provenance=true` and `--provenance=mode=max` as `--attest` has them.
fn canonical(kind: &str, value: &str) -> Option<String> {
    match (value, truth(value)) {
        ("", _) => None,
        (_, Some(wanted)) => Some(format!("type={kind},disabled={}", !wanted)),
        (value, None) => Some(format!("type={kind},{value}")),
    }
}

fn parse(word: &str) -> Outcome<(Attestation, bool)> {
    let mut attestation = Attestation::default();
    let mut disabled = false;
    for field in mount::fields(word)? {
        let Some((key, value)) = field.split_once('=') else {
            return Err(Failure::new(format!("invalid value {field}")));
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "type" => value.clone_into(&mut attestation.r#type),
            "disabled" => {
                let wrong = || Failure::new(format!("invalid value {field}"));
                disabled = truth(value).ok_or_else(wrong)?;
            }
            _ => drop(
                attestation
                    .attributes
                    .insert(key.to_owned(), value.to_owned()),
            ),
        }
    }
    match attestation.r#type.is_empty() {
        true => Err(Failure::new("attestation type not specified")),
        false => Ok((attestation, disabled)),
    }
}

/// Go's strconv.ParseBool.
fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(attest: &[&str], provenance: Option<&str>, sbom: Option<&str>) -> Outcome<Vec<String>> {
        let attest: Vec<String> = attest.iter().map(|a| (*a).to_owned()).collect();
        let read = attestations(&attest, provenance, sbom)?;
        let line = |a: Attestation| {
            let mut pairs: Vec<_> = a.attributes.iter().collect();
            pairs.sort();
            format!("{} {pairs:?}", a.r#type)
        };
        Ok(read.into_iter().map(line).collect())
    }

    #[test]
    fn shorthands_are_attestations() {
        assert_eq!(
            read(&["type=sbom"], Some("mode=max,version=v0.2"), None).unwrap(),
            [
                "sbom []",
                r#"provenance [("mode", "max"), ("version", "v0.2")]"#
            ]
        );
        assert_eq!(
            read(&[], Some("true"), Some("1")).unwrap(),
            ["provenance []", "sbom []"]
        );
        let none: [&str; 0] = [];
        assert_eq!(
            read(&[], Some("false"), Some("disabled=true")).unwrap(),
            none
        );
        assert!(read(&["type=sbom"], None, Some("true")).is_err());
        assert!(read(&["mode=max"], None, None).is_err());
        assert!(read(&["type=sbom,x"], None, None).is_err());
    }
}
