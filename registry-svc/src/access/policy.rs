//! Who may do what with which repositories: `[[access]]` of `registry.toml`, and nothing else decides it.
//!
//! A repository is judged by its one key ([`crate::names`]), so no alias gets round a rule. Of the rules whose prefix
//! it is below, those with the longest prefix hold, and together: a narrower rule can take away what a wider one gives.
//! What no rule gives is denied.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Caller;
use crate::names::{DEFAULT_HOST, OwnNames, Repository};

/// What can be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Read what is there, and know that it is.
    Pull,
    /// Add blobs, manifests and tags; a tag may be pointed elsewhere.
    Push,
    /// Remove blobs, manifests and tags.
    Delete,
}

impl Action {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// As settings and scopes of tokens write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `[[access]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// A repository, or what several begin with, by whole components: `team`, `ghcr.io/org`; `*` for all there are.
    pub prefix: String,
    /// Users of the password file, `cert:CN=<name>`, `*` for whoever says who he is, `anonymous` for everybody.
    pub who: Vec<String>,
    /// What they may do; nothing takes away what a shorter prefix gives.
    pub may: Vec<Action>,
}

/// A rule that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("registry.toml: access to {prefix:?}: {message}")]
pub struct PolicyError {
    prefix: String,
    message: String,
}

/// Whom a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Everybody,
    Identified,
    User(String),
    Certificate(String),
}

impl FromStr for Who {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "anonymous" => Ok(Self::Everybody),
            "*" => Ok(Self::Identified),
            _ => match text.split_once(':') {
                None if !text.is_empty() => Ok(Self::User(text.to_owned())),
                Some(("cert", rest)) => match rest.strip_prefix("CN=") {
                    Some(name) if !name.is_empty() => Ok(Self::Certificate(name.to_owned())),
                    _ => Err(format!("who {text:?}: write \"cert:CN=<name>\"")),
                },
                _ => Err(format!(
                    "who {text:?} is neither a user nor \"cert:CN=<name>\""
                )),
            },
        }
    }
}

