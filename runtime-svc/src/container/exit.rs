//! How a container ended, for whoever looks later: in its folder, and while that has no room for it in the run
//! folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::state::Container;
use crate::monitor::protocol::{self, ExitRecord};

impl Container {
    /// Where the monitor records its end.
    fn exit_file(&self) -> PathBuf {
        self.folder.join(protocol::EXIT_FILE)
    }

    /// Where its end is while the disk has no room for it: usually in memory.
    fn early_exit_file(&self) -> PathBuf {
        ExitRecord::beside(&self.socket())
    }

    /// How it ended, if that was recorded.
    pub fn recorded_end(&self) -> Option<ExitRecord> {
        let recorded = ExitRecord::read(&self.exit_file());
        recorded.or_else(|| ExitRecord::read(&self.early_exit_file()))
    }

    /// Whether its folder says how it ended. An empty file, as a power cut leaves it, does not.
    pub fn has_recorded_end(&self) -> bool {
        ExitRecord::read(&self.exit_file()).is_some()
    }

    /// Records its end for the next instance, which is to know it as well: where the disk is full, where there
    /// is room until the host goes down.
    pub fn record_end(&self, record: &ExitRecord) -> io::Result<()> {
        record.write(&self.exit_file()).or_else(|_| {
            fs::create_dir_all(&self.run_folder)?;
            record.write(&self.early_exit_file())
        })
    }

    /// Takes its run folder away; but not how it ended, where that is nowhere else.
    pub fn clear_run_folder(&self) -> io::Result<()> {
        let kept = self.early_exit_file();
        if self.has_recorded_end() || !kept.exists() {
            return remove_all(&self.run_folder);
        }
        for entry in fs::read_dir(&self.run_folder)? {
            let entry = entry?;
            if entry.path() == kept {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    /// Forgets how it ended: it is about to begin again.
    pub fn forget_end(&self) -> io::Result<()> {
        for file in [self.exit_file(), self.early_exit_file()] {
            match fs::remove_file(file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Removes a run folder that may be gone already.
pub(super) fn remove_all(run_folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(run_folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
