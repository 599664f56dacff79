//! Where sources go, and from where on `--parents` keeps their paths.

/// Where something goes: the folder, and its name there ("" = its own).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Absolute.
    pub folder: String,
    /// None = it keeps its name.
    pub name: Option<String>,
}

/// Where a single file goes. `is_folder` tells whether the destination is one already.
pub fn place_of_file(destination: &str, is_folder: bool) -> Place {
    if destination.ends_with('/') || is_folder {
        return Place {
            folder: folder(destination),
            name: None,
        };
    }
    let (parent, name) = destination.rsplit_once('/').unwrap_or(("", destination));
    Place {
        folder: folder(parent),
        name: Some(name.to_owned()),
    }
}

/// A destination as a folder, without the slash at its end.
pub fn folder(destination: &str) -> String {
    match destination.trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}

/// A source of `--parents`: `folder/./pattern`, or the whole as the pattern.
#[derive(Debug, PartialEq, Eq)]
pub struct Pivot {
    /// From here on paths are kept.
    pub folder: String,
    /// What is copied, relative to the folder.
    pub pattern: String,
}

impl Pivot {
    /// Reads a source.
    pub fn of(source: &str) -> Self {
        let (folder, pattern) = source.split_once("/./").unwrap_or(("/", source));
        let clean = |path: &str| slipway_pattern::list::clean(&format!("/{path}"));
        Self {
            folder: clean(folder),
            pattern: clean(pattern).trim_start_matches('/').to_owned(),
        }
    }
}
