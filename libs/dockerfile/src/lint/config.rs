//! `# check=skip=A,B;error=true;experimental=all`.

use std::collections::BTreeSet;

use super::Rule;

/// Which rules count, and what a finding means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    skip: Names,
    experimental: Names,
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

    /// Whether a rule counts.
    pub fn counts(&self, rule: &Rule) -> bool {
        if rule.experimental {
            return self.experimental.holds(rule.name);
        }
        !self.skip.holds(rule.name)
    }
}
