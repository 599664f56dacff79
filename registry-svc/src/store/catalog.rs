//! Repositories in the order of the names that people see. Those of Docker Hub are seen without their host, the
//! official ones without `library/` too: three stretches of the keys, each in that order by itself, are read side
//! by side.

use super::{Index, key, split};
use crate::{error::Result, names::Repository};

const HUB: &str = "docker.io/";
const OFFICIAL: &str = "docker.io/library/";

/// A stretch of the keys: what begins with the first, without what begins with the second.
const STRETCHES: [(&str, Option<&str>); 3] =
    [(OFFICIAL, None), (HUB, Some(OFFICIAL)), ("", Some(HUB))];

/// See the module's page.
pub struct Catalog<'a> {
    index: &'a Index,
    /// Where each stretch goes on, and what is next there if that is known.
    heads: [(Vec<u8>, Option<Repository>); 3],
}

impl Index {
    /// All repositories with manifests, or those behind that one.
    pub fn catalog(&self, last: Option<&Repository>) -> Catalog<'_> {
        let last = last.map(place);
        let heads = std::array::from_fn(|number| {
            let prefix = STRETCHES[number].0;
            let from = match last {
                None => prefix.as_bytes().to_vec(),
                // Of two that are seen alike the one of the earlier stretch comes first.
                Some((name, of)) if of < number => format!("{prefix}{name}").into_bytes(),
                Some((name, _)) => behind(&format!("{prefix}{name}")),
            };
            (from, None)
        });
        Catalog { index: self, heads }
    }

    /// The first repository at or behind a key.
    fn repository_from(&self, from: &[u8]) -> Result<Option<Repository>> {
        let entry = self.manifests.range(from..).next().transpose()?;
        let name = entry.and_then(|(k, _)| split(&k).map(|[name, _]: [&str; 2]| name.to_owned()));
        name.map(|name| Repository::from_key(&name)).transpose()
    }
}

impl Catalog<'_> {
    fn fill(&mut self, number: usize) -> Result<()> {
        let (prefix, hole) = STRETCHES[number];
        let (from, head) = &mut self.heads[number];
        while head.is_none() {
            let Some(found) = self.index.repository_from(from)? else {
                return Ok(());
            };
            let name = found.as_str();
            if !name.starts_with(prefix) {
                return Ok(());
            }
            match hole {
                // `0` follows `/`.
                Some(hole) if name.starts_with(hole) => {
                    *from = format!("{}0", &hole[..hole.len() - 1]).into_bytes();
                }
                _ => {
                    *from = behind(name);
                    *head = Some(found);
                }
            }
        }
        Ok(())
    }
}

impl Iterator for Catalog<'_> {
    type Item = Result<Repository>;

    fn next(&mut self) -> Option<Self::Item> {
        for number in 0..STRETCHES.len() {
            if let Err(error) = self.fill(number) {
                return Some(Err(error));
            }
        }
        let heads = self.heads.iter_mut().map(|(_, head)| head);
        let first = heads.filter(|head| head.is_some());
        let first = first.min_by(|a, b| a.as_ref().map(place).cmp(&b.as_ref().map(place)));
        first?.take().map(Ok)
    }
}

/// A repository's name in its stretch, and which that is.
fn place(repository: &Repository) -> (&str, usize) {
    let whole = repository.as_str();
    let within = |(number, (prefix, _)): (usize, &(&str, Option<&str>))| {
        whole.strip_prefix(prefix).map(|name| (name, number))
    };
    let found = STRETCHES.iter().enumerate().find_map(within);
    found.expect("the last one has all")
}

/// What follows all keys of a repository.
fn behind(repository: &str) -> Vec<u8> {
    key(&[repository, "\u{10ffff}"])
}

#[cfg(test)]
mod tests {
    use slipway_image::Digest;

    use super::{
        super::{ManifestRecord, Names, Origin},
        *,
    };

    #[test]
    fn repositories_are_in_the_order_of_the_names_that_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(folder.path()).unwrap();
        assert!(index.catalog(None).next().is_none());
        let record = ManifestRecord {
            media_type: "x".to_owned(),
            size: 1,
            origin: Origin::Local,
            stored: 0,
            by_digest: false,
            held: Vec::new(),
            unproven: Vec::new(),
        };
        for key in [
            "docker.io/library/alpine",
            "docker.io/library/nginx",
            "docker.io/library/zot",
            "docker.io/aaa/app",
            "docker.io/library-of/app",
            "docker.io/team/app",
            "docker.io/team/app-two",
            "a.example/app",
            "docker.io.example/app",
            "ghcr.io/org/app",
            "quay.io/app",
        ] {
            let name = Repository::from_key(key).unwrap();
            for content in ["one", "two"] {
                let digest = Digest::of(content);
                let names = Names::default();
                index.set_manifest(&name, &digest, &record, &names).unwrap();
            }
        }
        let after = |last: Option<&Repository>| -> Vec<Repository> {
            index.catalog(last).map(Result::unwrap).collect()
        };
        let all = after(None);
        let shown: Vec<&str> = all.iter().map(Repository::familiar).collect();
        let ordered = [
            "a.example/app",
            "aaa/app",
            "alpine",
            "docker.io.example/app",
            "ghcr.io/org/app",
            "library-of/app",
            "nginx",
            "quay.io/app",
            "team/app",
            "team/app-two",
            "zot",
        ];
        assert_eq!(shown, ordered);
        for (number, last) in all.iter().enumerate() {
            assert_eq!(after(Some(last)), all[number + 1..], "after {last}");
        }
        // Behind what is not there, too.
        let gone = Repository::new("docker.io", "team/app-three").unwrap();
        assert_eq!(after(Some(&gone))[0].familiar(), "team/app-two");
    }
}
