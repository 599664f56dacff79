//! A container's files, seen from outside: for `cp`, `diff` and `export`.
//!
//! Every path is resolved inside the container's root by openat2(2): whatever its links say, nothing of
//! the host is reached.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{manager::Manager, record::Record, state::Container};
use crate::{
    error::{Error, Tried as _},
    executor::{plan::UserMap, rootfs, userns::FilesOfRoot},
    layers::stack,
    worker,
};

/// A root and a path in it.
#[derive(Debug)]
pub struct Place {
    /// The container's root, or the volume that the path leads into.
    pub root: OwnedFd,
    /// Below the root.
    pub path: String,
    /// Owners of files there are these ids of the host: of a container that runs with ids of its own.
    pub ids: Option<UserMap>,
    /// It is the root that a running container's processes see, kernel's file systems and all.
    pub live: bool,
}

/// What became of a path since the container was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It, or something in it, is another.
    Changed,
    /// A folder whose own owner and mode are as they were.
    Touched,
    /// It is gone.
    Deleted,
}

impl Manager {
    /// Does something with a path of a container. One that does not run cannot start meanwhile.
    pub async fn with_files<T: Send + 'static>(
        &self,
        container: &Arc<Container>,
        path: &str,
        write: bool,
        work: impl FnOnce(&Place) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = container.operation.clone().lock_owned().await;
        // A running container's files are those that its processes see: volumes and all.
        let place = match container.running() {
            Some(running) => {
                drop(turn);
                let place = Place {
                    root: root_of(running.pid, container)?,
                    path: path.to_owned(),
                    ids: container.record().user_map,
                    live: true,
                };
                return on_the_pool(place, |place: &Place| {
                    // What is made there is made by the container's root, who alone can own it.
                    let _owner = place.ids.as_ref().map(FilesOfRoot::begin).transpose()?;
                    work(place)
                })
                .await;
            }
            None => self.place_at_rest(container, path, write)?,
        };
        // The caller may go before the work is done: nothing else happens to the container until then.
        on_the_pool(place, move |place: &Place| {
            let _turn = turn;
            work(place)
        })
        .await
    }

    /// Where a path of a container is that does not run.
    fn place_at_rest(
        &self,
        container: &Container,
        path: &str,
        write: bool,
    ) -> Result<Place, Error> {
        let record = container.record();
        let what = || format!("cannot open the files of {}", record.name);
        if let Some((mount, rest)) = mount_of(&record, path) {
            if write && (mount.read_only || mount.r#type == "image") {
                let sentence = "mounted volume is marked read-only".to_owned();
                return Err(Error::Conflict(sentence));
            }
            // What is on a device or a bind's source belongs to ids of the host; the rest is shown as the
            // container's (see `sources::keep_owners`).
            let mut ids = None;
            let whole = match mount.r#type.as_str() {
                "volume" => {
                    // It stays mounted as long as its root is open.
                    let opener = format!("cp {}", container.id);
                    if self.volumes().open_device(&mount.source, &opener)? {
                        ids.clone_from(&record.user_map);
                    }
                    let root = rootfs::bind_tree(&self.volumes().data(&mount.source), false);
                    self.volumes().close_devices(&opener);
                    Some(root?)
                }
                "image" => {
                    let layers = record.image_mounts.get(&mount.target);
                    let layers = layers.into_iter().flatten();
                    let layers = stack(layers.map(|id| self.layer_folder(id)));
                    view(&layers)?
                }
                _ => None,
            };
            if let Some(whole) = whole {
                let root = match mount.subpath.as_str() {
                    "" => whole,
                    part => rootfs::bind_beneath(&whole, part)?,
                };
                return Ok(Place {
                    root,
                    path: rest,
                    ids,
                    live: false,
                });
            }
            let source = PathBuf::from(&mount.source);
            // A bind of a single file has nothing below it.
            if source.is_dir() {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                return Ok(Place {
                    root: rustix::fs::open(&source, flags, Mode::empty()).tried(what)?,
                    path: rest,
                    ids: record.user_map.clone(),
                    live: false,
                });
            }
        }
        if write && record.spec.read_only {
            let sentence = "container rootfs is marked read-only".to_owned();
            return Err(Error::Conflict(sentence));
        }
        let (upper, work) = (
            container.folder.join("upper"),
            container.folder.join("work"),
        );
        let mut lower = self.lower(&record);
        if lower.is_empty() {
            lower.push(self.empty_layer().tried(what)?);
        }
        rootfs::forget_volatile(&work).tried(what)?;
        Ok(Place {
            root: rootfs::overlay_in_service(&lower, Some(rootfs::Upper::new(&upper, &work)))?,
            path: path.to_owned(),
            ids: None,
            live: false,
        })
    }

    /// What changed in a container's own layer.
    pub async fn changes(
        &self,
        container: &Arc<Container>,
    ) -> Result<Vec<(String, Change)>, Error> {
        let record = container.record();
        let lower = self.lower(&record);
        let upper = container.folder.join("upper");
        let name = record.name.clone();
        blocking(move || {
            let mut all = changes_upon(&lower, &upper)
                .tried(|| format!("cannot read the changes of {name}"))?;
            // What we mount upon, and had to make for that, is no change of the container's.
            all.retain(|(path, _)| !is_mounted(&record, path));
            drop_touched(&record, &mut all);
            all.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(all)
        })
        .await
    }

    /// Image and changes together, without volumes, to be read only.
    pub fn merged(&self, container: &Container) -> Result<Option<OwnedFd>, Error> {
        let mut layers = vec![container.folder.join("upper")];
        layers.extend(self.lower(&container.record()));
        view(&layers)
    }

    /// Folders of a container's image, top first.
    pub fn lower(&self, record: &Record) -> Vec<PathBuf> {
        let layers = record.layers.iter().rev().filter_map(|l| l.parse().ok());
        stack(layers.map(|layer| self.layers().path_of(&layer)))
    }

    /// Folder of an unpacked layer by its diff id.
    pub(super) fn layer_folder(&self, diff_id: &str) -> PathBuf {
        match diff_id.parse() {
            Ok(id) => self.layers().path_of(&id),
            // A record that names no digest: nothing is there under that name.
            Err(_) => PathBuf::from("/nonexistent").join(diff_id),
        }
    }

    /// overlayfs wants one layer at least: an image of no layers is an empty folder.
    pub fn empty_layer(&self) -> io::Result<PathBuf> {
        let empty = self.state_folder().join("empty");
        fs::create_dir_all(&empty)?;
        Ok(empty)
    }
}

