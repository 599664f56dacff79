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

/// Members that were made before, by what they hold.
pub trait KnownMembers: Send + Sync {
    /// The member of this plain content, exactly as it was made; none where it is not known.
    fn find(&self, plain: &[u8]) -> Option<Vec<u8>>;
    /// Takes one in that was made.
    fn keep(&self, plain: &[u8], member: &[u8]);
}

/// A plain block, and where it goes as a member.
type Job = (
    Vec<u8>,
    Option<Arc<dyn KnownMembers>>,
    SyncSender<io::Result<Vec<u8>>>,
);

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
    /// Where members are looked for, and whether those that are cut now are.
    known: Option<Arc<dyn KnownMembers>>,
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
            known: None,
            apart: false,
            block: Vec::new(),
            coming: VecDeque::new(),
            pool: None,
            begun: false,
        }
    }

    /// What has members of this level already is not compressed again.
    pub fn knowing(mut self, known: Arc<dyn KnownMembers>) -> Self {
        self.known = Some(known);
        self
    }

    /// Whether what follows, up to the next [`GzipWriter::then`], is known in another way: then it is neither looked
    /// for nor kept.
    pub const fn apart(&mut self, apart: bool) {
        self.apart = apart;
    }

    fn known(&self) -> Option<Arc<dyn KnownMembers>> {
        self.known.clone().filter(|_| !self.apart)
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
                let member = member(&mut compressor, self.known().as_deref(), &self.block)?;
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
        let (threads, known) = (threads(), self.known());
        let pool = match &self.pool {
            Some(pool) => pool,
            None => self.pool.insert(start(threads, self.level)?),
        };
        let (send, member) = mpsc::sync_channel(1);
        pool.send((block, known, send)).map_err(|_| ended())?;
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
                    let Ok((plain, known, answer)) = job else {
                        return;
                    };
                    // Who wanted it may have given up.
                    let _ = answer.send(member(&mut compressor, known.as_deref(), &plain));
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

/// One that is known, or a new one.
fn member(
    compressor: &mut Compressor,
    known: Option<&dyn KnownMembers>,
    plain: &[u8],
) -> io::Result<Vec<u8>> {
    if let Some(member) = known.and_then(|known| known.find(plain)) {
        return Ok(member);
    }
    let member = compress(compressor, plain)?;
    if let Some(known) = known {
        known.keep(plain, &member);
    }
    Ok(member)
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
    use super::*;
    use std::io::Read as _;

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

    #[test]
    fn what_is_known_is_not_compressed_again() {
        #[derive(Default)]
        struct Known(Mutex<std::collections::HashMap<Vec<u8>, Vec<u8>>>);
        impl KnownMembers for Known {
            fn find(&self, plain: &[u8]) -> Option<Vec<u8>> {
                self.0.lock().unwrap().get(plain).cloned()
            }
            fn keep(&self, plain: &[u8], member: &[u8]) {
                let before = self.0.lock().unwrap().insert(plain.into(), member.into());
                assert_eq!(before, None);
            }
        }
        let known = Arc::new(Known::default());
        let content: Vec<u8> = (0_u32..700_000).flat_map(u32::to_le_bytes).collect();
        let written = |content: &[u8]| {
            let mut writer = GzipWriter::new(Vec::new(), LEVEL).knowing(known.clone());
            writer.write_all(content).unwrap();
            writer.finish().unwrap()
        };
        let whole = gzip(&[&content], LEVEL);
        assert_eq!(
            (written(&content), known.0.lock().unwrap().len()),
            (whole.clone(), 3)
        );
        assert_eq!(written(&content), whole);
        let other = gzip(&[b"other"], LEVEL);
        let mut members = known.0.lock().unwrap();
        members.insert(content[..MEMBER].to_vec(), other.clone());
        drop(members);
        assert_eq!(written(&content)[..other.len()], other);
        assert_eq!(written(b"one"), gzip(&[b"one"], LEVEL));
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
