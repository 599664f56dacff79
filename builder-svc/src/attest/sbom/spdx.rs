//! A document of SPDX 2.3 (spdx.github.io/spdx-spec/v2.3). The same packages give the same bytes: its only time
//! is the image's own, and its namespace follows from its content.

use serde_json::{Value, json};
use slipway_image::Digest;

use super::found::{Manager, Merged, Package};
use crate::attest::purl::purl;

const NOTHING: &str = "NOASSERTION";
const ROOT: &str = "SPDXRef-DocumentRoot-Image";

/// The document.
pub fn document(merged: &Merged<'_>, name: &str, created: &str) -> Value {
    let mut packages = vec![json!({
        "SPDXID": ROOT,
        "name": name,
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
        "primaryPackagePurpose": "CONTAINER",
    })];
    let mut relationships = vec![relationship("SPDXRef-DOCUMENT", "DESCRIBES", ROOT)];
    for (path, (layer, found)) in &merged.packages {
        for package in *found {
            let told = told(package, path, merged.distribution, &layer.descriptor.digest);
            let id = told["SPDXID"].as_str().unwrap_or_default();
            relationships.push(relationship(ROOT, "CONTAINS", id));
            packages.push(told);
        }
    }
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "creationInfo": {
            "created": seconds(created),
            "creators": [concat!("Tool: slipway-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    });
    let own = Digest::of(document.to_string());
    let namespace = format!("https://slipway.dev/spdx/image-{}", own.encoded());
    document["documentNamespace"] = json!(namespace);
    document
}

fn relationship(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

fn told(
    package: &Package,
    path: &str,
    distribution: Option<(&str, &str)>,
    layer: &Digest,
) -> Value {
    let (what, word) = match package.manager {
        Manager::Deb => ("DPKG DB", "deb"),
        Manager::Apk => ("APK DB", "apk"),
        Manager::Pypi => ("installed python package", "python"),
        Manager::Npm => ("installed node module", "npm"),
    };
    // Unique: one version of one name may be installed in two places.
    let own = Digest::of(format!(
        "{path}\0{}\0{}\0{}",
        package.name, package.version, package.architecture
    ));
    let id = format!(
        "SPDXRef-Package-{word}-{}-{}",
        plain(&package.name),
        &own.encoded()[..16]
    );
    let supplier = match package.maintainer.as_str() {
        "" => NOTHING.to_owned(),
        who => format!("Person: {}", person(who)),
    };
    let mut told = json!({
        "SPDXID": id,
        "name": package.name,
        "versionInfo": package.version,
        "supplier": supplier,
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "sourceInfo": format!("acquired package info from {what}: /{path}"),
        "licenseConcluded": NOTHING,
        // What managers say is seldom an expression of SPDX.
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": locator(package, distribution),
        }],
        "comment": format!("layerID: {layer}"),
    });
    if !package.license.is_empty() {
        told["licenseComments"] = json!(format!("declared there: {}", package.license));
    }
    if package.homepage.starts_with("http") {
        told["homepage"] = json!(package.homepage);
    }
    told
}

/// purl-spec, PURL-TYPES.rst.
fn locator(package: &Package, distribution: Option<(&str, &str)>) -> String {
    let (id, version) = distribution.unwrap_or_default();
    let release = match (id, version) {
        ("", _) => String::new(),
        (id, "") => id.to_owned(),
        (id, version) => format!("{id}-{version}"),
    };
    let qualifiers = [
        ("arch", package.architecture.as_str()),
        ("distro", &release),
    ];
    let of = |kind: &str, default: &str| {
        let namespace = if id.is_empty() { default } else { id };
        purl(
            kind,
            &namespace.to_ascii_lowercase(),
            &package.name,
            &package.version,
            &qualifiers,
        )
    };
    match package.manager {
        Manager::Deb => of("deb", "debian"),
        Manager::Apk => of("apk", "alpine"),
        Manager::Pypi => {
            // PEP 503.
            let lower = package.name.to_ascii_lowercase();
            let parts = lower.split(['-', '_', '.']).filter(|p| !p.is_empty());
            let name = parts.collect::<Vec<_>>().join("-");
            purl("pypi", "", &name, &package.version, &[])
        }
        Manager::Npm => {
            let (scope, name) = package.name.rsplit_once('/').unwrap_or(("", &package.name));
            purl("npm", scope, name, &package.version, &[])
        }
    }
}

/// Letters, digits, `.` and `-`, which is all that an id may have.
fn plain(name: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let plain = name.chars().take(64).map(|c| if kept(c) { c } else { '-' });
    plain.collect::<String>().trim_start_matches('-').to_owned()
}

/// `Name <address>` as SPDX has it: `Name (address)`.
fn person(who: &str) -> String {
    match who.split_once('<') {
        Some((name, rest)) => {
            let address = rest.split('>').next().unwrap_or_default();
            format!("{} ({})", name.trim(), address.trim())
        }
        None => who.to_owned(),
    }
}

/// A time without fractions, which SPDX does not have.
fn seconds(time: &str) -> String {
    let parsed: jiff::Timestamp = time.parse().unwrap_or_default();
    let whole = jiff::Timestamp::from_second(parsed.as_second()).unwrap_or_default();
    whole.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Layer;
    use slipway_image::Descriptor;

    #[test]
    fn the_same_packages_give_the_same_document() {
        let layer = Layer {
            descriptor: Descriptor::new("t", Digest::of("l"), 1),
            diff_id: Digest::of("l"),
            repository: String::new(),
        };
        let mut deb = Package::new(Manager::Deb, "g++", "4:12").unwrap();
        deb.architecture = "amd64".to_owned();
        deb.maintainer = "A B <a@b>".to_owned();
        let npm = [Package::new(Manager::Npm, "@a/b", "1.0.0").unwrap()];
        let pypi = [Package::new(Manager::Pypi, "Flask_Cors", "4").unwrap()];
        let deb = [deb];
        let mut merged = Merged {
            distribution: Some(("debian", "12")),
            ..Merged::default()
        };
        for (path, found) in [("var/lib/dpkg/status", &deb), ("a", &npm), ("b", &pypi)] {
            merged.packages.insert(path, (&layer, found));
        }
        let made = document(&merged, "x", "2026-01-02T03:04:05.678Z");
        assert_eq!(made, document(&merged, "x", "2026-01-02T03:04:05.678Z"));
        assert_eq!(made["creationInfo"]["created"], "2026-01-02T03:04:05Z");
        let locators: Vec<_> = made["packages"].as_array().unwrap()[1..]
            .iter()
            .map(|p| p["externalRefs"][0]["referenceLocator"].as_str().unwrap())
            .collect();
        assert_eq!(
            locators,
            [
                "pkg:npm/%40a/b@1.0.0",
                "pkg:pypi/flask-cors@4",
                "pkg:deb/debian/g%2B%2B@4:12?arch=amd64&distro=debian-12",
            ]
        );
        let deb = &made["packages"][3];
        assert_eq!(deb["supplier"], "Person: A B (a@b)");
        assert!(
            deb["SPDXID"]
                .as_str()
                .unwrap()
                .starts_with("SPDXRef-Package-deb-g---")
        );
        assert_eq!(made["relationships"].as_array().unwrap().len(), 4);
    }
}
