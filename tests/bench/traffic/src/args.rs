//! What is said behind the verb.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::Result;

pub struct Args {
    words: Vec<String>,
    options: HashMap<String, String>,
}

impl Args {
    /// None where an option has no value.
    pub fn parse(mut all: impl Iterator<Item = String>) -> Option<Self> {
        let (mut words, mut options) = (Vec::new(), HashMap::new());
        while let Some(word) = all.next() {
            match word.strip_prefix("--") {
                Some(name) => {
                    options.insert(name.to_owned(), all.next()?);
                }
                None => words.push(word),
            }
        }
        Some(Self { words, options })
    }

    pub fn words(&self) -> &[String] {
        &self.words
    }

    pub fn word(&self, what: &str) -> Result<&str> {
        let word = self.words.first();
        Ok(word.ok_or_else(|| format!("{what} is missing"))?)
    }

    /// Whom to send to.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.word("an address")?.parse()?)
    }

    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    pub fn text(&self, name: &str) -> Result<&str> {
        Ok(self
            .option(name)
            .ok_or_else(|| format!("--{name} is missing"))?)
    }

    pub fn number(&self, name: &str) -> Result<u32> {
        Ok(self.text(name)?.parse()?)
    }

    pub fn seconds(&self) -> Result<Duration> {
        Ok(Duration::try_from_secs_f64(self.text("seconds")?.parse()?)?)
    }
}
