//! The conversation as it was before version 2 (gitprotocol-pack(5)): a server that is not asked for another
//! begins with all of its references. Over ssh that is what a plain sshd makes of us (`AcceptEnv`).

use std::collections::BTreeSet;

use super::{super::Id, Resolved, names, packets::lines};

/// What a server says of itself, as far as it is wanted.
#[derive(Debug)]
pub struct Advertisement {
    /// What is looked for, the best name first, and what was found.
    wanted: Vec<(String, Option<Found>)>,
    capabilities: Vec<String>,
    /// Branches and tags: what may be asked for.
    tips: BTreeSet<Id>,
    begun: bool,
}

/// A reference, and what it leads to where it is a tag that is an object of its own.
#[derive(Debug)]
struct Found {
    id: Id,
    peeled: Option<Id>,
}

impl Advertisement {
    /// For somebody who looks for a reference.
    pub fn new(reference: &str) -> Self {
        Self {
            wanted: names(reference).into_iter().map(|n| (n, None)).collect(),
            capabilities: Vec::new(),
            tips: BTreeSet::new(),
            begun: false,
        }
    }

    /// Reads the next line; none where it is no such line.
    pub fn read(&mut self, line: &[u8]) -> Option<()> {
        let mut line = line.strip_suffix(b"\n").unwrap_or(line);
        if !std::mem::replace(&mut self.begun, true) {
            let at = line.iter().position(|b| *b == 0).unwrap_or(line.len());
            let able = String::from_utf8_lossy(line.get(at + 1..).unwrap_or_default());
            self.capabilities = able.split_whitespace().map(str::to_owned).collect();
            line = &line[..at];
        }
        // Names need not be text.
        let line = String::from_utf8_lossy(line);
        let (id, name) = line.split_once(' ')?;
        if id == "shallow" {
            return Id::parse(name).map(|_| ());
        }
        let id = Id::parse(id)?;
        if let Some(tag) = name.strip_suffix("^{}") {
            // Of a repository without a reference there are the capabilities alone.
            if let Some(found) = self.found_mut(tag) {
                found.peeled = Some(id);
            }
            return Some(());
        }
        if name == "HEAD" || name.starts_with("refs/heads/") || name.starts_with("refs/tags/") {
            self.tips.insert(id);
        }
        for (wanted, found) in &mut self.wanted {
            if wanted == name {
                // Whatever it is, refs/pull/1/head too: it can be asked for itself.
                self.tips.insert(id);
                *found = Some(Found { id, peeled: None });
            }
        }
        Some(())
    }

    fn found_mut(&mut self, name: &str) -> Option<&mut Found> {
        let mut all = self.wanted.iter_mut();
        all.find(|(wanted, _)| wanted == name)?.1.as_mut()
    }

    /// What was looked for; none where it is not there.
    pub fn resolved(&self) -> Option<Resolved> {
        let (name, found) = self
            .wanted
            .iter()
            .find_map(|(n, f)| Some((n, f.as_ref()?)))?;
        let leads = |able: &String| {
            Some(
                able.strip_prefix("symref=")?
                    .strip_prefix(name)?
                    .strip_prefix(':')?
                    .to_owned(),
            )
        };
        Some(Resolved {
            commit: found.peeled.unwrap_or(found.id),
            tag: found.peeled.map(|_| found.id),
            name: self.capabilities.iter().find_map(leads),
        })
    }

    fn able(&self, what: &str) -> bool {
        self.capabilities.iter().any(|c| c == what)
    }

