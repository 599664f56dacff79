//! A layer is used at once and written to the disk behind the user's back, and yet nobody ever sees half
//! of one after a power cut.
//!
//! Until the disk has it, a layer's note names the boot in which it was unpacked. What has its name was
//! complete, so in that boot the kernel has all of it, whatever becomes of this process; in any other boot it
//! is not trusted, and is fetched again. When the file system was synced the note is written anew without
//! the boot. A note that is lost or torn counts as not trusted after a reboot.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use super::{NOTE, Note};
use crate::disk::remove_tree;

/// A note that is being written.
const NEW_NOTE: &str = "layer.json.new";
/// Beside the folder of layers: the boot in which it was opened last.
const LAST_BOOT: &str = "boot";
/// The disk is left to others until no layer has come for so long, for syncfs(2) writes what everybody left in
/// memory: the steps of a build are further apart than a few seconds,
const QUIET: Duration = Duration::from_secs(15);
/// but not for longer than this. The kernel itself writes after 30 s (proc_sys_vm(5), dirty_expire_centisecs).
const LATEST: Duration = Duration::from_secs(60);
/// Layers that wait for the disk.
const WAITING: usize = 256;

/// One boot of this host (random(4), "boot_id").
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) struct Boot(u128);

impl Boot {
    fn current() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        text.trim().to_owned().try_into().map_err(io::Error::other)
    }
}

impl From<Boot> for String {
    fn from(boot: Boot) -> Self {
        format!("{:032x}", boot.0)
    }
}

impl TryFrom<String> for Boot {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text.replace('-', ""), 16)
            .map(Self)
            .map_err(|_| "not the id of a boot")
    }
}

/// Gives layers their names, and syncs them when there is time.
#[derive(Debug, Clone)]
pub(super) struct Keeper {
    boot: Option<Boot>,
    waiting: SyncSender<PathBuf>,
}

impl Keeper {
    /// For a folder of layers. What in it is not to be trusted loses its name.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let boot = Boot::current()
            .inspect_err(|error| tracing::warn!(%error, "this boot has no id: layers are synced while one waits"))
            .ok();
        let (waiting, receive) = mpsc::sync_channel(WAITING);
        let unsynced = sort_out(folder, boot)?;
        thread::Builder::new()
            .name("layer-sync".to_owned())
            .spawn(move || sync_all(&receive, unsynced))?;
        Ok(Self { boot, waiting })
    }

    /// Makes a complete folder the layer's.
    pub fn keep(&self, mut note: Note, temporary: &Path, target: &Path) -> io::Result<()> {
        note.unsynced = self.boot;
        fs::write(temporary.join(NOTE), serde_json::to_vec(&note)?)?;
        slipway_fault::fallible("runtime.keep.noted")?;
        if self.boot.is_none() {
            rustix::fs::syncfs(fs::File::open(temporary)?)?;
        }
        match fs::rename(temporary, target) {
            Ok(()) => {
                slipway_fault::point("runtime.keep.named");
                // Without that thread it is synced by the next instance.
                let _ = self.waiting.send(target.to_owned());
                Ok(())
            }
            // Somebody else made the same layer meanwhile.
            Err(_) if target.exists() => remove_tree(temporary),
            Err(error) => Err(error),
        }
    }
}

/// Takes their names from layers that are not to be trusted; returns those of this boot that the disk may
/// not have.
fn sort_out(folder: &Path, boot: Option<Boot>) -> io::Result<Vec<PathBuf>> {
    // Torn notes are a power cut's only if there was one: with containers still running nothing is touched.
    let rebooted = boot.is_some_and(|boot| is_another_boot(folder, boot));
    let mut unsynced = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if format!("sha256:{name}")
            .parse::<slipway_image::Digest>()
            .is_err()
        {
            continue;
        }
        let trusted = match read(&path) {
            Ok(Note { unsynced: None, .. }) => true,
            Ok(note) if note.unsynced == boot => {
                // It may be half of one, and is no part of what the layer is said to take.
                let _ = fs::remove_file(path.join(NEW_NOTE));
                unsynced.push(path.clone());
                true
            }
            Ok(_) => false,
            Err(_) => !rebooted,
        };
        if !trusted {
            tracing::info!(
                layer = &name[..12],
                "was not on the disk when the host went down: it is fetched again"
            );
            fs::rename(&path, folder.join(format!("tmp-{}", crate::ids::new_id())))?;
            slipway_fault::point("runtime.reboot.aside");
        }
    }
    // Last: who is killed in the middle of it begins again.
    if let Some(boot) = boot
        && let Err(error) = note_boot(folder, boot)
    {
        tracing::warn!(%error, "cannot note the id of this boot");
    }
    slipway_fault::point("runtime.reboot.noted");
    Ok(unsynced)
}

/// Whether the folder was opened in another boot before, as far as is known.
fn is_another_boot(folder: &Path, boot: Boot) -> bool {
    match fs::read_to_string(place_of_boot(folder)) {
        Ok(text) => text.trim().to_owned().try_into() != Ok(boot),
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(%error, "cannot read the id of the last boot");
            false
        }
    }
}

