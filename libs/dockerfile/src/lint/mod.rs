//! What is allowed in a Dockerfile and yet not advisable: BuildKit's rules, under its names and in its
//! words (`frontend/dockerfile/linter`, `dockerfile2llb/validations.go`).
//!
//! * [`config`]: which rules count (`# check=`);
//! * [`rules`]: their names and texts;
//! * [`file`](mod@file): what the text of the file alone tells;
//! * [`froms`]: FROM and the arguments in front of it;
//! * [`stage`]: a stage's instructions, with their variables.

pub mod config;
pub mod file;
pub mod froms;
pub mod rules;
pub mod stage;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use rules::Rule;

use crate::Place;

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Which rule.
    pub rule: &'static Rule,
    /// A sentence.
    pub message: String,
    /// Where.
    pub place: Place,
}

/// Findings, those that the configuration leaves.
#[derive(Debug, Default)]
pub struct Findings {
    config: Config,
    found: Vec<Warning>,
}

impl Findings {
    /// Nothing yet.
    pub const fn new(config: Config) -> Self {
        Self {
            config,
            found: Vec::new(),
        }
    }

    /// Notes one, if its rule counts.
    pub fn report(&mut self, rule: &'static Rule, place: Place, message: String) {
        if self.config.counts(rule, place) {
            self.found.push(Warning {
                rule,
                message,
                place,
            });
        }
    }

    /// All so far; there are none afterwards.
    pub fn take(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.found)
    }
}

/// The sentence that ends a build with `error=true`.
pub fn violation(found: &[Warning]) -> String {
    let mut names: Vec<&str> = found.iter().map(|w| w.rule.name).collect();
    names.sort_unstable();
    names.dedup();
    format!("lint violation found for rules: {}", names.join(", "))
}
