//! `# check=skip=A,B;error=true;experimental=all`, for the file or right above an instruction.

use std::collections::{BTreeMap, BTreeSet};

use super::Rule;
use crate::{Dockerfile, Place};

/// Which rules count, and what a finding means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    skip: Names,
    experimental: Names,
    /// What comments say of the instruction that begins at a line, besides.
    above: BTreeMap<u32, Config>,
    /// A finding ends the build.
    pub error: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    names: BTreeSet<String>,
}

impl Names {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self {
                all: true,
                names: BTreeSet::new(),
            },
            list => Self {
                all: false,
                names: list.split(',').map(|n| n.trim().to_owned()).collect(),
            },
        }
    }

    fn join(&mut self, other: Self) {
        self.all |= other.all;
        self.names.extend(other.names);
    }

    fn holds(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }
}

impl Config {
    /// Reads the directive's value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut out = Self::default();
        if text.trim().is_empty() {
            return Ok(out);
        }
        for part in text.split(';') {
            let fail = |what: &str| {
                format!(
                    "failed to parse check options: invalid check option {what:?}: write skip=RULE,..., error=true or experimental=RULE,..."
                )
            };
            let (key, value) = part.split_once('=').ok_or_else(|| fail(part))?;
            match key.trim() {
                "skip" => out.skip = Names::parse(value),
                "experimental" => out.experimental = Names::parse(value),
                // Go's strconv.ParseBool.
                "error" => {
                    out.error = match value.trim() {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                        _ => return Err(fail(part)),
                    }
                }
                key => return Err(fail(key)),
            }
        }
        Ok(out)
    }

    /// The same with what comments right above instructions skip or turn on for these (moby/buildkit#6334).
    pub fn with_comments(mut self, file: &Dockerfile) -> Self {
        let stages = file.stages.iter();
        let froms = stages.clone().map(|s| (s.place, &s.around));
        let inside = file
            .arguments
            .iter()
            .chain(stages.flat_map(|s| &s.instructions));
        for (place, around) in inside.map(|l| (l.place, &l.around)).chain(froms) {
            for text in &around.checks {
                // That of the file is not the first instruction's, and what is none is a comment.
                let of_file = file.check.as_ref().is_some_and(|(check, _)| check == text);
                if let (false, Ok(own)) = (of_file, Self::parse(text)) {
                    let above = self.above.entry(place.first).or_default();
                    above.skip.join(own.skip);
                    above.experimental.join(own.experimental);
                }
            }
        }
        self
    }

    /// Whether a rule counts for the instruction at a place.
    pub fn counts(&self, rule: &Rule, place: Place) -> bool {
        let mut here = std::iter::once(self).chain(self.above.get(&place.first));
        match rule.experimental {
            true => here.any(|c| c.experimental.holds(rule.name)),
            false => !here.any(|c| c.skip.holds(rule.name)),
        }
    }
}

/// The value of a comment `check=...`.
pub fn directive(comment: &str) -> Option<&str> {
    let (key, value) = comment.split_once('=')?;
    key.trim_end()
        .eq_ignore_ascii_case("check")
        .then(|| value.trim())
}
