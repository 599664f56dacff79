//! One HTTP/1.1 connection (RFC 9112): a request at a time, sent and answered as far as the socket goes.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use crate::{Result, content::Content};

/// A request.
pub struct Ask {
    head: Vec<u8>,
    body: Option<Content>,
    /// The body of the answer is wanted, not only its length.
    keep: bool,
}

/// An answer.
#[derive(Default)]
pub struct Answer {
    /// 200 and the like.
    pub status: u16,
    /// Where it points to.
    pub location: Option<String>,
    /// What follows it.
    pub link: Option<String>,
    /// Bytes of the body.
    pub size: u64,
    /// The body, if it was wanted.
    pub body: Vec<u8>,
    /// From the first byte asked to the last one answered, microseconds.
    pub took: u64,
}

impl Ask {
    /// With headers, each ended by CR LF, and a body whose length is told.
    pub fn new(method: &str, target: &str, headers: &str, body: Option<Content>) -> Self {
        // Either form is right for a target (RFC 9112, 3.2); registries send the longer one as a location.
        let path = target.strip_prefix("http://").map_or(target, |rest| {
            rest.find('/').map_or("/", |slash| &rest[slash..])
        });
        let length = match (&body, method) {
            (Some(body), _) => format!("Content-Length: {}\r\n", body.size()),
            (None, "POST" | "PUT" | "PATCH") => "Content-Length: 0\r\n".to_owned(),
            _ => String::new(),
        };
        // All that is measured is on this host; an open registry answers by no other name.
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}{length}\r\n");
        Self {
            head: head.into_bytes(),
            body,
            keep: false,
        }
    }

    /// With a body that is all in memory.
    pub fn with(method: &str, target: &str, headers: &str, body: &[u8]) -> Self {
        let headers = format!("{headers}Content-Length: {}\r\n", body.len());
        let mut ask = Self::new(method, target, &headers, None);
        // The one that `new` makes of no body at all.
        let none = b"Content-Length: 0\r\n\r\n";
        ask.head.truncate(ask.head.len() - none.len());
        ask.head.extend_from_slice(b"\r\n");
        ask.head.extend_from_slice(body);
        ask
    }

    /// A GET whose answer is wanted.
    pub fn for_body(target: &str, headers: &str) -> Self {
        let mut ask = Self::new("GET", target, headers, None);
        ask.keep = true;
        ask
    }
}

/// See the module's page.
pub struct Connection {
    stream: TcpStream,
    ask: Option<Ask>,
    sent: u64,
    begun: Instant,
    /// Head of an answer that is not all here.
    head: Vec<u8>,
    /// The answer whose head is here, and how much of its body is still to come.
    answer: Option<(Answer, u64)>,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            ask: None,
            sent: 0,
            begun: Instant::now(),
            head: Vec::new(),
            answer: None,
        })
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Begins with a request.
    pub fn begin(&mut self, ask: Ask) -> Result<()> {
        (self.ask, self.sent, self.begun) = (Some(ask), 0, Instant::now());
        self.send()
    }

    /// There is something to send.
    pub fn is_sending(&self) -> bool {
        self.ask.as_ref().is_some_and(|ask| {
            self.sent < ask.head.len() as u64 + ask.body.as_ref().map_or(0, Content::size)
        })
    }

    /// Sends as much as the socket takes.
    pub fn send(&mut self) -> Result<()> {
        while self.is_sending() {
            let ask = self.ask.as_ref().expect("there is one");
            let head = ask.head.len() as u64;
            let piece = match (&ask.body, self.sent.checked_sub(head)) {
                (Some(body), Some(offset)) => body.at(offset),
                _ => &ask.head[self.sent as usize..],
            };
            match self.stream.write(piece) {
                Ok(count) => self.sent += count as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Takes what has come; the answer, once all of it is here.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Answer>> {
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Err("the server hung up".into()),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e.into()),
            };
            let mut piece = &buffer[..count];
            if self.answer.is_none() {
                let before = self.head.len();
                self.head.extend_from_slice(piece);
                let from = before.saturating_sub(3);
                let end = self.head[from..].windows(4).position(|w| w == b"\r\n\r\n");
                let Some(end) = end.map(|at| from + at + 4) else {
                    continue;
                };
                piece = &piece[end - before..];
                let head = std::str::from_utf8(&self.head[..end])?;
                let answer = parse(head)?;
                self.head.clear();
                self.answer = Some(answer);
            }
            let keep = self.ask.as_ref().is_some_and(|ask| ask.keep);
            let (answer, left) = self.answer.as_mut().expect("its head is here");
            if keep {
                answer.body.extend_from_slice(piece);
            }
            let more = left.checked_sub(piece.len() as u64);
            *left = more.ok_or("the answer is longer than it says")?;
            if *left == 0 {
                self.ask = None;
                let (mut answer, _) = self.answer.take().expect("its head is here");
                answer.took = self.begun.elapsed().as_micros() as u64;
                return Ok(Some(answer));
            }
            // The socket had no more than this: asking again would only tell so.
            if count < buffer.len() {
                return Ok(None);
            }
        }
    }
}

fn parse(head: &str) -> Result<(Answer, u64)> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let mut answer = Answer {
        status: status.ok_or("an answer without a status")?.parse()?,
        ..Answer::default()
    };
    for line in lines {
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-length") {
            answer.size = value.parse()?;
        } else if name.eq_ignore_ascii_case("location") {
            answer.location = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("link") {
            answer.link = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("an answer in chunks, whose length nobody knows".into());
        }
    }
    let size = answer.size;
    Ok((answer, size))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// Answers that come in pieces, as a network cuts them.
    #[test]
    fn an_answer_is_whole_however_it_comes() {
        let text = "HTTP/1.1 201 Created\r\nlocation: /there\r\nContent-Length: 5\r\n\r\nhello";
        for cut in 1..text.len() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut connection = Connection::open(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            connection.begin(Ask::for_body("/v2/", "")).unwrap();
            let mut buffer = [0; 1024];
            server.write_all(&text.as_bytes()[..cut]).unwrap();
            let mut before = None;
            while before.is_none() && connection.stream.peek(&mut buffer).is_ok() {
                before = connection.receive(&mut buffer).unwrap();
            }
            assert!(before.is_none(), "cut at {cut}");
            server.write_all(&text.as_bytes()[cut..]).unwrap();
            let answer = loop {
                match connection.receive(&mut buffer).unwrap() {
                    Some(answer) => break answer,
                    None => thread::yield_now(),
                }
            };
            assert_eq!((answer.status, &*answer.body), (201, &b"hello"[..]));
            assert_eq!(answer.location.as_deref(), Some("/there"));
        }
        assert!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }
}