fn note_boot(folder: &Path, boot: Boot) -> io::Result<()> {
    let path = place_of_boot(folder);
    let text = String::from(boot);
    if fs::read(&path).is_ok_and(|noted| noted == text.as_bytes()) {
        return Ok(());
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(new, path)
}

fn place_of_boot(folder: &Path) -> PathBuf {
    folder.with_file_name(LAST_BOOT)
}

fn read(layer: &Path) -> io::Result<Note> {
    Ok(serde_json::from_slice(&fs::read(layer.join(NOTE))?)?)
}

/// Syncs what comes, many layers at once, until nobody can send any more.
fn sync_all(receive: &Receiver<PathBuf>, mut layers: Vec<PathBuf>) {
    loop {
        let first = match layers.is_empty() {
            true => receive.recv().ok(),
            false => None,
        };
        let begun = Instant::now();
        let mut open = first.is_some() || !layers.is_empty();
        layers.extend(first);
        while open && begun.elapsed() < LATEST {
            match receive.recv_timeout(QUIET) {
                Ok(layer) => layers.push(layer),
                Err(RecvTimeoutError::Timeout) => break,
                // The service ends: the next one syncs.
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        }
        if !open {
            return;
        }
        let all: HashSet<PathBuf> = layers.drain(..).collect();
        if let Err(error) = sync(&all) {
            tracing::warn!(%error, "unpacked layers could not be synced: after a power cut they are fetched again");
        }
    }
}

fn sync(layers: &HashSet<PathBuf>) -> io::Result<()> {
    // Those that were collected meanwhile are gone.
    let opened: Vec<_> = layers
        .iter()
        .filter_map(|layer| fs::File::open(layer).ok())
        .collect();
    let Some(any) = opened.first() else {
        return Ok(());
    };
    rustix::fs::syncfs(any)?;
    slipway_fault::point("runtime.sync.synced");
    for layer in &opened {
        // Not by its name: another may have that by now, fetched again after a collection, and the disk
        // does not have that one.
        match trust(&PathBuf::from(format!(
            "/proc/self/fd/{}",
            layer.as_raw_fd()
        ))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Writes a layer's note anew. It need not be synced: the old one only costs a transfer.
fn trust(layer: &Path) -> io::Result<()> {
    let note = layer.join(NOTE);
    let mut content = read(layer)?;
    content.unsynced = None;
    // Its time is that of the layer's last use.
    let used = fs::metadata(&note)?.modified()?;
    let new = layer.join(NEW_NOTE);
    fs::write(&new, serde_json::to_vec(&content)?)?;
    fs::File::options()
        .append(true)
        .open(&new)?
        .set_modified(used)?;
    slipway_fault::point("runtime.sync.written");
    fs::rename(new, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: &str = "00000000000000000000000000000001";

    fn layer(folder: &Path, digit: char, note: &str) -> PathBuf {
        let path = folder.join(digit.to_string().repeat(64));
        fs::create_dir_all(path.join("fs")).unwrap();
        fs::write(path.join(NOTE), note).unwrap();
        path
    }

    #[test]
    fn only_what_is_whole_for_certain_keeps_its_name() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("layers");
        let boot = Boot::current().unwrap();
        let own = format!(
            r#"{{"size":1,"entries":1,"unsynced":"{}"}}"#,
            String::from(boot)
        );
        let others = format!(r#"{{"size":1,"entries":1,"unsynced":"{OTHER}"}}"#);
        let make = || {
            [
                layer(&folder, 'a', r#"{"size":1,"entries":1}"#),
                layer(&folder, 'b', &own),
                layer(&folder, 'c', &others),
                layer(&folder, 'd', ""),
            ]
        };
        let layers = make();
        // The same boot, as far as is known: a torn note is not a power cut's.
        assert_eq!(sort_out(&folder, Some(boot)).unwrap(), [layers[1].clone()]);
        let here = |layers: &[PathBuf]| layers.iter().map(|l| l.exists()).collect::<Vec<_>>();
        assert_eq!(here(&layers), [true, true, false, true]);

        // Whatever is noted and is not this boot was another one.
        for last in [OTHER, ""] {
            fs::write(home.path().join(LAST_BOOT), last).unwrap();
            assert!(is_another_boot(&folder, boot));
        }
        let layers = make();
        sort_out(&folder, Some(boot)).unwrap();
        assert_eq!(here(&layers), [true, true, false, false]);
        let noted = fs::read_to_string(home.path().join(LAST_BOOT)).unwrap();
        assert_eq!(noted, String::from(boot));
    }

    #[test]
    fn a_synced_layer_is_trusted_in_every_boot_and_keeps_the_time_of_its_use() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("layers");
        let note = format!(r#"{{"size":7,"entries":1,"unsynced":"{OTHER}"}}"#);
        let path = layer(&folder, 'a', &note);
        let used = std::time::UNIX_EPOCH + Duration::from_secs(1000);
        let file = fs::File::options()
            .append(true)
            .open(path.join(NOTE))
            .unwrap();
        file.set_modified(used).unwrap();
        let gone = folder.join("gone");
        sync(&HashSet::from([path.clone(), gone])).unwrap();
        let note = read(&path).unwrap();
        assert_eq!((note.unsynced, note.size), (None, 7));
        assert_eq!(
            fs::metadata(path.join(NOTE)).unwrap().modified().unwrap(),
            used
        );
    }

    #[test]
    fn a_kept_layer_names_its_boot_until_it_is_synced() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("layers");
        fs::create_dir(&folder).unwrap();
        let keeper = Keeper::open(&folder).unwrap();
        let temporary = folder.join("tmp-1");
        fs::create_dir(&temporary).unwrap();
        let target = folder.join("e".repeat(64));
        let note = Note {
            size: 1,
            entries: 1,
            built: false,
            unsynced: None,
        };
        keeper.keep(note, &temporary, &target).unwrap();
        assert_eq!(
            read(&target).unwrap().unsynced,
            Some(Boot::current().unwrap())
        );
        // The second of two that made the same takes its own away.
        fs::create_dir(&temporary).unwrap();
        keeper.keep(note, &temporary, &target).unwrap();
        assert!(target.exists() && !temporary.exists());
    }
}
