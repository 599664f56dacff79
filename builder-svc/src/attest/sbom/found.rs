//! Which files name packages, what is found in a layer, and what is left of it under the layers above.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{language, system};
use crate::layer::Layer;

/// Most bytes of a value that is kept.
const LONGEST: usize = 4096;

/// Who manages a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// Debian's dpkg.
    Deb,
    /// Alpine's apk.
    Apk,
    /// Python's distributions.
    Pypi,
    /// Node's packages.
    Npm,
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// By whom.
    pub manager: Manager,
    /// `@scope/name` for some of npm's.
    pub name: String,
    /// As its manager writes it.
    pub version: String,
    /// "" = none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// As it stands there; often no expression of SPDX.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// `Name <address>`
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub maintainer: String,
    /// Its page.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub homepage: String,
}

impl Package {
    /// With a name and a version; none without.
    pub fn new(manager: Manager, name: &str, version: &str) -> Option<Self> {
        let (name, version) = (name.trim(), version.trim());
        if name.is_empty() || version.is_empty() {
            return None;
        }
        Some(Self {
            manager,
            name: short(name),
            version: short(version),
            architecture: String::new(),
            license: String::new(),
            maintainer: String::new(),
            homepage: String::new(),
        })
    }
}

/// A value, cut off where it is unreasonably long.
pub fn short(value: &str) -> String {
    let mut end = value.len().min(LONGEST);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].to_owned()
}

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// Packages; maybe none.
    Packages(Vec<Package>),
    /// What the distribution is: `ID`, `VERSION_ID`.
    Distribution(String, String),
}

/// What is found in a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// By the file's path.
    pub files: BTreeMap<String, Found>,
    /// What of the layers below is gone, with all that was in it.
    pub hidden: Vec<String>,
    /// Folders whose former content is gone.
    pub opaque: Vec<String>,
}

/// What a file is that is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// dpkg's.
    Dpkg,
    /// apk's.
    Apk,
    /// Of a Python distribution.
    Python,
    /// Of a Node package.
    Node,
    /// os-release(5)
    Distribution,
}

impl Database {
    /// By a clean path without a slash in front.
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "var/lib/dpkg/status" => return Some(Self::Dpkg),
            "lib/apk/db/installed" | "usr/lib/apk/db/installed" => return Some(Self::Apk),
            "etc/os-release" | "usr/lib/os-release" => return Some(Self::Distribution),
            _ => {}
        }
        let mut parts = path.rsplit('/');
        let (name, above, second) = (parts.next()?, parts.next()?, parts.next().unwrap_or(""));
        // Images without dpkg have a file a package there (GoogleContainerTools/distroless).
        if path.strip_prefix("var/lib/dpkg/status.d/") == Some(name) {
            return (!name.ends_with(".md5sums")).then_some(Self::Dpkg);
        }
        let of_python = |folder: &str| matches!(folder, "site-packages" | "dist-packages");
        match name {
            "METADATA" if above.ends_with(".dist-info") && of_python(second) => Some(Self::Python),
            "PKG-INFO" if above.ends_with(".egg-info") && of_python(second) => Some(Self::Python),
            name if name.ends_with(".egg-info") && of_python(above) => Some(Self::Python),
            "package.json" if second == "node_modules" => Some(Self::Node),
            "package.json" if second.starts_with('@') && parts.next() == Some("node_modules") => {
                Some(Self::Node)
            }
            _ => None,
        }
    }

    /// Most bytes of such a file.
    pub const fn most(self) -> u64 {
        match self {
            Self::Dpkg | Self::Apk => 64 << 20,
            Self::Python | Self::Node => 4 << 20,
            Self::Distribution => 64 << 10,
        }
    }

    /// What it says.
    pub fn read(self, content: &[u8]) -> Found {
        let one = |package: Option<Package>| Found::Packages(package.into_iter().collect());
        match self {
            Self::Dpkg => Found::Packages(system::dpkg(content)),
            Self::Apk => Found::Packages(system::apk(content)),
            Self::Python => one(language::python(content)),
            Self::Node => one(language::node(content)),
            Self::Distribution => {
                let (id, version) = system::distribution(content);
                Found::Distribution(id, version)
            }
        }
    }
}

