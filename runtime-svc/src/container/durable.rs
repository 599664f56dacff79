//! What is told of a container survives a power cut, although no start waits for the disk.
//!
//! Its small files are synced behind a start and its end, and before a stop is acknowledged. One that the disk
//! has, with its name, is read-only from then on, which also says so to the next instance: each is replaced by a
//! new file, never written again. Nothing of a container of `--rm` survives, so nothing of it is synced.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::sync::Semaphore;

use super::{life, record, state::Container};
use crate::monitor::protocol;

/// How many containers are synced at the same time: each waits for the disk on a thread that others need, and
/// of many that begin at once the short-lived ones are gone before their turn. What somebody waits for does not
/// wait for what nobody does.
const AT_ONCE: usize = 4;
static SOON: Semaphore = Semaphore::const_new(AT_ONCE);
/// The journal takes many to the disk in one go.
const WAITED_FOR_AT_ONCE: usize = 32;
static NOW: Semaphore = Semaphore::const_new(WAITED_FOR_AT_ONCE);

/// Mode of what the disk has.
const KEPT: u32 = 0o400;
/// Mode of a container's first record until then. Versions before this one had another.
const NEW: u32 = 0o600;

impl Container {
    /// Syncs its files, behind whoever wrote one.
    pub fn sync_soon(&self) {
        if self.record().spec.auto_remove {
            return;
        }
        let (id, folder) = (self.id.clone(), self.folder.clone());
        tokio::spawn(async move {
            // Noticed by whoever waits for the disk; tried again at the next start or end.
            if let Err(error) = sync_in_turn(&SOON, folder).await {
                tracing::warn!(container = id, %error, "its files could not be synced");
            }
        });
    }

    /// Waits until the disk has what was written of it before.
    pub async fn synced(&self) -> io::Result<()> {
        if self.record().spec.auto_remove {
            return Ok(());
        }
        sync_in_turn(&NOW, self.folder.clone()).await
    }
}

async fn sync_in_turn(turns: &'static Semaphore, folder: PathBuf) -> io::Result<()> {
    // It is never closed.
    let turn = turns.acquire().await.map_err(io::Error::other)?;
    let syncing = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        match sync(&folder) {
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    });
    syncing.await.map_err(io::Error::other)?
}

fn sync(folder: &Path) -> io::Result<()> {
    let (mut new, mut unnamed) = (Vec::new(), false);
    for name in [record::FILE, life::FILE, protocol::EXIT_FILE] {
        let file = match File::open(folder.join(name)) {
            // Not started yet, or not ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        if !is_kept(&file.metadata()?) {
            file.sync_data()?;
            unnamed |= name == record::FILE;
            new.push(file);
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    // Of a container whose record was synced before, the disk has the folder.
    sync_names(folder, unnamed)?;
    new.iter().try_for_each(mark)
}

/// The names in a container's folder, and that of the folder itself where it may be new.
pub(super) fn sync_names(folder: &Path, new: bool) -> io::Result<()> {
    for path in folder.ancestors().take(1 + usize::from(new)) {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

/// Begins a container's first record, which the disk may have later.
pub(super) fn create(file: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(NEW).open(file)
}

/// Syncs a file that has no name yet by which it would be looked for.
pub(super) fn keep(file: &File) -> io::Result<()> {
    mark(file)?;
    file.sync_all()
}

fn mark(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(KEPT))
}

fn is_kept(file: &fs::Metadata) -> bool {
    file.permissions().mode() & 0o7777 == KEPT
}

/// Whether the disk never had a container's record: a power cut, a moment after it was made, has left the name
/// of the file and none of its bytes. One that was synced before and is empty was damaged.
pub(super) fn never_came(folder: &Path) -> bool {
    let file = folder.join(record::FILE);
    let new = fs::metadata(&file).is_ok_and(|found| found.permissions().mode() & 0o7777 == NEW);
    new && fs::read(&file).is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in [record::FILE, life::FILE] {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        folder
    }

    fn kept(folder: &Path) -> Vec<&str> {
        let all = [record::FILE, life::FILE, protocol::EXIT_FILE];
        let kept = |name: &&str| fs::metadata(folder.join(name)).is_ok_and(|found| is_kept(&found));
        all.into_iter().filter(kept).collect()
    }

    #[test]
    fn what_the_disk_has_is_marked_until_another_takes_its_place() {
        let folder = folder();
        let folder = folder.path();
        assert_eq!(kept(folder), [""; 0]);
        sync(folder).unwrap();
        assert_eq!(kept(folder), [record::FILE, life::FILE]);
        life::Life::default().write(folder).unwrap();
        let end = protocol::ExitRecord::without_monitor(0);
        end.write(&folder.join(protocol::EXIT_FILE)).unwrap();
        assert_eq!(kept(folder), [record::FILE]);
        sync(folder).unwrap();
        assert_eq!(kept(folder).len(), 3);
    }

    #[test]
    fn only_a_record_that_was_never_synced_can_be_empty_by_a_power_cut() {
        let folder = folder();
        let file = folder.path().join(record::FILE);
        assert!(!never_came(folder.path()));
        // Of a version that marked none.
        fs::write(&file, "").unwrap();
        assert!(!never_came(folder.path()));
        fs::remove_file(&file).unwrap();
        create(&file).unwrap();
        for torn in [&b""[..], &[0; 5000]] {
            fs::write(&file, torn).unwrap();
            assert!(never_came(folder.path()));
        }
        // Half of one is no power cut's.
        fs::write(&file, "{\"id\":").unwrap();
        assert!(!never_came(folder.path()));
        fs::write(&file, "").unwrap();
        sync(folder.path()).unwrap();
        assert!(!never_came(folder.path()));
        fs::remove_file(&file).unwrap();
        assert!(!never_came(folder.path()));
    }
}
