//! A blob on its way in of which the store may have parts already: only what is new of it is sent and written.

use std::{
    collections::VecDeque,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use slipway_image::{Algorithm, Digest, Digester};
use tokio::task::JoinHandle;

use super::{
    BlobStore, Staged, Verified,
    parts::{Piece, Pin, Recipe},
    staging::blocking,
};
use crate::error::{Error, Result};

/// Most parts of a blob.
const MOST: usize = 4096;
/// Most bytes of a blob that comes so: with a few words one could have the same part hashed for days.
const LARGEST: u64 = 1 << 40;
/// Most parts that wait for the disk at once.
const WAITING: usize = 8;

/// A blob that comes in pieces.
pub struct Assembly {
    store: Arc<dyn BlobStore>,
    staging: PathBuf,
    whole: Arc<Mutex<Digester>>,
    /// What belongs to no part.
    rest: Staged,
    /// The part that comes now.
    current: Option<Staged>,
    pieces: Vec<Next>,
    /// How many of these are parts.
    parts: usize,
    /// Bytes so far.
    size: u64,
    /// Parts of which the disk has not all yet.
    coming: VecDeque<JoinHandle<Result<Pin>>>,
    pins: Vec<Pin>,
}

/// A piece, in its order.
enum Next {
    Rest { offset: u64, size: u64 },
    Part { digest: Digest, size: u64 },
}

/// All of a blob: its digest is known and its parts are here.
pub struct Assembled {
    /// What it is.
    pub digest: Digest,
    /// How to make it.
    pub recipe: Recipe,
    /// All parts that it names.
    pub pins: Vec<Pin>,
}

impl Assembly {
    /// Of nothing yet. What is new of it is staged in a folder.
    pub async fn begin(store: Arc<dyn BlobStore>, staging: &Path) -> Result<Self> {
        Ok(Self {
            store,
            staging: staging.to_owned(),
            whole: Arc::default(),
            rest: Staged::create(staging, Algorithm::Sha256).await?,
            current: None,
            pieces: Vec::new(),
            parts: 0,
            size: 0,
            coming: VecDeque::new(),
            pins: Vec::new(),
        })
    }

    /// Takes the next bytes.
    pub async fn write(&mut self, batch: Vec<Bytes>) -> Result<()> {
        let size: u64 = batch.iter().map(|b| b.len() as u64).sum();
        if size == 0 {
            return Ok(());
        }
        self.taken(size)?;
        let (whole, same) = (Arc::clone(&self.whole), batch.clone());
        let hashing = blocking(move || {
            let mut whole = whole.lock().unwrap_or_else(PoisonError::into_inner);
            same.iter().for_each(|bytes| whole.update(bytes));
            Ok(())
        });
        let target = self.current.as_ref().unwrap_or(&self.rest);
        let (hashed, written) = tokio::join!(hashing, target.write(batch));
        hashed?;
        let written = written?;
        if self.current.is_none() {
            match self.pieces.last_mut() {
                Some(Next::Rest { size: before, .. }) => *before += size,
                _ => self.pieces.push(Next::Rest {
                    offset: written - size,
                    size,
                }),
            }
        }
        Ok(())
    }

    /// What comes now is a part.
    pub async fn begin_part(&mut self) -> Result<()> {
        if self.current.is_some() {
            return Err(Error::InvalidArgument("a part is in a part".to_owned()));
        }
        self.count()?;
        self.current = Some(Staged::create(&self.staging, Algorithm::Sha256).await?);
        Ok(())
    }

    /// The part is whole; tells its name.
    pub async fn end_part(&mut self) -> Result<(Digest, u64)> {
        let Some(part) = self.current.take() else {
            return Err(Error::InvalidArgument("no part has begun".to_owned()));
        };
        let verified = part.finish(None, None).await?;
        let (digest, size) = (verified.digest().clone(), verified.size());
        self.add(verified);
        self.wait(WAITING).await?;
        let told = digest.clone();
        self.pieces.push(Next::Part { digest, size });
        Ok((told, size))
    }

    /// A part that is here comes next; false = it is not.
    pub async fn known(&mut self, part: &Digest, size: u64) -> Result<bool> {
        if self.current.is_some() {
            return Err(Error::InvalidArgument("a part is in a part".to_owned()));
        }
        self.count()?;
        let Some(pin) = self.store.pin_part(part).await? else {
            return Ok(false);
        };
        let (whole, path) = (Arc::clone(&self.whole), pin.path());
        self.taken(size)?;
        let proving = pin.is_unproven();
        let named = part.clone();
        // A damaged one gets into no new blob: it is sent again, and takes the place of the damaged one.
        let whole = blocking(move || {
            let fail = || Error::io("cannot read", &path);
            let mut file = File::open(&path).map_err(fail())?;
            if file.metadata().map_err(fail())?.len() != size {
                return Ok(None);
            }
            let mut digester = proving.then(Digester::default);
            let mut hash = whole.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut buffer = vec![0; 256 << 10];
            loop {
                match file.read(&mut buffer).map_err(fail())? {
                    0 => break,
                    n => {
                        hash.update(&buffer[..n]);
                        if let Some(digester) = &mut digester {
                            digester.update(&buffer[..n]);
                        }
                    }
                }
            }
            let same = digester.is_none_or(|digester| digester.finish() == named);
            Ok(same.then_some(hash))
        });
        let Some(whole) = whole.await? else {
            return Ok(false);
        };
        *self.whole.lock().unwrap_or_else(PoisonError::into_inner) = whole;
        if proving {
            pin.proven();
        }
        self.pins.push(pin);
        let digest = part.clone();
        self.pieces.push(Next::Part { digest, size });
        Ok(true)
    }

    /// Bytes so far.
    pub const fn size(&self) -> u64 {
        self.size
    }

    fn taken(&mut self, size: u64) -> Result<()> {
        // What a client says of a part is not checked yet.
        self.size = self.size.saturating_add(size);
        match self.size <= LARGEST {
            true => Ok(()),
            false => Err(Error::TooLarge {
                what: "a blob of parts",
                limit: LARGEST,
            }),
        }
    }

    /// Makes a part of something; nobody waits for the disk yet.
    fn add(&mut self, verified: Verified) {
        let store = Arc::clone(&self.store);
        let adding = async move { store.add_part(verified).await };
        self.coming.push_back(tokio::spawn(adding));
    }

    /// Waits until at most so many parts are not on the disk yet.
    async fn wait(&mut self, most: usize) -> Result<()> {
        while self.coming.len() > most
            && let Some(next) = self.coming.pop_front()
        {
            let pin = next.await.map_err(|e| Error::Interrupted(e.to_string()))?;
            self.pins.push(pin?);
        }
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.parts += 1;
        match self.parts <= MOST {
            true => Ok(()),
            false => Err(Error::InvalidArgument(format!(
                "a blob has at most {MOST} parts"
            ))),
        }
    }

    /// All of it came. A digest and a size that were promised must be right.
    pub async fn finish(
        mut self,
        expected: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<Assembled> {
        if self.current.is_some() {
            return Err(Error::InvalidArgument("a part has no end".to_owned()));
        }
        let whole = self
            .whole
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (actual_size, digest) = (whole.bytes(), whole.finish());
        if let Some(expected) = size.filter(|size| *size != actual_size) {
            return Err(Error::SizeMismatch {
                expected,
                actual: actual_size,
            });
        }
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(Error::DigestMismatch {
                expected: expected.clone(),
                actual: digest,
            });
        }
        self.wait(0).await?;
        let Self {
            store,
            rest,
            pieces,
            mut pins,
            ..
        } = self;
        let rest = rest.finish(None, None).await?;
        let rest_digest = rest.digest().clone();
        if rest.size() > 0 {
            pins.push(store.add_part(rest).await?);
        }
        let pieces = pieces.into_iter().map(|piece| match piece {
            Next::Rest { offset, size } => Piece {
                part: rest_digest.clone(),
                offset,
                size,
            },
            Next::Part { digest, size } => Piece {
                part: digest,
                offset: 0,
                size,
            },
        });
        let recipe = Recipe {
            size: actual_size,
            pieces: pieces.collect(),
        };
        Ok(Assembled {
            digest,
            recipe,
            pins,
        })
    }
}
