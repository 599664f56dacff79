//! Containers whose records cannot be read: nobody knows what they use, so all of it stays until somebody removes
//! them.

use std::{
    collections::HashSet,
    fs, io,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use super::manager::Manager;
use crate::{
    disk::remove_tree,
    error::{Error, Tried as _},
    monitor::client::{self, Connection},
};

/// How long a monitor has to end its container and itself.
const PATIENCE: Duration = Duration::from_secs(10);

impl Manager {
    /// Their ids.
    pub fn unreadable(&self) -> HashSet<String> {
        self.lock_unreadable().clone()
    }

    pub(super) fn lock_unreadable(&self) -> MutexGuard<'_, HashSet<String>> {
        let unreadable = self.0.unreadable.lock();
        unreadable.unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be said of a word that no container has: one of these may.
    pub(super) fn not_found(&self, word: &str) -> Error {
        let unreadable = self.lock_unreadable();
        match slipway_image::id_prefix::resolve(word, unreadable.iter().map(String::as_str)) {
            Ok(id) => Error::Unreadable(id.to_owned()),
            Err(_) => Error::NoSuchContainer(word.to_owned()),
        }
    }

    /// Removes one, with what runs of it. The volumes that were made for it alone stay: nobody knows their names.
    pub async fn remove_unreadable(&self, id: &str) -> Result<(), Error> {
        let what = || format!("cannot remove container {id}");
        let run_folder = self.run_folder(id);
        match Connection::open(&run_folder.join("monitor.sock")) {
            Err(error) if client::is_none(&error) => {}
            // Only its monitor knows where all of its processes are.
            opened => end(&opened.tried(what)?).await.tried(what)?,
        }
        let folder = self.0.state.join("containers").join(id);
        let gone = folder.with_extension("removed");
        {
            let mut unreadable = self.lock_unreadable();
            if !unreadable.contains(id) {
                return Err(Error::NoSuchContainer(id.to_owned()));
            }
            fs::rename(folder, &gone).tried(what)?;
            unreadable.remove(id);
        }
        self.0.volumes.close_devices(id);
        self.0.netd.release(id).await;
        let (manager, own) = (self.clone(), id.to_owned());
        tokio::task::spawn_blocking(move || {
            manager.clear_host(
                &own,
                &format!("{}/{own}", crate::cgroup::PARENT),
                &run_folder,
            );
            remove_tree(&gone)
        })
        .await
        .map_err(io::Error::other)
        .and_then(|removed| removed)
        .tried(what)
    }
}

async fn end(monitor: &Connection) -> io::Result<()> {
    let ending = async {
        monitor.discard().await?;
        monitor.signal(libc::SIGKILL).await?;
        while let Ok(Some(_)) = monitor.next().await {}
        Ok(())
    };
    tokio::time::timeout(PATIENCE, ending).await?
}
