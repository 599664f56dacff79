//! Taking unpacked layers away that nobody needs.
//!
//! A layer goes when no container and no hold uses it and
//! - no image of registry-svc has it any more (for a day after its last use it may be an unfinished
//!   build's: such a layer, made here, is given that long), or
//! - nothing has used it for a week, or
//! - the layers of this host have grown beyond what the settings allow, or the disk is nearly full: those
//!   that were used longest ago go until that is no longer so.
//!
//! What is taken away loses its name first, in one step under the lock that holds take: a run of the same
//! image either holds it before and keeps it, or finds it gone and fetches it again. A removal that is cut
//! off is finished at the next start, since what has no name of a layer is not one.

use std::{
    collections::HashSet,
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use slipway_image::Digest;

use super::{Layers, NOTE, Note};
use crate::disk::Swept;

/// How long a layer that this host's builds made stays without an image.
const BUILT: Duration = Duration::from_secs(24 * 3600);
/// How long a layer stays unused although an image has it.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);
/// A use is noted at most so often.
const NOTED: Duration = Duration::from_secs(600);
/// Layers that are taken while the lock is held once: a run waits for no more than these.
const AT_ONCE: usize = 32;

/// How much is taken away.
#[derive(Debug, Clone)]
pub enum Reach {
    /// What no image has, or nothing used for long; these are all layers of images.
    Needless(HashSet<Digest>),
    /// The same, and then what was used longest ago until so many bytes are free.
    Room {
        /// All layers of images.
        images: HashSet<Digest>,
        /// Bytes to be freed.
        bytes: u64,
    },
    /// Everything that is not in use at this moment.
    All,
}

/// What was taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers.
    pub layers: Vec<Digest>,
    /// Bytes on disk.
    pub bytes: u64,
    /// Layers that would have gone, but are in use.
    pub in_use: u32,
}

/// A layer that is here.
#[derive(Debug, Clone)]
pub struct Present {
    /// Which.
    pub layer: Digest,
    /// Made by a build here, not fetched.
    pub built: bool,
    /// When something used it last, as far as it was noted.
    pub last_use: SystemTime,
    /// Content, bytes.
    pub content: u64,
}

/// What is in the folder of layers.
#[derive(Debug, Default)]
pub struct Listed {
    /// Layers that are whole.
    pub layers: Vec<Present>,
    /// Half made, half removed.
    pub temporary: Vec<PathBuf>,
    /// Folders with the name of a layer that are none: something was lost or put there.
    pub broken: Vec<Digest>,
    /// Names of what is none of ours. It is left alone.
    pub foreign: Vec<String>,
}

impl Reach {
    /// What goes unless it is in use, in this order.
    fn picks(&self, mut layers: Vec<Present>, now: SystemTime) -> Vec<Present> {
        let needless = |present: &Present, images: &HashSet<Digest>| {
            let unused = now.duration_since(present.last_use).unwrap_or_default();
            match (images.contains(&present.layer), present.built) {
                (true, _) => unused >= UNUSED,
                (false, true) => unused >= BUILT,
                (false, false) => true,
            }
        };
        match self {
            Self::All => {}
            Self::Needless(images) => layers.retain(|l| needless(l, images)),
            Self::Room { images, .. } => {
                layers
                    .sort_by_key(|l| (!needless(l, images), images.contains(&l.layer), l.last_use));
            }
        }
        layers
    }

    /// Bytes that are enough.
    const fn enough(&self) -> u64 {
        match self {
            Self::Room { bytes, .. } => *bytes,
            Self::Needless(_) | Self::All => u64::MAX,
        }
    }
}

