//! Submodules: which repositories belong into a tree, by its `.gitmodules` (gitmodules(5)).

use std::{collections::BTreeMap, sync::Arc};

use url::Url;

use super::{
    super::{ContentStore, Entry, Kind, Manifest, fetch::redacted},
    GitSource, Id, Tree,
    ssh::SshUrl,
};
use crate::error::{Error, Tried as _};

/// Most submodules of a repository, with those of submodules.
pub const MOST: usize = 200;
/// Submodules of submodules that are followed.
const DEEPEST: usize = 10;

/// A repository that belongs into another's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name in `.gitmodules`.
    name: String,
    /// Where it belongs, from the root of the context.
    pub path: String,
    /// Where its `.git` belongs, from the root of the context.
    pub git_dir: String,
    /// Where it is.
    pub source: GitSource,
    /// Which commit of it.
    pub commit: Id,
    /// How many repositories are around it.
    depth: usize,
}

impl Module {
    /// From its `.git` to its files.
    pub fn worktree(&self) -> String {
        format!("{}{}", "../".repeat(parts(&self.git_dir)), self.path)
    }

    /// The file in its place that tells where its `.git` is (gitrepository-layout(5)).
    pub async fn link(&self, store: &Arc<ContentStore>) -> Result<Manifest, Error> {
        let text = format!(
            "gitdir: {}{}\n",
            "../".repeat(parts(&self.path)),
            self.git_dir
        );
        let (store, size) = (store.clone(), text.len() as u64);
        let digest = tokio::task::spawn_blocking(move || store.put(text.as_bytes()))
            .await
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .tried(|| "cannot keep the place of a submodule".to_owned())?;
        let entry = Entry {
            kind: Kind::File { digest, size },
            mode: 0o644,
            mtime: 0,
            same: 0,
            capability: None,
        };
        Manifest::of_file(".git", entry).map_err(Error::Context)
    }
}

fn parts(path: &str) -> usize {
    path.split('/').count()
}

/// Names and URLs as git's settings have them.
pub fn settings(modules: &[Module]) -> Vec<(String, String)> {
    let mut all: Vec<_> = modules
        .iter()
        .map(|m| (m.name.clone(), redacted(&m.source.remote)))
        .collect();
    all.sort_unstable();
    all
}

/// Those of a tree: of the one that has its place in the module `around`, or of the whole. Errors are sentences.
pub fn of(
    tree: &Tree,
    parent: &GitSource,
    around: Option<&Module>,
    keep: bool,
) -> Result<Vec<Module>, String> {
    if tree.modules.is_empty() {
        return Ok(Vec::new());
    }
    let depth = around.map_or(0, |m| m.depth);
    if depth >= DEEPEST {
        return Err(format!("submodules are nested more than {DEEPEST} deep"));
    }
    let below = around.map_or("", |m| m.path.as_str());
    let places = places(&tree.settings);
    let mut taken = Vec::new();
    for (path, inside, commit) in &tree.modules {
        // git's sentence (builtin/submodule--helper.c).
        let (name, url) = places
            .get(path.as_str())
            .ok_or_else(|| format!("No url found for submodule path '{path}' in .gitmodules"))?;
        let refuse = |why: &str| format!("the submodule {path} is at {:?}: {why}", redacted(url));
        let remote = absolute(&parent.remote, url)
            .ok_or_else(|| refuse("only http, https and ssh are supported as transports"))?;
        let ssh = SshUrl::parse(&remote)?;
        if ssh.is_some() && parent.ssh.is_none() {
            // Nobody said that this repository may have the caller's keys used, and for whom.
            return Err(refuse(
                "a submodule may be at an ssh address only where its repository is: the caller's keys are used for nobody else",
            ));
        }
        // What is wanted may be a folder of the submodule itself.
        let rest = parent.subfolder.strip_prefix(path.as_str());
        let rest = rest.and_then(|r| r.strip_prefix('/'));
        let source = GitSource {
            remote,
            ssh,
            subfolder: rest.unwrap_or_default().to_owned(),
            ..GitSource::default()
        };
        taken.push(Module {
            name: name.clone(),
            path: match (below, inside.as_str()) {
                ("", inside) => inside.to_owned(),
                (below, "") => below.to_owned(),
                (below, inside) => format!("{below}/{inside}"),
            },
            git_dir: format!("{}/modules/{name}", around.map_or(".git", |m| &m.git_dir)),
            source,
            commit: *commit,
            depth: depth + 1,
        });
    }
    if keep {
        check(&taken)?;
    }
    Ok(taken)
}

/// Whether each may have a folder of its name: not outside (CVE-2018-11235), and not in another's
/// (CVE-2024-32002).
fn check(modules: &[Module]) -> Result<(), String> {
    let mut names: Vec<_> = modules.iter().map(|m| format!("{}/", m.name)).collect();
    names.sort_unstable();
    let bad = names.iter().find(|n| {
        n.split_terminator('/')
            .any(|p| matches!(p, "" | "." | ".."))
    });
    if let Some(bad) = bad {
        return Err(format!(
            "ignoring suspicious submodule name: {}",
            &bad[..bad.len() - 1]
        ));
    }
    match names.windows(2).find(|pair| pair[1].starts_with(&pair[0])) {
        Some(pair) => Err(format!(
            "submodule git dir {:?} is inside git dir {:?}",
            pair[1], pair[0]
        )),
        None => Ok(()),
    }
}

