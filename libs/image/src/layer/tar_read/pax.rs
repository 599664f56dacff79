//! What extended headers say about the entry behind them.

use super::{TarError, sparse::MAX_PIECES};

/// Most extended attributes of an entry: no file system takes as many, and each is looked up among the others.
const MAX_XATTRS: usize = 4096;

/// See the module's page.
#[derive(Default)]
pub(super) struct Extension {
    /// Bytes of all headers together.
    pub length: u64,
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Records,
}

/// GNU's records of a sparse file, in three versions (GNU tar manual, "PAX Format, Versions 0.0 to 1.0").
#[derive(Default)]
struct Records {
    any: bool,
    version: (u64, u64),
    real: Option<u64>,
    name: Option<Vec<u8>>,
    /// Offsets and lengths, one after the other.
    map: Vec<u64>,
}

/// A sparse file, by its extended header: real size, and the map or where it is.
pub(super) enum Sparse {
    /// Version 0.0 and 0.1: the map stands in the header.
    Map(u64, Vec<(u64, u64)>),
    /// Version 1.0: in front of the content.
    InContent(u64),
}

impl Extension {
    /// Records of the form `<length> <key>=<value>\n`.
    pub fn read_pax(&mut self, mut content: &[u8]) -> Result<(), TarError> {
        const BAD: TarError = TarError::Invalid("an extended header is malformed");
        while !content.is_empty() {
            // Some programs fill up with zeros.
            if content.iter().all(|b| *b == 0) {
                return Ok(());
            }
            let space = content
                .iter()
                .take(20)
                .position(|b| *b == b' ')
                .ok_or(BAD)?;
            let length =
                usize::try_from(decimal(&content[..space]).ok_or(BAD)?).map_err(|_| BAD)?;
            let record = content.get(space + 1..length).ok_or(BAD)?;
            let record = record.strip_suffix(b"\n").ok_or(BAD)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or(BAD)?;
            self.set(&record[..equals], &record[equals + 1..])
                .ok_or(BAD)?;
            content = &content[length..];
        }
        Ok(())
    }

    /// `None` when a value that we use cannot be understood.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.retain(|(other, _)| other != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return (self.xattrs.len() <= MAX_XATTRS).then_some(());
        }
        // No value: as if the record were not there.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = optional(value)?,
            b"uid" => self.uid = optional(value)?.map(u32::try_from).transpose().ok()?,
            b"gid" => self.gid = optional(value)?.map(u32::try_from).transpose().ok()?,
            b"mtime" if given => self.mtime = Some(time(std::str::from_utf8(value).ok()?)?),
            b"mtime" => self.mtime = None,
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    return self.sparse.set(key, value);
                }
            }
        }
        Some(())
    }

    /// The name, which version 0.1 and 1.0 of sparse files hide from who cannot read them.
    pub fn take_path(&mut self) -> Option<Vec<u8>> {
        self.sparse.name.take().or(self.path.take())
    }

    /// What is said of a sparse file.
    pub fn take_sparse(&mut self) -> Result<Option<Sparse>, TarError> {
        const BAD: TarError = TarError::Invalid("an extended header tells half of a sparse file");
        let records = std::mem::take(&mut self.sparse);
        if !records.any {
            return Ok(None);
        }
        let real = records.real.ok_or(BAD)?;
        match records.version {
            (0, 0 | 1) if records.map.len().is_multiple_of(2) => {
                let pairs = records.map.chunks_exact(2).map(|p| (p[0], p[1]));
                Ok(Some(Sparse::Map(real, pairs.collect())))
            }
            (1, 0) => Ok(Some(Sparse::InContent(real))),
            _ => Err(BAD),
        }
    }
}

impl Records {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.any = true;
        match key {
            b"major" => self.version.0 = decimal(value)?,
            b"minor" => self.version.1 = decimal(value)?,
            b"size" | b"realsize" => self.real = Some(decimal(value)?),
            b"name" => self.name = (!value.is_empty()).then(|| value.to_vec()),
            // 0.0: both many times, in turns.
            b"offset" if self.map.len().is_multiple_of(2) => self.map.push(decimal(value)?),
            b"numbytes" if self.map.len() % 2 == 1 => self.map.push(decimal(value)?),
            b"offset" | b"numbytes" => return None,
            b"map" => {
                self.map = value
                    .split(|b| *b == b',')
                    .map(decimal)
                    .collect::<Option<_>>()?;
            }
            _ => {}
        }
        (self.map.len() <= 2 * MAX_PIECES).then_some(())
    }
}

fn optional(value: &[u8]) -> Option<Option<u64>> {
    match value {
        [] => Some(None),
        _ => decimal(value).map(Some),
    }
}

/// Digits only: Rust's own parser would take a sign.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    let whole: i64 = seconds.parse().ok()?;
    // -1.5 is 1.5 seconds before the epoch.
    Some(if seconds.starts_with('-') && nanoseconds > 0 {
        (whole.checked_sub(1)?, 1_000_000_000 - nanoseconds)
    } else {
        (whole, nanoseconds)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Vec<u8> {
        let mut length = text.len() + 3;
        while format!("{length} {text}\n").len() > length {
            length += 1;
        }
        format!("{length} {text}\n").into_bytes()
    }

    #[test]
    fn times() {
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12.0123456789"), Some((12, 12_345_678)));
        assert_eq!(time("-1.5"), Some((-2, 500_000_000)));
        for bad in ["x", "1.x", "1.-5", ""] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_empty_value_takes_a_record_back() {
        let mut extension = Extension::default();
        for text in ["path=long", "uid=5", "path=", "uid="] {
            extension.read_pax(&record(text)).unwrap();
        }
        assert_eq!((extension.path, extension.uid), (None, None));
    }

    #[test]
    fn malformed_records() {
        for bad in [
            &b"x path=a\n"[..],
            b"11 path=a\n",
            b"8 path=a\n",
            b"99999999999999999999 path=a\n",
            b"0 \n",
            b"7 path\n",
            b"+10 path=a\n",
            b"10 size=x\n",
        ] {
            let read = Extension::default().read_pax(bad);
            assert!(read.is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
