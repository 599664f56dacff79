//! Content on its way in: a growing file that is hashed while it is written, and what it becomes when
//! its digest is known to be right.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use slipway_image::{Algorithm, Digest, Digester};
use tracing::warn;

use super::{exclusive::Exclusive, write_behind::WriteBehind};
use crate::{
    error::{Error, Result},
    files,
    work::to_its_end,
};

/// A file that grows. Dropping it removes the file, unless it was opened to be resumed.
pub struct Staged {
    inner: Arc<Mutex<Inner>>,
    /// Of all bytes so far.
    digester: Arc<Mutex<Digester>>,
    /// Whose write it is; a write that nobody waits for any more has it until it has ended.
    turn: Arc<tokio::sync::Mutex<()>>,
    file: Arc<Exclusive>,
    /// Kept when dropped: an upload session or a broken transfer is resumed from it.
    resumable: bool,
}

struct Inner {
    /// Here too, so that a write that nobody waits for any more has it until it has ended.
    file: Arc<Exclusive>,
    algorithm: Algorithm,
    behind: WriteBehind,
}

/// Bytes from which on they are hashed on one processor while another one writes them.
const BESIDE: usize = 128 * 1024;

impl Inner {
    /// Writes behind what is there and was hashed. What is written in part only is taken away again: whoever goes on
    /// goes on from where he was told that it stands.
    fn put(&mut self, batch: &[Bytes], before: u64) -> Result<()> {
        let file = &self.file;
        let size: usize = batch.iter().map(Bytes::len).sum();
        let put = batch
            .iter()
            .try_for_each(|chunk| file.file().write_all(chunk));
        put.map(|()| self.behind.go_on(file.file(), before + size as u64))
            .map_err(|error| {
            if let Err(error) = file.file().set_len(before) {
                // Found out when it is to become a blob.
                warn!(file = %file.path().display(), %error, "a piece that was written in part stays");
            }
            Error::io("cannot write", file.path())(error)
        })
    }
}

/// Content whose digest and size are right; only [`Staged::finish`] makes one.
pub struct Verified {
    /// Nobody else has it before it has its final name.
    file: Arc<Exclusive>,
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
        self.file.path()
    }

    /// Waits until the disk has all of it.
    pub fn sync(&self) -> io::Result<()> {
        self.file.file().sync_data()
    }
}

impl Drop for Verified {
    fn drop(&mut self) {
        // Renamed away by the store in the good case; otherwise nobody needs it.
        let _ = self.file.remove();
    }
}

impl Staged {
    /// A new file in `folder`, hashed with `algorithm`.
    pub async fn create(folder: &Path, algorithm: Algorithm) -> Result<Self> {
        Self::open(folder.join(files::random_name()), algorithm, false).await
    }

    /// A file that outlives this value, with what is in it already; made if need be. Waits until nobody else
    /// writes it.
    pub async fn resume(path: PathBuf, algorithm: Algorithm) -> Result<Self> {
        Self::open(path, algorithm, true).await
    }

    async fn open(path: PathBuf, algorithm: Algorithm, resumable: bool) -> Result<Self> {
        let file = Arc::new(Exclusive::open(path).await?);
        blocking(move || {
            let digester =
                hash(file.file(), algorithm).map_err(Error::io("cannot read", file.path()))?;
            let inner = Inner {
                file: Arc::clone(&file),
                algorithm,
                behind: WriteBehind::after(digester.bytes()),
            };
            Ok(Self {
                inner: Arc::new(Mutex::new(inner)),
                digester: Arc::new(Mutex::new(digester)),
                turn: Arc::default(),
                file,
                resumable,
            })
        })
        .await
    }

