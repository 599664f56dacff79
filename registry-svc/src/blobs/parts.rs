//! Parts: pieces of content that several blobs have in common, each on the disk once.
//!
//! A build's layer that differs from the one before in one file has nearly all of its bytes in common with it.
//! Such a blob is a recipe (`recipes/<algorithm>/<first two digits>/<hex>`, JSON) that names ranges of parts
//! (`parts/<first two digits>/<hex>`); to whoever reads it, it is a blob like any other. A part stays as long as
//! a recipe names it or somebody has it in hand ([`Pin`]).

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use slipway_image::{Algorithm, Digest};
use tracing::warn;

use super::{
    BlobInfo, Verified,
    fs::{entries, settle},
    quarantine::{self, Quarantine, Section},
};
use crate::{
    error::{Error, Result},
    files,
};

/// What a blob is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Bytes of the blob.
    pub size: u64,
    /// In their order.
    pub pieces: Vec<Piece>,
}

/// A range of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Of which.
    pub part: Digest,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

impl Recipe {
    fn parts(&self) -> BTreeSet<&Digest> {
        self.pieces.iter().map(|p| &p.part).collect()
    }

    /// The pieces of a range of the blob.
    pub fn range(&self, offset: u64, length: u64) -> Vec<Piece> {
        let (mut at, end) = (0, offset + length);
        let mut found = Vec::new();
        for piece in &self.pieces {
            let (from, to) = (at.max(offset), (at + piece.size).min(end));
            if from < to {
                found.push(Piece {
                    part: piece.part.clone(),
                    offset: piece.offset + (from - at),
                    size: to - from,
                });
            }
            at += piece.size;
        }
        found
    }
}

/// A part that stays while this lives.
pub struct Pin {
    parts: Arc<Parts>,
    digest: Digest,
}

