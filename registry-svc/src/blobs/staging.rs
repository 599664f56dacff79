//! Content on its way in: a growing file that is hashed while it is written, and what it becomes when
//! its digest is known to be right.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256, Sha512};
use slipway_image::{Algorithm, Digest};

use crate::{
    error::{Error, Result},
    files,
};

/// A file that grows. Dropping it removes the file, unless it was opened to be resumed.
pub struct Staged {
    inner: Arc<Mutex<Inner>>,
    path: PathBuf,
    /// Kept when dropped: an upload session or a broken transfer is resumed from it.
    resumable: bool,
}

struct Inner {
    file: File,
    hasher: Hasher,
    written: u64,
    behind: WriteBehind,
}

/// The disk takes what was written while more comes, so that at the end only the last is waited for.
#[derive(Default)]
struct WriteBehind {
    /// Bytes that it was asked to take so far.
    asked: u64,
    /// How the last of these went, when it has.
    running: Option<mpsc::Receiver<io::Result<()>>>,
    /// The disk did not take something: nothing good can come of the file.
    failed: bool,
}

impl WriteBehind {
    /// What of a file of `written` bytes the disk may take now.
    fn go_on(&mut self, file: &File, path: &Path, written: u64) -> io::Result<()> {
        if self.failed {
            return Err(lost());
        }
        if written - self.asked < AHEAD {
            return Ok(());
        }
        if let Some(running) = &self.running {
            match running.try_recv() {
                Err(mpsc::TryRecvError::Empty) => return Ok(()),
                ended => self.hear(ended.ok())?,
            }
        }
        let (send, running) = mpsc::sync_channel(1);
        let (file, path) = (file.try_clone()?, path.to_owned());
        (self.asked, self.running) = (written, Some(running));
        tokio::task::spawn_blocking(move || {
            let synced = file.sync_data();
            if synced.is_err() {
                // An error is told once only, to whoever syncs first (fsync(2)): nobody may go on from what is
                // in memory alone.
                let _ = fs::remove_file(path);
            }
            // Who asked may be gone.
            let _ = send.send(synced);
        });
        Ok(())
    }

    /// Waits for what is on its way. It began before whoever waits, so that it has its thread.
    fn finish(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(lost());
        }
        let running = self.running.take();
        running.map_or(Ok(()), |running| self.hear(running.recv().ok()))
    }

    /// None: the service is stopping.
    fn hear(&mut self, synced: Option<io::Result<()>>) -> io::Result<()> {
        let synced = synced.unwrap_or_else(|| Err(lost()));
        self.failed = synced.is_err();
        synced
    }
}

fn lost() -> io::Error {
    io::Error::other("the disk has not taken all of it")
}

/// Bytes that the disk takes at once.
const AHEAD: u64 = 8 << 20;

/// Content whose digest and size are right; only [`Staged::finish`] makes one.
pub struct Verified {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

impl Verified {
    /// What it is.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the content is; the store renames it away.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Verified {
    fn drop(&mut self) {
        // Renamed away by the store in the good case; otherwise nobody needs it.
        let _ = fs::remove_file(&self.path);
    }
}

impl Staged {
    /// A new file in `folder`, hashed with `algorithm`.
    pub async fn create(folder: &Path, algorithm: Algorithm) -> Result<Self> {
        Self::open(folder.join(files::random_name()), algorithm, false).await
    }

    /// A file that outlives this value, with what is in it already; made if need be.
    pub async fn resume(path: PathBuf, algorithm: Algorithm) -> Result<Self> {
        Self::open(path, algorithm, true).await
    }

    async fn open(path: PathBuf, algorithm: Algorithm, resumable: bool) -> Result<Self> {
        blocking(move || {
            let mut file = File::options()
                .read(true)
                .append(true)
                .create(true)
                .open(&path)
                .map_err(Error::io("cannot open", &path))?;
            let mut hasher = Hasher::new(algorithm);
            let written = hasher
                .drain(&mut file)
                .map_err(Error::io("cannot read", &path))?;
            Ok(Self {
                inner: Arc::new(Mutex::new(Inner {
                    file,
                    hasher,
                    written,
                    behind: WriteBehind {
                        asked: written,
                        ..WriteBehind::default()
                    },
                })),
                path,
                resumable,
            })
        })
        .await
    }

