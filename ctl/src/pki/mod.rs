//! A private authority in one folder, and the certificates that it issues to services and people.
//!
//! ```text
//! ca.pem  ca.key  ca.json          the authority; its key never leaves the folder
//! crl.pem                          what was revoked, for all who check
//! issued/<serial>.json             what was issued: the truth, written before a certificate is
//! certs/<name>.pem, <name>.key     the latest of each name
//! ```
//!
//! The folder appears whole or not at all, and is never written over. Everything else is replaced by rename
//! after it is on the disk. Whoever can read the folder is the authority: files are 0600, folders 0700.

mod files;
mod mint;
mod record;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rcgen::KeyPair;
use rustix::fs::FlockOperation;

pub use record::{Named, Record, State};

use crate::failure::{Failure, Outcome};
use mint::About;

/// An authority's folder, locked against others who change it.
pub struct Authority {
    folder: PathBuf,
    about: About,
    key: KeyPair,
    /// Held until this is dropped.
    _lock: fs::File,
}

/// The files that a certificate is used by.
#[derive(Debug, PartialEq, Eq)]
pub struct Files {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Makes a new one that lasts `days`. Fails when there is anything in the folder.
    pub fn init(folder: &Path, name: Option<String>, days: u32, now: Timestamp) -> Outcome<()> {
        let parent = folder.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(cannot("make", parent))?;
        let base = folder.file_name().unwrap_or_default().to_string_lossy();
        let half = parent.join(format!(".{base}.{}", std::process::id()));
        let made = Self::fill(&half, name, days, now).and_then(|()| {
            // Over an empty folder at most (rename(2)).
            fs::rename(&half, folder).map_err(|e| match e.kind() {
                io::ErrorKind::DirectoryNotEmpty
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::NotADirectory => Failure::new(format!(
                    "{} is there already: an authority is never written over. Remove it, or name another \
                     folder with --dir",
                    folder.display()
                )),
                _ => cannot("make", folder)(e),
            })
        });
        if made.is_err() {
            // What is left has a name that nobody looks for.
            let _ = fs::remove_dir_all(&half);
        }
        made?;
        files::sync(parent)
    }

    fn fill(folder: &Path, name: Option<String>, days: u32, now: Timestamp) -> Outcome<()> {
        let mut private = fs::DirBuilder::new();
        for folder in [folder, &folder.join("issued"), &folder.join("certs")] {
            let made = private.mode(0o700).create(folder);
            made.map_err(cannot("make", folder))?;
        }
        let about = About::new(name, now, days)?;
        let key = mint::key()?;
        files::put(&folder.join("ca.key"), &key.serialize_pem())?;
        files::put(&folder.join("ca.json"), &json(&about)?)?;
        files::put(&folder.join("ca.pem"), &mint::authority(&about, &key)?)?;
        files::put(
            &folder.join("crl.pem"),
            &mint::list(&about, &key, &[], now)?,
        )
    }