impl Who {
    fn is(&self, caller: &Caller) -> bool {
        match (self, caller) {
            // Whoever shows who he is may never do less than who does not.
            (Self::Everybody, _) => true,
            (Self::Identified, caller) => *caller != Caller::Anonymous,
            (Self::User(name), Caller::User(user)) => name == user,
            (Self::Certificate(name), Caller::Certificate(common)) => name == common,
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Rule {
    /// Beginnings of keys, by whole components; empty for all.
    prefixes: Vec<String>,
    who: Vec<Who>,
    may: Vec<Action>,
}

/// All rules.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// Checks the rules.
    pub fn new(rules: &[AccessRule], own: &OwnNames) -> Result<Self, PolicyError> {
        let check = |rule: &AccessRule| {
            let fail = |message| PolicyError {
                prefix: rule.prefix.clone(),
                message,
            };
            if rule.who.is_empty() {
                return Err(fail("who = [...] names nobody".to_owned()));
            }
            let who = rule
                .who
                .iter()
                .map(|who| who.parse())
                .collect::<Result<_, _>>();
            Ok(Rule {
                prefixes: keys_of(&rule.prefix, own).map_err(fail)?,
                who: who.map_err(fail)?,
                may: rule.may.clone(),
            })
        };
        let rules = rules.iter().map(check).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// What a caller may do with a repository.
    pub fn allowed(&self, caller: &Caller, repository: &Repository) -> Vec<Action> {
        let key = repository.as_str();
        let mut longest = 0;
        let mut allowed = Vec::new();
        for rule in &self.rules {
            let lengths = rule.prefixes.iter().filter_map(|p| length_below(key, p));
            let Some(length) = lengths.max() else {
                continue;
            };
            if length > longest {
                longest = length;
                allowed.clear();
            }
            if length == longest && rule.who.iter().any(|who| who.is(caller)) {
                allowed.extend_from_slice(&rule.may);
            }
        }
        allowed
    }

    /// Whether a caller may do this with a repository.
    pub fn allows(&self, caller: &Caller, repository: &Repository, action: Action) -> bool {
        !repository.is_internal() && self.allowed(caller, repository).contains(&action)
    }

    /// Some rule is for a user with a password.
    pub fn names_users(&self) -> bool {
        self.any(|who| matches!(who, Who::User(_)))
    }

    /// Some rule is for the holder of a certificate.
    pub fn names_certificates(&self) -> bool {
        self.any(|who| matches!(who, Who::Certificate(_)))
    }

    fn any(&self, wanted: impl Fn(&Who) -> bool) -> bool {
        self.rules.iter().flat_map(|rule| &rule.who).any(wanted)
    }
}

/// The components of a prefix, when a key is that or below it. A prefix of all has none.
fn length_below(key: &str, prefix: &str) -> Option<usize> {
    if prefix.is_empty() {
        return Some(0);
    }
    let rest = key.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| prefix.split('/').count())
}

/// What keys begin with that are meant by a prefix. A single word is a repository of its own, `docker.io/library/goals`,
/// and what others begin with, `docker.io/goals/...`.
fn keys_of(prefix: &str, own: &OwnNames) -> Result<Vec<String>, String> {
    if prefix == "*" {
        return Ok(vec![String::new()]);
    }
    let invalid =
        |_| "that is no repository, nor the beginning of one; \"*\" is for all".to_owned();
    let name = prefix.strip_suffix('/').unwrap_or(prefix);
    let below = own.from_name(&format!("{name}/a")).map_err(invalid)?;
    if below.is_internal() {
        return Err("it is this site's own, and used by its services only".to_owned());
    }
    let (parent, _) = below.as_str().rsplit_once('/').expect("a key has a host");
    let last = name.rsplit('/').next();
    if parent.ends_with("/library") && last != Some("library") {
        // A host by itself, whose single words have `library` put before them.
        return Ok(vec![DEFAULT_HOST.to_owned()]);
    }
    let mut keys = vec![parent.to_owned()];
    if parent.contains('/') {
        keys.push(own.from_name(name).map_err(invalid)?.as_str().to_owned());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::INTERNAL_HOST;

    fn own() -> OwnNames {
        OwnNames::new(&["127.0.0.1:5000".parse().unwrap()], &["reg.site".into()])
    }

    fn policy(text: &str) -> Result<Policy, String> {
        #[derive(Deserialize)]
        struct File {
            access: Vec<AccessRule>,
        }
        let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
        Policy::new(&file.access, &own()).map_err(|e| e.to_string())
    }

    fn rule(prefix: &str, who: &str, may: &str) -> String {
        format!("[[access]]\nprefix = \"{prefix}\"\nwho = [{who}]\nmay = [{may}]\n")
    }

    fn user(name: &str) -> Caller {
        Caller::User(name.to_owned())
    }

    #[test]
    fn prefixes_are_whole_components_of_the_one_key() {
        for (prefix, below, beside) in [
            (
                "team",
                &["team/app", "team/a/b", "docker.io/team/app", "team"][..],
                &["teams/app", "other/team", "ghcr.io/team/app"][..],
            ),
            ("team/", &["team/app"], &["teams/app"]),
            (
                "team/app",
                &["team/app", "reg.site/team/app", "team/app/part"],
                &["team/apple", "team"],
            ),
            (
                "goals",
                &["goals", "library/goals", "docker.io/goals", "goals/x"],
                &["goal", "library/goalss"],
            ),
            ("library", &["goals", "library/goals"], &["team/app"]),
            ("docker.io", &["goals", "team/app"], &["ghcr.io/org/app"]),
            ("docker.io/library", &["goals"], &["team/app"]),
            ("reg.site", &["goals", "team/app"], &["ghcr.io/org/app"]),
            ("reg.site/team", &["team/app"], &["goals"]),
            (
                "ghcr.io",
                &["ghcr.io/org/app"],
                &["ghcr.io.evil/org/app", "team/app"],
            ),
            (
                "GHCR.io/org",
                &["ghcr.io/org/app", "ghcr.io/org"],
                &["ghcr.io/organ/app"],
            ),
            ("index.docker.io/team", &["team/app"], &["goals"]),
            ("localhost:5000/team", &["team/app"], &["goals"]),
            ("*", &["goals", "team/app", "ghcr.io/org/app"], &[]),
        ] {
            let policy = policy(&rule(prefix, "\"anonymous\"", "\"pull\"")).unwrap();
            for (names, allowed) in [(below, true), (beside, false)] {
                for name in names {
                    let repository = own().from_http(name, None).unwrap();
                    let got = policy.allows(&Caller::Anonymous, &repository, Action::Pull);
                    assert_eq!(got, allowed, "{prefix}: {name}");
                }
            }
        }
    }

    #[test]
    fn the_longest_prefix_holds_alone() {
        let text = [
            rule("*", "\"alice\"", "\"pull\", \"push\", \"delete\""),
            rule("team", "\"*\"", "\"pull\""),
            rule("team", "\"bob\"", "\"push\""),
            rule("team/secret", "\"cert:CN=ci\"", "\"pull\""),
            rule("team/public", "\"anonymous\"", "\"pull\""),
        ]
        .concat();
        let policy = policy(&text).unwrap();
        let ci = Caller::Certificate("ci".to_owned());
        use Action::{Delete, Pull, Push};
        for (caller, name, expected) in [
            (user("alice"), "other", vec![Pull, Push, Delete]),
            (user("alice"), "team/app", vec![Pull]),
            (user("bob"), "team/app", vec![Pull, Push]),
            (user("bob"), "other", vec![]),
            (user("alice"), "team/secret", vec![]),
            (user("ci"), "team/secret", vec![]),
            (ci.clone(), "team/secret", vec![Pull]),
            (ci, "team/app", vec![Pull]),
            (Caller::Anonymous, "team/app", vec![]),
            (Caller::Anonymous, "team/public", vec![Pull]),
            (user("bob"), "team/public", vec![Pull]),
        ] {
            let repository = own().from_http(name, None).unwrap();
            assert_eq!(
                policy.allowed(&caller, &repository),
                expected,
                "{caller:?} {name}"
            );
        }
    }

    #[test]
    fn nobody_is_let_at_the_sites_own() {
        let policy = policy(&rule("*", "\"anonymous\"", "\"pull\"")).unwrap();
        let repository = Repository::new(INTERNAL_HOST, "build-cache").unwrap();
        assert!(!policy.allows(&Caller::Anonymous, &repository, Action::Pull));
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        for (text, said) in [
            (rule("a//b", "\"x\"", ""), "no repository"),
            (rule("", "\"x\"", ""), "\"*\" is for all"),
            (rule("team*", "\"x\"", ""), "no repository"),
            (rule("slipway.internal", "\"x\"", ""), "this site's own"),
            (rule("a", "", "\"pull\""), "names nobody"),
            (rule("a", "\"cert:ci\"", ""), "cert:CN=<name>"),
            (rule("a", "\"group:x\"", ""), "neither a user"),
            (rule("a", "\"\"", ""), "neither a user"),
            (rule("a", "\"x\"", "\"admin\""), "admin"),
            (rule("a", "\"x\"", "") + "colour = 1\n", "colour"),
            (
                "[[access]]\nprefix = \"a\"\nwho = [\"x\"]\n".to_owned(),
                "may",
            ),
        ] {
            let error = policy(&text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
