//! `get`: the same paths again and again. Prints answers a second, bytes a second, and the median and 99th
//! percentile of what one took, microseconds.

use std::time::{Duration, Instant};

use crate::{
    Args, Result,
    connection::{Answer, Ask},
    engine::{self, Script},
};

struct Getter<'a> {
    paths: &'a [String],
    turn: usize,
    headers: &'a str,
    until: Instant,
    took: Vec<u64>,
    bytes: u64,
}

impl Script for Getter<'_> {
    fn next(&mut self, answer: Option<Answer>) -> Result<Option<Ask>> {
        if let Some(answer) = answer {
            if answer.status != 200 {
                return Err(format!("{} from {}", answer.status, self.paths[self.turn]).into());
            }
            self.took.push(answer.took);
            self.bytes += answer.size;
            if Instant::now() >= self.until {
                return Ok(None);
            }
            self.turn = (self.turn + 1) % self.paths.len();
        }
        let path = &self.paths[self.turn];
        Ok(Some(Ask::new("GET", path, self.headers, None)))
    }
}

pub fn run(args: &Args) -> Result<()> {
    args.word("a path")?;
    let accept = args.options.get("accept");
    let headers = accept.map_or_else(String::new, |a| format!("Accept: {a}\r\n"));
    let (begun, seconds) = (Instant::now(), args.number("seconds", None)?);
    let mut getters: Vec<_> = (0..args.connections()?)
        .map(|number| Getter {
            paths: &args.words,
            turn: number % args.words.len(),
            headers: &headers,
            until: begun + Duration::from_secs(seconds),
            took: Vec::new(),
            bytes: 0,
        })
        .collect();
    engine::run(args.address, &mut getters)?;
    let elapsed = begun.elapsed().as_secs_f64();
    let bytes: u64 = getters.iter().map(|g| g.bytes).sum();
    let mut took: Vec<u64> = getters.into_iter().flat_map(|g| g.took).collect();
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    let rate = took.len() as f64 / elapsed;
    println!(
        "{rate:.1}\t{:.0}\t{}\t{}",
        bytes as f64 / elapsed,
        at(50),
        at(99)
    );
    Ok(())
}
