//! gzip that is written in members of bounded size (RFC 1952, 2.2), several compressed at once.
//!
//! Every reader takes the members for one stream. Where they begin depends on content alone, so the same
//! content gives the same bytes on however many processors; and members that were made before can stand
//! between others as they are ([`GzipWriter::then`]).

use std::{
    collections::VecDeque,
    io::{self, Write},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
};

use libdeflater::{CompressionLvl, Compressor};

/// The level of layers that nobody chose another for: 6 makes them a tenth smaller in more than twice the time.
pub const LEVEL: u32 = 1;
/// Plain bytes of a member: its window begins empty, which costs less than a hundredth of the size.
const MEMBER: usize = 1 << 20;
/// Most threads of one stream: then hashing it is what takes the time.
const THREADS: usize = 8;

/// Where members are kept from one stream to the next.
pub trait KeptMembers: Send + Sync {
    /// The member of this plain block: byte for byte as it was made before, or as `make` makes it.
    fn member(
        &self,
        plain: &[u8],
        make: &mut dyn FnMut() -> io::Result<Vec<u8>>,
    ) -> io::Result<Vec<u8>>;
}

/// A block that becomes a member.
struct Job {
    plain: Vec<u8>,
    kept: Option<Arc<dyn KeptMembers>>,
    answer: SyncSender<io::Result<Vec<u8>>>,
}

/// Something done, in its turn, with what the members go to.
pub type Act<W> = Box<dyn FnOnce(&mut W) -> io::Result<()> + Send>;

/// What is next in the stream.
enum Coming<W> {
    /// A member that is being made.
    Member(Receiver<io::Result<Vec<u8>>>),
    Act(Act<W>),
}

/// A gzip stream that is being written.
pub struct GzipWriter<W: Write> {
    inner: W,
    level: u32,
    /// Where members are kept, and whether what is written now is kept elsewhere.
    kept: Option<Arc<dyn KeptMembers>>,
    apart: bool,
    block: Vec<u8>,
    coming: VecDeque<Coming<W>>,
    pool: Option<SyncSender<Job>>,
    begun: bool,
}

impl<W: Write> GzipWriter<W> {
    /// `level` is gzip's, 0 to 9.
    pub const fn new(inner: W, level: u32) -> Self {
        Self {
            inner,
            level,
            kept: None,
            apart: false,
            block: Vec::new(),
            coming: VecDeque::new(),
            pool: None,
            begun: false,
        }
    }

    /// With members that are kept, all of this level.
    pub fn with_kept(mut self, kept: Arc<dyn KeptMembers>) -> Self {
        self.kept = Some(kept);
        self
    }

    /// Whether members that end from now on are left out of those that are kept.
    pub const fn apart(&mut self, apart: bool) {
        self.apart = apart;
    }

    fn kept(&self) -> Option<Arc<dyn KeptMembers>> {
        self.kept.clone().filter(|_| !self.apart)
    }

    /// Ends the member, and does something when all before it was written: what follows is a member of its
    /// own. Members that were made before can be written so.
    pub fn then(&mut self, act: Act<W>) -> io::Result<()> {
        self.cut()?;
        self.begun = true;
        self.coming.push_back(Coming::Act(act));
        self.drain(2 * threads())
    }

    /// Ends the stream.
    pub fn finish(mut self) -> io::Result<W> {
        // The only block needs no thread, and something of no content is a member, too.
        if self.pool.is_none() {
            self.drain(0)?;
            if !self.block.is_empty() || !self.begun {
                let mut compressor = compressor(self.level)?;
                let member = member(&mut compressor, self.kept().as_deref(), &self.block)?;
                self.inner.write_all(&member)?;
            }
            return Ok(self.inner);
        }
        self.cut()?;
        self.drain(0)?;
        Ok(self.inner)
    }

    /// Ends the block.
    fn cut(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.begun = true;
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(MEMBER));
        let (threads, kept) = (threads(), self.kept());
        let pool = match &self.pool {
            Some(pool) => pool,
            None => self.pool.insert(start(threads, self.level)?),
        };
        let (send, member) = mpsc::sync_channel(1);
        pool.send(Job {
            plain: block,
            kept,
            answer: send,
        })
        .map_err(|_| ended())?;
        self.coming.push_back(Coming::Member(member));
        self.drain(2 * threads)
    }

    /// Writes members until only so many things are still to come.
    fn drain(&mut self, most: usize) -> io::Result<()> {
        while self.coming.len() > most
            && let Some(next) = self.coming.pop_front()
        {
            match next {
                Coming::Member(member) => {
                    let member = member.recv().map_err(|_| ended())??;
                    self.inner.write_all(&member)?;
                }
                Coming::Act(act) => act(&mut self.inner)?,
            }
        }
        Ok(())
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(MEMBER - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == MEMBER {
            self.cut()?;
        }
        Ok(taken)
    }

    /// Only what is a member already goes on: to cut one here would make the bytes depend on who flushes.
    fn flush(&mut self) -> io::Result<()> {
        self.drain(0)?;
        self.inner.flush()
    }
}

fn ended() -> io::Error {
    io::Error::other("a thread that compresses has ended")
}

fn threads() -> usize {
    thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .min(THREADS)
}

/// Threads that compress until the sender is dropped.
fn start(threads: usize, level: u32) -> io::Result<SyncSender<Job>> {
    let (send, jobs) = mpsc::sync_channel::<Job>(threads);
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..threads {
        let (jobs, mut compressor) = (jobs.clone(), compressor(level)?);
        thread::Builder::new()
            .name("gzip".to_owned())
            .spawn(move || {
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    let member = member(&mut compressor, job.kept.as_deref(), &job.plain);
                    // Who wanted it may have given up.
                    let _ = job.answer.send(member);
                }
            })?;
    }
    Ok(send)
}

