//! How far a check of blobs came, and what it found: `fsck.json`, so that one that was cut off goes on from there.
//!
//! A first line says which check it is; each other one how far it had come, with what it found there. Lines are added
//! and synced, never written again: what a line costs does not grow with what was found before it. What is behind the
//! last whole line was being written when the process ended, and is cut off.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use slipway_image::Digest;

use super::check::Finding;
use crate::{
    blobs::staging::blocking,
    error::{Error, Result},
    files,
    registry::now,
};

/// A check that was cut off so long ago begins anew: too much has changed.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);

/// See the module's page.
pub struct Report {
    path: PathBuf,
    head: Head,
    /// Once there is a line in it.
    file: Option<File>,
    /// How far it came.
    pub so_far: SoFar,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// Unix milliseconds.
    began: u64,
    repair: bool,
}

/// How far a check came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoFar {
    /// The last blob that was looked at.
    pub after: Option<Digest>,
    /// How many were.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    so_far: SoFar,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    found: Option<Finding>,
}

impl Report {
    /// Of a check that begins. What an earlier one left is replaced by its first line.
    pub fn begin(path: PathBuf, repair: bool) -> Self {
        Self {
            path,
            head: Head {
                began: now(),
                repair,
            },
            file: None,
            so_far: SoFar::default(),
        }
    }

    /// Of the check that was cut off, if there is one to go on from, and what that one found.
    pub async fn open(path: PathBuf, repair: bool) -> Result<(Self, Vec<Finding>)> {
        blocking(move || {
            let mut report = Self::begin(path, repair);
            let found = report.take_over()?;
            Ok((report, found.unwrap_or_default()))
        })
        .await
    }

    fn take_over(&mut self) -> Result<Option<Vec<Finding>>> {
        let Ok(file) = File::open(&self.path) else {
            return Ok(None);
        };
        let fail = || Error::io("cannot read", &self.path);
        let mut lines = Lines {
            file: BufReader::new(file),
            whole: 0,
        };
        let head: Option<Head> = lines.next().map_err(fail())?;
        let fresh = |head: &Head| {
            let age = now().saturating_sub(head.began);
            age < STALE.as_millis() as u64 && head.repair == self.head.repair
        };
        let Some(head) = head.filter(fresh) else {
            return Ok(None);
        };
        let mut found = Vec::new();
        while let Some(line) = lines.next::<Line>().map_err(fail())? {
            self.so_far = line.so_far;
            found.extend(line.found);
        }
        let file = OpenOptions::new().append(true).open(&self.path);
        let file = file.map_err(fail())?;
        file.set_len(lines.whole).map_err(fail())?;
        (self.head, self.file) = (head, Some(file));
        Ok(Some(found))
    }

    /// Writes down, durably, how far it came, and what it found there. After an error nothing more is written.
    pub async fn write(&mut self, found: Option<Finding>) -> Result<()> {
        let so_far = self.so_far.clone();
        let line = line(&Line { so_far, found });
        let (path, file, head) = (self.path.clone(), self.file.take(), self.head);
        let written = blocking(move || {
            let added = match file {
                Some(mut file) => file
                    .write_all(&line)
                    .and_then(|()| file.sync_data())
                    .map(|()| file),
                None => files::write_durably(&path, &[self::line(&head), line].concat())
                    .and_then(|()| OpenOptions::new().append(true).open(&path)),
            };
            added.map_err(Error::io("cannot write", path))
        });
        self.file = Some(written.await?);
        Ok(())
    }

    /// The check is done.
    pub async fn remove(self) -> Result<()> {
        let path = self.path;
        blocking(move || {
            let removed = files::remove_durably(&path);
            removed.map(drop).map_err(Error::io("cannot remove", path))
        })
        .await
    }
}

fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("reports are plain data");
    line.push(b'\n');
    line
}

/// Whole lines that are what they should be, from the first on.
struct Lines {
    file: BufReader<File>,
    /// Bytes of them.
    whole: u64,
}

impl Lines {
    fn next<T: DeserializeOwned>(&mut self) -> std::io::Result<Option<T>> {
        let mut line = Vec::new();
        let length = self.file.read_until(b'\n', &mut line)?;
        let value = match line.strip_suffix(b"\n") {
            Some(line) => serde_json::from_slice(line).ok(),
            None => None,
        };
        if value.is_some() {
            self.whole += length as u64;
        }
        Ok(value)
    }
}

