//! The cache mounts of all workers, as operators see them.

use std::{collections::BTreeMap, time::SystemTime};

use slipway_proto::runtime::v1 as pb;

use super::Fleet;
use crate::{
    cache::{Listed, Mount, OnDisk, REPOSITORY, carried::MountId},
    error::{Error, Result},
    layer::Layer,
};

/// What could be seen, and a sentence a worker where nothing could.
#[derive(Debug, Default)]
pub struct Seen {
    /// Cache mounts.
    pub mounts: Vec<OnDisk>,
    /// Why some are not among them.
    pub warnings: Vec<String>,
}

impl Fleet {
    /// The cache mounts of all workers that are there.
    pub async fn mounts(&self) -> Seen {
        let asking = (0..self.count()).map(async |number| {
            let answer = self.ask(number, |worker| async move { worker.caches().await });
            (number, answer.await)
        });
        let mut seen = Seen::default();
        for (number, answer) in futures_util::future::join_all(asking).await {
            match answer {
                Ok(caches) => {
                    let mounts = caches.into_iter().map(|c| on_disk(number, c));
                    seen.mounts.extend(mounts);
                }
                Err(error) => seen.warnings.push(self.unseen(number, &error)),
            }
        }
        seen
    }

    /// Removes these; returns names and bytes of those that went.
    pub async fn remove_mounts(&self, mounts: &[&OnDisk]) -> (Vec<String>, u64, Vec<String>) {
        let mut by_worker: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for on_disk in mounts {
            if let Some(mount) = &on_disk.mount {
                let names = by_worker.entry(mount.worker).or_default();
                names.push(on_disk.record.key.clone());
            }
        }
        let (mut names, mut bytes, mut warnings) = (Vec::new(), 0, Vec::new());
        for (number, these) in by_worker {
            let removed = self.ask(
                number,
                |worker| async move { worker.remove_caches(these).await },
            );
            match removed.await {
                Ok(gone) => {
                    bytes += gone.iter().map(|c| c.size).sum::<u64>();
                    names.extend(gone.into_iter().map(|c| c.name));
                }
                Err(error) => warnings.push(self.unseen(number, &error)),
            }
        }
        (names, bytes, warnings)
    }

    /// Makes one a layer in registry-svc.
    pub async fn export_mount(&self, mount: &OnDisk) -> Result<Layer> {
        let gone = || Error::Invalid("there is no such worker".to_owned());
        let number = mount.mount.as_ref().map(|m| m.worker);
        let worker = number.and_then(|n| self.worker(n)).ok_or_else(gone)?;
        worker.export_cache(&mount.record.key, REPOSITORY).await
    }

    fn unseen(&self, number: usize, error: &Error) -> String {
        let why = match error {
            Error::WorkerLost { why, .. } => why.clone(),
            other => other.to_string(),
        };
        format!(
            "the cache mounts of the worker {} are left out: {why}",
            self.name(number)
        )
    }
}

fn on_disk(worker: usize, cache: pb::CacheMount) -> OnDisk {
    let time = |t: Option<prost_types::Timestamp>| {
        let time = t.and_then(|t| t.try_into().ok());
        time.unwrap_or(SystemTime::UNIX_EPOCH)
    };
    // Without a BUILDKIT_CACHE_MOUNT_NS there is nothing in front of the slash.
    let id = cache.id.strip_prefix('/').unwrap_or(&cache.id);
    OnDisk {
        bytes: cache.size,
        shared: 0,
        last_used: time(cache.last_used),
        uses: cache.use_count,
        in_use: cache.in_use,
        record: Listed {
            key: cache.name,
            step: format!("cached mount {id}"),
            size: cache.size,
            created: time(cache.created),
        },
        mount: Some(Mount {
            worker,
            id: id.to_owned(),
            whole: MountId {
                id: cache.id,
                base: cache.base,
            },
        }),
    }
}
