//! `[[retention]]` of `registry.toml`, checked: a rule that could never do anything, or says two things, is refused
//! when the service starts.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    config::{parse_duration, parse_size},
    images::filter::matches,
    names::{DEFAULT_HOST, INTERNAL_HOST, Repository, Tag},
    store::Origin,
};

/// `[[retention]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    /// The beginning of the repositories' names, as they stand in image names; all of them without it.
    #[serde(default)]
    pub prefix: String,
    /// What it is about.
    pub of: Kind,
    /// Content: older than this. Tags: those that are older.
    #[serde(default)]
    pub max_age: Option<String>,
    /// Mirrored content that nobody pulled for so long.
    #[serde(default)]
    pub unused: Option<String>,
    /// What mirrored content may take on disk; what was pulled longest ago goes first.
    #[serde(default)]
    pub max_size: Option<String>,
    /// How many of the newest tags stay.
    #[serde(default)]
    pub keep: Option<usize>,
    /// Which tags it is about.
    #[serde(default)]
    pub tags: Option<String>,
    /// Own content that no tag names, older than this.
    #[serde(default)]
    pub untagged: Option<String>,
    /// Tags that stay, with what they name, whatever other rules say.
    #[serde(default)]
    pub protect: Vec<String>,
    /// Signatures and other referrers go with what they are about.
    #[serde(default)]
    pub delete_referrers: bool,
}

/// Which content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Fetched from an upstream, where it can be fetched again.
    Mirrored,
    /// Pushed, built or tagged here.
    Own,
}

/// A rule, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// As it was written.
    pub prefix: String,
    /// What it does.
    pub limits: Limits,
    /// Patterns of the tags that stay.
    pub protect: Vec<String>,
    /// Referrers go with what they are about.
    pub delete_referrers: bool,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limits {
    /// Each of them takes content away.
    Mirrored {
        /// Since it was fetched.
        max_age: Option<Duration>,
        /// Since it was pulled.
        unused: Option<Duration>,
        /// Bytes on disk.
        max_size: Option<u64>,
    },
    /// A tag stays that one of the first two keeps.
    Own {
        /// Pattern of the tags.
        tags: String,
        /// How many of the newest stay.
        keep: Option<usize>,
        /// How long a tag stays in any case.
        max_age: Option<Duration>,
        /// How long content stays that no tag names.
        untagged: Option<Duration>,
    },
}

/// A rule that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("registry.toml: retention of {of} content below {prefix:?}: {message}")]
pub struct RuleError {
    of: &'static str,
    prefix: String,
    message: String,
}

/// All rules of a site.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Checks the rules, each by itself and beside each other.
    pub fn check(files: Vec<RuleFile>) -> Result<Self, RuleError> {
        let mut rules: Vec<Rule> = Vec::new();
        for file in files {
            let (of, prefix) = (file.of, file.prefix.clone());
            let fail = |message: String| RuleError {
                of: match of {
                    Kind::Mirrored => "mirrored",
                    Kind::Own => "own",
                },
                prefix: prefix.clone(),
                message,
            };
            let rule = file.check().map_err(fail)?;
            let beside = |other: &Rule| {
                other
                    .contradicts(&rule)
                    .or_else(|| other.protects_all_of(&rule))
                    .or_else(|| rule.protects_all_of(other))
            };
            if let Some(message) = rules.iter().find_map(beside) {
                return Err(fail(message));
            }
            rules.push(rule);
        }
        Ok(Self(rules))
    }

    /// Nothing is ever taken away.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rule of a repository's mirrored content, and its number: that of the longest prefix.
    pub fn of_mirrored(&self, repository: &Repository) -> Option<(usize, &Rule)> {
        let of = |rule: &&Rule| matches!(rule.limits, Limits::Mirrored { .. });
        self.of(repository, of).next()
    }

    /// The rules of a repository's own tags: those of the longest prefix. The first that is about a tag decides.
    pub fn of_own(&self, repository: &Repository) -> impl Iterator<Item = (usize, &Rule)> {
        self.of(repository, |rule| matches!(rule.limits, Limits::Own { .. }))
    }

    /// A tag stays whatever is said: some rule about such content, here or in all that is below a prefix of this
    /// repository, protects it.
    pub fn protects(&self, repository: &Repository, tag: &Tag, origin: Origin) -> bool {
        let kind = match origin {
            Origin::Local => Kind::Own,
            Origin::Upstream => Kind::Mirrored,
        };
        self.0.iter().any(|rule| {
            rule.kind() == kind && rule.is_about(repository) && rule.protects(tag.as_str())
        })
    }

    fn of(
        &self,
        repository: &Repository,
        wanted: impl Fn(&&Rule) -> bool,
    ) -> impl Iterator<Item = (usize, &Rule)> {
        let about = |(_, rule): &(usize, &Rule)| wanted(rule) && rule.is_about(repository);
        let found: Vec<_> = self.0.iter().enumerate().filter(about).collect();
        let longest = found.iter().map(|(_, rule)| rule.weight()).max();
        let longest = move |(_, rule): &(usize, &Rule)| Some(rule.weight()) == longest;
        found.into_iter().filter(longest)
    }
}

