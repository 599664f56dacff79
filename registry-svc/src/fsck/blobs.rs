//! Every blob is read and hashed; what is broken is moved aside, and fetched again where it came from an upstream.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use slipway_image::Digest;

use super::{
    check::{Check, CheckEvent, Finding, Kind},
    patience::Patience,
};
use crate::{
    blobs::{Range, quarantine::is_damage, staging::blocking},
    error::{Error, Result},
    registry::Registry,
};

/// What a blob is.
enum Verdict {
    Whole,
    /// It was deleted meanwhile.
    Gone,
    Broken(String),
    /// What there is of it, nobody knows now.
    Unreadable(String),
}

/// Lets only so many bytes a second be read.
struct Pace {
    rate: u64,
    began: Instant,
    read: u64,
}

impl Pace {
    async fn read(&mut self, bytes: usize) {
        self.read += bytes as u64;
        let due = Duration::from_secs_f64(self.read as f64 / self.rate.max(1) as f64);
        tokio::time::sleep_until((self.began + due).into()).await;
    }
}

impl Check<'_> {
    /// All blobs that are still to be looked at.
    pub async fn blobs(&mut self) -> Result<()> {
        let listed = self.registry.blobs.list().await?;
        let mut left: Vec<(Digest, u64)> = listed.into_iter().map(|b| (b.digest, b.size)).collect();
        left.sort();
        left.dedup_by(|a, b| a.0 == b.0);
        let after = &self.report.so_far.after;
        left.retain(|(digest, _)| after.as_ref().is_none_or(|after| digest > after));
        let total = self.report.so_far.bytes + left.iter().map(|(_, size)| size).sum::<u64>();
        let mut pace = Pace {
            rate: self.rate,
            began: Instant::now(),
            read: 0,
        };
        let mut told = Instant::now();
        for (digest, size) in left {
            let found = self.blob(&digest, &mut pace).await?;
            self.checked(&digest, size, found).await?;
            if told.elapsed() > Duration::from_millis(200) {
                told = Instant::now();
                let checked = self.report.so_far.bytes;
                self.tell(CheckEvent::Progress { checked, total }).await?;
            }
        }
        let checked = self.report.so_far.bytes;
        self.tell(CheckEvent::Progress { checked, total }).await
    }

    async fn blob(&mut self, digest: &Digest, pace: &mut Pace) -> Result<Option<Finding>> {
        let registry = self.registry;
        // Nobody deletes it, and stores it anew, while it is looked at.
        let lease = registry.leases.hold(digest).await;
        if self.missing.contains(digest) {
            // Told as a manifest that cannot be read.
            return Ok(None);
        }
        let (why, unreadable) = match verify(registry, digest, pace, &mut self.patience).await? {
            Verdict::Broken(why) => (why, false),
            Verdict::Unreadable(why) => (format!("{why}; it stays as it is"), true),
            Verdict::Whole | Verdict::Gone => return Ok(None),
        };
        let damaged = registry.names_with(digest)?;
        if !self.repair || unreadable {
            let found = self.found(Kind::BrokenBlob, digest, why, false, damaged);
            return found.await.map(Some);
        }
        // It is looked at once more: a disk may have had a bad moment.
        if !registry.set_aside(digest).await? {
            return Ok(None);
        }
        drop(lease);
        let text = |more: &str| format!("{why}; moved aside, {more}");
        let (text, mended, damaged) = match registry.fetch_again(digest).await {
            Ok(true) => (text("and fetched again"), true, Vec::new()),
            Ok(false) if damaged.is_empty() => (text("nothing needs it"), true, damaged),
            Ok(false) => (text("and lost: push it again"), false, damaged),
            Err(error) => {
                let more = format!("and fetched again when somebody pulls it: {error}");
                (text(&more), false, damaged)
            }
        };
        self.missing.insert(digest.clone());
        let found = self.found(Kind::BrokenBlob, digest, text, mended, damaged);
        found.await.map(Some)
    }
}

impl Registry {
    /// Moves a blob aside if it is broken: it is not here from then on, so that it is fetched or pushed again.
    pub async fn set_aside(&self, digest: &Digest) -> Result<bool> {
        let broken = self.blobs.quarantine(digest).await?;
        if broken {
            slipway_fault::point("registry.aside.missing");
            self.forget(digest);
            self.index.touch(digest);
        }
        Ok(broken)
    }
}

async fn verify(
    registry: &Registry,
    digest: &Digest,
    pace: &mut Pace,
    patience: &mut Patience,
) -> Result<Verdict> {
    let opened = registry.blobs.read(digest, Range::default());
    let mut reader = match patience.wait(opened).await {
        Ok(reader) => reader,
        Err(Error::BlobNotFound(_)) => return Ok(Verdict::Gone),
        Err(error) => return judge(registry, error).await,
    };
    let mut digester = digest.digester();
    loop {
        let piece = match patience.wait(reader.stream.try_next()).await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => return judge(registry, error).await,
        };
        pace.read(piece.len()).await;
        // Hashing is work for the pool of what blocks, too.
        digester = blocking(move || {
            digester.update(&piece);
            Ok(digester)
        })
        .await?;
    }
    Ok(match digester.finish() == *digest {
        true => Verdict::Whole,
        false => Verdict::Broken("its content is not what its digest says".to_owned()),
    })
}

/// What an error of a read says about the content.
async fn judge(registry: &Registry, error: Error) -> Result<Verdict> {
    match &error {
        Error::Damaged { why, .. } => Ok(Verdict::Broken(why.clone())),
        Error::Bucket(_) => {
            // One that does not answer at all says nothing of this blob, nor of any other.
            registry.ledger.refresh().await?;
            Ok(Verdict::Unreadable(error.to_string()))
        }
        Error::Io { source, .. } if is_damage(source) => Ok(Verdict::Broken(error.to_string())),
        Error::Interrupted(_) | Error::BlobNotFound(_) => Ok(Verdict::Broken(error.to_string())),
        _ => Err(error),
    }
}
