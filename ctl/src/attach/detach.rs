//! Detach keys: a sequence in what is typed that leaves the container running.

/// docker's default.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Finds the sequence in what is typed; bytes that may begin it are held back.
#[derive(Debug)]
pub struct Keys {
    sequence: Vec<u8>,
    seen: usize,
}

impl Keys {
    /// "ctrl-p,ctrl-q", "a,b"; "" = docker's default.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = if text.is_empty() { DEFAULT } else { text };
        let sequence = text
            .split(',')
            .map(|key| match (key.strip_prefix("ctrl-"), key.as_bytes()) {
                (Some(c), _) => match c.as_bytes() {
                    [c @ b'a'..=b'z'] => Ok(c - b'a' + 1),
                    [c @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(c - b'@'),
                    _ => Err(format!("unknown character: '{key}' in detach keys")),
                },
                (None, [c]) => Ok(*c),
                _ => Err(format!("unknown character: '{key}' in detach keys")),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { sequence, seen: 0 })
    }

    /// What to send on, and whether the sequence is complete.
    pub fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte != self.sequence[self.seen] && self.seen > 0 {
                out.extend_from_slice(&self.sequence[..self.seen]);
                self.seen = 0;
            }
            if byte == self.sequence[self.seen] {
                self.seen += 1;
                if self.seen == self.sequence.len() {
                    return (out, true);
                }
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_found_across_reads_and_near_misses_pass() {
        let mut keys = Keys::parse("").unwrap();
        assert_eq!(keys.feed(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.feed(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(keys.feed(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.feed(b"\x11x"), (vec![], true));
        assert!(Keys::parse("ctrl-1").is_err() && Keys::parse("ab").is_err());
    }
}