    /// Appends, all or nothing. When the caller goes away in between, the bytes are written all the same, so file
    /// and hash never disagree.
    pub async fn write(&self, batch: Vec<Bytes>) -> Result<u64> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (inner, hash) = (Arc::clone(&self.inner), Arc::clone(&self.digester));
        let mut digester = lock(&hash).clone();
        let before = digester.bytes();
        let size: usize = batch.iter().map(Bytes::len).sum();
        if size < BESIDE {
            return blocking(move || {
                let _turn = turn;
                lock(&inner).put(&batch, before)?;
                batch.iter().for_each(|chunk| digester.update(chunk));
                let written = digester.bytes();
                *lock(&hash) = digester;
                Ok(written)
            })
            .await;
        }
        to_its_end(async move {
            let _turn = turn;
            let batch = Arc::new(batch);
            let hashed = Arc::clone(&batch);
            let hashing = blocking(move || {
                hashed.iter().for_each(|chunk| digester.update(chunk));
                Ok(digester)
            });
            let writing = blocking(move || lock(&inner).put(&batch, before));
            let (digester, written) = tokio::join!(hashing, writing);
            written?;
            let digester = digester?;
            let written = digester.bytes();
            *lock(&hash) = digester;
            Ok(written)
        })
        .await
    }

    /// Waits for a write whose caller went away.
    pub async fn settled(&self) {
        drop(self.turn.lock().await);
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        lock(&self.digester).bytes()
    }

    /// The file; readers may follow it while it grows.
    pub fn path(&self) -> &Path {
        self.file.path()
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
        let turn = Arc::clone(&self.turn).lock_owned().await;
        blocking(move || {
            let _turn = turn;
            let inner = lock(&self.inner);
            let path = self.file.path();
            let written = lock(&self.digester).clone();
            let actual = written.bytes();
            let there = self.file.file().metadata();
            if there.map_err(Error::io("cannot stat", path))?.len() != actual {
                let torn = io::Error::other("the file is not what was written to it");
                return Err(Error::io("cannot use", path)(torn));
            }
            if let Some(expected) = size.filter(|size| *size != actual) {
                return Err(Error::SizeMismatch { expected, actual });
            }
            let digester = match &expected {
                // The client told the algorithm only now: read once more.
                Some(expected) if expected.algorithm() != inner.algorithm => {
                    let file = File::open(path).map_err(Error::io("cannot open", path))?;
                    hash(&file, expected.algorithm()).map_err(Error::io("cannot read", path))?
                }
                _ => written,
            };
            let digest = digester.finish();
            if let Some(expected) = expected.filter(|expected| *expected != digest) {
                return Err(Error::DigestMismatch {
                    expected,
                    actual: digest,
                });
            }
            drop(inner);
            self.resumable = true;
            Ok(Verified {
                file: Arc::clone(&self.file),
                digest,
                size: actual,
            })
        })
        .await
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.resumable {
            // Nobody can find it any more; what is left after a crash is removed at start-up.
            let _ = self.file.remove();
        }
    }
}

/// Hashes a file from where it stands to its end.
fn hash(mut file: &File, algorithm: Algorithm) -> io::Result<Digester> {
    let mut digester = Digester::new(algorithm);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digester),
            n => digester.update(&buffer[..n]),
        }
    }
}

/// Digest of content in memory, by the algorithm of `like` where one is given.
pub fn digest_of(content: &[u8], like: Option<&Digest>) -> Digest {
    let mut digester = like.map_or_else(Digester::default, Digest::digester);
    digester.update(content);
    digester.finish()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs file work on the blocking pool.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(Error::Stopping),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc, time::Duration};

    use super::{super::write_behind::AHEAD, *};

    /// What a cancelled transfer, or a session that was closed in the middle of a request, leaves behind.
    #[tokio::test]
    async fn what_is_still_being_written_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("partial");
        let resume = || Staged::resume(path.clone(), Algorithm::Sha256);
        let staged = resume().await.unwrap();
        staged.write(vec!["one".into()]).await.unwrap();
        // A disk that is slow: the write cannot begin.
        let (slow, inner) = (mpsc::channel::<()>(), Arc::clone(&staged.inner));
        let (holding, held) = mpsc::channel();
        let disk = std::thread::spawn(move || {
            let inner = lock(&inner);
            holding.send(()).unwrap();
            let _ = slow.1.recv();
            drop(inner);
        });
        held.recv().unwrap();
        let mut write = Box::pin(staged.write(vec!["two".into()]));
        assert!(futures_util::poll!(&mut write).is_pending());
        drop(write);
        // Whoever goes on with the same value waits, too.
        assert!(futures_util::poll!(Box::pin(staged.settled())).is_pending());
        drop(staged);
        let mut next = tokio::spawn(resume());
        let moment = Duration::from_millis(200);
        assert!(tokio::time::timeout(moment, &mut next).await.is_err());
        drop(slow.0);
        let next = next.await.unwrap().unwrap();
        disk.join().unwrap();
        assert_eq!(
            (next.written(), fs::read(&path).unwrap()),
            (6, b"onetwo".into())
        );
        // What is verified is nobody else's either, until it has its place; then its old name is.
        let verified = next
            .finish(Some(&Digest::of("onetwo")), None)
            .await
            .unwrap();
        let next = tokio::time::timeout(moment, resume());
        assert!(next.await.is_err());
        fs::rename(&path, folder.path().join("blob")).unwrap();
        fs::write(&path, "another").unwrap();
        drop(verified);
        assert_eq!(resume().await.unwrap().written(), 7);
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
        assert!(lock(&staged.inner).behind.asked() > 0);
        let verified = staged.finish(None, Some(3 + 3 * AHEAD)).await.unwrap();
        assert_eq!(verified.size(), 3 + 3 * AHEAD);
    }
}