async fn on_the_pool<T: Send + 'static>(
    place: Place,
    work: impl FnOnce(&Place) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    blocking(move || work(&place)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .tried(|| "interrupted".to_owned())?
}

/// The root that a container's first process sees.
///
/// Its number may be another process's by now: the folder in /proc stays the same process's, and its
/// cgroup tells whose that is.
fn root_of(pid: i32, container: &Container) -> Result<OwnedFd, Error> {
    let what = || format!("cannot open the files of {}", container.name());
    let folder = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = rustix::fs::open(format!("/proc/{pid}"), OFlags::PATH | folder, Mode::empty());
    let process = process.tried(what)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let groups = rustix::fs::openat(&process, "cgroup", flags, Mode::empty()).tried(what)?;
    let groups = io::read_to_string(std::fs::File::from(groups)).tried(what)?;
    if !groups.contains(&container.record().cgroup()) {
        let name = container.name();
        return Err(Error::Conflict(format!("container {name} has just ended")));
    }
    rustix::fs::openat(&process, "root", OFlags::PATH | folder, Mode::empty()).tried(what)
}

/// Layers as one tree that is read only; `None` where there are none.
fn view(layers: &[PathBuf]) -> Result<Option<OwnedFd>, Error> {
    Ok(match layers {
        [] => None,
        // overlayfs wants two layers at least when nothing is to be written.
        [only] => Some(rootfs::bind_tree(only, false)?),
        many => Some(rootfs::overlay_in_service(many, None)?),
    })
}

/// The deepest bind or volume that a path leads into, and the path in it.
fn mount_of<'a>(
    record: &'a Record,
    path: &str,
) -> Option<(&'a slipway_proto::runtime::v1::Mount, String)> {
    let path = normal(path);
    let mounts = record.spec.mounts.iter().filter(|m| m.r#type != "tmpfs");
    mounts
        .filter_map(|mount| {
            let target = normal(&mount.target);
            let rest = path.strip_prefix(&target)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| (mount, rest.to_owned(), target))
        })
        .max_by_key(|(_, _, target)| target.len())
        .map(|(mount, rest, _)| (mount, rest))
}

/// "/a/b" of "a//./c/../b/": as words, since nothing is looked up.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.iter().map(|part| format!("/{part}")).collect()
}

/// What is mounted in every container.
const OURS: [&str; 6] = [
    "/proc",
    "/sys",
    "/dev",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
];

