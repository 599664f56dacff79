//! Upload sessions: a growing file each, whose name says which it is, for which repository and whose
//! (`uploads/<id>.<hash>.<owner>`). Nothing else is noted of one, so it goes on after a restart, whatever that came from; the
//! hash of its content is then computed again. When it was touched last says the file's own time.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use slipway_image::{Algorithm, Digest};

use crate::{
    access::Caller,
    blobs::Staged,
    error::{Error, Result},
    files,
    names::Repository,
    registry::Registry,
    unfinished::{Room, Unfinished, UploadLimits, owner},
    work::to_its_end,
};

/// A session that nobody touched for so long is forgotten.
const EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// Sessions whose file and hash are kept open between two requests.
const OPEN: usize = 64;

/// See the module's page.
pub struct Uploads {
    folder: PathBuf,
    /// By file name.
    open: Mutex<HashMap<String, Slot>>,
    /// By caller.
    pub unfinished: Arc<Unfinished>,
}

enum Slot {
    /// A request works on it.
    Busy,
    /// Waits for the next request since then.
    Idle(Staged, Instant),
}

/// A session that this request has for itself; given back when it is dropped.
pub struct Session {
    uploads: Arc<Uploads>,
    /// Its id.
    pub id: String,
    /// Of its file.
    name: String,
    staged: Option<Staged>,
    /// What its caller may still send.
    pub room: Room,
}

impl Uploads {
    /// Sessions in this folder.
    pub fn new(folder: PathBuf, limits: UploadLimits) -> Self {
        Self {
            unfinished: Unfinished::new(&folder, limits),
            folder,
            open: Mutex::default(),
        }
    }

    /// A new session.
    pub async fn start(
        self: &Arc<Self>,
        repository: &Repository,
        caller: &Caller,
    ) -> Result<Session> {
        let id = files::random_uuid();
        let name = file_name(repository, caller, &id);
        let room = self.unfinished.begin(&name)?;
        self.slots().insert(name.clone(), Slot::Busy);
        let mut session = Session {
            uploads: Arc::clone(self),
            id,
            name,
            staged: None,
            room,
        };
        session.open().await.inspect_err(|_| session.room.end())?;
        slipway_fault::point("registry.upload.opened");
        Ok(session)
    }

    /// Takes a session for this request.
    pub async fn take(
        self: &Arc<Self>,
        repository: &Repository,
        caller: &Caller,
        id: &str,
    ) -> Result<Session> {
        let unknown = || Error::UploadNotFound(id.to_owned());
        if !is_id(id) {
            return Err(unknown());
        }
        let name = file_name(repository, caller, id);
        let slot = self.slots().insert(name.clone(), Slot::Busy);
        let staged = match slot {
            Some(Slot::Busy) => return Err(Error::UploadBusy(id.to_owned())),
            Some(Slot::Idle(staged, _)) => Some(staged),
            None => None,
        };
        // The slot is given back whatever comes of this.
        let mut session = Session {
            uploads: Arc::clone(self),
            id: id.to_owned(),
            room: self.unfinished.room(&name),
            name,
            staged,
        };
        // Looked at by whoever has the slot only: the one before may have ended it.
        if touch(&session.path())?.is_none() {
            // The disk has lost it, or it was ended: it takes no room any more.
            session.staged = None;
            session.room.end();
            return Err(unknown());
        }
        let session = match session.staged {
            Some(_) => session.opened().await?,
            // All of it is read. A client that does not wait for that finds it done when he comes back, and need not
            // begin it anew each time: what nobody takes goes into its slot.
            None => to_its_end(session.opened()).await?,
        };
        session.room.note(session.written());
        Ok(session)
    }