impl Rule {
    fn protects(&self, tag: &str) -> bool {
        self.protect.iter().any(|pattern| matches(pattern, tag))
    }

    const fn kind(&self) -> Kind {
        match self.limits {
            Limits::Mirrored { .. } => Kind::Mirrored,
            Limits::Own { .. } => Kind::Own,
        }
    }

    /// Why another rule could never take a tag.
    fn protects_all_of(&self, other: &Self) -> Option<String> {
        let Limits::Own { tags, .. } = &other.limits else {
            return None;
        };
        let below = self.prefix.is_empty()
            || has_host(&self.prefix) == has_host(&other.prefix)
                && other.prefix.starts_with(&self.prefix);
        let all = below && self.kind() == Kind::Own && !tags.is_empty() && self.protects(tags);
        all.then(|| {
            let (all, by) = (&other.prefix, &self.prefix);
            format!("all tags {tags:?} below {all:?} are protected by a rule of {by:?}")
        })
    }

    /// The rule is about a tag.
    pub fn names(&self, tag: &str) -> bool {
        matches!(&self.limits, Limits::Own { tags, .. } if matches(tags, tag))
    }

    fn is_about(&self, repository: &Repository) -> bool {
        if repository.is_internal() {
            return false;
        }
        match self.prefix.is_empty() || has_host(&self.prefix) {
            true => repository.as_str().starts_with(&self.prefix),
            false => {
                repository.host() == DEFAULT_HOST && repository.familiar().starts_with(&self.prefix)
            }
        }
    }

    /// Which of two prefixes says more.
    fn weight(&self) -> usize {
        match self.prefix.is_empty() || has_host(&self.prefix) {
            true => self.prefix.len(),
            false => DEFAULT_HOST.len() + 1 + self.prefix.len(),
        }
    }

    /// Why a later rule cannot stand beside this one.
    fn contradicts(&self, later: &Self) -> Option<String> {
        if self.prefix != later.prefix {
            return None;
        }
        match (&self.limits, &later.limits) {
            (Limits::Mirrored { .. }, Limits::Mirrored { .. }) => {
                Some("two rules say what it may take: write one".to_owned())
            }
            (
                Limits::Own {
                    untagged: Some(_), ..
                },
                Limits::Own {
                    untagged: Some(_), ..
                },
            ) => Some("two rules say how long untagged content stays: write one".to_owned()),
            (Limits::Own { tags: first, .. }, Limits::Own { tags: second, .. })
                if first == "*" && !second.is_empty() || !first.is_empty() && first == second =>
            {
                Some(format!(
                    "a rule before this one decides about all tags {first:?}: nothing is left for it"
                ))
            }
            _ => None,
        }
    }
}

/// `ghcr.io/org`, not `team/app`: as image names are read.
fn has_host(prefix: &str) -> bool {
    let first = prefix.split('/').next().unwrap_or_default();
    first.contains(['.', ':']) || first == "localhost"
}

impl RuleFile {
    fn check(self) -> Result<Rule, String> {
        check_prefix(&self.prefix)?;
        let limits = match self.of {
            Kind::Mirrored => self.mirrored()?,
            Kind::Own => self.own()?,
        };
        for pattern in &self.protect {
            check_pattern("protect", pattern)?;
        }
        if self.protect.iter().any(|p| p.chars().all(|c| c == '*')) {
            return Err("it protects all tags, and could take nothing".to_owned());
        }
        if let Limits::Own { tags, .. } = &limits
            && self.protect.iter().any(|pattern| matches(pattern, tags))
        {
            return Err(format!("it protects all tags {tags:?} that it is about"));
        }
        Ok(Rule {
            prefix: self.prefix,
            limits,
            protect: self.protect,
            delete_referrers: self.delete_referrers,
        })
    }