/// Names and URLs by path (git-config(1), "Syntax": sections, `key = value`, quotes, comments).
fn places(settings: &str) -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    let (mut path, mut url) = (None, None);
    let mut inside = None;
    for line in settings.lines().chain(["[]"]) {
        let line = line.trim();
        if line.starts_with('[') {
            if let (Some(path), Some(url)) = (path.take(), url.take()) {
                all.insert(path, (inside.take().unwrap_or_default(), url));
            }
            let section = line.strip_prefix("[submodule ");
            let section = section.and_then(|s| s.strip_suffix(']'));
            inside = section.map(|name| plain(name.trim()));
            (path, url) = (None, None);
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| inside.is_some()) else {
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
    let at = if relative { parent } else { url };
    let Ok(mut at) = Url::parse(at) else {
        // user@host:path
        let (login, path) = at.split_once(':')?;
        let path = if relative {
            beside(path, url)?
        } else {
            path.to_owned()
        };
        let whole = format!("{login}:{path}");
        return SshUrl::parse(&whole)
            .is_ok_and(|u| u.is_some())
            .then_some(whole);
    };
    if relative {
        let path = beside(at.path(), url)?;
        at.set_path(&path);
    }
    at.set_fragment(None);
    matches!(at.scheme(), "http" | "https" | "ssh").then(|| at.to_string())
}

/// A path beside another one; none where it leads out of its root.
fn beside(path: &str, relative: &str) -> Option<String> {
    let root = if path.starts_with('/') { "/" } else { "" };
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    for part in relative.trim_end_matches('/').split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(format!("{root}{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_keys_are_used_only_where_ssh_was_asked_for() {
        let id = Id::parse(&"a".repeat(40)).unwrap();
        let tree = Tree {
            modules: vec![("m".to_owned(), "m".to_owned(), id)],
            settings: "[submodule \"m\"]\n\tpath = m\n\turl = git@h:x\n".to_owned(),
            ..Tree::default()
        };
        let below = |parent: &str| {
            let parent = GitSource::parse(parent).unwrap().unwrap();
            of(&tree, &parent, None, false).map(|modules| modules[0].source.ssh.is_some())
        };
        assert_eq!(below("git@h:repo.git"), Ok(true));
        let refused = below("https://h/repo.git").unwrap_err();
        assert!(
            refused.contains("only where its repository is"),
            "{refused}"
        );
    }

    #[test]
    fn urls_are_found_and_made_absolute() {
        let all = places(
            "[core]\n\turl = x\n[submodule \"a\"]\n\tpath = lib/a\n\turl = ../a.git # there\n[submodule \"b\"]\n\turl = \"https://h/b;.git\"\n\tpath=b/\n[submodule \"c\"]\n\tpath = c\n",
        );
        let pairs: Vec<_> = all
            .iter()
            .map(|(p, (n, u))| (p.as_str(), n.as_str(), u.as_str()))
            .collect();
        assert_eq!(
            pairs,
            [("b", "b", "https://h/b;.git"), ("lib/a", "a", "../a.git")]
        );
        for (url, expected) in [
            ("../a.git", Some("https://h/team/a.git")),
            ("./a.git", Some("https://h/team/repo.git/a.git")),
            ("../../../../a", None),
            ("http://x/y.git", Some("http://x/y.git")),
            ("git@h:a/b.git", Some("git@h:a/b.git")),
            ("ssh://git@h:2222/a", Some("ssh://git@h:2222/a")),
            ("git@h:-x", None),
            ("git://h/a", None),
            ("file:///a", None),
            ("/local", None),
            ("C:/x", None),
            ("--upload-pack=x", None),
        ] {
            let found = absolute("https://h/team/repo.git", url);
            assert_eq!(found.as_deref(), expected, "{url}");
        }
        for (parent, url, expected) in [
            ("git@h:team/repo.git", "../a.git", Some("git@h:team/a.git")),
            ("git@h:/srv/repo.git/", "../a.git", Some("git@h:/srv/a.git")),
            ("git@h:repo.git", "../a.git", Some("git@h:a.git")),
            ("git@h:repo.git", "../../a.git", None),
            ("git@h:repo.git", "https://x/y.git", Some("https://x/y.git")),
            (
                "ssh://git@h:2222/team/repo.git",
                "../a.git",
                Some("ssh://git@h:2222/team/a.git"),
            ),
            (
                "ssh://git@h/~me/repo.git",
                "./a",
                Some("ssh://git@h/~me/repo.git/a"),
            ),
            ("https://h/repo.git", "git@h:x", Some("git@h:x")),
        ] {
            let found = absolute(parent, url);
            assert_eq!(found.as_deref(), expected, "{parent} {url}");
        }
    }

    #[test]
    fn folders_are_inside_and_beside_each_other() {
        let module = |name: &str| Module {
            name: name.to_owned(),
            path: "lib/a".to_owned(),
            git_dir: format!(".git/modules/{name}"),
            source: GitSource::default(),
            commit: Id([0; 20]),
            depth: 1,
        };
        let of = |names: &[&str]| check(&names.iter().map(|n| module(n)).collect::<Vec<_>>());
        assert!(of(&["lib/a", "lib/ab", "lib/a-b", "b"]).is_ok());
        for bad in [
            &["../x"][..],
            &["a/../../x"],
            &["/a"],
            &["a//b"],
            &[""],
            &["a", "a-", "a/modules/b"],
            &["a", "a"],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
        assert_eq!(module("x/y").worktree(), "../../../../lib/a");
    }

    proptest::proptest! {
        #[test]
        fn anything_may_stand_there(text in "[\\[\\]a-z =\"\\\\#;\n./]{0,200}") {
            places(&text);
        }
    }
}