    /// How many bytes a session has. Of one that is not open its file tells, without being read.
    pub async fn written(
        self: &Arc<Self>,
        repository: &Repository,
        caller: &Caller,
        id: &str,
    ) -> Result<u64> {
        let name = file_name(repository, caller, id);
        if !is_id(id) || self.slots().contains_key(&name) {
            return Ok(self.take(repository, caller, id).await?.written());
        }
        let length = touch(&self.folder.join(name))?;
        length.ok_or_else(|| Error::UploadNotFound(id.to_owned()))
    }

    /// Ends a session without a blob.
    pub async fn cancel(
        self: &Arc<Self>,
        repository: &Repository,
        caller: &Caller,
        id: &str,
    ) -> Result<()> {
        let mut session = self.take(repository, caller, id).await?;
        session.forget()
    }

    /// Forgets the sessions that nobody touches any more.
    pub fn expire(&self) -> Result<()> {
        let fail = || Error::io("cannot clean", &self.folder);
        for entry in fs::read_dir(&self.folder).map_err(fail())? {
            let entry = entry.map_err(fail())?;
            // Nobody takes one meanwhile.
            let mut slots = self.slots();
            let name = entry.file_name().to_string_lossy().into_owned();
            // One that has ended since is nobody's.
            let Ok(touched) = entry.metadata().and_then(|m| m.modified()) else {
                continue;
            };
            let old = touched.elapsed().is_ok_and(|age| age > EXPIRY);
            if old && !matches!(slots.get(&name), Some(Slot::Busy)) {
                slots.remove(&name);
                fs::remove_file(entry.path()).map_err(fail())?;
                self.unfinished.end(&name);
            }
        }
        // Of what the disk has lost nothing is found above.
        let mut slots = self.slots();
        let is_there = |name: &str| self.folder.join(name).exists();
        slots.retain(|name, slot| matches!(slot, Slot::Busy) || is_there(name));
        self.unfinished
            .end_lost(|name| slots.contains_key(name) || is_there(name));
        Ok(())
    }

    /// What [`Active`] has of each session that somebody touched within that time.
    pub fn active(&self, within: Duration) -> Result<Active> {
        let fail = || Error::io("cannot read", &self.folder);
        let mut repositories = HashSet::new();
        for entry in fs::read_dir(&self.folder).map_err(fail())? {
            let entry = entry.map_err(fail())?;
            let touched = entry.metadata().and_then(|m| m.modified());
            let recent = touched.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < within));
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(hash) = name.split('.').nth(1).filter(|_| recent) {
                repositories.insert(hash.to_owned());
            }
        }
        Ok(Active(repositories))
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<String, Slot>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    async fn opened(mut self) -> Result<Self> {
        self.open().await?;
        Ok(self)
    }

    async fn open(&mut self) -> Result<()> {
        if self.staged.is_none() {
            self.staged = Some(Staged::resume(self.path(), Algorithm::Sha256).await?);
        }
        // The request before may have been cut off.
        self.staged().settled().await;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.uploads.folder.join(&self.name)
    }

    /// Its content so far.
    pub fn staged(&self) -> &Staged {
        self.staged.as_ref().expect("a session has its file")
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.staged().written()
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
        registry: &Arc<Registry>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<u64> {
        let staged = self.staged.take().expect("a session has its file");
        let (registry, repository) = (Arc::clone(registry), repository.clone());
        let digest = digest.clone();
        to_its_end(async move {
            let result = async {
                let verified = staged.finish(Some(&digest), None).await?;
                let size = verified.size();
                slipway_fault::point("registry.upload.verified");
                registry.admit(&repository, verified).await?;
                Ok(size)
            }
            .await;
            self.forget()?;
            result
        })
        .await
    }

    fn forget(&mut self) -> Result<()> {
        self.staged = None;
        self.room.end();
        let path = self.path();
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("cannot remove", path)(e))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut slots = self.uploads.slots();
        match self.staged.take() {
            Some(staged) => {
                let name = std::mem::take(&mut self.name);
                slots.insert(name, Slot::Idle(staged, Instant::now()));
                close_oldest(&mut slots);
            }
            None => {
                slots.remove(&self.name);
            }
        }
    }
}

