//! Files on their way out. What the kernel has in memory is taken at once (openat2(2), `RESOLVE_CACHED`; preadv2(2),
//! `RWF_NOWAIT`): that takes less than to hand it to another thread. What the disk must be waited for is waited for
//! on a thread of its own.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rustix::{
    fs::{Advice, CWD, Mode, OFlags, ResolveFlags},
    io::{Errno, ReadWriteFlags},
};

use super::{BlobStream, READ_SIZE, staging::blocking};
use crate::{
    error::{Error, Result},
    in_hand::{InHand, SMALL},
};

/// How far ahead of a reader the disk is sent when something is not in memory.
const AHEAD: u64 = 4 << 20;

/// Buffers that are kept for the next one.
const KEPT: usize = 8;

/// An open file; its clones are the same one.
#[derive(Clone)]
pub struct Source(Arc<Opened>);

struct Opened {
    file: File,
    path: PathBuf,
}

impl Source {
    /// Opens a file.
    pub async fn open(path: PathBuf) -> io::Result<Self> {
        let opened = match open_at_once(&path) {
            Some(opened) => opened,
            None => {
                let path = path.clone();
                blocking(move || Ok(File::open(path)))
                    .await
                    .unwrap_or_else(|e| Err(io::Error::other(e)))
            }
        };
        Ok(Self::of(opened?, path))
    }

    /// A file that is open.
    pub fn of(file: File, path: PathBuf) -> Self {
        Self(Arc::new(Opened { file, path }))
    }

    /// Its size now.
    pub fn size(&self) -> Result<u64> {
        let metadata = self.0.file.metadata();
        Ok(metadata
            .map_err(Error::io("cannot stat", &self.0.path))?
            .len())
    }

    /// The next bytes behind `offset`, where there must be some: at most `want`, and at most [`READ_SIZE`]; fewer when
    /// many readers have some in hand.
    pub async fn piece(&self, offset: u64, want: u64) -> Result<Bytes> {
        let in_hand = InHand::default();
        let want = in_hand.most(want.min(READ_SIZE as u64) as usize);
        let mut buffer = Buffer::of(want, in_hand);
        let count = match self.read_at_once(&mut buffer.space[..want], offset) {
            Some(count) => count,
            None => {
                let opened = Arc::clone(&self.0);
                let (read, filled) = blocking(move || {
                    // A hint. The kernel begins with it, and goes on with what is asked for.
                    let ahead = std::num::NonZeroU64::new(AHEAD);
                    let _ = rustix::fs::fadvise(&opened.file, offset, ahead, Advice::WillNeed);
                    let read = opened.file.read_at(&mut buffer.space[..want], offset);
                    Ok((read, buffer))
                })
                .await?;
                buffer = filled;
                read
            }
        };
        buffer.filled = count.map_err(Error::io("cannot read", &self.0.path))?;
        match buffer.filled {
            0 => Err(Error::Interrupted(format!(
                "{} is shorter than it was",
                self.0.path.display()
            ))),
            _ => Ok(Bytes::from_owner(buffer)),
        }
    }

    /// So many bytes behind `offset`.
    pub fn stream(self, offset: u64, length: u64) -> BlobStream {
        let end = offset + length;
        stream::try_unfold(offset, move |at| {
            let source = self.clone();
            async move {
                if at >= end {
                    return Ok(None);
                }
                let piece = source.piece(at, end - at).await?;
                let next = at + piece.len() as u64;
                Ok(Some((piece, next)))
            }
        })
        .boxed()
    }

    /// So many bytes behind `offset`, added to what is there.
    pub async fn append_to(&self, content: &mut Vec<u8>, offset: u64, length: u64) -> Result<()> {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let piece = self.piece(at, end - at).await?;
            at += piece.len() as u64;
            content.extend_from_slice(&piece);
        }
        Ok(())
    }

    /// None: the disk would have to be waited for, or the kernel cannot say.
    fn read_at_once(&self, space: &mut [u8], offset: u64) -> Option<io::Result<usize>> {
        let mut all = [io::IoSliceMut::new(space)];
        let read = rustix::io::preadv2(&self.0.file, &mut all, offset, ReadWriteFlags::NOWAIT);
        match read {
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {
                None
            }
            // Not memory, but a file that ends: the disk's word counts.
            Ok(0) => None,
            read => Some(read.map_err(io::Error::from)),
        }
    }
}

/// None: the disk would have to be waited for, or the kernel cannot say (before 5.12, or where a filter of system
/// calls does not let it).
fn open_at_once(path: &Path) -> Option<io::Result<File>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED) {
        Err(Errno::AGAIN | Errno::NOSYS | Errno::INVAL | Errno::PERM | Errno::INTR) => None,
        opened => Some(opened.map(File::from).map_err(io::Error::from)),
    }
}

/// Room for a piece. What is large comes from those that were used before: new memory has to be cleared, by the
/// kernel and a page at a time.
struct Buffer {
    space: Vec<u8>,
    filled: usize,
    _in_hand: InHand,
}

static USED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

impl Buffer {
    /// Up to [`SMALL`] it is worth no buffer that is kept.
    fn of(size: usize, mut in_hand: InHand) -> Self {
        let space = match size {
            ..=SMALL => vec![0; size],
            _ => used().pop().unwrap_or_else(|| vec![0; READ_SIZE]),
        };
        in_hand.add(space.len());
        Self {
            space,
            filled: 0,
            _in_hand: in_hand,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.space[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut used = used();
        if self.space.len() == READ_SIZE && used.len() < KEPT {
            used.push(std::mem::take(&mut self.space));
        }
    }
}

fn used() -> MutexGuard<'static, Vec<Vec<u8>>> {
    USED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_in_memory_and_what_is_not_are_read_alike() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..3 * READ_SIZE + 7).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        for cold in [false, true] {
            let source = Source::open(path.clone()).await.unwrap();
            if cold {
                source.0.file.sync_all().unwrap();
                rustix::fs::fadvise(&source.0.file, 0, None, Advice::DontNeed).unwrap();
            }
            let wanted = 5..content.len() as u64 - 9;
            let length = wanted.end - wanted.start;
            let pieces: Vec<Bytes> = source
                .clone()
                .stream(wanted.start, length)
                .try_collect()
                .await
                .unwrap();
            assert!(pieces.iter().all(|piece| piece.len() <= READ_SIZE));
            let wanted = &content[wanted.start as usize..wanted.end as usize];
            assert!(pieces.concat() == wanted, "cold: {cold}");
            let mut all = Vec::new();
            source.append_to(&mut all, 5, length).await.unwrap();
            assert!(all == wanted, "cold: {cold}");
            // Beyond the end there is nothing to wait for.
            let beyond = source.piece(content.len() as u64, 1).await;
            assert!(matches!(beyond, Err(Error::Interrupted(_))));
        }
        let missing = Source::open(folder.path().join("missing")).await;
        assert!(missing.is_err_and(|e| e.kind() == io::ErrorKind::NotFound));
    }
}
