//! `push`: made-up blobs, each as docker and skopeo send one (POST, PATCH, PUT), then a manifest `latest` that names
//! them. Prints the seconds that the blobs took, and those of the manifest; then a path a blob.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use serde_json::json;
use slipway_image::Digest;

use crate::{
    Args, Result,
    connection::{Answer, Ask},
    content::Content,
    engine::{self, Script},
};

/// Media type of the manifests.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Sends one blob after the other, those that nobody else has begun.
pub struct Pusher<'a> {
    repository: &'a str,
    blobs: &'a [(Content, Digest)],
    next: Arc<AtomicUsize>,
    at: usize,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Post,
    Patch,
    Put,
}

impl<'a> Pusher<'a> {
    /// So many that share the blobs.
    pub fn crew(count: usize, repository: &'a str, blobs: &'a [(Content, Digest)]) -> Vec<Self> {
        let next = Arc::<AtomicUsize>::default();
        let one = |_| Self {
            repository,
            blobs,
            next: Arc::clone(&next),
            at: 0,
            step: Step::Put,
        };
        (0..count.min(blobs.len())).map(one).collect()
    }
}

impl Script for Pusher<'_> {
    fn next(&mut self, answer: Option<Answer>) -> Result<Option<Ask>> {
        let location = match answer {
            None => None,
            Some(answer) if matches!(answer.status, 201 | 202) => answer.location,
            Some(answer) => return Err(format!("an upload was answered {}", answer.status).into()),
        };
        let to = || location.as_deref().ok_or("an upload without a location");
        let ask = match self.step {
            Step::Put => {
                self.at = self.next.fetch_add(1, Ordering::Relaxed);
                if self.at >= self.blobs.len() {
                    return Ok(None);
                }
                self.step = Step::Post;
                let path = format!("/v2/{}/blobs/uploads/", self.repository);
                Ask::new("POST", &path, "", None)
            }
            Step::Post => {
                self.step = Step::Patch;
                let headers = "Content-Type: application/octet-stream\r\n";
                let content = self.blobs[self.at].0.clone();
                Ask::new("PATCH", to()?, headers, Some(content))
            }
            Step::Patch => {
                self.step = Step::Put;
                let (location, digest) = (to()?, &self.blobs[self.at].1);
                let separator = if location.contains('?') { '&' } else { '?' };
                let target = format!("{location}{separator}digest={digest}");
                Ask::new("PUT", &target, "", None)
            }
        };
        Ok(Some(ask))
    }
}

/// A manifest, put and answered.
pub struct Tagger<'a> {
    /// Where.
    pub repository: &'a str,
    /// As what.
    pub tags: Vec<String>,
    /// Its bytes.
    pub manifest: &'a [u8],
}

impl Script for Tagger<'_> {
    fn next(&mut self, answer: Option<Answer>) -> Result<Option<Ask>> {
        if let Some(answer) = answer.filter(|answer| answer.status != 201) {
            return Err(format!("a manifest was answered {}", answer.status).into());
        }
        let Some(tag) = self.tags.pop() else {
            return Ok(None);
        };
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        let headers = format!("Content-Type: {MANIFEST}\r\n");
        Ok(Some(Ask::with("PUT", &path, &headers, self.manifest)))
    }
}

/// A manifest of these blobs; the first one is its config.
pub fn manifest(blobs: &[(Content, Digest)]) -> Vec<u8> {
    let descriptor = |media_type: &str, (content, digest): &(Content, Digest)| json!({ "mediaType": media_type, "digest": digest.to_string(), "size": content.size() });
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<_> = blobs.iter().map(|blob| descriptor(layer, blob)).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &blobs[0]),
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// Blobs of a seed, and their names.
pub fn blobs(seed: u64, count: u64, size: u64) -> Vec<(Content, Digest)> {
    let one = |number| {
        let content = Content::new(seed, number, size);
        let digest = content.digest();
        (content, digest)
    };
    (0..count).map(one).collect()
}

pub fn run(args: &Args) -> Result<()> {
    let repository = args.word("a repository")?;
    let number = |name| args.number(name, None);
    let blobs = blobs(number("seed")?, number("count")?, number("size")?);
    let mut crew = Pusher::crew(args.connections()?, repository, &blobs);
    let begun = Instant::now();
    engine::run(args.address, &mut crew)?;
    let sent = begun.elapsed();
    let tagger = Tagger {
        repository,
        tags: vec!["latest".to_owned()],
        manifest: &manifest(&blobs),
    };
    let begun = Instant::now();
    engine::run(args.address, &mut [tagger])?;
    println!(
        "{:.6}\t{:.6}",
        sent.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    for (_, digest) in &blobs {
        println!("/v2/{repository}/blobs/{digest}");
    }
    Ok(())
}
