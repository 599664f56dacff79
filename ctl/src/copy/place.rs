//! Where a copy goes: docker's table of what source and destination are (docs of `docker cp`).

/// What is at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// A folder.
    Folder,
    /// Anything else.
    Other,
    /// Nothing.
    Nothing,
}

/// A destination: the name that the source gets in a folder; "" = its content goes into the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub folder: String,
    pub name: String,
}

/// Whether only the content of a folder is meant.
pub fn is_content(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// Decides. `source` and `target` are as they were written.
pub fn decide(
    source: &str,
    source_is_folder: bool,
    target: &str,
    there: There,
) -> Result<Place, String> {
    let (parent, last) = split(target);
    let own = split(source).1.to_owned();
    let place = |folder: &str, name: &str| {
        Ok(Place {
            folder: folder.to_owned(),
            name: name.to_owned(),
        })
    };
    match (source_is_folder, there) {
        (true, There::Folder) if is_content(source) || own.is_empty() => place(target, ""),
        (_, There::Folder) => place(target, &own),
        (true, There::Other) => Err("cannot copy directory".to_owned()),
        (false, There::Nothing) if target.ends_with('/') => {
            Err(format!("no such directory: {target}"))
        }
        (_, There::Other | There::Nothing) => place(parent, last),
    }
}

/// Folder and last part: ("/a", "b") of "/a/b/", (".", "b") of "b".
fn split(path: &str) -> (&str, &str) {
    let mut trimmed = path.trim_end_matches('/');
    if is_content(trimmed) {
        trimmed = trimmed[..trimmed.len() - 1].trim_end_matches('/');
    }
    match trimmed.rsplit_once('/') {
        Some(("", last)) => ("/", last),
        Some((parent, last)) => (parent, last),
        None if path.starts_with('/') => ("/", ""),
        None => (".", trimmed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_table() {
        let to = |source, folder, target, there| {
            decide(source, folder, target, there).map(|p| format!("{}|{}", p.folder, p.name))
        };
        for (source, folder, target, there, expected) in [
            ("/a/f", false, "/x", There::Folder, "/x|f"),
            ("/a/f", false, "/x/g", There::Nothing, "/x|g"),
            ("/a/f", false, "/x/g", There::Other, "/x|g"),
            ("f", false, "g", There::Nothing, ".|g"),
            ("/a/d", true, "/x", There::Folder, "/x|d"),
            ("/a/d/", true, "/x", There::Folder, "/x|d"),
            ("/a/d/.", true, "/x", There::Folder, "/x|"),
            (".", true, "/x", There::Folder, "/x|"),
            ("/", true, "/x", There::Folder, "/x|"),
            ("/a/d", true, "/x/e", There::Nothing, "/x|e"),
            ("/a/d/.", true, "/x/e/", There::Nothing, "/x|e"),
        ] {
            assert_eq!(
                to(source, folder, target, there).unwrap(),
                expected,
                "{source} {target}"
            );
        }
        assert!(to("/a/d", true, "/x/f", There::Other).is_err());
        assert!(to("/a/f", false, "/x/d/", There::Nothing).is_err());
    }
}
