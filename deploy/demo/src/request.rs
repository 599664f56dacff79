//! What of a HTTP request matters here: its first line.

use std::io::{Error, ErrorKind, Read};

/// Longest head that is read; a browser's is about 1 KiB.
const LIMIT: usize = 16 * 1024;

/// The first line, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: &'a str,
    pub target: &'a str,
}

impl<'a> Request<'a> {
    /// Parses a request's head; `None` when its first line is not HTTP/1's (RFC 9112, 3).
    pub fn parse(head: &'a [u8]) -> Option<Self> {
        let mut words = first_line(head)?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        (words.next().is_none()
            && version.starts_with("HTTP/1.")
            && !method.is_empty()
            && !target.is_empty())
        .then_some(Self { method, target })
    }
}

/// Reads up to the empty line that ends a request's head.
pub fn head(from: &mut impl Read) -> Result<Vec<u8>, Error> {
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    while !ended(&head) {
        if head.len() >= LIMIT {
            return Err(Error::new(ErrorKind::InvalidData, "a head of over 16 KiB"));
        }
        match from.read(&mut chunk)? {
            0 if head.is_empty() => {
                return Err(Error::new(ErrorKind::UnexpectedEof, "nothing was asked"));
            }
            0 => break,
            n => head.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(head)
}

fn ended(head: &[u8]) -> bool {
    head.windows(4).any(|w| w == b"\r\n\r\n") || head.windows(2).any(|w| w == b"\n\n")
}

fn first_line(head: &[u8]) -> Option<&str> {
    let line = head.split(|b| *b == b'\n').next()?;
    std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).ok()
}

/// The first line for a log: nothing in it can start a line of its own or move a terminal's cursor.
pub fn printable(head: &[u8]) -> String {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let short = &line[..line.len().min(200)];
    short.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_line_has_three_words() {
        let parsed = Request::parse(b"GET /x?y=1 HTTP/1.1\r\nHost: z\r\n\r\n");
        let expected = Request {
            method: "GET",
            target: "/x?y=1",
        };
        assert_eq!(parsed, Some(expected));
        for bad in [
            "",
            "GET",
            "GET /",
            "GET / SPDY/3",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 x",
        ] {
            assert_eq!(Request::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn a_head_is_read_to_its_end_and_no_further_than_the_limit() {
        let two = b"GET / HTTP/1.1\r\n\r\n";
        assert_eq!(head(&mut &two[..]).unwrap(), two);
        assert!(head(&mut &b""[..]).is_err());
        assert!(head(&mut std::io::repeat(b'x')).is_err());
    }

    #[test]
    fn a_log_line_stays_one_line() {
        assert_eq!(
            printable(b"GET /\x1b[2J\r HTTP/1.1\r\nHost: z"),
            "GET /\\x1b[2J\\r HTTP/1.1"
        );
    }
}