impl Layers {
    /// Takes layers away. `in_use` tells which ones containers use; it is asked when no hold can change.
    /// Blocks until what they took is free.
    pub fn collect(
        &self,
        reach: &Reach,
        in_use: impl Fn() -> HashSet<Digest>,
    ) -> io::Result<Collected> {
        let _alone = self.collecting.lock();
        let now = SystemTime::now();
        self.note_uses(&in_use(), now)?;
        let mut collected = Collected::default();
        let mut going: Vec<Swept> = Vec::new();
        let mut planned = 0;
        // What is broken must not lie in the way of the layer's being fetched again.
        let listed = self.list()?;
        for broken in &listed.broken {
            let state = self.holds.lock();
            if !state.counts.contains_key(broken) && !in_use().contains(broken) {
                tracing::warn!(layer = %broken.short(), "a layer is broken: it is removed");
                going.extend(
                    self.set_aside(broken)
                        .map(|away| self.broom.sweep(away, None)),
                );
            }
        }
        for batch in reach.picks(listed.layers, now).chunks(AT_ONCE) {
            // Before the lock is taken: who has to measure them first takes longer than others can wait.
            let mut sizes = Vec::with_capacity(batch.len());
            for present in batch {
                sizes.push(self.bytes_of(&present.layer)?);
            }
            let state = self.holds.lock();
            // In this order: who lets go of a hold has become a container before.
            let used = in_use();
            let mut away = Vec::new();
            for (present, bytes) in batch.iter().zip(sizes) {
                if planned >= reach.enough() {
                    break;
                }
                let layer = &present.layer;
                if state.counts.contains_key(layer) || used.contains(layer) {
                    collected.in_use += 1;
                } else if let Some(path) = self.set_aside(layer) {
                    planned += bytes;
                    away.push((path, bytes));
                    collected.layers.push(layer.clone());
                }
            }
            drop(state);
            slipway_fault::point("runtime.collect.aside");
            going.extend(
                away.into_iter()
                    .map(|(path, bytes)| self.broom.sweep(path, Some(bytes))),
            );
            if planned >= reach.enough() {
                break;
            }
        }
        for swept in going {
            // One that fails has said so, and is tried again at the next start.
            if let Ok(Ok(bytes)) = swept.blocking_recv() {
                collected.bytes += bytes;
            }
        }
        slipway_fault::point("runtime.collect.swept");
        Ok(collected)
    }

    /// Takes a layer's name away. What cannot be taken now is tried again the next time.
    fn set_aside(&self, layer: &Digest) -> Option<PathBuf> {
        let away = self.folder.join(format!("tmp-{}", crate::ids::new_id()));
        match fs::rename(self.folder.join(layer.encoded()), &away) {
            Ok(()) => Some(away),
            Err(error) => {
                tracing::warn!(layer = %layer.short(), %error, "could not be taken away");
                None
            }
        }
    }

