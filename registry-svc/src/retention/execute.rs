//! Does what was planned: a step at a time, and none whose ground changed since.

use std::{sync::Arc, time::Duration};

use slipway_image::Digest;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    content::Content,
    plan::{self, Step},
};
use crate::{
    blobs::staging::blocking,
    error::Result,
    ledger::Change,
    names::{ImageName, Pointer},
    registry::{Registry, now},
    store::Index,
};

/// How often the rules are applied.
const EVERY: Duration = Duration::from_secs(3600);

/// How often it is written down what was used.
const WRITE: Duration = Duration::from_secs(600);

/// What went, or would go.
#[derive(Debug, Default)]
pub struct Retained {
    /// What was planned, in its order; done, unless it was to be shown only.
    pub steps: Vec<Step>,
    /// What stays for now, and why: it changed since it was planned, or somebody has it in hand.
    pub skipped: Vec<(Step, &'static str)>,
    /// Bytes on disk that became free, or would.
    pub freed: u64,
}

impl Registry {
    /// Nothing goes by itself.
    pub fn has_no_rules(&self) -> bool {
        self.rules.is_empty()
    }

    /// Applies the rules. `at` is the time that they are judged by, Unix milliseconds.
    pub async fn retain(self: &Arc<Self>, at: u64, dry_run: bool) -> Result<Retained> {
        let mut retained = Retained::default();
        if self.rules.is_empty() {
            return Ok(retained);
        }
        // One at a time: two would plan the same.
        let _turn = self.retaining.lock().await;
        let listed = self.blobs.list().await?;
        let (index, uses, rules) = (
            Arc::clone(&self.index),
            Arc::clone(&self.uses),
            Arc::clone(&self.rules),
        );
        let plan = blocking(move || {
            let wanted = |repository: &_| {
                rules.of_mirrored(repository).is_some() || rules.of_own(repository).next().is_some()
            };
            let content = Content::load(&index, &uses, &listed, wanted)?;
            Ok(plan::plan(&content, &rules, at))
        })
        .await?;
        for step in plan.steps {
            if dry_run {
                retained.freed += step.freed;
                retained.steps.push(step);
                continue;
            }
            match self.take_away(&step).await? {
                Ok(freed) => {
                    retained.freed += freed;
                    retained.steps.push(step);
                }
                Err(why) => retained.skipped.push((step, why)),
            }
        }
        Ok(retained)
    }

    /// Does a step; says why not when it must not be done.
    async fn take_away(self: &Arc<Self>, step: &Step) -> Result<Result<u64, &'static str>> {
        if self.is_in_hand(step).await? {
            return Ok(Err("somebody is pulling or pushing it"));
        }
        let (uses, planned) = (Arc::clone(&self.uses), step.clone());
        let as_planned = move |index: &Index| -> Result<bool> {
            let repository = &planned.repository;
            if uses.last(repository, &planned.digest)? != planned.used {
                return Ok(false);
            }
            for (tag, tagged) in &planned.tags {
                let now = index.tag(repository, tag)?;
                if !now.is_some_and(|r| r.digest == planned.digest && r.tagged == *tagged) {
                    return Ok(false);
                }
            }
            if !planned.manifest {
                return Ok(true);
            }
            let tags = index.tags_naming(repository, &planned.digest)?;
            let mut holders = index.holders(&planned.digest)?.into_iter();
            let held = holders.any(|(r, m)| r == *repository && m != planned.digest);
            Ok(tags.len() == planned.tags.len() && !held)
        };
        let changed = "it changed, or was used, since";
        let freed = match step.manifest {
            true => {
                let removed = self.remove_manifest_if(&step.repository, &step.digest, as_planned);
                match removed.await? {
                    Some(freed) => freed,
                    None => return Ok(Err(changed)),
                }
            }
            false => {
                let work = step.clone();
                let done = self.change(&step.repository, move |index| {
                    if !as_planned(index)? {
                        return Ok((Vec::new(), false));
                    }
                    let remove = |(tag, _): &(_, _)| Change::RemoveTag {
                        repository: work.repository.clone(),
                        tag: Clone::clone(tag),
                    };
                    Ok((work.tags.iter().map(remove).collect(), true))
                });
                match done.await? {
                    true => 0,
                    false => return Ok(Err(changed)),
                }
            }
        };
        for (tag, _) in &step.tags {
            let name = format!("{}:{tag}", step.repository.familiar());
            self.events.tell("untag", step.digest.to_string(), name);
        }
        if step.manifest {
            self.events.tell("delete", step.digest.to_string(), "");
        }
        Ok(Ok(freed))
    }

    /// A transfer has content of it in hand.
    async fn is_in_hand(&self, step: &Step) -> Result<bool> {
        let name = ImageName {
            repository: step.repository.clone(),
            pointer: Pointer::Digest(step.digest.clone()),
        };
        let parsed = match self.stored(&name).await? {
            Some(stored) => stored.parse().ok(),
            None => None,
        };
        let mut named: Vec<&Digest> = vec![&step.digest];
        let references = parsed.iter().flat_map(|m| m.references());
        named.extend(references.map(|d| &d.digest));
        Ok(named
            .into_iter()
            .any(|digest| self.leases.is_needed(digest)))
    }

    /// Applies the rules, and writes down what was used, until the service stops.
    pub async fn retain_until(self: Arc<Self>, stop: CancellationToken) {
        let (mut rules, mut uses) = (tokio::time::interval(EVERY), tokio::time::interval(WRITE));
        rules.tick().await;
        uses.tick().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = uses.tick() => {
                    let uses = Arc::clone(&self.uses);
                    if let Err(error) = blocking(move || uses.write(false)).await {
                        warn!(%error, "cannot write down what was used");
                    }
                    continue;
                }
                _ = rules.tick() => {}
            }
            match self.retain(now(), false).await {
                Ok(retained) => report(&retained),
                Err(error) => warn!(%error, "cannot apply the rules of retention"),
            }
        }
    }
}

fn report(retained: &Retained) {
    for step in &retained.steps {
        let (repository, digest, why) = (&step.repository, &step.digest, &step.why);
        info!(%repository, %digest, %why, "taken away by a rule of retention");
    }
}
