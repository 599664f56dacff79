//! What a server answers, packet by packet (gitprotocol-common(5), "pkt-line Format").

use bytes::{Buf as _, Bytes, BytesMut};
use reqwest::Response;

use super::super::ssh::Process;
use crate::error::{Error, Result};

/// Longest line of answers that are text: an advertisement of references is many lines.
const MAX_LINE: usize = 65_520;

/// A packet of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    /// Content.
    Data(Bytes),
    /// The end of all.
    Flush,
    /// The end of a section.
    Delimiter,
}

/// The packets of an answer.
pub struct Packets {
    source: Source,
    buffer: BytesMut,
    shown: String,
}

/// Where they come from.
pub enum Source {
    Http(Response),
    Ssh(Box<Process>),
}

impl Packets {
    /// `shown` is for errors.
    pub fn new(source: Source, shown: String) -> Self {
        Self {
            source,
            buffer: BytesMut::new(),
            shown,
        }
    }

    /// Asks the other side for more, where it is the same that has answered before.
    pub async fn ask(&mut self, question: Vec<u8>) -> Result<()> {
        match &mut self.source {
            Source::Ssh(process) => process.write(question).await.map_err(|e| self.fail(&e)),
            Source::Http(_) => Err(self.fail("its connection is used up")),
        }
    }

    /// An error, with what the other side has said of it.
    pub fn fail(&self, why: &str) -> Error {
        let said = match &self.source {
            Source::Ssh(process) => process.said(),
            Source::Http(_) => String::new(),
        };
        let (shown, said) = match said.as_str() {
            "" => (&self.shown, String::new()),
            said => (&self.shown, format!(": it says {said:?}")),
        };
        Error::Invalid(format!("cannot fetch {shown}: {why}{said}"))
    }

    /// Waits until so many bytes are there; false at the end of the answer.
    async fn fill(&mut self, bytes: usize) -> Result<bool> {
        while self.buffer.len() < bytes {
            let chunk = match &mut self.source {
                Source::Http(response) => response.chunk().await.map_err(|e| e.to_string()),
                Source::Ssh(process) => process.chunk().await,
            };
            match chunk.map_err(|e| self.fail(&e))? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next one; none at the end of the answer.
    pub async fn next(&mut self) -> Result<Option<Packet>> {
        const BROKEN: &str = "the server does not speak git's protocol";
        if !self.fill(4).await? {
            return match self.buffer.is_empty() {
                true => Ok(None),
                false => Err(self.fail(BROKEN)),
            };
        }
        let length = std::str::from_utf8(&self.buffer[..4])
            .ok()
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())
            .filter(|length| *length <= MAX_LINE)
            .ok_or_else(|| self.fail(BROKEN))?;
        self.buffer.advance(4);
        match length {
            0 => Ok(Some(Packet::Flush)),
            1 => Ok(Some(Packet::Delimiter)),
            // The end of an answer over a connection that goes on, which HTTP's does not.
            2 => Ok(Some(Packet::Flush)),
            3 => Err(self.fail(BROKEN)),
            length => {
                if !self.fill(length - 4).await? {
                    return Err(self.fail(BROKEN));
                }
                Ok(Some(Packet::Data(
                    self.buffer.split_to(length - 4).freeze(),
                )))
            }
        }
    }
}

/// Lines as packets, each with its end.
pub fn lines<T: AsRef<str>>(lines: &[T]) -> Vec<u8> {
    let one = |line: &T| {
        let line = line.as_ref();
        format!("{:04x}{line}\n", line.len() + 5).into_bytes()
    };
    lines.iter().flat_map(one).collect()
}
