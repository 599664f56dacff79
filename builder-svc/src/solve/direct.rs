//! Layers straight from files that this service has, without a worker and a root filesystem.
//!
//! Only where the result is provably what the worker would make: no archive is unpacked; no two sources are of
//! one name but of different kinds, and no file has several names; and either nothing is below the layer (`--link`, or the first layer upon
//! scratch) and owners are numbers, or a worker that has what is below was asked: only folders are on the way,
//! and what is in their place already are regular files.

mod packing;
mod tree;

use std::{
    io,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::future::OptionFuture;
use slipway_image::{Descriptor, media_type::OCI_LAYER_GZIP};
use slipway_service::whole::Whole;
use tokio::sync::{mpsc, oneshot};

use self::{
    packing::{CopyWriter, Packing, PieceWriter},
    tree::{Place, Tree, clamp, owner, parts, target, tree},
};
use super::{Solver, copy::Arrangement, step::Made};
use crate::{
    cache::REPOSITORY,
    context::content::Part as ContentPart,
    error::{Error, Result, Tried as _},
    layer::Layer,
    plan::CopyAction,
    registry::PART_UNKNOWN,
    worker::{CHUNKS, Snapshot, StandingFolder, import},
};

impl Solver {
    /// Makes a layer upon nothing, or upon what is below a snapshot; none when that is the worker's to do.
    /// `more`: the worker will need it, and gets it while it is made.
    pub(super) async fn direct(
        &self,
        copy: &CopyAction,
        files: &Arc<Arrangement>,
        below: Option<&Snapshot>,
        more: bool,
    ) -> Result<Option<Made>> {
        let mut place = Place {
            is_folder: copy.destination.ends_with('/'),
            ..Place::default()
        };
        match below {
            None => match owner(&copy.chown) {
                None => return Ok(None),
                Some(owner) => place.standing.owner = owner,
            },
            Some(snapshot) => {
                if files.parts.is_empty() {
                    return Ok(None);
                }
                if !place.is_folder && files.parts.iter().any(|p| !p.found.folder) {
                    place.is_folder = self.is_folder(copy, snapshot).await?;
                }
                let Some((target, names)) = target(copy, files, place.is_folder) else {
                    return Ok(None);
                };
                let nothing = names.is_empty();
                let standing = snapshot.survey(&target, &copy.chown, names).await?;
                if standing.blocked || !standing.taken.is_empty() {
                    return Ok(None);
                }
                let all_there = standing.folders.len() == parts(&target).len();
                // Nothing changes; and what is made in a folder with setgid has its group (mkdir(2)).
                let inherits = |folder: &StandingFolder| folder.mode & 0o2000 != 0;
                if (nothing && all_there)
                    || (!all_there && standing.folders.last().is_some_and(inherits))
                {
                    return Ok(None);
                }
                place.standing = standing;
            }
        }
        // Where the second one goes depends on what the first has made there.
        let several = files.parts.len() > 1 && files.parts.iter().any(|p| !p.found.folder);
        if files.has_hard_links() || (several && !place.is_folder) {
            return Ok(None);
        }
        for part in &files.parts {
            if self.is_archive(part).await? {
                return Ok(None);
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or_default());
        let (copy, files, latest) = (copy.clone(), files.clone(), self.latest);
        let making = move || {
            let mut tree = tree(&copy, &files, &place, now)?;
            clamp(&mut tree, latest);
            // Nothing changes: the worker says so in its own way.
            Some(tree).filter(|tree| !tree.is_empty())
        };
        let tree = tokio::task::spawn_blocking(making).await;
        let Some(tree) = tree
            .map_err(io::Error::other)
            .tried(|| "cannot make a layer".to_owned())?
        else {
            return Ok(None);
        };
        let tree = Arc::new(tree);
        let import = below.filter(|_| more);
        match self.store(&tree, import, true).await {
            // The layers that had it were removed since. A worker that did not get all fetches the layer.
            Err(Error::Remote { reason, .. }) if reason == PART_UNKNOWN => {
                tracing::info!("registry-svc has not all parts any more: the layer is sent whole");
                self.store(&tree, None, false).await.map(Some)
            }
            made => made.map(Some),
        }
    }

    /// Stores a layer, and gives it to a worker while it is made. `name_parts`: what registry-svc should have of
    /// it is not sent.
    async fn store(
        &self,
        tree: &Arc<Tree>,
        worker: Option<&Snapshot>,
        name_parts: bool,
    ) -> Result<Made> {
        let (send, receive) = mpsc::channel(CHUNKS);
        let store = self.context.store.clone();
        let (ended, diff_id) = oneshot::channel();
        let mut copied = None;
        let at_worker = worker.map(Snapshot::worker_files).cloned();
        let at_worker = at_worker.unwrap_or_default();
        let importing = worker.map(|snapshot| {
            let (send, receive) = mpsc::channel(CHUNKS);
            copied = Some(CopyWriter::new(send));
            snapshot.import(receive, diff_id)
        });
        let whole = Whole::default();
        let packing = Packing {
            store: store.clone(),
            tree: tree.clone(),
            whole: whole.clone(),
            name_parts,
            at_worker: at_worker.clone(),
        };
        let packing = tokio::task::spawn_blocking(move || {
            let packed = packing.pack(PieceWriter::new(send), copied)?;
            // The worker may not want it.
            let _ = ended.send(packed.archive.diff_id.clone());
            Ok(packed)
        });
        let storing = self.registry.write_parts(REPOSITORY, receive, whole);
        let (stored, imported) = tokio::join!(storing, OptionFuture::from(importing));
        if let Some(Err(error)) = &imported {
            tracing::info!(%error, "the worker did not take a layer: it will fetch it");
        }
        let packed = packing.await.map_err(io::Error::other).and_then(|r| r);
        let (packed, stored) = match (packed, stored) {
            (Err(packed), Err(stored)) if packed.kind() == io::ErrorKind::BrokenPipe => {
                return Err(stored);
            }
            (packed, stored) => (packed.tried(|| "cannot make a layer".to_owned())?, stored?),
        };
        for ((content, checksum), (digest, size)) in packed.new.into_iter().zip(stored.new) {
            let part = ContentPart {
                digest,
                size,
                checksum,
            };
            store.note_part(&content, part);
        }
        for (content, path) in packed.large {
            let layer = packed.archive.diff_id.clone();
            match &imported {
                Some(Ok(())) => at_worker.note(content, import::Place { layer, path }),
                Some(Err(_)) => at_worker.forget(&content),
                None => {}
            }
        }
        let layer = Layer {
            descriptor: Descriptor::new(OCI_LAYER_GZIP.to_owned(), stored.digest, stored.size),
            diff_id: packed.archive.diff_id,
            repository: REPOSITORY.to_owned(),
        };
        Ok(Made {
            layer: Some(layer),
            at_worker: matches!(imported, Some(Ok(()))),
        })
    }
}