    fn mirrored(&self) -> Result<Limits, String> {
        for (key, given) in [
            ("keep", self.keep.is_some()),
            ("tags", self.tags.is_some()),
            ("untagged", self.untagged.is_some()),
        ] {
            if given {
                return Err(format!("{key} is for own tags, not for mirrored content"));
            }
        }
        let max_size = self.max_size.as_deref().map(|text| {
            parse_size(text).ok_or_else(|| format!("max_size {text:?}: write 500MB, 20GB or 1TB"))
        });
        let (max_age, unused) = (
            duration("max_age", &self.max_age)?,
            duration("unused", &self.unused)?,
        );
        let max_size = max_size.transpose()?;
        match (max_age, unused, max_size) {
            (None, None, None) => Err("it says neither max_age nor unused nor max_size".to_owned()),
            (Some(age), Some(unused), _) if unused >= age => {
                Err("unused is not shorter than max_age, and would never take anything".to_owned())
            }
            _ => Ok(Limits::Mirrored {
                max_age,
                unused,
                max_size,
            }),
        }
    }

    fn own(&self) -> Result<Limits, String> {
        for (key, given) in [
            ("unused", self.unused.is_some()),
            ("max_size", self.max_size.is_some()),
        ] {
            if given {
                return Err(format!(
                    "{key} is for mirrored content, which can be fetched again"
                ));
            }
        }
        if self.keep == Some(0) {
            return Err("keep = 0 keeps nothing: leave it out, and say max_age".to_owned());
        }
        let (max_age, untagged) = (
            duration("max_age", &self.max_age)?,
            duration("untagged", &self.untagged)?,
        );
        let about_tags = self.keep.is_some() || max_age.is_some();
        if !about_tags && untagged.is_none() {
            return Err("it says neither keep nor max_age nor untagged".to_owned());
        }
        if !about_tags && self.tags.is_some() {
            return Err("it names tags, and says neither keep nor max_age of them".to_owned());
        }
        if let Some(tags) = &self.tags {
            check_pattern("tags", tags)?;
        }
        // One that is about untagged content alone leaves the tags to others.
        let tags = match about_tags {
            true => self.tags.clone().unwrap_or_else(|| "*".to_owned()),
            false => String::new(),
        };
        Ok(Limits::Own {
            tags,
            keep: self.keep,
            max_age,
            untagged,
        })
    }
}

fn duration(key: &str, text: &Option<String>) -> Result<Option<Duration>, String> {
    let parse = |text: &String| {
        parse_duration(text)
            .filter(|time| !time.is_zero())
            .ok_or_else(|| format!("{key} {text:?}: write 12h, 30d or the like"))
    };
    text.as_ref().map(parse).transpose()
}

