//! The flags of an instruction: `COPY --from=build`.

use super::expand::{expand, words};

/// The `--name[=value]` words in front of an instruction's arguments, as they were written.
pub struct Flags {
    flags: Vec<(String, Option<String>)>,
    escape: char,
}

impl Flags {
    pub fn take(mut rest: &str, escape: char) -> Result<(Self, &str), String> {
        let mut found = Vec::new();
        while let Some(flag) = rest.strip_prefix("--") {
            let word = words(rest, escape).into_iter().next().unwrap_or_default();
            rest = rest[word.len()..].trim_start();
            if flag.is_empty() || word == "--" {
                break;
            }
            found.push(match word[2..].split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word[2..].to_owned(), None),
            });
        }
        let flags = Self {
            flags: found,
            escape,
        };
        Ok((flags, rest))
    }

    /// A value that is used as it stands: quotes are taken away.
    pub fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        let raw = self.raw(name)?;
        raw.map(|text| expand(&text, self.escape, &|_| None))
            .transpose()
            .map_err(|e| format!("bad flag --{name}: {e}"))
    }

    /// A value whose variables are expanded where it is used.
    pub fn raw(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(at) = self.flags.iter().position(|(n, _)| n == name) else {
            return Ok(None);
        };
        match self.flags.remove(at) {
            (_, Some(value)) => Ok(Some(value)),
            (_, None) => Err(format!("missing a value on flag: {name}")),
        }
    }

    pub fn switch(&mut self, name: &str) -> Result<bool, String> {
        let Some(at) = self.flags.iter().position(|(n, _)| n == name) else {
            return Ok(false);
        };
        match self.flags.remove(at).1.as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("invalid value for flag {name}: {other:?}")),
        }
    }

    /// A switch that need not be given.
    pub fn optional_switch(&mut self, name: &str) -> Result<Option<bool>, String> {
        let given = self.flags.iter().any(|(n, _)| n == name);
        Ok(if given {
            Some(self.switch(name)?)
        } else {
            None
        })
    }

    pub fn refuse(&self, instruction: &str, names: &[&str]) -> Result<(), String> {
        match self.flags.iter().find(|(n, _)| names.contains(&n.as_str())) {
            Some((name, _)) => Err(format!("{instruction} --{name} is not supported yet")),
            None => Ok(()),
        }
    }

    pub fn nothing_left(&self, instruction: &str) -> Result<(), String> {
        match self.flags.first() {
            Some((name, _)) => Err(format!("unknown flag: {instruction} has no --{name}")),
            None => Ok(()),
        }
    }
}