impl Pin {
    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.parts.place(&self.digest)
    }

    /// Whether it is still to be hashed before it gets into a new blob.
    pub fn is_unproven(&self) -> bool {
        !self.parts.lock().hashed.contains(&self.digest)
    }

    /// It was hashed, and is what its name says.
    pub fn proven(&self) {
        self.parts.lock().hashed.insert(self.digest.clone());
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let gone = self.parts.let_go(&mut self.parts.lock(), &self.digest);
        let remove = move || {
            // What cannot be removed now is at the next start.
            let _ = gone.and_then(|gone| gone.map_or(Ok(0), remove));
        };
        // A pin may end where nobody may wait for the disk.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// The parts and recipes of a store.
pub struct Parts {
    root: PathBuf,
    /// Taken for moments only, never while the disk is waited for.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The blobs that have a recipe, and their sizes.
    blobs: HashMap<Digest, u64>,
    /// By how many recipes and pins each part is held.
    held: HashMap<Digest, usize>,
    /// Parts that were hashed since this service began, so that a damaged one gets into no new blob.
    hashed: HashSet<Digest>,
}

impl Parts {
    /// Opens what is below the store's folder. What a crash left goes, and so does a recipe that cannot be
    /// followed: its blob is sent or fetched again.
    pub fn open(root: PathBuf) -> Result<Arc<Self>> {
        let parts = Self {
            root,
            known: Mutex::default(),
        };
        let mut known = Known::default();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for folder in entries(&parts.root.join("recipes").join(algorithm.as_str()))? {
                for file in entries(&folder)? {
                    let digest = digest_of_name(algorithm, &file);
                    let recipe = digest
                        .as_ref()
                        .and_then(|digest| parts.recipe(digest).ok()?);
                    let whole = |recipe: &Recipe| {
                        let long = |piece: &Piece| {
                            fs::metadata(parts.place(&piece.part))
                                .is_ok_and(|m| piece.offset.saturating_add(piece.size) <= m.len())
                        };
                        let pieces = || recipe.pieces.iter();
                        pieces().all(long) && pieces().map(|p| p.size).sum::<u64>() == recipe.size
                    };
                    match (digest, recipe.filter(whole)) {
                        (Some(digest), Some(recipe)) => {
                            for part in recipe.parts() {
                                *known.held.entry(part.clone()).or_default() += 1;
                            }
                            known.blobs.insert(digest, recipe.size);
                        }
                        _ => {
                            warn!(file = %file.display(), "is no blob that could be put together");
                            fs::remove_file(&file).map_err(Error::io("cannot remove", file))?;
                        }
                    }
                }
            }
        }
        for folder in entries(&parts.root.join("parts"))? {
            for file in entries(&folder)? {
                let part = digest_of_name(Algorithm::Sha256, &file);
                if !part.is_some_and(|part| known.held.contains_key(&part)) {
                    fs::remove_file(&file).map_err(Error::io("cannot remove", file))?;
                }
            }
        }
        Ok(Arc::new(Self {
            known: Mutex::new(known),
            ..parts
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a part is, if it is.
    pub(super) fn place(&self, part: &Digest) -> PathBuf {
        let hex = part.encoded();
        self.root.join("parts").join(&hex[..2]).join(hex)
    }

    fn place_of_recipe(&self, blob: &Digest) -> PathBuf {
        let hex = blob.encoded();
        self.root
            .join("recipes")
            .join(blob.algorithm().as_str())
            .join(&hex[..2])
            .join(hex)
    }

    /// The size of a blob that has a recipe.
    pub fn size(&self, blob: &Digest) -> Option<u64> {
        self.lock().blobs.get(blob).copied()
    }

    /// Waits until a recipe that is here is durable.
    pub fn settle(&self, blob: &Digest) -> Result<()> {
        settle(&self.place_of_recipe(blob))
    }

    /// The recipe of a blob, if it has one.
    pub fn recipe(&self, blob: &Digest) -> Result<Option<Recipe>> {
        let path = self.place_of_recipe(blob);
        match fs::read(&path) {
            Ok(content) => serde_json::from_slice(&content)
                .map(Some)
                .map_err(|e| Error::io("cannot read", path)(io::Error::other(e))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("cannot read", path)(e)),
        }
    }

    /// Takes a part in hand, if it is here.
    pub fn pin(self: &Arc<Self>, part: &Digest) -> Option<Pin> {
        let mut known = self.lock();
        known
            .held
            .contains_key(part)
            .then(|| self.take(&mut known, part))
    }

    fn take(self: &Arc<Self>, known: &mut Known, part: &Digest) -> Pin {
        *known.held.entry(part.clone()).or_default() += 1;
        Pin {
            parts: Arc::clone(self),
            digest: part.clone(),
        }
    }

    /// Makes a part of verified content. One that is here already is replaced: it may be damaged.
    pub fn add(self: &Arc<Self>, verified: &Verified) -> Result<Pin> {
        let path = self.place(verified.digest());
        let fail = || Error::io("cannot store", &path);
        let folder = path.parent().expect("parts have a folder");
        files::create_folders(folder).map_err(fail())?;
        verified.sync().map_err(fail())?;
        let mut known = self.lock();
        slipway_fault::fallible("registry.compose.part")
            .and_then(|()| fs::rename(verified.path(), &path))
            .map_err(fail())?;
        slipway_fault::point("registry.compose.placed");
        known.hashed.insert(verified.digest().clone());
        Ok(self.take(&mut known, verified.digest()))
    }

    /// Makes a blob of parts visible: they stay from now on. `pins` are of all that it names. False: it was
    /// here already.
    pub fn put(&self, blob: &Digest, recipe: &Recipe, pins: Vec<Pin>) -> Result<bool> {
        let folders: HashSet<PathBuf> = pins
            .iter()
            .filter_map(|pin| pin.path().parent().map(Path::to_owned))
            .collect();
        for folder in folders {
            files::sync_folder(&folder).map_err(Error::io("cannot store", folder))?;
        }
        let path = self.place_of_recipe(blob);
        let fail = || Error::io("cannot store", &path);
        let content = serde_json::to_vec(recipe).expect("recipes are plain data");
        let temporary = files::write_temporary(&path, &content).map_err(fail())?;
        {
            let mut known = self.lock();
            if known.blobs.contains_key(blob) {
                drop(known);
                fs::remove_file(&temporary).map_err(fail())?;
                return settle(&path).map(|()| false);
            }
            slipway_fault::point("registry.compose.written");
            fs::rename(&temporary, &path).map_err(fail())?;
            slipway_fault::point("registry.compose.renamed");
            known.blobs.insert(blob.clone(), recipe.size);
            for part in recipe.parts() {
                *known.held.entry(part.clone()).or_default() += 1;
            }
        }
        // It is counted by now, whatever comes of this.
        settle(&path).map(|()| true)
    }

    /// Takes a blob of parts away; returns the bytes that became free.
    pub fn delete(&self, blob: &Digest) -> Result<u64> {
        let Some(recipe) = self.recipe(blob)? else {
            return Ok(0);
        };
        let path = self.place_of_recipe(blob);
        let size = on_disk(&path);
        let gone: Vec<_> = {
            let mut known = self.lock();
            // Somebody else was quicker.
            if known.blobs.remove(blob).is_none() {
                return Ok(0);
            }
            fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
            let parts = recipe.parts().into_iter();
            parts.map(|part| self.let_go(&mut known, part)).collect()
        };
        let mut freed = Ok(size);
        for gone in gone {
            // One that cannot be removed keeps no other.
            let more = gone.and_then(|gone| gone.map_or(Ok(0), remove));
            freed = freed.and_then(|sum| Ok(sum + more?));
        }
        freed
    }

    /// One who held a part does no more. The file of one that nobody holds has no name from then on: it is to
    /// be removed.
    fn let_go(&self, known: &mut Known, part: &Digest) -> Result<Option<PathBuf>> {
        let Some(count) = known.held.get_mut(part) else {
            return Ok(None);
        };
        *count -= 1;
        if *count > 0 {
            return Ok(None);
        }
        known.held.remove(part);
        known.hashed.remove(part);
        let path = self.place(part);
        let gone = path.with_file_name(format!("{}{}", files::TEMPORARY, files::random_name()));
        fs::rename(&path, &gone).map_err(Error::io("cannot remove", path))?;
        Ok(Some(gone))
    }

    /// Moves a blob of parts aside when it is not what its digest says. Its parts stay as long as other blobs have
    /// them; of all of them there is a name in the quarantine.
    pub fn quarantine(&self, blob: &Digest, quarantine: &Quarantine) -> Result<bool> {
        let Some(recipe) = self.recipe(blob)? else {
            return Ok(false);
        };
        let pieces = recipe.pieces.iter().map(|piece| Section {
            path: self.place(&piece.part),
            offset: piece.offset,
            size: Some(piece.size),
        });
        if quarantine::is_whole(blob, pieces)? {
            return Ok(false);
        }
        for part in recipe.parts() {
            quarantine.keep_part(&self.place(part), part)?;
        }
        let path = self.place_of_recipe(blob);
        let mut known = self.lock();
        // Somebody else was quicker.
        if known.blobs.remove(blob).is_none() {
            return Ok(false);
        }
        quarantine.put(&path, &format!("{}.recipe", quarantine::name_of(blob)))?;
        let mut gone = Vec::new();
        for part in recipe.parts() {
            // Which of them is damaged shows when somebody wants to have it.
            known.hashed.remove(part);
            gone.extend(self.let_go(&mut known, part)?);
        }
        drop(known);
        for path in gone {
            remove(path)?;
        }
        Ok(true)
    }

    /// What a blob of parts takes, if it is one.
    pub fn info(&self, blob: &Digest) -> Result<Option<BlobInfo>> {
        let Some(recipe) = self.recipe(blob)? else {
            return Ok(None);
        };
        let part = |part: &Digest| (part.clone(), on_disk(&self.place(part)));
        Ok(Some(BlobInfo {
            digest: blob.clone(),
            size: recipe.size,
            disk: on_disk(&self.place_of_recipe(blob)),
            parts: recipe.parts().into_iter().map(part).collect(),
        }))
    }

    /// All blobs of parts.
    pub fn list(&self) -> Result<Vec<BlobInfo>> {
        let mut measured: HashMap<Digest, u64> = HashMap::new();
        let mut found = Vec::new();
        let blobs: Vec<Digest> = self.lock().blobs.keys().cloned().collect();
        for digest in blobs {
            // Deleted meanwhile.
            let Some(recipe) = self.recipe(&digest)? else {
                continue;
            };
            let mut parts = Vec::new();
            for part in recipe.parts() {
                let disk = match measured.get(part) {
                    Some(disk) => *disk,
                    None => on_disk(&self.place(part)),
                };
                measured.insert(part.clone(), disk);
                parts.push((part.clone(), disk));
            }
            found.push(BlobInfo {
                disk: on_disk(&self.place_of_recipe(&digest)),
                digest,
                size: recipe.size,
                parts,
            });
        }
        Ok(found)
    }
}

fn remove(path: PathBuf) -> Result<u64> {
    let size = on_disk(&path);
    fs::remove_file(&path).map_err(Error::io("cannot remove", path))?;
    Ok(size)
}

fn digest_of_name(algorithm: Algorithm, file: &Path) -> Option<Digest> {
    let name = file.file_name()?.to_str()?;
    format!("{}:{name}", algorithm.as_str()).parse().ok()
}

fn on_disk(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.blocks() * 512)
}
