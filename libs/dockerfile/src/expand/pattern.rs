//! The patterns of `${X#...}`, `${X%...}` and `${X/.../...}`: `*`, `?`, and `\` in front of what is
//! to stand for itself; no brackets.

use super::{MAX_EXPANDED, limited};

/// Most steps (characters of patterns times characters of values) for one word.
pub const MAX_WORK: usize = 16 << 20;
/// Longest pattern.
const MAX_PATTERN: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Literal(char),
}

/// A parsed pattern.
#[derive(Debug)]
pub struct Pattern(Vec<Part>);

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => match chars.next() {
                    // `}` and `/` would have ended it.
                    Some(next @ ('}' | '/' | '*' | '?' | '\\')) => Part::Literal(next),
                    other => {
                        let other = other.map_or(String::new(), String::from);
                        return Err(format!(
                            "invalid pattern ({text}) in substitution: invalid escape '\\{other}'"
                        ));
                    }
                },
                c => Part::Literal(c),
            });
            if parts.len() > MAX_PATTERN {
                return Err("the pattern of a substitution is too long".to_owned());
            }
        }
        // Several stars in a row mean one.
        parts.dedup_by(|a, b| *a == Part::Any && *b == Part::Any);
        Ok(Self(parts))
    }

    pub const fn cost(&self, value: &str) -> usize {
        (self.0.len() + 1) * value.len()
    }

    fn compile(parts: &[Part], longest: bool, anchored: bool) -> Result<regex::Regex, String> {
        let mut out = String::from(if anchored { "^" } else { "" });
        for part in parts {
            match part {
                Part::Any if longest => out.push_str(".*"),
                Part::Any => out.push_str(".*?"),
                Part::One => out.push('.'),
                Part::Literal(c) => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        regex::RegexBuilder::new(&out)
            .size_limit(1 << 20)
            .build()
            .map_err(|_| "the pattern of a substitution is too long".to_owned())
    }

    pub fn strip_prefix(&self, value: &str, longest: bool) -> Result<String, String> {
        let found = Self::compile(&self.0, longest, true)?;
        let end = found.find(value).map_or(0, |m| m.end());
        Ok(value[end..].to_owned())
    }

    /// No regular expression finds the shortest match at the end: all is turned round.
    pub fn strip_suffix(&self, value: &str, longest: bool) -> Result<String, String> {
        let turned: Vec<Part> = self.0.iter().rev().copied().collect();
        let backwards: String = value.chars().rev().collect();
        let rest = Self(turned).strip_prefix(&backwards, longest)?;
        Ok(rest.chars().rev().collect())
    }

    pub fn replace(&self, value: &str, with: &str, all: bool) -> Result<String, String> {
        let found = Self::compile(&self.0, true, false)?;
        let hits = if all {
            found.find_iter(value).take(MAX_EXPANDED).count()
        } else {
            1
        };
        limited(value.len() + hits.saturating_mul(with.len()))?;
        let limit = usize::from(!all);
        Ok(found
            .replacen(value, limit, regex::NoExpand(with))
            .into_owned())
    }
}
