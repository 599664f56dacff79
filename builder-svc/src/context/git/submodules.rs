//! Submodules: which repositories belong into a tree, by its `.gitmodules` (gitmodules(5)).

use std::collections::BTreeMap;

use url::Url;

use super::{GitSource, Id, Tree};

/// Most submodules of a repository, with those of submodules.
pub const MOST: usize = 200;
/// Submodules of submodules that are followed.
const DEEPEST: usize = 10;

/// A repository that belongs into another's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Where it belongs, from the root of the context.
    pub path: String,
    /// Where it is.
    pub source: GitSource,
    /// Which commit of it.
    pub commit: Id,
    /// How many repositories are around it.
    pub depth: usize,
}

/// Those of a tree that has its place at `below`. Errors are sentences.
pub fn of(
    tree: &Tree,
    parent: &GitSource,
    below: &str,
    depth: usize,
) -> Result<Vec<Module>, String> {
    if tree.modules.is_empty() {
        return Ok(Vec::new());
    }
    if depth >= DEEPEST {
        return Err(format!("submodules are nested more than {DEEPEST} deep"));
    }
    let urls = urls(&tree.settings);
    let module = |(path, inside, commit): &(String, String, Id)| {
        // git's sentence (builtin/submodule--helper.c).
        let url = urls
            .get(path.as_str())
            .ok_or_else(|| format!("No url found for submodule path '{path}' in .gitmodules"))?;
        let remote = absolute(&parent.remote, url)
            .ok_or_else(|| format!("the submodule {path} is at {url:?}: only http and https are supported as transports"))?;
        // What is wanted may be a folder of the submodule itself.
        let rest = parent.subfolder.strip_prefix(path.as_str());
        let rest = rest.and_then(|r| r.strip_prefix('/'));
        let source = GitSource {
            remote,
            reference: String::new(),
            subfolder: rest.unwrap_or_default().to_owned(),
        };
        Ok(Module {
            path: match (below, inside.as_str()) {
                ("", inside) => inside.to_owned(),
                (below, "") => below.to_owned(),
                (below, inside) => format!("{below}/{inside}"),
            },
            source,
            commit: *commit,
            depth: depth + 1,
        })
    };
    tree.modules.iter().map(module).collect()
}

/// URLs by path (git-config(1), "Syntax": sections, `key = value`, quotes, comments).
fn urls(settings: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let (mut path, mut url) = (None, None);
    let mut inside = false;
    for line in settings.lines().chain(["[]"]) {
        let line = line.trim();
        if line.starts_with('[') {
            if let (Some(path), Some(url)) = (path.take(), url.take()) {
                all.insert(path, url);
            }
            inside = line.starts_with("[submodule ");
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside) else {
            continue;
        };
        let value = plain(value.trim());
        match key.trim().to_ascii_lowercase().as_str() {
            "path" => path = Some(value.trim_end_matches('/').to_owned()),
            "url" => url = Some(value),
            _ => {}
        }
    }
    all
}

/// A value without quotes and comments.
fn plain(value: &str) -> String {
    let mut out = String::new();
    let (mut quoted, mut chars) = (false, value.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' => out.extend(chars.next()),
            '#' | ';' if !quoted => break,
            c => out.push(c),
        }
    }
    out.trim_end().to_owned()
}

/// A submodule's URL: as it is, or beside its parent's where it begins with `./` or `../`.
fn absolute(parent: &str, url: &str) -> Option<String> {
    let relative = url.starts_with("./") || url.starts_with("../");
    let mut at = match relative {
        true => Url::parse(parent).ok()?,
        false => Url::parse(url).ok()?,
    };
    if relative {
        let mut parts: Vec<String> = at
            .path()
            .trim_matches('/')
            .split('/')
            .map(str::to_owned)
            .collect();
        for part in url.trim_end_matches('/').split('/') {
            match part {
                "." | "" => {}
                ".." => drop(parts.pop()?),
                part => parts.push(part.to_owned()),
            }
        }
        at.set_path(&parts.join("/"));
    }
    at.set_fragment(None);
    matches!(at.scheme(), "http" | "https").then(|| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_found_and_made_absolute() {
        let all = urls(
            "[core]\n\turl = x\n[submodule \"a\"]\n\tpath = lib/a\n\turl = ../a.git # there\n[submodule \"b\"]\n\turl = \"https://h/b;.git\"\n\tpath=b/\n[submodule \"c\"]\n\tpath = c\n",
        );
        let pairs: Vec<_> = all.iter().map(|(p, u)| (p.as_str(), u.as_str())).collect();
        assert_eq!(pairs, [("b", "https://h/b;.git"), ("lib/a", "../a.git")]);
        for (url, expected) in [
            ("../a.git", Some("https://h/team/a.git")),
            ("./a.git", Some("https://h/team/repo.git/a.git")),
            ("../../../../a", None),
            ("http://x/y.git", Some("http://x/y.git")),
            ("git@h:a/b.git", None),
            ("ssh://h/a", None),
            ("/local", None),
            ("--upload-pack=x", None),
        ] {
            let found = absolute("https://h/team/repo.git", url);
            assert_eq!(found.as_deref(), expected, "{url}");
        }
    }

    proptest::proptest! {
        #[test]
        fn anything_may_stand_there(text in "[\\[\\]a-z =\"\\\\#;\n./]{0,200}") {
            urls(&text);
        }
    }
}
