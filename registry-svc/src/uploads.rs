//! Upload sessions: a growing file each (`uploads/<id>`) and a record of where it is to go. They
//! survive a restart; the hash is then computed again from the file.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use slipway_image::{Algorithm, Digest};

use crate::{
    blobs::Staged,
    error::{Error, Result},
    files,
    names::Repository,
    registry::{Registry, now},
    store::{Index, UploadRecord},
};

/// A session that nobody touched for so long is forgotten.
const EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// Sessions whose file and hash are kept open between two requests.
const OPEN: usize = 64;

/// See the module's page.
pub struct Uploads {
    folder: PathBuf,
    index: Arc<Index>,
    open: Mutex<HashMap<String, Slot>>,
}

enum Slot {
    /// A request works on it.
    Busy,
    /// Waits for the next request.
    Idle(Staged),
}

/// A session that this request has for itself; given back when it is dropped.
pub struct Session<'a> {
    uploads: &'a Uploads,
    /// Its id.
    pub id: String,
    staged: Option<Staged>,
}

impl Uploads {
    /// Sessions in this folder.
    pub fn new(folder: PathBuf, index: Arc<Index>) -> Self {
        Self {
            folder,
            index,
            open: Mutex::default(),
        }
    }

    /// A new session.
    pub async fn start(&self, repository: &Repository) -> Result<Session<'_>> {
        let id = files::random_uuid();
        self.index.set_upload(&id, &record(repository))?;
        self.slots().insert(id.clone(), Slot::Busy);
        let mut session = Session {
            uploads: self,
            id,
            staged: None,
        };
        session.open().await?;
        Ok(session)
    }

    /// Takes a session for this request.
    pub async fn take(&self, repository: &Repository, id: &str) -> Result<Session<'_>> {
        let slot = self.slots().insert(id.to_owned(), Slot::Busy);
        let staged = match slot {
            Some(Slot::Busy) => return Err(Error::UploadBusy(id.to_owned())),
            Some(Slot::Idle(staged)) => Some(staged),
            None => None,
        };
        // Looked at by whoever has the slot only: the one before may have ended it. It is given back in any case.
        let mut session = Session {
            uploads: self,
            id: id.to_owned(),
            staged,
        };
        let known = self.index.upload(id)?;
        if known.is_none_or(|known| known.repository != repository.as_str()) {
            return Err(Error::UploadNotFound(id.to_owned()));
        }
        self.index.set_upload(id, &record(repository))?;
        session.open().await?;
        Ok(session)
    }

    /// Ends a session without a blob.
    pub async fn cancel(&self, repository: &Repository, id: &str) -> Result<()> {
        let mut session = self.take(repository, id).await?;
        session.forget()
    }

    /// Forgets the sessions that nobody touches any more.
    pub fn expire(&self) -> Result<()> {
        let limit = now().saturating_sub(EXPIRY.as_millis() as u64);
        for (id, record) in self.index.all_uploads()? {
            if record.touched < limit && !matches!(self.slots().get(&id), Some(Slot::Busy)) {
                self.slots().remove(&id);
                self.index.remove_upload(&id)?;
                let path = self.folder.join(&id);
                files::remove_durably(&path).map_err(Error::io("cannot remove", &path))?;
            }
        }
        Ok(())
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<String, Slot>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session<'_> {
    async fn open(&mut self) -> Result<()> {
        if self.staged.is_none() {
            let path = self.uploads.folder.join(&self.id);
            self.staged = Some(Staged::resume(path, Algorithm::Sha256).await?);
        }
        Ok(())
    }

    fn staged(&self) -> &Staged {
        self.staged.as_ref().expect("a session has its file")
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.staged().written()
    }

    /// Appends.
    pub async fn write(&self, batch: Vec<Bytes>) -> Result<u64> {
        self.staged().write(batch).await
    }

    /// Checks that a chunk begins where the session ends.
    pub fn expect_offset(&self, given: u64) -> Result<()> {
        match given == self.written() {
            true => Ok(()),
            false => Err(self.wrong_range(format!("the chunk begins at {given}"))),
        }
    }

    /// The error that says where the next chunk must begin.
    pub fn wrong_range(&self, reason: String) -> Error {
        Error::UploadRange {
            reason,
            expected: self.written(),
        }
    }

    /// Turns the session into a blob, verified and durable. With a wrong digest the session is over.
    pub async fn finish(
        mut self,
        registry: &Registry,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<u64> {
        let staged = self.staged.take().expect("a session has its file");
        let _lease = registry.leases.hold(digest);
        let result = async {
            let verified = staged.finish(Some(digest), None).await?;
            let size = verified.size();
            registry.blobs.adopt(verified).await?;
            Ok::<_, Error>(size)
        }
        .await;
        self.forget()?;
        let size = result?;
        registry.received(repository, digest)?;
        Ok(size)
    }

    fn forget(&mut self) -> Result<()> {
        self.staged = None;
        self.uploads.index.remove_upload(&self.id)?;
        let path = self.uploads.folder.join(&self.id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("cannot remove", path)(e))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let mut slots = self.uploads.slots();
        match self.staged.take() {
            // The others are opened again when they are needed.
            Some(staged) if slots.len() <= OPEN => {
                slots.insert(std::mem::take(&mut self.id), Slot::Idle(staged));
            }
            _ => {
                slots.remove(&self.id);
            }
        }
    }
}

impl Registry {
    /// A blob came in through a repository: it may be read there, and stays until its manifest comes.
    pub(crate) fn received(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        self.index.link(repository, digest)?;
        if !self.index.is_held(digest)? {
            self.leases.grace(digest);
            self.index.set_pending(digest)?;
        }
        Ok(())
    }
}

fn record(repository: &Repository) -> UploadRecord {
    UploadRecord {
        repository: repository.as_str().to_owned(),
        touched: now(),
    }
}
