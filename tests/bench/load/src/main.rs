//! Load on a registry, from one thread, so that the registry has the other processors: see the README of the
//! benchmarks. Prints what it measured on stdout, tab-separated.
//!
//! `get` asks for the same paths again and again, `push` sends an image of made-up blobs, `pull` gets an image as a
//! client that has nothing of it does, `fill` makes a large catalog, `list` reads it, `empty` takes it away, and
//! `serve` is what a server can do at best here: it answers everything with one file, by sendfile(2).

#![forbid(unsafe_code)]

mod connection;
mod content;
mod engine;
mod fill;
mod get;
mod list;
mod pull;
mod push;
mod serve;

use std::{collections::HashMap, net::SocketAddr, process::ExitCode};

/// Anything that went wrong, in a sentence.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str =
    "usage: slipway-load get ADDRESS --seconds N [--connections N] [--accept TYPE] PATH...
       slipway-load push ADDRESS REPOSITORY --count N --size BYTES --seed N [--connections N]
       slipway-load pull ADDRESS REPOSITORY [--connections N]
       slipway-load fill ADDRESS --repositories N --tags N [--connections N]
       slipway-load empty ADDRESS --repositories N [--connections N]
       slipway-load list ADDRESS [--page N]
       slipway-load serve ADDRESS FILE";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(verb), Some(args)) = (words.next(), Args::parse(words)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let done = match &*verb {
        "get" => get::run(&args),
        "push" => push::run(&args),
        "pull" => pull::run(&args),
        "fill" => fill::run(&args),
        "empty" => fill::empty(&args),
        "list" => list::run(&args),
        "serve" => serve::run(&args),
        _ => Err(format!("{verb} is unknown\n{USAGE}").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slipway-load {verb}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What was said behind the verb.
struct Args {
    address: SocketAddr,
    words: Vec<String>,
    options: HashMap<String, String>,
}

impl Args {
    fn parse(mut all: impl Iterator<Item = String>) -> Option<Self> {
        let address = all.next()?.parse().ok()?;
        let (mut words, mut options) = (Vec::new(), HashMap::new());
        while let Some(word) = all.next() {
            match word.strip_prefix("--") {
                Some(name) => {
                    options.insert(name.to_owned(), all.next()?);
                }
                None => words.push(word),
            }
        }
        Some(Self {
            address,
            words,
            options,
        })
    }

    fn word(&self, what: &str) -> Result<&str> {
        let word = self.words.first();
        Ok(word.ok_or_else(|| format!("{what} is missing"))?)
    }

    fn number(&self, name: &str, default: Option<u64>) -> Result<u64> {
        match (self.options.get(name), default) {
            (Some(text), _) => Ok(text.parse()?),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(format!("--{name} is missing").into()),
        }
    }

    /// As many as the issue of this benchmark has it, unless something else is said.
    fn connections(&self) -> Result<usize> {
        Ok(self.number("connections", Some(16))? as usize)
    }
}
