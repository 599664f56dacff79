//! `--filter` of docker's image commands.

use super::list::Listed;
use crate::{
    config::parse_duration,
    error::{Error, Result},
    registry::now,
};

/// Parsed filters: keys must all hold, values of a key are alternatives.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    dangling: Option<bool>,
    labels: Vec<(String, Option<String>)>,
    without_labels: Vec<(String, Option<String>)>,
    references: Vec<String>,
    name: Option<String>,
    /// Unix milliseconds.
    until: Option<u64>,
    /// Image names or ids: only older ones.
    pub before: Vec<String>,
    /// Image names or ids: only newer ones.
    pub since: Vec<String>,
}

impl Filters {
    /// Parses keys and values; an unknown key is refused.
    pub fn parse<'a>(
        filters: impl IntoIterator<Item = (&'a str, &'a [String])>,
        allowed: &[&str],
    ) -> Result<Self> {
        let mut parsed = Self::default();
        for (key, values) in filters {
            if !allowed.contains(&key) {
                return Err(Error::InvalidArgument(format!("invalid filter {key:?}")));
            }
            for value in values {
                parsed.add(key, value)?;
            }
        }
        Ok(parsed)
    }

    fn add(&mut self, key: &str, value: &str) -> Result<()> {
        let invalid = || Error::InvalidArgument(format!("invalid filter '{key}={value}'"));
        let label = || match value.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (value.to_owned(), None),
        };
        match key {
            "dangling" => {
                self.dangling = Some(match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(invalid()),
                });
            }
            "label" => self.labels.push(label()),
            "label!" => self.without_labels.push(label()),
            "reference" => {
                for part in value.split('/') {
                    let bad = |_| slipway_pattern::BadPattern(value.to_owned());
                    slipway_pattern::check(part)
                        .map_err(bad)
                        .map_err(|e| Error::InvalidArgument(e.to_string()))?;
                }
                self.references.push(value.to_owned());
            }
            "before" => self.before.push(value.to_owned()),
            "since" => self.since.push(value.to_owned()),
            "until" => self.until = Some(point_in_time(value).ok_or_else(invalid)?),
            _ => return Err(invalid()),
        }
        Ok(())
    }

    /// Only images of this name: `docker images NAME[:TAG]`. Both it and `reference=` must hold.
    pub fn set_reference(&mut self, name: String) {
        self.name = Some(name);
    }

    /// What `dangling=` says.
    pub fn dangling(&self) -> Option<bool> {
        self.dangling
    }

    /// The same without `dangling`, for those who have looked at it themselves.
    pub fn without_dangling(&self) -> Self {
        Self {
            dangling: None,
            ..self.clone()
        }
    }

    /// Whether an image passes; `reference` also takes away the names that do not match.
    pub fn apply(&self, listed: &mut Listed) -> bool {
        // As docker: a name by digest alone is none for `true`, and one for `false`.
        let dangling = match self.dangling {
            Some(true) => listed.tags.is_empty(),
            Some(false) => !listed.is_dangling(),
            None => true,
        };
        if !dangling {
            return false;
        }
        let labels = listed.image.labels();
        let has = |(name, value): &(String, Option<String>)| match (labels.get(name), value) {
            (Some(_), None) => true,
            (Some(have), Some(want)) => have == want,
            (None, _) => false,
        };
        if !self.labels.iter().all(has) || self.without_labels.iter().any(has) {
            return false;
        }
        let created = listed.image.created().map_or(0, |t| t.as_millisecond());
        if self
            .until
            .is_some_and(|until| created >= i64::try_from(until).unwrap_or(i64::MAX))
        {
            return false;
        }
        let name = self.name.as_slice();
        [&self.references[..], name]
            .into_iter()
            .filter(|patterns| !patterns.is_empty())
            .all(|patterns| keep_names(patterns, listed))
    }
}

/// Takes away the names that match none of the patterns; false when none is left.
fn keep_names(patterns: &[String], listed: &mut Listed) -> bool {
    listed.tags.retain(|(repository, tag, _, _)| {
        let names = [repository.familiar(), repository.as_str()];
        patterns.iter().any(|pattern| {
            names
                .iter()
                .any(|name| matches(pattern, &format!("{name}:{tag}")) || matches(pattern, name))
        })
    });
    listed.digests.retain(|(repository, _)| {
        listed.tags.iter().any(|(r, ..)| r == repository)
            || patterns
                .iter()
                .any(|p| matches(p, repository.familiar()) || matches(p, repository.as_str()))
    });
    !listed.is_dangling()
}

/// A timestamp, Unix seconds, or how long ago.
fn point_in_time(text: &str) -> Option<u64> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return u64::try_from(at.as_millisecond()).ok();
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(seconds * 1000);
    }
    // Go's durations may have several parts: 1h30m.
    let mut total = 0;
    let mut part = String::new();
    for c in text.chars() {
        part.push(c);
        if c.is_ascii_alphabetic() {
            total += parse_duration(&part)?.as_millis() as u64;
            part.clear();
        }
    }
    (part.is_empty() && total > 0).then(|| now().saturating_sub(total))
}

/// Go's `path.Match`: no wildcard reaches over a `/`.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (mut patterns, mut parts) = (pattern.split('/'), text.split('/'));
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if slipway_pattern::matches(pattern, part) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_gos_path_match() {
        for (pattern, text, expected) in [
            ("goals", "goals", true),
            ("goals:*", "goals:latest", true),
            ("*", "goals", true),
            ("*", "team/app", false),
            ("*/*", "team/app", true),
            ("g?als", "goals", true),
            ("go", "goals", false),
            ("[a-h]oals", "goals", true),
            ("[^a-h]oals", "goals", false),
            ("team/[ab]pp:v?", "team/app:v1", true),
            ("team?app", "team/app", false),
            ("[a-h", "goals", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn filters_that_are_none_are_refused() {
        let values = ["maybe".to_owned()];
        assert!(Filters::parse([("dangling", &values[..])], &["dangling"]).is_err());
        assert!(Filters::parse([("colour", &values[..])], &["dangling"]).is_err());
        for bad in ["[a-h", "team/[", "app\\", "[]a]"] {
            let error = Filters::parse([("reference", &[bad.to_owned()][..])], &["reference"]);
            let said = error.unwrap_err().to_string();
            assert_eq!(said, format!("syntax error in pattern {bad:?}"));
        }
        assert!(point_in_time("1h30m").is_some());
        assert!(point_in_time("soon").is_none());
    }
}
