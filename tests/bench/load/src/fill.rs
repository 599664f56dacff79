//! `fill`: a large catalog, each repository `bench/00042` with a manifest of its own, and tags of that; `empty`
//! takes the manifests away again, with their tags and what only they named. Both print the seconds that it took.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use slipway_image::Digest;

use crate::{
    Args, Result,
    connection::{Answer, Ask},
    engine::{self, Script},
    push::{Tagger, blobs, manifest},
};

/// Does one repository after the other, those that nobody else has begun.
struct Filler<F> {
    next: Arc<AtomicU64>,
    repositories: u64,
    /// What is to be asked about one, the last first.
    asks: F,
    left: Vec<Ask>,
}

impl<F: FnMut(u64) -> Result<Vec<Ask>>> Script for Filler<F> {
    fn next(&mut self, answer: Option<Answer>) -> Result<Option<Ask>> {
        if let Some(answer) = answer.filter(|a| !matches!(a.status, 201 | 202)) {
            return Err(format!("a repository was answered {}", answer.status).into());
        }
        if self.left.is_empty() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.repositories {
                return Ok(None);
            }
            self.left = (self.asks)(number)?;
        }
        Ok(self.left.pop())
    }
}

fn all(args: &Args, asks: impl FnMut(u64) -> Result<Vec<Ask>> + Clone) -> Result<()> {
    let next = Arc::<AtomicU64>::default();
    let repositories = args.number("repositories", None)?;
    let filler = |_| Filler {
        next: Arc::clone(&next),
        repositories,
        asks: asks.clone(),
        left: Vec::new(),
    };
    let mut fillers: Vec<_> = (0..args.connections()?).map(filler).collect();
    let begun = Instant::now();
    engine::run(args.address, &mut fillers)?;
    println!("{:.6}", begun.elapsed().as_secs_f64());
    Ok(())
}

/// What makes a repository, the last first.
fn repository(number: u64, tags: u64) -> Result<Vec<Ask>> {
    let name = format!("bench/{number:05}");
    let blobs = blobs(number, 1, 64);
    let manifest = manifest(&blobs);
    let mut tagger = Tagger {
        repository: &name,
        tags: (0..tags).map(|tag| format!("v{tag}")).collect(),
        manifest: &manifest,
    };
    let mut asks = Vec::new();
    while let Some(ask) = tagger.next(None)? {
        asks.push(ask);
    }
    // In one request (distribution-spec, "Pushing a blob monolithically"): not what is measured.
    let target = format!("/v2/{name}/blobs/uploads/?digest={}", blobs[0].1);
    let headers = "Content-Type: application/octet-stream\r\n";
    asks.push(Ask::new("POST", &target, headers, Some(blobs[0].0.clone())));
    Ok(asks)
}

pub fn run(args: &Args) -> Result<()> {
    let tags = args.number("tags", None)?;
    all(args, |number| repository(number, tags))
}

pub fn empty(args: &Args) -> Result<()> {
    all(args, |number| {
        let digest = Digest::of(manifest(&blobs(number, 1, 64)));
        let target = format!("/v2/bench/{number:05}/manifests/{digest}");
        Ok(vec![Ask::new("DELETE", &target, "", None)])
    })
}
