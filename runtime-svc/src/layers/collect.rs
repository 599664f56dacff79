//! Taking unpacked layers away that nobody needs.
//!
//! A layer goes when no container and no hold uses it and
//! - no image of registry-svc has it any more (for a day after its last use it may be an unfinished
//!   build's: such a layer, made here, is given that long), or
//! - nothing has used it for a week.
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

use super::{Layers, Note};
use crate::disk;

/// How long a layer that this host's builds made stays without an image.
const BUILT: Duration = Duration::from_secs(24 * 3600);
/// How long a layer stays unused although an image has it.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);
/// A use is noted at most so often.
const NOTED: Duration = Duration::from_secs(3600);

/// How much is taken away.
#[derive(Debug, Clone)]
pub enum Reach {
    /// What no image has, or nothing used for long; these are all layers of images.
    Needless(HashSet<Digest>),
    /// Everything that is not in use at this moment.
    All,
}

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers.
    pub layers: u32,
    /// Bytes on disk.
    pub bytes: u64,
    /// Layers that would have gone, but are in use.
    pub in_use: u32,
}

impl Reach {
    /// Whether a layer that is not in use goes.
    fn takes(&self, layer: &Digest, built: bool, unused: Duration) -> bool {
        match self {
            Self::All => true,
            Self::Needless(images) if images.contains(layer) => unused >= UNUSED,
            Self::Needless(_) => !built || unused >= BUILT,
        }
    }
}

/// A layer that is here.
struct Present {
    layer: Digest,
    note: PathBuf,
    built: bool,
    last_use: SystemTime,
}

impl Layers {
    /// Takes layers away. `in_use` tells which ones containers use; it is asked when no hold can change.
    /// Blocks.
    pub fn collect(
        &self,
        reach: &Reach,
        in_use: impl Fn() -> HashSet<Digest>,
    ) -> io::Result<Collected> {
        let _alone = self.collecting.lock();
        let now = SystemTime::now();
        self.note_uses(&in_use(), now)?;
        let mut collected = Collected::default();
        let mut gone = Vec::new();
        for present in self.list()? {
            let unused = now.duration_since(present.last_use).unwrap_or_default();
            if !reach.takes(&present.layer, present.built, unused) {
                continue;
            }
            let state = self.holds.lock();
            // In this order: who lets go of a hold has become a container before.
            if state.counts.contains_key(&present.layer) || in_use().contains(&present.layer) {
                collected.in_use += 1;
                continue;
            }
            let away = self.folder.join(format!("tmp-{}", crate::ids::new_id()));
            let renamed = fs::rename(self.folder.join(present.layer.encoded()), &away);
            drop(state);
            match renamed {
                Ok(()) => gone.push(away),
                // What cannot be taken away now is tried again the next time.
                Err(error) => {
                    tracing::warn!(layer = %present.layer.short(), %error, "could not be taken away");
                }
            }
        }
        for folder in gone {
            collected.layers += 1;
            collected.bytes += disk::usage(&folder)?;
            fs::remove_dir_all(folder)?;
        }
        Ok(collected)
    }

    /// Size on disk of all layers, and of those among them that containers use: count and bytes each.
    /// Blocks.
    pub fn usage(&self, in_use: &HashSet<Digest>) -> io::Result<[(u64, u64); 2]> {
        let mut all = [(0, 0); 2];
        for present in self.list()? {
            let bytes = disk::usage(&self.folder.join(present.layer.encoded()))?;
            let used = usize::from(in_use.contains(&present.layer));
            for sum in &mut all[..=used] {
                sum.0 += 1;
                sum.1 += bytes;
            }
        }
        Ok(all)
    }

    /// Content of these layers, bytes, as it was when they were unpacked.
    pub fn size_of<'a>(&self, layers: impl Iterator<Item = &'a Digest>) -> u64 {
        layers
            .filter_map(|layer| {
                let note = self.folder.join(layer.encoded()).join("layer.json");
                serde_json::from_slice::<Note>(&fs::read(note).ok()?).ok()
            })
            .map(|note| note.size)
            .sum()
    }

    /// Writes down that layers are in use, or were since the last time.
    fn note_uses(&self, in_use: &HashSet<Digest>, now: SystemTime) -> io::Result<()> {
        let lately = std::mem::take(&mut self.holds.lock().lately);
        for present in self.list()? {
            let used = in_use.contains(&present.layer) || lately.contains(&present.layer);
            let noted = now.duration_since(present.last_use).unwrap_or_default() < NOTED;
            if used && !noted {
                match fs::File::options().append(true).open(&present.note) {
                    Ok(note) => note.set_modified(now)?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<Present>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|n| format!("sha256:{n}").parse().ok());
            let Some(layer) = digest else { continue };
            let note = entry.path().join("layer.json");
            // Gone since the folder was listed.
            let Ok(text) = fs::read(&note) else { continue };
            let built = serde_json::from_slice::<Note>(&text).is_ok_and(|n| n.built);
            all.push(Present {
                layer,
                built,
                last_use: fs::metadata(&note)
                    .and_then(|m| m.modified())
                    .unwrap_or_else(|_| SystemTime::now()),
                note,
            });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    #[test]
    fn what_goes_and_what_stays() {
        let day = Duration::from_secs(24 * 3600);
        let named = Reach::Needless(HashSet::from([digest("named")]));
        for (layer, built, unused, goes) in [
            ("named", false, day, false),
            ("named", false, 8 * day, true),
            ("bare", false, Duration::ZERO, true),
            ("bare", true, day / 2, false),
            ("bare", true, 2 * day, true),
        ] {
            assert_eq!(
                named.takes(&digest(layer), built, unused),
                goes,
                "{layer} {built}"
            );
            assert!(Reach::All.takes(&digest(layer), built, unused));
        }
    }

    fn layers(folder: &std::path::Path, names: &[&str]) -> Layers {
        for name in names {
            let layer = folder.join(digest(name).encoded());
            fs::create_dir_all(layer.join("fs")).unwrap();
            fs::write(layer.join("layer.json"), r#"{"size":1,"entries":1}"#).unwrap();
        }
        let channel = tonic::transport::Endpoint::from_static("http://nobody").connect_lazy();
        Layers::open(folder.to_owned(), Registry::new(channel)).unwrap()
    }

    #[tokio::test]
    async fn what_is_held_or_in_use_stays_and_a_cut_off_removal_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let layers = layers(folder.path(), &["held", "used", "free"]);
        let hold = layers.hold(vec![digest("held")]);
        let in_use = || HashSet::from([digest("used")]);
        let reach = Reach::Needless(HashSet::new());
        assert_eq!(layers.collect(&reach, in_use).unwrap().layers, 1);
        let here = |name: &str| layers.path_of(&digest(name)).exists();
        assert!(here("held") && here("used") && !here("free"));
        drop(hold);
        assert_eq!(layers.collect(&reach, in_use).unwrap().layers, 1);
        assert!(!here("held") && here("used"));

        let cut_off = folder.path().join("tmp-x");
        fs::rename(folder.path().join(digest("used").encoded()), &cut_off).unwrap();
        drop(layers);
        super::tests::layers(folder.path(), &[]);
        assert!(!cut_off.exists());
    }
}