/// Some tag is like it.
fn check_pattern(key: &str, text: &str) -> Result<(), String> {
    let literal = text.replace(['*', '?'], "x");
    match Tag::parse(&literal) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "{key} {text:?}: no tag can be like it; write up to 128 letters, digits, \".\", \"_\" and \"-\", \
             of which the first is neither \".\" nor \"-\", with * for any and ? for one of them"
        )),
    }
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c);
    if !prefix.chars().all(ok) || prefix.starts_with('/') || prefix.contains("//") {
        return Err("no repository can have a name that begins so".to_owned());
    }
    if prefix.starts_with(INTERNAL_HOST) {
        return Err(
            "builder-svc keeps its cache itself: see cache_bytes in builder.toml".to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Rules, String> {
        let file: crate::config::RegistryFile = toml::from_str(text).map_err(|e| e.to_string())?;
        Rules::check(file.retention).map_err(|e| e.to_string())
    }

    fn repository(key: &str) -> Repository {
        Repository::from_key(key).unwrap()
    }

    #[test]
    fn rules_that_could_do_nothing_or_say_two_things_are_refused() {
        for (text, says) in [
            ("of = 'own'", "neither keep nor max_age nor untagged"),
            ("of = 'mirrored'", "neither max_age nor unused nor max_size"),
            ("of = 'mirrored'\nkeep = 3", "keep is for own tags"),
            ("of = 'own'\nmax_size = '1GB'", "max_size is for mirrored"),
            ("of = 'own'\nkeep = 0", "keeps nothing"),
            ("of = 'own'\nkeep = 1\ncolour = 1", "colour"),
            ("of = 'theirs'\nkeep = 1", "theirs"),
            ("keep = 1", "missing field `of`"),
            ("of = 'own'\nkeep = 1\nprotect = ['*']", "protects all tags"),
            (
                "of = 'own'\nkeep = 1\ntags = 'pr-1*'\nprotect = ['pr-*']",
                "protects all tags \"pr-1*\"",
            ),
            (
                "of = 'own'\ntags = 'a b'\nkeep = 1",
                "tags \"a b\": no tag can be like it",
            ),
            ("of = 'own'\ntags = ''\nkeep = 1", "tags \"\": no tag"),
            (
                "of = 'own'\nkeep = 1\nprotect = ['v*', '[0-9]*']",
                "protect \"[0-9]*\": no tag can be like it",
            ),
            (
                "of = 'mirrored'\nunused = '1d'\nprotect = ['org/app:v1']",
                "protect \"org/app:v1\": no tag",
            ),
            (
                "of = 'own'\nkeep = 1\nprotect = ['']",
                "protect \"\": no tag",
            ),
            (
                "of = 'own'\nkeep = 1\nprotect = ['-v*']",
                "protect \"-v*\": no tag",
            ),
            (
                "of = 'own'\nkeep = 1\nprotect = ['**']",
                "protects all tags",
            ),
            (
                "of = 'own'\nuntagged = '1d'\nprotect = ['pr-*']\n[[retention]]\n\
                 prefix = 'team/'\nof = 'own'\ntags = 'pr-1*'\nkeep = 2",
                "all tags \"pr-1*\" below \"team/\" are protected by a rule of \"\"",
            ),
            (
                "of = 'own'\ntags = 'pr-1*'\nkeep = 2\n[[retention]]\n\
                 of = 'own'\nuntagged = '1d'\nprotect = ['pr-*']",
                "all tags \"pr-1*\" below \"\" are protected",
            ),
            ("of = 'own'\ntags = 'a'\nuntagged = '1d'", "names tags"),
            (
                "of = 'own'\nkeep = 1\nprefix = 'Team/'",
                "no repository can",
            ),
            (
                "of = 'own'\nkeep = 1\nprefix = '/team'",
                "no repository can",
            ),
            ("of = 'own'\nmax_age = 'soon'", "write 12h, 30d"),
            ("of = 'own'\nmax_age = '0d'", "write 12h, 30d"),
            ("of = 'mirrored'\nmax_size = 'much'", "write 500MB"),
            (
                "of = 'mirrored'\nmax_age = '1d'\nunused = '2d'",
                "would never take anything",
            ),
            (
                "of = 'own'\nkeep = 1\nprefix = 'slipway.internal/'",
                "cache_bytes",
            ),
            (
                "of = 'own'\nkeep = 1\n[[retention]]\nof = 'own'\nkeep = 2\ntags = 'v*'",
                "a rule before this one decides about all tags \"*\"",
            ),
            (
                "of = 'mirrored'\nunused = '1d'\n[[retention]]\nof = 'mirrored'\nmax_age = '2d'",
                "two rules",
            ),
        ] {
            let error = rules(&format!("[[retention]]\n{text}\n")).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(rules("").unwrap().is_empty());
    }

    #[test]
    fn the_longest_prefix_decides() {
        let rules = rules(
            "[[retention]]\nof = 'mirrored'\nunused = '30d'\n\
             [[retention]]\nprefix = 'ghcr.io/org/'\nof = 'mirrored'\nunused = '1d'\n\
             [[retention]]\nprefix = 'team/'\nof = 'own'\nkeep = 2\ntags = 'v*'\n\
             [[retention]]\nprefix = 'team/'\nof = 'own'\nkeep = 1\n\
             [[retention]]\nprefix = 'goals'\nof = 'own'\nuntagged = '1d'\n",
        )
        .unwrap();
        let mirrored = |key| {
            rules
                .of_mirrored(&repository(key))
                .map(|(number, _)| number)
        };
        assert_eq!(mirrored("ghcr.io/org/app"), Some(1));
        assert_eq!(mirrored("ghcr.io/organ/app"), Some(0));
        assert_eq!(mirrored("slipway.internal/build-cache"), None);
        let own = |key| {
            let repository = repository(key);
            let found = rules.of_own(&repository).map(|(number, _)| number);
            found.collect::<Vec<_>>()
        };
        assert_eq!(own("docker.io/team/app"), [2, 3]);
        assert_eq!(own("docker.io/library/goals"), [4]);
        assert_eq!(own("ghcr.io/team/app"), [0; 0]);
    }
}
