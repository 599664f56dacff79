//! The disk takes what was written while more comes, so that at the end only the last is waited for.

use std::{
    io,
    sync::{Arc, mpsc},
};

use super::exclusive::Exclusive;

/// Bytes that it is asked to take at once.
pub const AHEAD: u64 = 8 << 20;

/// See the module's page.
#[derive(Default)]
pub struct WriteBehind {
    /// Bytes that it was asked to take so far.
    asked: u64,
    /// How the last of these went, when it has.
    running: Option<mpsc::Receiver<io::Result<()>>>,
    /// The disk did not take something: nothing good can come of the file.
    failed: bool,
}

impl WriteBehind {
    /// Of a file with so many bytes, which the disk has.
    pub fn after(written: u64) -> Self {
        Self {
            asked: written,
            ..Self::default()
        }
    }

    /// Bytes that the disk was asked to take so far.
    #[cfg(test)]
    pub const fn asked(&self) -> u64 {
        self.asked
    }

    /// What of a file of `written` bytes the disk may take now.
    pub fn go_on(&mut self, file: &Arc<Exclusive>, written: u64) -> io::Result<()> {
        if self.failed {
            return Err(lost());
        }
        if written - self.asked < AHEAD {
            return Ok(());
        }
        if let Some(running) = &self.running {
            match running.try_recv() {
                Err(mpsc::TryRecvError::Empty) => return Ok(()),
                ended => self.hear(ended.ok())?,
            }
        }
        let (send, running) = mpsc::sync_channel(1);
        let file = Arc::clone(file);
        (self.asked, self.running) = (written, Some(running));
        tokio::task::spawn_blocking(move || {
            let synced = file.file().sync_data();
            if synced.is_err() {
                // An error is told once only, to whoever syncs first (fsync(2)): nobody may go on from what is
                // in memory alone. What cannot be removed either is told by the next write.
                let _ = file.remove();
            }
            // Who asked may be gone.
            let _ = send.send(synced);
        });
        Ok(())
    }

    /// Waits for what is on its way. It began before whoever waits, so that it has its thread.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(lost());
        }
        let running = self.running.take();
        running.map_or(Ok(()), |running| self.hear(running.recv().ok()))
    }

    /// None: the service is stopping.
    fn hear(&mut self, synced: Option<io::Result<()>>) -> io::Result<()> {
        let synced = synced.unwrap_or_else(|| Err(lost()));
        self.failed = synced.is_err();
        synced
    }
}

fn lost() -> io::Error {
    io::Error::other("the disk has not taken all of it")
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[tokio::test]
    async fn what_the_disk_did_not_take_is_never_gone_on_from() {
        let folder = tempfile::tempdir().unwrap();
        for replaced in [false, true] {
            let path = folder.path().join("partial");
            // A pipe cannot be synced (fsync(2), EINVAL): as good as a disk that fails.
            assert!(
                Command::new("mkfifo")
                    .arg(&path)
                    .status()
                    .unwrap()
                    .success()
            );
            let broken = Arc::new(Exclusive::open(path.clone()).await.unwrap());
            if replaced {
                // It went, and somebody has begun anew.
                fs::remove_file(&path).unwrap();
                fs::write(&path, "new").unwrap();
            }
            let mut behind = WriteBehind::default();
            behind.go_on(&broken, AHEAD).unwrap();
            tokio::task::spawn_blocking(move || {
                assert!(behind.finish().is_err());
                assert!(behind.finish().is_err());
                assert!(behind.go_on(&broken, 2 * AHEAD).is_err());
                assert_eq!(path.exists(), replaced);
            })
            .await
            .unwrap();
        }
    }
}
