//! Lines out of pieces, as docker's copier makes them (moby, daemon/logger/copier.go).

use serde::{Deserialize, Serialize};

use crate::{logs::Piece, monitor::log_format::Stream};

/// docker hands on what is longer in parts of this size, bytes.
const LONGEST: usize = 16 * 1024;

/// A line, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// Where it came from.
    pub stream: Stream,
    /// Without its end.
    pub text: Vec<u8>,
    /// More of the same line follows.
    pub partial: bool,
}

/// Beginnings of lines, one a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    #[serde(with = "as_hex")]
    stdout: Vec<u8>,
    #[serde(with = "as_hex")]
    stderr: Vec<u8>,
    /// Of the last piece.
    time: u64,
}

/// Bytes in JSON.
mod as_hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Lines {
    /// Takes a piece; gives the lines that it completes.
    pub fn push(&mut self, piece: &Piece) -> Vec<Line> {
        self.time = piece.time;
        let begun = match piece.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let line = |text: Vec<u8>, partial| Line {
            time: piece.time,
            stream: piece.stream,
            text,
            partial,
        };
        let mut lines = Vec::new();
        let mut rest = &piece.data[..];
        while !rest.is_empty() {
            let room = LONGEST - begun.len();
            match memchr::memchr(b'\n', &rest[..rest.len().min(room + 1)]) {
                Some(at) => {
                    begun.extend_from_slice(&rest[..at]);
                    lines.push(line(std::mem::take(begun), false));
                    rest = &rest[at + 1..];
                }
                None if rest.len() > room => {
                    begun.extend_from_slice(&rest[..room]);
                    lines.push(line(std::mem::take(begun), true));
                    rest = &rest[room..];
                }
                None => {
                    begun.extend_from_slice(rest);
                    break;
                }
            }
        }
        lines
    }

    /// What has no end, as lines: none will come.
    pub fn finish(&mut self) -> Vec<Line> {
        let time = self.time;
        [
            (Stream::Stdout, std::mem::take(&mut self.stdout)),
            (Stream::Stderr, std::mem::take(&mut self.stderr)),
        ]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(stream, text)| Line {
            time,
            stream,
            text,
            partial: false,
        })
        .collect()
    }

    /// What has no end yet.
    pub fn begun(&self) -> Vec<Piece> {
        self.clone()
            .finish()
            .into_iter()
            .map(|line| Piece {
                time: line.time,
                stream: line.stream,
                data: line.text,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(stream: Stream, text: &[u8]) -> Piece {
        Piece {
            time: 7,
            stream,
            data: text.to_vec(),
        }
    }

    #[test]
    fn streams_are_kept_apart_and_the_rest_waits() {
        let mut lines = Lines::default();
        let texts = |lines: Vec<Line>| -> Vec<(Stream, String, bool)> {
            lines
                .into_iter()
                .map(|l| (l.stream, String::from_utf8(l.text).unwrap(), l.partial))
                .collect()
        };
        let first = texts(lines.push(&piece(Stream::Stdout, b"a\nbeg")));
        assert_eq!(first, [(Stream::Stdout, "a".into(), false)]);
        let other = texts(lines.push(&piece(Stream::Stderr, b"e\n\n")));
        assert_eq!(other.len(), 2);
        let whole = texts(lines.push(&piece(Stream::Stdout, b"un\nend")));
        assert_eq!(whole, [(Stream::Stdout, "begun".into(), false)]);
        assert_eq!(lines.begun().len(), 1);
        let kept: Lines = serde_json::from_str(&serde_json::to_string(&lines).unwrap()).unwrap();
        assert_eq!(kept, lines);
        assert_eq!(
            texts(lines.finish()),
            [(Stream::Stdout, "end".into(), false)]
        );
    }

    #[test]
    fn long_lines_come_in_parts() {
        let mut lines = Lines::default();
        let text = [&vec![b'x'; LONGEST * 2 + 5][..], b"\n"].concat();
        let parts = lines.push(&piece(Stream::Stdout, &text));
        let sizes: Vec<_> = parts.iter().map(|l| (l.text.len(), l.partial)).collect();
        assert_eq!(sizes, [(LONGEST, true), (LONGEST, true), (5, false)]);
        let exact = [&vec![b'x'; LONGEST][..], b"\n"].concat();
        let parts = lines.push(&piece(Stream::Stdout, &exact));
        assert_eq!((parts.len(), parts[0].partial), (1, false));
    }
}
