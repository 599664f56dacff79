//! docker's `json-file`: one JSON object a line, rotated to `.1`, `.2`, ...
//! (moby, daemon/logger/jsonfilelog and loggerutils/logfile.go).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{Line, Taken, Target};
use crate::{
    container::record::Record,
    logs::{attributes, config::Logging},
    monitor::log_format::Stream,
};

/// Where a container's file is.
pub fn path(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}-json.log"))
}

/// A rotated one: 1 is the newest.
pub fn rotated(path: &Path, number: u32, packed: bool) -> PathBuf {
    let end = if packed { ".gz" } else { "" };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}{end}"));
    name.into()
}

/// The file that is written to.
pub struct JsonFile {
    path: PathBuf,
    file: File,
    /// Length with what waits.
    length: u64,
    waiting: Vec<u8>,
    size: Option<u64>,
    files: u32,
    compress: bool,
    /// As it stands in a line: `"attrs":{...},`.
    attributes: Vec<u8>,
}

impl JsonFile {
    /// Opens it, cut back to what is known to be there.
    pub fn open(
        record: &Record,
        folder: &Path,
        logging: &Logging,
        length: u64,
    ) -> io::Result<Self> {
        let path = path(folder, &record.id);
        let file = append(&path)?;
        let there = file.metadata()?.len();
        // Shorter: it was rotated, and the record of that did not come to be written.
        let length = if there < length { 0 } else { length };
        file.set_len(length)?;
        Ok(Self {
            path,
            file,
            length,
            waiting: Vec::new(),
            size: logging.json_size,
            files: logging.json_files,
            compress: logging.compress,
            attributes: member(&attributes::of(record)),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.waiting)?;
        self.waiting.clear();
        // One buffer of the usual size is kept, no larger one.
        self.waiting.shrink_to(64 * 1024);
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

impl Target for JsonFile {
    fn take(&mut self, line: &Line) -> io::Result<Taken> {
        // As docker: a file that has reached its size is rotated before the next line.
        if self.length > 0 && self.size.is_some_and(|size| self.length >= size) {
            return Ok(Taken::RecordFirst);
        }
        let before = self.waiting.len();
        encode(line, &self.attributes, &mut self.waiting);
        self.length += (self.waiting.len() - before) as u64;
        if self.waiting.len() > 64 * 1024 {
            self.flush()?;
        }
        Ok(Taken::Done)
    }

    fn settle(&mut self) -> io::Result<u64> {
        self.flush()?;
        Ok(self.length)
    }

    fn recorded(&mut self) -> io::Result<()> {
        if self.files < 2 {
            // docker begins the only file again.
            self.file.set_len(0)?;
        } else {
            rotate(&self.path, self.files, self.compress)?;
            self.file = append(&self.path)?;
        }
        self.length = 0;
        Ok(())
    }
}

fn rotate(path: &Path, files: u32, compress: bool) -> io::Result<()> {
    let missing_is_fine = |done: io::Result<()>| match done {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    // Up to the first number that is free: there is one when a rotation was cut off, and a second one then
    // must not push the oldest file out.
    let there = |number| [false, true].map(|packed| rotated(path, number, packed).exists());
    let free = (1..files).find(|number| there(*number) == [false, false]);
    let last = free.unwrap_or(files - 1);
    for packed in [false, true] {
        missing_is_fine(fs::remove_file(rotated(path, last, packed)))?;
        for number in (1..last).rev() {
            missing_is_fine(fs::rename(
                rotated(path, number, packed),
                rotated(path, number + 1, packed),
            ))?;
        }
    }
    let first = rotated(path, 1, false);
    fs::rename(path, &first)?;
    if compress {
        let packed = rotated(path, 1, true);
        let temporary = packed.with_extension("gz.new");
        let out = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(&temporary)?;
        let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
        io::copy(&mut File::open(&first)?, &mut gzip)?;
        gzip.finish()?;
        fs::rename(&temporary, &packed)?;
        fs::remove_file(&first)?;
    }
    Ok(())
}

/// `"attrs":{"a":"b"},` or nothing.
fn member(attributes: &BTreeMap<String, String>) -> Vec<u8> {
    if attributes.is_empty() {
        return Vec::new();
    }
    let mut out = b"\"attrs\":{".to_vec();
    for (at, (key, value)) in attributes.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        string(key.as_bytes(), &mut out);
        out.push(b':');
        string(value.as_bytes(), &mut out);
    }
    out.extend_from_slice(b"},");
    out
}

fn encode(line: &Line, attributes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"log\":");
    let mut text = line.text.clone();
    if !line.partial {
        text.push(b'\n');
    }
    string(&text, out);
    let stream = match line.stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    out.extend_from_slice(format!(",\"stream\":\"{stream}\",").as_bytes());
    out.extend_from_slice(attributes);
    out.extend_from_slice(format!("\"time\":\"{}\"}}\n", time(line.time)).as_bytes());
}

/// Go's RFC3339Nano: no zeros at the end.
pub fn time(nanoseconds: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map(|t| t.to_string())
        .unwrap_or_default()
}

/// moby's ffjsonWriteJSONBytesAsString: what is no UTF-8 becomes U+FFFD, and HTML is escaped.
fn string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend([b'\\', c as u8]),
                '\n' => out.extend(b"\\n"),
                '\r' => out.extend(b"\\r"),
                '\0'..='\x1f' | '<' | '>' | '&' => {
                    out.extend(format!("\\u00{:02x}", c as u32).as_bytes());
                }
                '\u{2028}' | '\u{2029}' => {
                    out.extend(format!("\\u{:04x}", c as u32).as_bytes());
                }
                c => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for _ in chunk.invalid() {
            out.extend(b"\\ufffd");
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_that_was_cut_off_is_finished_by_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x-json.log");
        let read = |number| fs::read_to_string(rotated(&path, number, false)).unwrap_or_default();
        // 1 has become 2 already, the file not yet 1.
        fs::write(&path, "new").unwrap();
        fs::write(rotated(&path, 2, false), "older").unwrap();
        fs::write(rotated(&path, 3, false), "oldest").unwrap();
        rotate(&path, 4, false).unwrap();
        assert_eq!([1, 2, 3].map(read), ["new", "older", "oldest"]);
        fs::write(&path, "newer").unwrap();
        rotate(&path, 4, false).unwrap();
        assert_eq!([1, 2, 3, 4].map(read), ["newer", "new", "older", ""]);
    }

    #[test]
    fn a_line_is_dockers_to_the_byte() {
        let line = Line {
            time: 1_700_000_000_120_000_000,
            stream: Stream::Stderr,
            text: b"a\t<b>\"\xff".to_vec(),
            partial: false,
        };
        let attributes = [("k".to_owned(), "v".to_owned())].into();
        let mut out = Vec::new();
        encode(&line, &member(&attributes), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"a\\u0009\\u003cb\\u003e\\\"\\ufffd\\n\",\"stream\":\"stderr\",\"attrs\":{\"k\":\"v\"},\
             \"time\":\"2023-11-14T22:13:20.12Z\"}\n"
        );
    }
}