/// Whether something is mounted at a path, or above it: what is there is not the container's own.
pub(super) fn is_mounted(record: &Record, path: &str) -> bool {
    let below = |target: &str| is_below(path, target);
    OURS.into_iter().any(below) || record.spec.mounts.iter().any(|m| below(&normal(&m.target)))
}

/// A folder that only has something of ours in it, to mount upon, is no change either: of those that
/// stand above a mount's place only what else changed below them tells.
fn drop_touched(record: &Record, all: &mut Vec<(String, Change)>) {
    let targets = record.spec.mounts.iter().map(|m| normal(&m.target));
    let targets: Vec<String> = targets.chain(OURS.map(str::to_owned)).collect();
    let above = |path: &str| targets.iter().any(|t| is_below(t, path));
    // The deepest first, so that one that goes does not keep the one above it.
    let mut paths: Vec<String> = all.iter().map(|(path, _)| path.clone()).collect();
    paths.sort_unstable_by_key(|path| std::cmp::Reverse(path.len()));
    for path in paths.iter().filter(|path| above(path)) {
        let kept = all.iter().any(|(p, _)| p != path && is_below(p, path));
        if !kept {
            all.retain(|(p, change)| p != path || *change != Change::Touched);
        }
    }
}

/// Whether a path is another or lies in it.
fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Longest path that is told of, bytes: near PATH_MAX, beyond which nobody could open it by its name.
const LONGEST: usize = 4000;

/// Not by recursion: a container may have nested folders as deep as it liked.
fn walk(
    folder: OwnedFd,
    image: Option<&OwnedFd>,
    all: &mut Vec<(String, Change)>,
) -> io::Result<()> {
    let mut open = vec![(rustix::fs::Dir::new(folder)?, String::new())];
    while let Some((entries, above)) = open.last_mut() {
        let Some(entry) = entries.read() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let folder = entries.fd()?;
        let path = format!("{above}/{}", name.to_string_lossy());
        if path.len() > LONGEST {
            continue;
        }
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Gone since it was listed.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind.is_char_device() && stat.st_rdev == 0 {
            all.push((path, Change::Deleted));
            continue;
        }
        let known = match image {
            Some(image) => worker::find_path(image, &path, false)
                .map_err(|e| io::Error::other(e.to_string()))?,
            None => None,
        };
        let who = |s: &rustix::fs::Stat| (s.st_mode, s.st_uid, s.st_gid);
        let change = match known {
            Some(old) if kind.is_dir() && who(&old.stat) == who(&stat) => Change::Touched,
            Some(_) => Change::Changed,
            None => Change::Added,
        };
        all.push((path.clone(), change));
        if kind.is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(folder, name, flags, Mode::empty()) {
                Ok(child) => open.push((rustix::fs::Dir::new(child)?, path)),
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

/// What a layer changes of those below it, top first. A folder comes before what is in it.
pub fn changes_upon(lower: &[PathBuf], upper: &Path) -> io::Result<Vec<(String, Change)>> {
    let below = view(lower).map_err(|e| io::Error::other(e.to_string()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper = rustix::fs::open(upper, flags, Mode::empty())?;
    let mut all = Vec::new();
    walk(upper, below.as_ref(), &mut all)?;
    Ok(all)
}

/// The folder and the name of a path: "/a" and "b" of "/a/b/".
pub fn split(path: &str) -> (String, String) {
    let whole = normal(path);
    match Path::new(&whole).file_name() {
        Some(name) => {
            let name = name.to_string_lossy().into_owned();
            (whole[..whole.len() - name.len() - 1].to_owned() + "/", name)
        }
        None => ("/".to_owned(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_nested_deeper_than_a_stack_end_where_no_name_leads() {
        let folder = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = rustix::fs::open(folder.path(), flags, Mode::empty()).unwrap();
        for _ in 0..2500 {
            rustix::fs::mkdirat(&at, "a", Mode::from(0o755)).unwrap();
            at = rustix::fs::openat(&at, "a", flags, Mode::empty()).unwrap();
        }
        let upper = folder.path().to_owned();
        let changes = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || changes_upon(&[], &upper).unwrap())
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(changes.len(), LONGEST / 2);
        crate::disk::remove_tree(&folder.path().join("a")).unwrap();
    }

    #[test]
    fn paths_as_words() {
        assert_eq!(normal("a//./c/../b/"), "/a/b");
        assert_eq!(normal("/../.."), "");
        assert_eq!(split("/a/b/"), ("/a/".to_owned(), "b".to_owned()));
        assert_eq!(split("b"), ("/".to_owned(), "b".to_owned()));
        assert_eq!(split("/"), ("/".to_owned(), String::new()));
    }
}
