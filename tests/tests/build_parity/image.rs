//! What an image is made of: every path with all that a layer says about it, and its configuration.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::Path,
};

use serde_json::Value;
use slipway_image::Digest;
use slipway_tests::{Said, Site};

/// An image, to be compared.
#[derive(Debug)]
pub struct Image {
    pub files: BTreeMap<String, String>,
    pub config: BTreeMap<String, String>,
}

/// Before this: a time that was kept from the context.
const KEPT: i64 = 1_100_000_000;

impl Image {
    /// Reads what skopeo finds at `source`.
    pub fn read(site: &Site, source: &str, name: &str) -> Self {
        let layout = format!("oci:{}:{name}", site.path("layout").display());
        let copy = ["copy", "-q", "--src-tls-verify=false", source, &layout];
        Said::from(site.output("skopeo", &copy)).ok();
        let said = Said::from(site.output("skopeo", &["inspect", "--config", &layout])).ok();
        let config: Value = serde_json::from_str(&said).unwrap();
        let bundle = site.path(&format!("bundle-{name}"));
        let image = layout.trim_start_matches("oci:");
        let unpack = ["unpack", "--image", image, bundle.to_str().unwrap()];
        Said::from(site.output("umoci", &unpack)).ok();
        let mut files = BTreeMap::new();
        walk(&bundle.join("rootfs"), "", &mut BTreeMap::new(), &mut files);
        fs::remove_dir_all(bundle).unwrap();
        Self {
            files,
            config: flat(&config),
        }
    }
}

fn walk(
    folder: &Path,
    below: &str,
    inodes: &mut BTreeMap<u64, String>,
    files: &mut BTreeMap<String, String>,
) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = format!("{below}/{}", entry.file_name().to_string_lossy());
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let what = if kind.is_symlink() {
            format!("link to {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_dir() {
            "folder".to_owned()
        } else if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() {
            format!("device {:x}", metadata.rdev())
        } else {
            format!("file {}", Digest::of(fs::read(&path).unwrap()))
        };
        let mut about = format!(
            "{what} {:o} {}:{}",
            metadata.mode() & 0o7777,
            metadata.uid(),
            metadata.gid()
        );
        if kind.is_file() && metadata.nlink() > 1 {
            let first = inodes.entry(metadata.ino()).or_insert_with(|| name.clone());
            about = format!("{about} = {first}");
        }
        if metadata.mtime() < KEPT && !kind.is_dir() {
            about = format!("{about} @{}", metadata.mtime());
        }
        for (attribute, value) in attributes(&path) {
            about = format!("{about} {attribute}={}", Digest::of(value));
        }
        files.insert(name.clone(), about);
        if kind.is_dir() {
            walk(&path, &name, inodes, files);
        }
    }
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names) else {
        return Vec::new();
    };
    names[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let name = std::ffi::OsStr::from_bytes(name);
            let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(length);
            (name.to_string_lossy().into_owned(), value)
        })
        .collect()
}

/// The configuration, a line a fact; what is empty is as good as not there.
fn flat(config: &Value) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    for (key, value) in config["config"].as_object().into_iter().flatten() {
        let empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(all) => all.is_empty(),
            Value::Object(all) => all.is_empty(),
            _ => false,
        };
        if !empty {
            flat.insert(key.clone(), value.to_string());
        }
    }
    for key in ["architecture", "os", "variant", "author"] {
        if let Some(text) = config[key].as_str().filter(|t| !t.is_empty()) {
            flat.insert(key.to_owned(), text.to_owned());
        }
    }
    for (number, entry) in config["history"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let fact = format!(
            "{} {}",
            // Who built it is no part of what was built.
            entry["created_by"]
                .as_str()
                .unwrap_or_default()
                .trim_end_matches(" # buildkit"),
            if entry["empty_layer"] == true {
                "(no layer)"
            } else {
                ""
            }
        );
        flat.insert(format!("history {number:02}"), fact);
    }
    flat
}
