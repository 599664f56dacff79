//! Requests over HTTP from a host, byte by byte as a test wants them.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use crate::{Site, http};

/// A request that is still to be sent.
#[must_use]
pub struct Ask<'a> {
    site: &'a Site,
    address: SocketAddr,
    head: String,
    body: Vec<u8>,
    pieces: bool,
    without_body: bool,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// 200 and the like.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Content, as it came.
    pub body: Vec<u8>,
    asked: String,
}

impl Site {
    /// A request to a server on this host.
    pub fn ask(&self, address: &str, method: &str, target: &str) -> Ask<'_> {
        Ask {
            site: self,
            address: address.parse().unwrap(),
            head: format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n"),
            body: Vec::new(),
            pieces: false,
            without_body: method == "HEAD",
        }
    }
}

impl Ask<'_> {
    /// One more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// What to send; its length goes before it.
    pub fn body(mut self, content: impl AsRef<[u8]>) -> Self {
        self.body = content.as_ref().to_vec();
        self
    }

    /// What to send, without saying before how much it is (RFC 9112, 7.1).
    pub fn stream(mut self, content: impl AsRef<[u8]>) -> Self {
        self.body = content.as_ref().to_vec();
        self.pieces = true;
        self
    }

    /// Sends it.
    #[track_caller]
    pub fn send(self) -> Answer {
        let asked = self.head.lines().next().unwrap_or_default().to_owned();
        let told = self.try_send();
        told.unwrap_or_else(|told| panic!("{asked}: {told}"))
    }

    /// Sends it to a server that may not be there any more. What came when that is no answer.
    pub fn try_send(self) -> Result<Answer, String> {
        let mut message = self.head.clone().into_bytes();
        if self.pieces {
            message.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in self.body.chunks(100) {
                message.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                message.extend_from_slice(piece);
                message.extend_from_slice(b"\r\n");
            }
            message.extend_from_slice(b"0\r\n\r\n");
        } else {
            let length = self.body.len();
            message.extend_from_slice(format!("Content-Length: {length}\r\n\r\n").as_bytes());
            message.extend_from_slice(&self.body);
        }
        let connected = http::connect(self.site, self.address);
        let mut stream = connected.map_err(|e| e.to_string())?;
        // Whoever is refused before all was sent hears why.
        let _ = stream.write_all(&message);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let asked = self.head.lines().next().unwrap_or_default().to_owned();
        let answer = Answer::parse(&answer, asked)
            .ok_or_else(|| format!("{read:?}, {}", String::from_utf8_lossy(&answer)))?;
        // A length that is told is that of the content (RFC 9110, 8.6).
        match answer.header("content-length") {
            Some(length) if !self.without_body && length != answer.body.len().to_string() => {
                Err(format!("it broke off: {answer:?}"))
            }
            _ => Ok(answer),
        }
    }
}

impl Answer {
    fn parse(message: &[u8], asked: String) -> Option<Self> {
        let end = message.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&message[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Self {
            status,
            headers,
            body: message[end + 4..].to_vec(),
            asked,
        })
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A header that must be there.
    #[track_caller]
    pub fn told(&self, name: &str) -> &str {
        self.header(name)
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// It must have this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{}: {text}", self.asked);
        self
    }

    /// The content, parsed.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}
