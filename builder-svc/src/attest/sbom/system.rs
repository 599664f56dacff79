//! What the package managers of distributions have installed: dpkg's status (deb-control(5), dpkg-query(1)),
//! apk's database (apk-v2 of Alpine: `P:name`), and which distribution it is (os-release(5)).

use std::collections::HashMap;

use super::found::{Manager, Package, short};

/// Most packages of a database.
const MOST: usize = 200_000;

/// Stanzas of `Key: value`; lines that go on are left out.
fn stanzas(content: &[u8], separator: &str) -> Vec<HashMap<String, String>> {
    let text = String::from_utf8_lossy(content);
    let mut all = Vec::new();
    let mut stanza = HashMap::new();
    for line in text.lines() {
        if line.trim().is_empty() {
            if !stanza.is_empty() {
                all.push(std::mem::take(&mut stanza));
            }
            if all.len() >= MOST {
                return all;
            }
            continue;
        }
        if line.starts_with([' ', '\t']) {
            continue;
        }
        if let Some((key, value)) = line.split_once(separator) {
            // Only what is looked up below: a stanza of apk lists all files of its package.
            if KEYS.contains(&key) {
                stanza.insert(key.to_owned(), short(value.trim()));
            }
        }
    }
    if !stanza.is_empty() {
        all.push(stanza);
    }
    all
}

const KEYS: [&str; 12] = [
    "Package",
    "Version",
    "Architecture",
    "Status",
    "Maintainer",
    "Homepage",
    "P",
    "V",
    "A",
    "L",
    "m",
    "U",
];

/// Packages of a dpkg database that are installed.
pub fn dpkg(content: &[u8]) -> Vec<Package> {
    let installed = |s: &HashMap<String, String>| {
        // The files of distroless have no status.
        s.get("Status").is_none_or(|s| s.ends_with(" installed"))
    };
    let package = |mut s: HashMap<String, String>| {
        let mut take = |key: &str| s.remove(key).unwrap_or_default();
        let mut package = Package::new(Manager::Deb, &take("Package"), &take("Version"))?;
        package.architecture = take("Architecture");
        package.maintainer = take("Maintainer");
        package.homepage = take("Homepage");
        Some(package)
    };
    let all = stanzas(content, ":").into_iter();
    all.filter(installed).filter_map(package).collect()
}

/// Packages of an apk database.
pub fn apk(content: &[u8]) -> Vec<Package> {
    let package = |mut s: HashMap<String, String>| {
        let mut take = |key: &str| s.remove(key).unwrap_or_default();
        let mut package = Package::new(Manager::Apk, &take("P"), &take("V"))?;
        package.architecture = take("A");
        package.license = take("L");
        package.maintainer = take("m");
        package.homepage = take("U");
        Some(package)
    };
    stanzas(content, ":")
        .into_iter()
        .filter_map(package)
        .collect()
}

/// `ID` and `VERSION_ID`.
pub fn distribution(content: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(content);
    let value = |key: &str| {
        let found = text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| value.trim().trim_matches(['"', '\'']))
        });
        short(found.unwrap_or_default())
    };
    (value("ID"), value("VERSION_ID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_read() {
        let status = b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u4\nMaintainer: A B <a@b>\nDescription: x\n more\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: no-version\nStatus: install ok installed\n";
        let found = dpkg(status);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (&*found[0].name, &*found[0].version, &*found[0].architecture),
            ("libc6", "2.36-9+deb12u4", "amd64")
        );
        let found = dpkg(b"Package: base-files\nVersion: 12.4\n");
        assert_eq!(found[0].name, "base-files");
        let found = apk(b"C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\nU:https://musl.libc.org/\nF:lib\nR:libc.so\n\nP:zlib\nV:1.3\n");
        assert_eq!(found.len(), 2);
        assert_eq!((&*found[0].license, &*found[1].name), ("MIT", "zlib"));
        let text = b"NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"12\"\n";
        assert_eq!(distribution(text), ("debian".to_owned(), "12".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn anything_may_stand_there(content in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            dpkg(&content);
            apk(&content);
            distribution(&content);
        }
    }
}