    /// Content of these layers, bytes, as it was when they were unpacked.
    pub fn size_of<'a>(&self, layers: impl Iterator<Item = &'a Digest>) -> u64 {
        layers
            .filter_map(|layer| self.note_of(layer))
            .map(|note| note.size)
            .sum()
    }

    fn note_of(&self, layer: &Digest) -> Option<Note> {
        let note = self.folder.join(layer.encoded()).join(NOTE);
        serde_json::from_slice(&fs::read(note).ok()?).ok()
    }

    /// Writes down that layers are in use, or were since the last time.
    fn note_uses(&self, in_use: &HashSet<Digest>, now: SystemTime) -> io::Result<()> {
        let lately = std::mem::take(&mut self.holds.lock().lately);
        for present in self.list()?.layers {
            let used = in_use.contains(&present.layer) || lately.contains(&present.layer);
            let noted = now.duration_since(present.last_use).unwrap_or_default() < NOTED;
            if used && !noted {
                let note = self.folder.join(present.layer.encoded()).join(NOTE);
                match fs::File::options().append(true).open(note) {
                    Ok(note) => note.set_modified(now)?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// What is in the folder. Blocks.
    pub fn list(&self) -> io::Result<Listed> {
        let mut listed = Listed::default();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("tmp-") {
                listed.temporary.push(entry.path());
                continue;
            }
            let Ok(layer) = format!("sha256:{name}").parse::<Digest>() else {
                listed.foreign.push(name.into_owned());
                continue;
            };
            match self.look(&layer) {
                Some((note, last_use)) => listed.layers.push(Present {
                    built: note.built,
                    content: note.size,
                    last_use,
                    layer,
                }),
                // Taken away since the folder was listed, or never whole.
                None if entry.path().exists() => listed.broken.push(layer),
                None => {}
            }
        }
        Ok(listed)
    }

    /// What is noted of a layer, if it is here whole.
    fn look(&self, layer: &Digest) -> Option<(Note, SystemTime)> {
        let note = self.note_of(layer)?;
        let home = self.folder.join(layer.encoded());
        if !fs::symlink_metadata(home.join("fs")).is_ok_and(|f| f.is_dir()) {
            return None;
        }
        let time = fs::metadata(home.join(NOTE)).and_then(|m| m.modified());
        Some((note, time.unwrap_or_else(|_| SystemTime::now())))
    }
}

#[cfg(test)]
mod tests {
    use slipway_image::layer::limits::Limits;

    use super::*;
    use crate::{disk, layers::Holder, registry::Registry};

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    #[test]
    fn what_goes_and_what_stays() {
        let day = Duration::from_secs(24 * 3600);
        let images = HashSet::from([digest("named")]);
        let named = Reach::Needless(images);
        let now = SystemTime::now();
        for (layer, built, unused, goes) in [
            ("named", false, day, false),
            ("named", false, 8 * day, true),
            ("bare", false, Duration::ZERO, true),
            ("bare", true, day / 2, false),
            ("bare", true, 2 * day, true),
        ] {
            let present = Present {
                layer: digest(layer),
                built,
                last_use: now - unused,
                content: 1,
            };
            let picks = |reach: &Reach| reach.picks(vec![present.clone()], now).len() == 1;
            assert_eq!(picks(&named), goes, "{layer} {built}");
            assert!(picks(&Reach::All));
        }
    }

    #[test]
    fn for_room_the_needless_go_first_and_then_what_was_used_longest_ago() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let present = |name: &str, built, hours| Present {
            layer: digest(name),
            built,
            last_use: now - hour * hours,
            content: 1,
        };
        let images = HashSet::from(["new", "old", "ancient"].map(digest));
        let reach = Reach::Room { images, bytes: 1 };
        let layers = vec![
            present("new", false, 1),
            present("step", true, 2),
            present("old", false, 5),
            present("left", false, 0),
            present("ancient", false, 24 * 8),
        ];
        let picked: Vec<_> = reach
            .picks(layers, now)
            .into_iter()
            .map(|p| p.layer)
            .collect();
        assert_eq!(
            picked,
            ["left", "ancient", "step", "old", "new"].map(digest)
        );
    }

    fn layers(folder: &std::path::Path, names: &[&str]) -> Layers {
        for name in names {
            let layer = folder.join(digest(name).encoded());
            fs::create_dir_all(layer.join("fs")).unwrap();
            fs::write(layer.join("fs/file"), vec![1; 10_000]).unwrap();
            fs::write(layer.join(NOTE), r#"{"size":1,"entries":1}"#).unwrap();
        }
        let channel = tonic::transport::Endpoint::from_static("http://nobody").connect_lazy();
        Layers::open(folder.to_owned(), Registry::new(channel), Limits::default()).unwrap()
    }

    fn hold(layers: &Layers, name: &str) -> super::super::hold::Hold {
        layers.hold(Holder::Container(name.to_owned()), vec![digest(name)])
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_held_or_in_use_stays_and_a_cut_off_removal_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let layers = layers(folder.path(), &["held", "used", "free"]);
        let held = hold(&layers, "held");
        assert_eq!(layers.held()[0].layers, [digest("held")]);
        let in_use = || HashSet::from([digest("used")]);
        let collect =
            |reach| tokio::task::block_in_place(|| layers.collect(&reach, in_use).unwrap());
        let needless = || Reach::Needless(HashSet::new());
        let size = layers.bytes_of(&digest("free")).unwrap();
        let done = collect(needless());
        assert_eq!((&*done.layers, done.bytes), (&[digest("free")][..], size));
        let here = |name: &str| layers.path_of(&digest(name)).exists();
        assert!(here("held") && here("used") && !here("free"));
        drop(held);
        assert!(layers.held().is_empty());
        assert_eq!(collect(needless()).layers, [digest("held")]);
        assert!(!here("held") && here("used"));

        let cut_off = folder.path().join("tmp-x");
        fs::rename(folder.path().join(digest("used").encoded()), &cut_off).unwrap();
        drop(layers);
        let layers = super::tests::layers(folder.path(), &[]);
        // It is removed by the thread for that, one after the other.
        let after = layers.broom.sweep(folder.path().join("nothing"), None);
        after.await.unwrap().unwrap();
        assert!(!cut_off.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn as_much_goes_as_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["a", "b", "c", "d"];
        let layers = layers(folder.path(), &names);
        let bytes = layers.bytes_of(&digest("a")).unwrap() + 1;
        let images: HashSet<Digest> = names.map(digest).into();
        let reach = Reach::Room { images, bytes };
        let none = HashSet::new;
        let done = tokio::task::block_in_place(|| layers.collect(&reach, none).unwrap());
        assert_eq!(done.layers.len(), 2);
        assert!(done.bytes >= bytes);
        assert_eq!(layers.list().unwrap().layers.len(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_broken_goes_and_what_is_foreign_stays() {
        let folder = tempfile::tempdir().unwrap();
        let layers = layers(
            folder.path(),
            &["whole", "noteless", "empty", "torn", "used"],
        );
        let home = |name: &str| folder.path().join(digest(name).encoded());
        fs::remove_file(home("noteless").join(NOTE)).unwrap();
        fs::remove_dir_all(home("empty").join("fs")).unwrap();
        fs::write(home("torn").join(NOTE), "{").unwrap();
        fs::remove_file(home("used").join(NOTE)).unwrap();
        fs::write(folder.path().join("README"), "somebody's").unwrap();
        fs::create_dir(folder.path().join("abc")).unwrap();
        for name in ["noteless", "empty", "torn", "used"] {
            assert!(!layers.is_here(&digest(name)), "{name}");
        }
        let listed = layers.list().unwrap();
        assert_eq!((listed.layers.len(), listed.broken.len()), (1, 4));
        assert_eq!(listed.foreign.len(), 2);
        let reach = Reach::Needless(HashSet::from([digest("whole")]));
        let in_use = || HashSet::from([digest("used")]);
        tokio::task::block_in_place(|| layers.collect(&reach, in_use).unwrap());
        let listed = layers.list().unwrap();
        assert_eq!((listed.layers.len(), listed.foreign.len()), (1, 2));
        assert_eq!(listed.broken, [digest("used")]);
    }

    #[tokio::test]
    async fn sizes_are_measured_once_and_are_those_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let layers = layers(folder.path(), &["a"]);
        let home = folder.path().join(digest("a").encoded());
        layers.measure_new().unwrap();
        let bytes = layers.bytes_of(&digest("a")).unwrap();
        assert_eq!(bytes, disk::usage(&home).unwrap());
        // Nobody looks again.
        fs::write(home.join("fs/more"), vec![1; 100_000]).unwrap();
        assert_eq!(layers.bytes_of(&digest("a")).unwrap(), bytes);
        // A power cut may have left it empty.
        fs::write(home.join("disk.json"), "").unwrap();
        assert!(layers.bytes_of(&digest("a")).unwrap() >= bytes + 100_000);
        assert_eq!(layers.bytes_of(&digest("b")).unwrap(), 0);
    }
}