/// Whether something that is no folder may stand in the place of one that had such files.
pub fn may_replace(path: &str) -> bool {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let above = above.rsplit('/').next().unwrap_or_default();
    let folder = |name: &str| {
        matches!(
            name,
            "node_modules" | "site-packages" | "dist-packages" | "dpkg" | "status.d" | "apk" | "db"
        )
    };
    folder(name)
        || folder(above)
        || above.starts_with('@')
        || matches!(path, "lib" | "usr" | "var" | "etc" | "usr/lib" | "var/lib")
}

/// What is left of all layers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Merged<'a> {
    /// Packages by the file that names them, and the layer that has it.
    pub packages: BTreeMap<&'a str, (&'a Layer, &'a [Package])>,
    /// `ID`, `VERSION_ID`
    pub distribution: Option<(&'a str, &'a str)>,
}

/// Puts layers together, base first.
pub fn merged<'a>(stack: impl Iterator<Item = (&'a Layer, &'a Facts)>) -> Merged<'a> {
    let mut files: BTreeMap<&str, (&Layer, &Found)> = BTreeMap::new();
    for (layer, facts) in stack {
        for hidden in &facts.hidden {
            files.remove(hidden.as_str());
            remove_below(&mut files, hidden);
        }
        for folder in &facts.opaque {
            remove_below(&mut files, folder);
        }
        let new = facts.files.iter();
        files.extend(new.map(|(path, found)| (path.as_str(), (layer, found))));
    }
    let mut merged = Merged::default();
    // The one below /usr comes last, and is the real one.
    for (path, (layer, found)) in files {
        match found {
            Found::Packages(packages) => {
                merged.packages.insert(path, (layer, packages));
            }
            Found::Distribution(id, version) if !id.is_empty() => {
                merged.distribution = Some((id, version));
            }
            Found::Distribution(..) => {}
        }
    }
    merged
}

fn remove_below<T>(files: &mut BTreeMap<&str, T>, folder: &str) {
    let prefix = match folder {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    let gone: Vec<&str> = files
        .range(prefix.as_str()..)
        .map(|(path, _)| *path)
        .take_while(|path| path.starts_with(&prefix))
        .collect();
    for path in gone {
        files.remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_image::{Descriptor, Digest};

    #[test]
    fn files_are_told_by_their_place() {
        for (path, database) in [
            ("var/lib/dpkg/status", Some(Database::Dpkg)),
            ("var/lib/dpkg/status.d/base", Some(Database::Dpkg)),
            ("var/lib/dpkg/status.d/base.md5sums", None),
            ("var/lib/dpkg/status.d/a/b", None),
            ("lib/apk/db/installed", Some(Database::Apk)),
            (
                "usr/lib/python3.11/site-packages/x-1.dist-info/METADATA",
                Some(Database::Python),
            ),
            ("opt/x-1.dist-info/METADATA", None),
            (
                "usr/lib/python3/dist-packages/y.egg-info",
                Some(Database::Python),
            ),
            ("app/node_modules/a/package.json", Some(Database::Node)),
            ("app/node_modules/@s/a/package.json", Some(Database::Node)),
            ("app/node_modules/a/test/package.json", None),
            ("package.json", None),
            ("etc/os-release", Some(Database::Distribution)),
            ("", None),
        ] {
            assert_eq!(Database::of(path), database, "{path}");
        }
    }

    #[test]
    fn what_is_hidden_is_gone() {
        let layer = |name: &str| Layer {
            descriptor: Descriptor::new("t", Digest::of(name), 1),
            diff_id: Digest::of(name),
            repository: String::new(),
        };
        let facts = |files: &[&str], hidden: &[&str], opaque: &[&str]| Facts {
            files: files
                .iter()
                .map(|f| ((*f).to_owned(), Found::Packages(Vec::new())))
                .collect(),
            hidden: hidden.iter().map(|f| (*f).to_owned()).collect(),
            opaque: opaque.iter().map(|f| (*f).to_owned()).collect(),
        };
        let layers = [layer("1"), layer("2"), layer("3")];
        let all = [
            facts(&["a/x", "a/y", "a-b/x", "c/x"], &[], &[]),
            facts(&["a/z", "b/x"], &["a/y", "c"], &[]),
            facts(&["a/new"], &[], &["a"]),
        ];
        let merged = merged(layers.iter().zip(&all));
        let left: Vec<_> = merged.packages.keys().copied().collect();
        assert_eq!(left, ["a-b/x", "a/new", "b/x"]);
        assert_eq!(merged.packages["b/x"].0, &layers[1]);
    }
}
