//! Blocking readers and writers upon channels of chunks: where a streamed body meets code that reads
//! and writes on the blocking pool.

use std::io::{self, BufRead as _};

use bytes::Buf as _;
use tokio::sync::mpsc;

use crate::CHUNK_SIZE;

/// Chunks of a channel as a blocking reader.
pub struct ChunkReader {
    receive: mpsc::Receiver<bytes::Bytes>,
    chunk: bytes::Bytes,
}

impl ChunkReader {
    /// From a channel; its end is the end of the stream.
    pub const fn new(receive: mpsc::Receiver<bytes::Bytes>) -> Self {
        Self {
            receive,
            chunk: bytes::Bytes::new(),
        }
    }
}

impl io::BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            match self.receive.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(&[]),
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.chunk.advance(amount);
    }
}

impl io::Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// A blocking writer whose full chunks go into a channel, among other things that it may carry. What is left goes
/// with `flush`: whoever does not call it at the end loses it.
pub struct ChunkWriter<T = bytes::Bytes> {
    send: mpsc::Sender<T>,
    chunk: Vec<u8>,
}

impl<T: From<bytes::Bytes>> ChunkWriter<T> {
    /// Into a channel.
    pub fn new(send: mpsc::Sender<T>) -> Self {
        Self {
            send,
            chunk: Vec::new(),
        }
    }

    /// Sends what was written so far, and then something else.
    pub fn put(&mut self, item: T) -> io::Result<()> {
        io::Write::flush(self)?;
        self.send(item)
    }

    fn send(&self, item: T) -> io::Result<()> {
        self.send
            .blocking_send(item)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads any more"))
    }
}

impl<T: From<bytes::Bytes>> io::Write for ChunkWriter<T> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.chunk.capacity() == 0 {
            self.chunk.reserve_exact(CHUNK_SIZE);
        }
        let n = (CHUNK_SIZE - self.chunk.len()).min(buffer.len());
        self.chunk.extend_from_slice(&buffer[..n]);
        if self.chunk.len() == CHUNK_SIZE {
            self.flush()?;
        }
        Ok(n)
    }

    /// Sends what there is.
    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = bytes::Bytes::from(std::mem::take(&mut self.chunk));
        self.send(chunk.into())
    }
}