/// Keeps [`OPEN`] of those that wait; the others are opened again when they are needed.
fn close_oldest(slots: &mut HashMap<String, Slot>) {
    let idle = |(name, slot): (&String, &Slot)| match slot {
        Slot::Busy => None,
        Slot::Idle(_, since) => Some((*since, name.clone())),
    };
    if slots.len() > OPEN {
        let waiting: Vec<_> = slots.iter().filter_map(idle).collect();
        let oldest = waiting.iter().min();
        if let Some((_, name)) = oldest.filter(|_| waiting.len() > OPEN) {
            slots.remove(name);
        }
    }
}

/// Notes that a session is not forgotten; how long its file is, if there is one.
fn touch(path: &Path) -> Result<Option<u64>> {
    let touched = File::open(path).and_then(|file| {
        file.set_modified(SystemTime::now())?;
        Ok(file.metadata()?.len())
    });
    match touched {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        touched => touched.map(Some).map_err(Error::io("cannot open", path)),
    }
}

/// Whether it may be a session's id, as they are made here (a random UUID): it becomes part of a file's name.
pub fn is_id(text: &str) -> bool {
    text.len() == 36
        && text
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

/// Repositories to which somebody uploads.
pub struct Active(HashSet<String>);

impl Active {
    /// Somebody uploads to this one.
    pub fn has(&self, repository: &Repository) -> bool {
        !self.0.is_empty() && self.0.contains(&hash_of(repository))
    }
}

/// A repository's own name may be longer than a file's.
fn hash_of(repository: &Repository) -> String {
    Digest::of(repository.as_str()).encoded()[..32].to_owned()
}

fn file_name(repository: &Repository, caller: &Caller, id: &str) -> String {
    format!("{id}.{}.{}", hash_of(repository), owner(caller))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_disk_has_lost_takes_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let limits = UploadLimits {
            count: 1,
            bytes: 10,
        };
        let uploads = Arc::new(Uploads::new(folder.path().to_owned(), limits));
        let repository = Repository::new("docker.io", "team/app").unwrap();
        let start = || uploads.start(&repository, &Caller::Anonymous);
        for expired in [false, true] {
            let session = start().await.unwrap();
            let (id, path) = (session.id.clone(), session.path());
            session.room.grow(10).unwrap();
            // As it does for a file that could not be synced, behind whoever wrote it.
            fs::remove_file(path).unwrap();
            uploads.expire().unwrap();
            drop(session);
            assert!(start().await.is_err(), "he may still be at work on it");
            if expired {
                uploads.expire().unwrap();
            } else {
                let taken = uploads.take(&repository, &Caller::Anonymous, &id).await;
                assert!(matches!(taken, Err(Error::UploadNotFound(_))));
            }
            let session = start().await.unwrap();
            session.room.grow(10).unwrap();
            drop(session);
            let left = fs::read_dir(folder.path()).unwrap();
            left.for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
            uploads.expire().unwrap();
        }
    }

    #[tokio::test]
    async fn a_session_is_reopened_also_when_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let new = || {
            let folder = folder.path().to_owned();
            Arc::new(Uploads::new(folder, UploadLimits::default()))
        };
        let repository = Repository::new("docker.io", "team/app").unwrap();
        let uploads = new();
        let session = uploads.start(&repository, &Caller::Anonymous).await;
        let session = session.unwrap();
        let (id, path) = (session.id.clone(), session.path());
        drop((session, uploads));
        fs::write(&path, vec![7; 16 << 20]).unwrap();
        let uploads = new();
        let written = uploads.written(&repository, &Caller::Anonymous, &id).await;
        assert_eq!(written.unwrap(), 16 << 20);
        assert!(uploads.slots().is_empty(), "nothing was read for that");
        let mut taken = Box::pin(uploads.take(&repository, &Caller::Anonymous, &id));
        assert!(futures_util::poll!(&mut taken).is_pending());
        drop(taken);
        let there = async {
            loop {
                match uploads
                    .slots()
                    .get(&file_name(&repository, &Caller::Anonymous, &id))
                {
                    Some(Slot::Idle(staged, _)) => return staged.written(),
                    Some(Slot::Busy) => {}
                    None => panic!("it would begin anew"),
                }
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(60);
        let written = tokio::time::timeout(limit, there).await.unwrap();
        assert_eq!(written, 16 << 20);
    }

    #[tokio::test]
    async fn a_session_that_nobody_touches_goes_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = Arc::new(Uploads::new(
            folder.path().to_owned(),
            UploadLimits::default(),
        ));
        let caller = Caller::User("alice".to_owned());
        let repository = Repository::new("docker.io", "team/app").unwrap();
        let age = |session: &Session| {
            let file = File::open(session.path()).unwrap();
            let long_ago = SystemTime::now() - EXPIRY - Duration::from_secs(1);
            file.set_modified(long_ago).unwrap();
        };
        let mut ids = Vec::new();
        for _ in 0..3 {
            let session = uploads.start(&repository, &caller).await.unwrap();
            age(&session);
            ids.push(session.id.clone());
        }
        let busy = uploads.take(&repository, &caller, &ids[0]).await.unwrap();
        age(&busy);
        drop(uploads.take(&repository, &caller, &ids[1]).await.unwrap());
        uploads.expire().unwrap();
        drop(busy);
        for (number, id) in ids.iter().enumerate() {
            let taken = uploads.take(&repository, &caller, id).await;
            assert_eq!(taken.is_ok(), number < 2, "{number}");
        }
        // Those that were left for the longest time are closed, and opened when somebody comes back.
        for _ in 0..OPEN {
            drop(uploads.start(&repository, &caller).await.unwrap());
        }
        let is_open = |id: &str| {
            uploads
                .slots()
                .contains_key(&file_name(&repository, &caller, id))
        };
        assert!(!is_open(&ids[0]) && uploads.slots().len() == OPEN);
        drop(uploads.take(&repository, &caller, &ids[0]).await.unwrap());
        assert!(is_open(&ids[0]) && uploads.slots().len() == OPEN);
        let other = Repository::new("docker.io", "team/other").unwrap();
        let bob = Caller::User("bob".to_owned());
        assert!(uploads.take(&repository, &bob, &ids[0]).await.is_err());
        for id in [&*ids[0], "..", "", "../../../../etc/passwd"] {
            assert!(uploads.take(&other, &caller, id).await.is_err(), "{id}");
        }
    }

    /// Names did not always say whose a session is.
    #[tokio::test]
    async fn a_session_of_an_earlier_version_is_unknown_and_goes_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new("docker.io", "team/app").unwrap();
        let id = files::random_uuid();
        let hash = Digest::of(repository.as_str());
        let path = folder
            .path()
            .join(format!("{id}.{}", &hash.encoded()[..32]));
        fs::write(&path, "begun").unwrap();
        let limits = UploadLimits {
            count: 1,
            ..UploadLimits::default()
        };
        let uploads = Arc::new(Uploads::new(folder.path().to_owned(), limits));
        // The client begins anew, and the old one is in nobody's way.
        let taken = uploads.take(&repository, &Caller::Anonymous, &id).await;
        assert!(matches!(taken.err(), Some(Error::UploadNotFound(_))));
        drop(
            uploads
                .start(&repository, &Caller::Anonymous)
                .await
                .unwrap(),
        );
        let long_ago = SystemTime::now() - EXPIRY - Duration::from_secs(1);
        let file = File::options().append(true).open(&path).unwrap();
        file.set_modified(long_ago).unwrap();
        uploads.expire().unwrap();
        assert!(!path.exists());
    }
}