    /// Appends. When the caller goes away in between, the bytes are written all the same, so file and
    /// hash never disagree.
    pub async fn write(&self, batch: Vec<Bytes>) -> Result<u64> {
        let inner = Arc::clone(&self.inner);
        let path = self.path.clone();
        blocking(move || {
            let mut inner = lock(&inner);
            for chunk in &batch {
                inner
                    .file
                    .write_all(chunk)
                    .map_err(Error::io("cannot write", &path))?;
                inner.hasher.update(chunk);
                inner.written += chunk.len() as u64;
            }
            let Inner {
                file,
                behind,
                written,
                ..
            } = &mut *inner;
            behind
                .go_on(file, &path, *written)
                .map_err(Error::io("cannot write", &path))?;
            Ok(*written)
        })
        .await
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        lock(&self.inner).written
    }

    /// The file; readers may follow it while it grows.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the file when this value is dropped.
    pub fn keep(&mut self) {
        self.resumable = true;
    }

    /// Checks digest and size. When they are wrong the file is gone, since nothing good can come of it.
    pub async fn finish(
        mut self,
        expected: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<Verified> {
        self.resumable = false;
        let expected = expected.cloned();
        blocking(move || {
            let mut inner = lock(&self.inner);
            inner
                .behind
                .finish()
                .map_err(Error::io("cannot write", &self.path))?;
            if let Some(expected) = size.filter(|size| *size != inner.written) {
                return Err(Error::SizeMismatch {
                    expected,
                    actual: inner.written,
                });
            }
            let digest = match &expected {
                Some(expected) if expected.algorithm() != inner.hasher.algorithm() => {
                    // The client told the algorithm only now: read once more.
                    let mut hasher = Hasher::new(expected.algorithm());
                    File::open(&self.path)
                        .and_then(|mut file| hasher.drain(&mut file))
                        .map_err(Error::io("cannot read", &self.path))?;
                    hasher.digest()
                }
                _ => inner.hasher.digest(),
            };
            match expected {
                Some(expected) if expected != digest => Err(Error::DigestMismatch {
                    expected,
                    actual: digest,
                }),
                _ => {
                    let size = inner.written;
                    drop(inner);
                    self.resumable = true;
                    Ok(Verified {
                        path: self.path.clone(),
                        digest,
                        size,
                    })
                }
            }
        })
        .await
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.resumable {
            // Nobody can find it any more; what is left after a crash is removed at start-up.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A hash in progress.
#[derive(Clone)]
enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(data),
            Self::Sha512(h) => h.update(data),
        }
    }

    fn drain(&mut self, file: &mut File) -> std::io::Result<u64> {
        let mut buffer = vec![0; 128 * 1024];
        let mut total = 0;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                return Ok(total);
            }
            self.update(&buffer[..n]);
            total += n as u64;
        }
    }

    fn digest(&self) -> Digest {
        let hex = match self.clone() {
            Self::Sha256(h) => format!("sha256:{}", hex::encode(h.finalize())),
            Self::Sha512(h) => format!("sha512:{}", hex::encode(h.finalize())),
        };
        hex.parse().expect("a hash is a digest")
    }
}

/// Digest of content in memory, by the algorithm of `like` where one is given.
pub fn digest_of(content: &[u8], like: Option<&Digest>) -> Digest {
    let mut hasher = Hasher::new(like.map_or(Algorithm::Sha256, Digest::algorithm));
    hasher.update(content);
    hasher.digest()
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs file work on the blocking pool.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(Error::Interrupted("registry-svc is stopping".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_disk_did_not_take_is_never_gone_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("partial");
        let mut behind = WriteBehind::default();
        fs::write(&path, "").unwrap();
        // A pipe cannot be synced (fsync(2), EINVAL): as good as a disk that fails.
        let (_read, write) = std::io::pipe().unwrap();
        let broken = File::from(std::os::fd::OwnedFd::from(write));
        behind.go_on(&broken, &path, AHEAD).unwrap();
        tokio::task::spawn_blocking(move || {
            assert!(behind.finish().is_err());
            assert!(behind.finish().is_err());
            assert!(behind.go_on(&broken, &path, 2 * AHEAD).is_err());
            assert!(!path.exists());
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_large_file_is_sent_to_the_disk_while_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let staged = Staged::create(folder.path(), Algorithm::Sha256)
            .await
            .unwrap();
        for _ in 0..3 {
            staged
                .write(vec![vec![1; 1 + AHEAD as usize].into()])
                .await
                .unwrap();
        }
        assert!(lock(&staged.inner).behind.asked > 0);
        let verified = staged.finish(None, Some(3 + 3 * AHEAD)).await.unwrap();
        assert_eq!(verified.size(), 3 + 3 * AHEAD);
    }
}