    /// The question for a commit or a tag without its history. Such a server may give away nothing but what its
    /// references name: then all that they lead to is asked for, with all history, as BuildKit does
    /// (util/gitutil, argsNoCommitRefspec). Errors are sentences.
    pub fn question(&self, id: &Id) -> Result<Vec<u8>, String> {
        if !self.able("side-band-64k") {
            return Err("the server's git is too old: it has no side-band-64k".to_owned());
        }
        let direct = self.tips.contains(id) || self.able("allow-reachable-sha1-in-want");
        let ids = match direct {
            true => vec![*id],
            false => self.tips.iter().copied().collect(),
        };
        let mut wants: Vec<String> = ids.iter().map(|id| format!("want {id}")).collect();
        let Some(first) = wants.first_mut() else {
            return Err("the repository is empty".to_owned());
        };
        for able in ["side-band-64k", "ofs-delta", "no-progress"] {
            if self.able(able) {
                first.push_str(&format!(" {able}"));
            }
        }
        // A server that cannot leave history out sends it.
        if direct && self.able("shallow") {
            wants.push("deepen 1".to_owned());
        }
        let mut question = lines(&wants);
        question.extend(b"0000");
        question.extend(lines(&["done"]));
        Ok(question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> Id {
        Id::parse(&digit.to_string().repeat(40)).unwrap()
    }

    fn read(reference: &str, text: &[String]) -> Option<Advertisement> {
        let mut all = Advertisement::new(reference);
        for line in text {
            all.read(line.as_bytes())?;
        }
        Some(all)
    }

    fn some(able: &str) -> Vec<String> {
        [
            (
                'a',
                format!("HEAD\0multi_ack side-band-64k ofs-delta {able}\n"),
            ),
            ('b', "refs/heads/dev\n".to_owned()),
            ('a', "refs/heads/main\n".to_owned()),
            ('e', "refs/pull/1/head\n".to_owned()),
            ('c', "refs/tags/main\n".to_owned()),
            ('d', "refs/tags/v1\n".to_owned()),
            ('b', "refs/tags/v1^{}\n".to_owned()),
        ]
        .map(|(digit, rest)| format!("{} {rest}", id(digit)))
        .to_vec()
    }

    #[test]
    fn references_are_found() {
        let lines = some("shallow symref=HEAD:refs/heads/main");
        let of = |reference: &str| read(reference, &lines).unwrap().resolved();
        let found = |commit, tag: Option<char>, name: Option<&str>| {
            Some(Resolved {
                commit: id(commit),
                tag: tag.map(id),
                name: name.map(str::to_owned),
            })
        };
        assert_eq!(of(""), found('a', None, Some("refs/heads/main")));
        // Branches come first.
        assert_eq!(of("main"), found('a', None, None));
        assert_eq!(of("refs/tags/main"), found('c', None, None));
        assert_eq!(of("v1"), found('b', Some('d'), None));
        assert_eq!(of("pull/1/head"), found('e', None, None));
        assert_eq!(of("v2"), None);
        let empty = format!("{} capabilities^{{}}\0side-band-64k", "0".repeat(40));
        let empty = read("", &[empty]).unwrap();
        assert_eq!(empty.resolved(), None);
        assert!(empty.question(&id('a')).unwrap_err().contains("is empty"));
        for bad in [
            "",
            "\n",
            "x",
            "a b",
            &format!("{} ", "a".repeat(39)),
            "shallow x",
        ] {
            assert!(read("", &[bad.to_owned()]).is_none(), "{bad:?}");
        }
        let shallow = [some("").remove(0), format!("shallow {}", id('f'))];
        assert!(read("", &shallow).unwrap().resolved().is_some());
    }

    #[test]
    fn a_commit_is_asked_for_alone_where_it_may_be() {
        let of = |able: &str, digit| {
            let question = read("", &some(able)).unwrap().question(&id(digit)).unwrap();
            String::from_utf8(question).unwrap()
        };
        let abilities = "side-band-64k ofs-delta";
        for (able, digit) in [
            ("shallow", 'b'),
            ("shallow", 'd'),
            ("shallow allow-reachable-sha1-in-want", 'f'),
        ] {
            let want = format!("want {} {abilities}\n", id(digit));
            let length = want.len() + 4;
            assert_eq!(
                of(able, digit),
                format!("{length:04x}{want}000ddeepen 1\n00000009done\n"),
            );
        }
        assert!(!of("", 'b').contains("deepen"));
        // What no reference names is in what they lead to.
        let all = of("shallow no-progress", 'f');
        assert!(
            !all.contains("deepen") && all.contains("no-progress\n"),
            "{all}"
        );
        for (digit, there) in [('a', 1), ('b', 1), ('c', 1), ('d', 1), ('e', 0), ('f', 0)] {
            let want = format!("want {}", id(digit));
            assert_eq!(all.matches(&want).count(), there, "{digit}");
        }
        let old = [format!("{} HEAD\0multi_ack", id('a'))];
        let error = read("", &old).unwrap().question(&id('a')).unwrap_err();
        assert!(error.contains("too old"), "{error}");
    }

    #[test]
    fn a_reference_of_any_kind_is_asked_for_alone() {
        let lines = [
            format!("{} HEAD\0shallow side-band-64k ofs-delta", id('a')),
            format!("{} refs/pull/1/head", id('e')),
        ];
        let found = read("refs/pull/1/head", &lines).unwrap();
        let question = String::from_utf8(found.question(&id('e')).unwrap()).unwrap();
        assert!(
            question.contains(&format!("want {}", id('e'))),
            "{question}"
        );
        assert!(question.contains("deepen 1") && !question.contains(&id('a').to_string()));
    }

    proptest::proptest! {
        #[test]
        fn anything_may_come(lines in proptest::collection::vec("[0a-f]{40}? ?.{0,40}", 0..6)) {
            let mut all = Advertisement::new("main");
            for line in lines {
                let _ = all.read(line.as_bytes());
            }
            all.resolved();
            let _ = all.question(&id('a'));
        }
    }
}