    /// An authority that is there, and nobody else's until this is dropped.
    pub fn open(folder: &Path) -> Outcome<Self> {
        let path = folder.join("ca.json");
        let lock = fs::File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Failure::new(format!(
                "there is no authority in {}: make one with ctl pki init, or name its folder with --dir",
                folder.display()
            )),
            _ => cannot("read", &path)(e),
        })?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| cannot("lock", &path)(e.into()))?;
        let about = files::json(&path)?;
        let path = folder.join("ca.key");
        let key = KeyPair::from_pem(&files::read(&path)?)
            .map_err(|e| Failure::new(format!("{} is no key: {e}", path.display())))?;
        Ok(Self {
            folder: folder.to_owned(),
            about,
            key,
            _lock: lock,
        })
    }

    /// A file of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// All that was issued, by name and then by time.
    pub fn records(&self) -> Outcome<Vec<Record>> {
        let folder = self.path("issued");
        let listed = fs::read_dir(&folder).map_err(cannot("read", &folder))?;
        let mut all = Vec::new();
        for entry in listed {
            let path = entry.map_err(cannot("read", &folder))?.path();
            // What is being written has another ending.
            if path.extension().is_some_and(|e| e == "json") {
                all.push(files::json::<Record>(&path)?);
            }
        }
        all.sort_by(|a, b| {
            (&a.to.name, a.issued, &a.serial).cmp(&(&b.to.name, b.issued, &b.serial))
        });
        Ok(all)
    }

    /// A certificate for somebody who has none that is good.
    pub fn issue(&self, to: Named, days: u32, now: Timestamp) -> Outcome<(Record, Files)> {
        let name = &to.name;
        let good = |r: &Record| r.to.name == *name && r.state(now) == State::Good;
        if let Some(has) = self.records()?.iter().find(|r| good(r)) {
            return Err(Failure::new(format!(
                "{name} has a certificate until {}: renew it (ctl pki renew {name}), or revoke it first",
                record::day(has.ends)
            )));
        }
        self.give(to, days, now)
    }

    /// Another certificate, with another key, for the same name, role and hosts.
    pub fn renew(&self, name: &str, days: u32, now: Timestamp) -> Outcome<(Record, Files)> {
        let last = self.records()?.into_iter().rfind(|r| r.to.name == name);
        let Some(last) = last else {
            return Err(nobody(name));
        };
        if last.revoked.is_some() {
            return Err(Failure::new(format!(
                "the certificate of {name} was revoked: if it may have another one, issue it (ctl pki issue {name})"
            )));
        }
        self.give(last.to, days, now)
    }

    fn give(&self, to: Named, days: u32, now: Timestamp) -> Outcome<(Record, Files)> {
        let record = Record::new(to, days, now, self.about.ends)?;
        let key = mint::key()?;
        let certificate = mint::certificate(&self.about, &self.key, &record, &key)?;
        // First of all, so that whatever there is of it can be revoked.
        files::put(&self.record_of(&record), &json(&record)?)?;
        let files = self.files_of(&record.to.name);
        files::put(&files.key, &key.serialize_pem())?;
        files::put(&files.cert, &certificate)?;
        Ok((record, files))
    }

    /// Revokes all certificates of a name, or the one with that serial number, and writes the list. Returns
    /// which: none when they were revoked before.
    pub fn revoke(&self, named: &str, now: Timestamp) -> Outcome<Vec<Record>> {
        let mut all = self.records()?;
        let is_meant = |r: &Record| r.to.name == named || r.serial == named;
        if !all.iter().any(is_meant) {
            return Err(nobody(named));
        }
        let mut revoked = Vec::new();
        for record in all
            .iter_mut()
            .filter(|r| is_meant(r) && r.revoked.is_none())
        {
            record.revoked = Some(now);
            files::put(&self.record_of(record), &json(record)?)?;
            revoked.push(record.clone());
        }
        self.write_list(&all, now)?;
        Ok(revoked)
    }

    /// Writes the list of what was revoked once more; returns where.
    pub fn list(&self, now: Timestamp) -> Outcome<PathBuf> {
        self.write_list(&self.records()?, now)?;
        Ok(self.path("crl.pem"))
    }

    fn write_list(&self, all: &[Record], now: Timestamp) -> Outcome<()> {
        let list = mint::list(&self.about, &self.key, all, now)?;
        files::put(&self.path("crl.pem"), &list)
    }

    fn record_of(&self, record: &Record) -> PathBuf {
        self.path("issued").join(format!("{}.json", record.serial))
    }

    fn files_of(&self, name: &str) -> Files {
        let path = |ending| self.path("certs").join(format!("{name}.{ending}"));
        Files {
            cert: path("pem"),
            key: path("key"),
        }
    }
}

fn nobody(named: &str) -> Failure {
    Failure::new(format!(
        "no certificate was issued to {named:?}. See: ctl pki ls"
    ))
}

fn json(value: &impl serde::Serialize) -> Outcome<String> {
    let text = serde_json::to_string_pretty(value);
    text.map_err(|e| Failure::new(e.to_string()))
}

fn cannot(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::new(format!("cannot {what} {path}: {error}"))
}

#[cfg(test)]
mod tests;
