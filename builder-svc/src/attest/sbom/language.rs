//! What the package managers of languages have installed: Python's core metadata (packaging.python.org, "Core
//! metadata specifications") and Node's `package.json`.

use serde::Deserialize;
use serde_json::Value;

use super::found::{Manager, Package, short};

/// A distribution by its `METADATA` or `PKG-INFO`: the headers in front of the first empty line.
pub fn python(content: &[u8]) -> Option<Package> {
    let text = String::from_utf8_lossy(content);
    let value = |key: &str| {
        let headers = text.lines().take_while(|line| !line.trim().is_empty());
        let mut found = headers.filter_map(|line| line.split_once(':'));
        let found = found.find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.map_or("", |(_, value)| value.trim())
    };
    let mut package = Package::new(Manager::Pypi, value("Name"), value("Version"))?;
    let license = [value("License-Expression"), value("License")];
    package.license = short(license.into_iter().find(|l| !l.is_empty()).unwrap_or(""));
    package.homepage = short(value("Home-page"));
    Some(package)
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    name: Value,
    #[serde(default)]
    version: Value,
    #[serde(default)]
    license: Value,
    #[serde(default)]
    homepage: Value,
}

/// A package by its `package.json`. One that is broken is none: packages have such among their tests.
pub fn node(content: &[u8]) -> Option<Package> {
    let manifest: Manifest = serde_json::from_slice(content).ok()?;
    let (name, version) = (manifest.name.as_str()?, manifest.version.as_str()?);
    let mut package = Package::new(Manager::Npm, name, version)?;
    // Old ones have an object.
    let license = manifest
        .license
        .as_str()
        .or(manifest.license["type"].as_str());
    package.license = short(license.unwrap_or_default());
    package.homepage = short(manifest.homepage.as_str().unwrap_or_default());
    Some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read() {
        let text = b"Metadata-Version: 2.1\nName: Flask_Cors\nVersion: 4.0.0\nLicense: MIT\nHome-page: https://x\n\nName: not this\n";
        let found = python(text).unwrap();
        assert_eq!(
            (&*found.name, &*found.version, &*found.license),
            ("Flask_Cors", "4.0.0", "MIT")
        );
        assert!(python(b"\nName: x\nVersion: 1\n").is_none());
        let found = node(br#"{"name":"@a/b","version":"1.2.3","license":{"type":"ISC"}}"#).unwrap();
        assert_eq!((&*found.name, &*found.license), ("@a/b", "ISC"));
        for broken in [
            &b"{"[..],
            b"[]",
            b"{}",
            br#"{"name":1,"version":"x"}"#,
            b"\xff",
        ] {
            assert!(node(broken).is_none());
        }
    }

    proptest::proptest! {
        #[test]
        fn anything_may_stand_there(content in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            python(&content);
            node(&content);
        }
    }
}
