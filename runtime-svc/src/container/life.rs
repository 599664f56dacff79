//! Whether a container was ever started, and what its restart policy has to know of that: `life.json` in its
//! folder, which is there since its first start was asked for.
//!
//! It is written on the way of every start, where nothing waits for the disk. A power cut may leave it empty, and
//! then it still says what there was to be said: that it was started.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    record,
    state::{Container, lock},
};

/// Its name in a container's folder.
pub const FILE: &str = "life.json";

/// What a restart policy has to know of a container that was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Life {
    /// Somebody asked for its end since it was last started by hand.
    pub stopped_by_hand: bool,
    /// How often its policy has brought it back since then.
    pub restarts: u32,
}

/// What versions that had no such file kept in the container's record.
#[derive(Deserialize)]
struct Earlier {
    #[serde(default)]
    starting: bool,
    #[serde(default)]
    life: Life,
}

impl Life {
    /// What an earlier version has recorded, of a container that it had started.
    fn of_earlier(folder: &Path) -> Option<Self> {
        let earlier: Earlier =
            serde_json::from_slice(&fs::read(folder.join(record::FILE)).ok()?).ok()?;
        (earlier.starting || earlier.life != Self::default()).then_some(earlier.life)
    }

    /// Reads it; none when it was never started.
    pub fn read(folder: &Path) -> Option<Self> {
        match fs::read(folder.join(FILE)) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "it is not known how a container was started");
                Some(Self::default())
            }
        }
    }

    /// Writes it: as long as the kernel lives, the old one or this one is there, never half of one.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let file = folder.join(FILE);
        let temporary = file.with_extension("json.new");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(temporary, file)
    }
}

impl Container {
    /// What its restart policy has to know.
    pub fn life(&self) -> Life {
        lock(&self.life).clone().unwrap_or_default()
    }

    /// Whether its first start was asked for.
    pub fn was_started(&self) -> bool {
        lock(&self.life).is_some()
    }

    /// Takes over what an earlier version knows, before its record is written anew; `runs`: at least that it was
    /// started.
    pub fn inherit_life(&self, runs: bool) -> io::Result<()> {
        if self.was_started() {
            return Ok(());
        }
        let earlier = Life::of_earlier(&self.folder);
        match earlier.or_else(|| runs.then(Life::default)) {
            Some(life) => self.begin_life(life),
            None => Ok(()),
        }
    }

    /// It is being started. The disk may have that later.
    pub fn begin_life(&self, new: Life) -> io::Result<()> {
        let mut life = lock(&self.life);
        new.write(&self.folder)?;
        *life = Some(new);
        Ok(())
    }

    /// Somebody asked for its end. The disk may have that later.
    pub fn stopped_by_hand(&self) -> io::Result<()> {
        let mut life = lock(&self.life);
        let mut new = life.clone().unwrap_or_default();
        new.stopped_by_hand = true;
        new.write(&self.folder)?;
        *life = Some(new);
        Ok(())
    }

    /// Somebody asked for its end, and only this instance has to know.
    pub fn remember_stopped(&self) {
        lock(&self.life).get_or_insert_default().stopped_by_hand = true;
    }

    /// Writes what there was no room for.
    pub fn write_life(&self) -> io::Result<()> {
        match &*lock(&self.life) {
            Some(life) if Life::read(&self.folder).as_ref() != Some(life) => {
                life.write(&self.folder)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_version_had_it_in_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let by_hand = Life {
            stopped_by_hand: true,
            restarts: 2,
        };
        for (record, expected) in [
            (r#"{"id":"a"}"#, None),
            (r#"{"starting":false,"life":{}}"#, None),
            (r#"{"starting":true}"#, Some(Life::default())),
            (
                r#"{"life":{"stopped_by_hand":true,"restarts":2}}"#,
                Some(by_hand),
            ),
        ] {
            fs::write(folder.join(record::FILE), record).unwrap();
            assert_eq!(Life::of_earlier(folder), expected, "{record}");
        }
    }

    #[test]
    fn an_empty_one_says_that_it_was_started() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Life::read(folder.path()), None);
        let life = Life {
            stopped_by_hand: true,
            restarts: 3,
        };
        life.write(folder.path()).unwrap();
        assert_eq!(Life::read(folder.path()), Some(life));
        fs::write(folder.path().join(FILE), "").unwrap();
        assert_eq!(Life::read(folder.path()), Some(Life::default()));
    }
}
