//! `list`: all pages of the catalog, one after the other. Prints the seconds that they took, those of the slowest
//! one, and how many repositories there are.

use std::time::Instant;

use crate::{
    Args, Result,
    connection::{Answer, Ask},
    engine::{self, Script},
};

struct Lister {
    next: Option<String>,
    slowest: u64,
    count: usize,
}

impl Script for Lister {
    fn next(&mut self, answer: Option<Answer>) -> Result<Option<Ask>> {
        if let Some(answer) = answer {
            if answer.status != 200 {
                return Err(format!("a page was answered {}", answer.status).into());
            }
            let page: serde_json::Value = serde_json::from_slice(&answer.body)?;
            self.count += page["repositories"].as_array().map_or(0, Vec::len);
            self.slowest = self.slowest.max(answer.took);
            // `</v2/_catalog?...>; rel="next"` (RFC 8288)
            let next = answer
                .link
                .as_deref()
                .and_then(|link| link.split('>').next());
            self.next = next.map(|next| next.trim_start_matches('<').to_owned());
        }
        let path = self.next.take();
        Ok(path.map(|path| Ask::for_body(&path, "")))
    }
}

pub fn run(args: &Args) -> Result<()> {
    let path = format!("/v2/_catalog?n={}", args.number("page", Some(1000))?);
    let mut lister = [Lister {
        next: Some(path),
        slowest: 0,
        count: 0,
    }];
    let begun = Instant::now();
    engine::run(args.address, &mut lister)?;
    let [lister] = lister;
    let (elapsed, slowest) = (begun.elapsed().as_secs_f64(), lister.slowest as f64 / 1e6);
    println!("{elapsed:.6}\t{slowest:.6}\t{}", lister.count);
    Ok(())
}
