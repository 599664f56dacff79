//! From the compressed stream to plain buffers: one thread hashes and inflates, one hashes what comes out,
//! and the caller's takes it. A few buffers go round between the three, so memory is bounded.

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
};

use crate::{
    digest::{Algorithm, Digest, Digester},
    layer::{compression::Decompressor, limits::Limits},
};

/// Size of a buffer, bytes.
const BUFFER: usize = 256 * 1024;
/// Buffers that wait for the slower of the two readers.
const AHEAD: usize = 8;

/// What a stream is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// Compressed or not.
    Any,
    /// Not compressed.
    Plain,
}

/// What the two hashing threads found out.
pub(super) struct Hashes {
    /// Digest of what came in.
    pub digest: Digest,
    /// Bytes that came in.
    pub compressed_size: u64,
    /// Digest of what came out.
    pub diff_id: Digest,
}

/// Runs `consume` on the plain content of a stream. It must read to the end: what it leaves is not hashed.
pub(super) fn run<T, E: From<io::Error>>(
    source: impl BufRead + Send,
    form: Form,
    limits: Limits,
    consume: impl FnOnce(&mut Plain) -> Result<T, E>,
) -> Result<(T, Hashes), E> {
    thread::scope(|scope| {
        let (plain, receive) = mpsc::sync_channel(AHEAD);
        let (to_hash, hashing) = mpsc::sync_channel::<Arc<Vec<u8>>>(AHEAD);
        let (give_back, free) = mpsc::sync_channel(2 * AHEAD);
        let hasher = {
            let give_back = give_back.clone();
            thread::Builder::new()
                .name("layer-hash".into())
                .spawn_scoped(scope, move || {
                    let mut digester = Digester::new(Algorithm::Sha256);
                    for buffer in hashing {
                        digester.update(&buffer);
                        recycle(buffer, &give_back);
                    }
                    digester.finish()
                })?
        };
        let inflater = thread::Builder::new()
            .name("layer-inflate".into())
            .spawn_scoped(scope, move || {
                let outcome = inflate(source, form, limits, &plain, &to_hash, &free);
                match outcome {
                    Ok(done) => Some(done),
                    Err(error) => {
                        // Nobody listens when the reader has failed itself.
                        let _ = plain.send(Err(error));
                        None
                    }
                }
            })?;
        let mut source = Plain {
            receive,
            give_back,
            current: Arc::default(),
            at: 0,
        };
        let result = consume(&mut source);
        // Whoever still sends is told by this that nobody reads.
        drop(source);
        let sent = inflater.join();
        let diff_id = hasher.join();
        let value = result?;
        let interrupted = || io::Error::other("unpacking was interrupted");
        let (digest, compressed_size, same) = sent.ok().flatten().ok_or_else(interrupted)?;
        let diff_id = match same {
            true => digest.clone(),
            false => diff_id.map_err(|_| interrupted())?,
        };
        Ok((
            value,
            Hashes {
                digest,
                compressed_size,
                diff_id,
            },
        ))
    })
}

/// `Ok` when the stream was read to its end and everybody has got all of it: digest and size of what came,
/// and whether that is what was given on, and was hashed once for both.
fn inflate(
    source: impl BufRead,
    form: Form,
    limits: Limits,
    plain: &SyncSender<io::Result<Arc<Vec<u8>>>>,
    to_hash: &SyncSender<Arc<Vec<u8>>>,
    free: &Receiver<Vec<u8>>,
) -> io::Result<(Digest, u64, bool)> {
    let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads any more");
    let source = Hashed::new(source);
    let mut stream = match form {
        Form::Any => Decompressor::new(source, limits.zstd_window_log)?,
        Form::Plain => Decompressor::plain(source),
    };
    let same = matches!(stream, Decompressor::None(_));
    let mut total = 0;
    loop {
        let mut buffer = free.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        let n = fill(&mut stream, &mut buffer)?;
        if n == 0 {
            break;
        }
        buffer.truncate(n);
        total += n as u64;
        let taken = stream.source().digester.bytes();
        if limits.is_bomb(total, taken) {
            return Err(io::Error::other(format!(
                "it unpacks to more than {} times its size: if it is meant to, raise unpack_max_ratio in runtime.toml",
                limits.ratio
            )));
        }
        let buffer = Arc::new(buffer);
        if !same {
            to_hash.send(buffer.clone()).map_err(|_| gone(()))?;
        }
        plain.send(Ok(buffer)).map_err(|_| gone(()))?;
    }
    // What follows the compressed data belongs to the digest too.
    let mut source = stream.into_inner();
    io::copy(&mut source, &mut io::sink())?;
    let digester = source.digester;
    let size = digester.bytes();
    Ok((digester.finish(), size, same))
}

fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn recycle(buffer: Arc<Vec<u8>>, give_back: &SyncSender<Vec<u8>>) {
    // The last of two holders gives it back; when there are enough, it is freed.
    if let Some(buffer) = Arc::into_inner(buffer) {
        let _ = give_back.try_send(buffer);
    }
}

/// The plain content.
pub(super) struct Plain {
    receive: Receiver<io::Result<Arc<Vec<u8>>>>,
    give_back: SyncSender<Vec<u8>>,
    current: Arc<Vec<u8>>,
    at: usize,
}

impl BufRead for Plain {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() {
            recycle(std::mem::take(&mut self.current), &self.give_back);
            self.at = 0;
            // The sender is gone: that was all.
            if let Ok(next) = self.receive.recv() {
                self.current = next?;
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// A source that hashes each of its buffers when it is first seen.
struct Hashed<R> {
    inner: R,
    digester: Digester,
    /// Bytes of the current buffer that are hashed and not consumed.
    hashed: usize,
}

impl<R> Hashed<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            digester: Digester::new(Algorithm::Sha256),
            hashed: 0,
        }
    }
}

impl<R: BufRead> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let buffer = self.inner.fill_buf()?;
        if self.hashed == 0 {
            self.digester.update(buffer);
            self.hashed = buffer.len();
        }
        Ok(&buffer[..self.hashed])
    }

    fn consume(&mut self, amount: usize) {
        self.hashed -= amount;
        self.inner.consume(amount);
    }
}

impl<R: BufRead> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}
