//! journald, by its native protocol (systemd, docs/JOURNAL_NATIVE_PROTOCOL.md), with the fields of
//! docker's driver (moby, daemon/logger/journald/journald.go).

use std::{io, os::unix::net::UnixDatagram, time::Duration};

use super::{Line, Taken, Target, json};
use crate::{
    container::record::Record,
    logs::{attributes, config::JOURNAL},
    monitor::log_format::Stream,
};

/// A journal that takes nothing for this long is tried again later.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection to the journal.
pub struct Journal {
    socket: UnixDatagram,
    /// What every entry of this container has.
    fields: Vec<u8>,
    /// The line before was not whole.
    within: [bool; 2],
}

impl Journal {
    /// Connects.
    pub fn open(record: &Record) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(JOURNAL)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            fields: fields(record),
            within: [false; 2],
        })
    }
}

fn fields(record: &Record) -> Vec<u8> {
    let tag = attributes::tag(record);
    let mut out = Vec::new();
    field("CONTAINER_ID", &record.id.as_bytes()[..12], &mut out);
    field("CONTAINER_ID_FULL", record.id.as_bytes(), &mut out);
    field("CONTAINER_NAME", record.name.as_bytes(), &mut out);
    field("CONTAINER_TAG", tag.as_bytes(), &mut out);
    field("IMAGE_NAME", record.spec.image.as_bytes(), &mut out);
    field("SYSLOG_IDENTIFIER", tag.as_bytes(), &mut out);
    for (key, value) in attributes::of(record) {
        // The tag has a field of its own.
        let name = name(&key);
        if key != "tag" && !name.is_empty() {
            field(&name, value.as_bytes(), &mut out);
        }
    }
    out
}

/// moby's sanitizeKeyMod: capitals, and `_` for all else, but not in front.
fn name(key: &str) -> String {
    let name: String = key
        .chars()
        .map(|c| match c.to_ascii_uppercase() {
            c @ ('A'..='Z' | '0'..='9') => c,
            _ => '_',
        })
        .collect();
    name.trim_start_matches('_').to_owned()
}

fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

impl Target for Journal {
    fn take(&mut self, line: &Line) -> io::Result<Taken> {
        let mut entry = self.fields.clone();
        let (stream, priority) = match line.stream {
            Stream::Stdout => (0, "6"),
            Stream::Stderr => (1, "3"),
        };
        field("PRIORITY", priority.as_bytes(), &mut entry);
        field(
            "SYSLOG_TIMESTAMP",
            json::time(line.time).as_bytes(),
            &mut entry,
        );
        if line.partial {
            field("CONTAINER_PARTIAL_MESSAGE", b"true", &mut entry);
        } else if self.within[stream] {
            field("CONTAINER_PARTIAL_LAST", b"true", &mut entry);
        }
        field("MESSAGE", &line.text, &mut entry);
        self.socket.send(&entry)?;
        self.within[stream] = line.partial;
        Ok(Taken::Done)
    }

    fn settle(&mut self) -> io::Result<u64> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_the_protocols() {
        let mut out = Vec::new();
        field("A", b"x", &mut out);
        field("B", b"x\ny", &mut out);
        assert_eq!(out, b"A=x\nB\n\x03\0\0\0\0\0\0\0x\ny\n");
        assert_eq!(name("com.example.Label-1"), "COM_EXAMPLE_LABEL_1");
        assert_eq!(name("_x"), "X");
    }
}
