//! Whether a container was ever started, and what its restart policy has to know of that: `life.json` in its
//! folder, which is there since its first start was asked for.
//!
//! It is written on the way of every start, where nothing waits for the disk. A power cut may leave it empty, and
//! then it still says what there was to be said: that it was started.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::state::{Container, lock};

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

impl Life {
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
