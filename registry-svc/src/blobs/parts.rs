//! Parts: pieces of content that several blobs have in common, each on the disk once.
//!
//! A build's layer that differs from the one before in one file has nearly all of its bytes in common with it.
//! Such a blob is a recipe (`recipes/<algorithm>/<first two digits>/<hex>`, JSON) that names ranges of parts
//! (`parts/<first two digits>/<hex>`); to whoever reads it, it is a blob like any other. A part stays as long as
//! a recipe names it or somebody has it in hand ([`Pin`]).

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use slipway_image::{Algorithm, Digest};

use super::{BlobInfo, Verified, fs::entries};
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
    /// A recipe holds it from now on.
    kept: bool,
}

impl Pin {
    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.parts.place(&self.digest)
    }

    /// Which.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is at the next start.
            let parts = &self.parts;
            let _ = parts
                .held()
                .and_then(|mut held| parts.let_go(&mut held, &self.digest));
        }
    }
}

/// The parts and recipes of a store.
pub struct Parts {
    root: PathBuf,
    /// By how many recipes and pins each part is held; none = nobody has counted yet.
    held: Mutex<Option<Held>>,
}

type Held = HashMap<Digest, usize>;

impl Parts {
    /// Below the store's folder.
    pub fn new(root: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            root,
            held: Mutex::default(),
        })
    }

    fn place(&self, part: &Digest) -> PathBuf {
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

    /// Counts, the first time; parts that no recipe names were left by a crash.
    fn held(&self) -> Result<MutexGuard<'_, Option<Held>>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            let mut counted = Held::new();
            for blob in self.recipes()? {
                for part in self.recipe(&blob)?.iter().flat_map(Recipe::parts) {
                    *counted.entry(part.clone()).or_default() += 1;
                }
            }
            for folder in entries(&self.root.join("parts"))? {
                for file in entries(&folder)? {
                    let part = digest_of_name(Algorithm::Sha256, &file);
                    if !part.is_some_and(|part| counted.contains_key(&part)) {
                        fs::remove_file(&file).map_err(Error::io("cannot remove", file))?;
                    }
                }
            }
            *held = Some(counted);
        }
        Ok(held)
    }

    /// All blobs that have a recipe.
    fn recipes(&self) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for folder in entries(&self.root.join("recipes").join(algorithm.as_str()))? {
                for file in entries(&folder)? {
                    match digest_of_name(algorithm, &file) {
                        Some(digest) => found.push(digest),
                        // Of a recipe that was being written in a crash.
                        None => drop(fs::remove_file(&file)),
                    }
                }
            }
        }
        Ok(found)
    }

    /// Takes a part in hand, if it is here.
    pub fn pin(self: &Arc<Self>, part: &Digest) -> Result<Option<Pin>> {
        let mut held = self.held()?;
        if part.algorithm() != Algorithm::Sha256 || !self.place(part).exists() {
            return Ok(None);
        }
        Ok(Some(self.take(&mut held, part)))
    }

    fn take(self: &Arc<Self>, held: &mut Option<Held>, part: &Digest) -> Pin {
        *held
            .get_or_insert_default()
            .entry(part.clone())
            .or_default() += 1;
        Pin {
            parts: Arc::clone(self),
            digest: part.clone(),
            kept: false,
        }
    }

    /// Makes a part of verified content.
    pub fn add(self: &Arc<Self>, verified: &Verified) -> Result<Pin> {
        let path = self.place(verified.digest());
        let fail = || Error::io("cannot store", &path);
        let folder = path.parent().expect("parts have a folder");
        files::create_folders(folder).map_err(fail())?;
        File::open(verified.path())
            .and_then(|file| file.sync_data())
            .map_err(fail())?;
        let mut held = self.held()?;
        if !path.exists() {
            fs::rename(verified.path(), &path).map_err(fail())?;
        }
        Ok(self.take(&mut held, verified.digest()))
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
        let mut again = Vec::new();
        {
            let _alone = self.held()?;
            if !path.exists() {
                let content = serde_json::to_vec(recipe).expect("recipes are plain data");
                files::write_durably(&path, &content).map_err(Error::io("cannot store", path))?;
                let mut kept = HashSet::new();
                for mut pin in pins {
                    // One for each part; what else there is of it goes, which needs the lock.
                    match kept.insert(pin.digest.clone()) {
                        true => pin.kept = true,
                        false => again.push(pin),
                    }
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a blob of parts away; returns the bytes that became free.
    pub fn delete(&self, blob: &Digest) -> Result<u64> {
        let mut held = self.held()?;
        let Some(recipe) = self.recipe(blob)? else {
            return Ok(0);
        };
        let path = self.place_of_recipe(blob);
        let mut freed = on_disk(&path);
        fs::remove_file(&path).map_err(Error::io("cannot remove", path))?;
        for part in recipe.parts() {
            freed += self.let_go(&mut held, part)?;
        }
        Ok(freed)
    }

    /// One who held a part does no more; returns the bytes that became free.
    fn let_go(&self, held: &mut Option<Held>, part: &Digest) -> Result<u64> {
        let Some(count) = held.as_mut().and_then(|held| held.get_mut(part)) else {
            return Ok(0);
        };
        *count -= 1;
        if *count > 0 {
            return Ok(0);
        }
        held.as_mut().and_then(|held| held.remove(part));
        let path = self.place(part);
        let size = on_disk(&path);
        fs::remove_file(&path).map_err(Error::io("cannot remove", path))?;
        Ok(size)
    }

    /// All blobs of parts. A part that several have is the first one's.
    pub fn list(&self) -> Result<Vec<BlobInfo>> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let mut blobs = self.recipes()?;
        blobs.sort_unstable_by_key(ToString::to_string);
        for digest in blobs {
            // Deleted meanwhile.
            let Some(recipe) = self.recipe(&digest)? else {
                continue;
            };
            let mut disk = on_disk(&self.place_of_recipe(&digest));
            for part in recipe.parts() {
                if seen.insert(part.clone()) {
                    disk += on_disk(&self.place(part));
                }
            }
            let size = recipe.size;
            found.push(BlobInfo { digest, size, disk });
        }
        Ok(found)
    }
}

fn digest_of_name(algorithm: Algorithm, file: &Path) -> Option<Digest> {
    let name = file.file_name()?.to_str()?;
    format!("{}:{name}", algorithm.as_str()).parse().ok()
}

fn on_disk(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.blocks() * 512)
}