fn compressor(level: u32) -> io::Result<Compressor> {
    let level = i32::try_from(level).ok().filter(|level| *level <= 9);
    let level = level.and_then(|level| CompressionLvl::new(level).ok());
    let level = level.ok_or_else(|| io::Error::other("gzip has levels from 0 to 9"))?;
    Ok(Compressor::new(level))
}

/// One that is kept, or a new one.
fn member(
    compressor: &mut Compressor,
    kept: Option<&dyn KeptMembers>,
    plain: &[u8],
) -> io::Result<Vec<u8>> {
    match kept {
        Some(kept) => kept.member(plain, &mut || compress(compressor, plain)),
        None => compress(compressor, plain),
    }
}

/// One member: no name and no time in its header.
fn compress(compressor: &mut Compressor, plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut member = vec![0; compressor.gzip_compress_bound(plain.len())];
    let size = compressor
        .gzip_compress(plain, &mut member)
        .map_err(|e| io::Error::other(format!("cannot compress: {e}")))?;
    member.truncate(size);
    Ok(member)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        io::Read as _,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    use crate::layer::compression::decompress;

    fn gzip(pieces: &[&[u8]], level: u32) -> Vec<u8> {
        let mut writer = GzipWriter::new(Vec::new(), level);
        pieces
            .iter()
            .for_each(|piece| writer.write_all(piece).unwrap());
        writer.finish().unwrap()
    }

    fn plain(gzip: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        decompress(gzip).unwrap().read_to_end(&mut plain).unwrap();
        plain
    }

    #[test]
    fn members_are_one_stream_and_the_same_however_they_are_written() {
        let long: Vec<u8> = (0_u32..1 << 20).flat_map(u32::to_le_bytes).collect();
        for size in [0, 1, MEMBER - 1, MEMBER, MEMBER + 1, long.len()] {
            let content = &long[..size];
            let whole = gzip(&[content], LEVEL);
            assert_eq!(plain(&whole), content, "{size}");
            let (one, two) = content.split_at(size / 3);
            assert_eq!(gzip(&[one, two], LEVEL), whole, "{size}");
        }
        for level in 0..=9 {
            assert_eq!(plain(&gzip(&[&long], level)), long, "{level}");
        }
        assert!(GzipWriter::new(Vec::new(), 10).finish().is_err());
    }

    #[test]
    fn what_was_compressed_before_stands_between_the_rest() {
        let before = gzip(&[b"world"], LEVEL);
        let append = || -> Act<Vec<u8>> {
            let before = before.clone();
            Box::new(move |inner| inner.write_all(&before))
        };
        let mut writer = GzipWriter::new(Vec::new(), LEVEL);
        writer.then(append()).unwrap();
        writer.write_all(b"hello ").unwrap();
        writer.then(append()).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(plain(&bytes), b"worldhello world");
        let mut writer = GzipWriter::new(Vec::new(), LEVEL);
        writer.then(append()).unwrap();
        assert_eq!(writer.finish().unwrap(), before);
    }

    /// Keeps all members, and counts those that it had made.
    #[derive(Default)]
    struct Kept(Mutex<HashMap<Vec<u8>, Vec<u8>>>, AtomicUsize);

    impl KeptMembers for Kept {
        fn member(
            &self,
            plain: &[u8],
            make: &mut dyn FnMut() -> io::Result<Vec<u8>>,
        ) -> io::Result<Vec<u8>> {
            if let Some(member) = self.0.lock().unwrap().get(plain) {
                return Ok(member.clone());
            }
            self.1.fetch_add(1, Ordering::Relaxed);
            let member = make()?;
            self.0.lock().unwrap().insert(plain.into(), member.clone());
            Ok(member)
        }
    }

    #[test]
    fn what_is_kept_is_not_compressed_again() {
        let kept = Arc::new(Kept::default());
        let content: Vec<u8> = (0_u32..700_000).flat_map(u32::to_le_bytes).collect();
        let written = |content: &[u8]| {
            let mut writer = GzipWriter::new(Vec::new(), LEVEL).with_kept(kept.clone());
            writer.write_all(content).unwrap();
            let whole = writer.finish().unwrap();
            (whole, kept.1.swap(0, Ordering::Relaxed))
        };
        let whole = gzip(&[&content], LEVEL);
        assert_eq!(written(&content), (whole.clone(), 3));
        assert_eq!(written(&content), (whole, 0));
        assert_eq!(written(b"one"), (gzip(&[b"one"], LEVEL), 1));
        assert_eq!(written(b"one"), (gzip(&[b"one"], LEVEL), 0));
        let apart = || {
            let mut writer = GzipWriter::new(Vec::new(), LEVEL).with_kept(kept.clone());
            writer.write_all(b"one").unwrap();
            writer.then(Box::new(|_| Ok(()))).unwrap();
            writer.apart(true);
            writer.write_all(b"large").unwrap();
            writer.then(Box::new(|_| Ok(()))).unwrap();
            writer.apart(false);
            writer.write_all(b"two").unwrap();
            let whole = writer.finish().unwrap();
            (whole, kept.1.swap(0, Ordering::Relaxed))
        };
        let three = ["one", "large", "two"].map(|part| gzip(&[part.as_bytes()], LEVEL));
        // The large one each time.
        assert_eq!(apart(), (three.concat(), 1));
        assert_eq!(apart(), (three.concat(), 0));
        assert!(!kept.0.lock().unwrap().contains_key(&b"large"[..]));
    }

    #[test]
    fn who_cannot_write_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = GzipWriter::new(Full, LEVEL);
        let written = writer.write_all(&vec![0; 40 * MEMBER]);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