/// Where it is.
pub fn path(root: &Path) -> PathBuf {
    root.join("fsck.json")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::{super::check::Kind, *};

    fn finding(number: u64) -> Finding {
        Finding {
            kind: Kind::BrokenBlob,
            what: number.to_string(),
            text: "line\nbreaks".to_owned(),
            mended: false,
            damaged: Vec::new(),
        }
    }

    async fn written(path: &Path, count: u64) -> Report {
        let mut report = Report::begin(path.to_owned(), false);
        for number in 1..=count {
            report.so_far = SoFar {
                after: Some(Digest::of(number.to_string())),
                blobs: number,
                bytes: 10 * number,
            };
            // Not every blob is broken.
            let found = (number % 2 == 0).then(|| finding(number));
            report.write(found).await.unwrap();
        }
        report
    }

    #[tokio::test]
    async fn what_is_written_is_added_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        let before = written(&path, 1).await;
        let first = fs::metadata(&path).unwrap();
        drop(before);
        let so_far = |n: u64| SoFar {
            after: Some(Digest::of(n.to_string())),
            blobs: n,
            bytes: 10 * n,
        };
        let (mut report, found) = Report::open(path.clone(), false).await.unwrap();
        assert_eq!((&report.so_far, &found[..]), (&so_far(1), &[][..]));
        for number in 2..=100 {
            report.so_far = so_far(number);
            report.write(Some(finding(number))).await.unwrap();
        }
        drop(report);
        // The same file, of which nothing was written twice.
        let last = fs::metadata(&path).unwrap();
        assert_eq!(last.ino(), first.ino());
        assert!(last.len() < 100 * 300, "{} bytes", last.len());
        let (report, found) = Report::open(path.clone(), false).await.unwrap();
        assert_eq!(report.so_far, so_far(100));
        let numbers: Vec<String> = found.into_iter().map(|f| f.what).collect();
        let expected: Vec<String> = (2..=100).map(|n| n.to_string()).collect();
        assert_eq!(numbers, expected);
        report.remove().await.unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn half_a_line_is_cut_off_and_the_next_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        drop(written(&path, 4).await);
        let content = fs::read(&path).unwrap();
        for torn in [
            &content[..content.len() - 1],
            &[&content[..], b"{\"af"].concat(),
        ] {
            fs::write(&path, torn).unwrap();
            let (mut report, found) = Report::open(path.clone(), false).await.unwrap();
            let whole = torn.len() > content.len();
            assert_eq!(report.so_far.blobs, if whole { 4 } else { 3 });
            assert_eq!(found.len(), if whole { 2 } else { 1 });
            report.so_far.blobs = 9;
            report.write(Some(finding(9))).await.unwrap();
            let (report, again) = Report::open(path.clone(), false).await.unwrap();
            assert_eq!((report.so_far.blobs, again.len()), (9, found.len() + 1));
        }
    }

    #[tokio::test]
    async fn what_is_old_or_of_another_kind_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        let opened = async |repair| Report::open(path.clone(), repair).await.unwrap();
        assert_eq!(opened(false).await.0.so_far, SoFar::default());
        drop(written(&path, 3).await);
        assert_eq!(opened(true).await.0.so_far, SoFar::default());
        assert_eq!(opened(false).await.0.so_far.blobs, 3);
        let age = |milliseconds: u64| {
            let content = fs::read_to_string(&path).unwrap();
            let (head, rest) = content.split_once('\n').unwrap();
            let mut head: Head = serde_json::from_str(head).unwrap();
            head.began = now() - milliseconds;
            let head = String::from_utf8(line(&head)).unwrap();
            fs::write(&path, head + rest).unwrap();
        };
        let stale = STALE.as_millis() as u64;
        age(stale - 60_000);
        assert_eq!(opened(false).await.0.so_far.blobs, 3);
        age(stale);
        let (mut report, found) = opened(false).await;
        assert_eq!((report.so_far.blobs, found.len()), (0, 0));
        // Nothing of it is left.
        report.so_far.blobs = 1;
        report.write(None).await.unwrap();
        assert_eq!(opened(false).await.0.so_far.blobs, 1);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
        // As earlier versions wrote it.
        let old = r#"{"began":1,"repair":false,"after":null,"blobs":5,"bytes":1,"findings":[]}"#;
        fs::write(&path, old).unwrap();
        assert_eq!(opened(false).await.0.so_far, SoFar::default());
    }
}
