//! Files of containers as streams: copy in both directions, export, changes.

use std::{io, sync::Arc};

use rustix::fs::{FileType, OFlags};
use slipway_image::layer::pack;
use slipway_proto::runtime::v1 as pb;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::streams::{Client, CopyWriter, blocking};
use crate::{
    container::{
        files::{self, Place},
        manager::Manager,
        state::Container,
    },
    error::{Error, Tried as _},
    executor::{plan::UserMap, rootfs},
    worker::{self, Found, Target},
};

/// Chunks that wait for the disk.
const QUEUE: usize = 16;

fn missing(container: &Container, path: &str) -> Error {
    Error::NoSuchPath {
        path: path.to_owned(),
        container: container.name(),
    }
}

fn stat(path: &str, found: &Found) -> pb::PathStat {
    let (_, name) = files::split(path);
    let (seconds, nanos) = (found.stat.st_mtime, found.stat.st_mtime_nsec as i32);
    pb::PathStat {
        name: if name.is_empty() {
            "/".to_owned()
        } else {
            name
        },
        size: u64::try_from(found.stat.st_size).unwrap_or_default(),
        mode: found.stat.st_mode,
        modified: Some(prost_types::Timestamp { seconds, nanos }),
        link_target: found.link_target.clone(),
    }
}

/// What a path is; a link at its end is not followed.
pub async fn stat_path(
    manager: &Manager,
    container: Arc<Container>,
    path: String,
) -> Result<pb::PathStat, Error> {
    let (asked, of) = (path.clone(), container.clone());
    let look = move |place: &Place| match worker::find_path(&place.root, &place.path, false)? {
        Some(found) => Ok(stat(&asked, &found)),
        None => Err(missing(&of, &asked)),
    };
    manager.with_files(&container, &path, false, look).await
}

/// Sends what a path is, then it and all below as a tar stream whose names begin with the path's last.
pub async fn copy_from(
    manager: Manager,
    container: Arc<Container>,
    request: pb::CopyFromRequest,
    client: Client<pb::CopyChunk>,
) -> Result<(), Status> {
    let (of, path) = (container.clone(), request.path.clone());
    let send = move |place: &Place| {
        let found = worker::find_path(&place.root, &place.path, request.follow_link)?
            .ok_or_else(|| missing(&of, &path))?;
        let first = pb::CopyChunk {
            stat: Some(stat(&path, &found)),
            ..pb::CopyChunk::default()
        };
        if client.blocking_send(Ok(first)).is_err() {
            return Ok(());
        }
        let what = || format!("cannot read {path}");
        let writer = io::BufWriter::with_capacity(slipway_service::CHUNK_SIZE, CopyWriter(client));
        let mut tar = pack::Plain::new(writer);
        let mut owned = Owned(&mut tar, place.ids.as_ref());
        let (parent_path, name) = files::split(&found.path);
        let parent = rootfs::open_inside(&place.root, &parent_path, OFlags::DIRECTORY);
        let parent = parent.tried(what)?;
        // Its own file systems are not the kernel's: docker knows them as empty folders.
        let kernels = [b"proc" as &[u8], b"sys", b"dev"];
        let live = pack::Live {
            without: if place.live && matches!(parent_path.as_str(), "/") {
                &kernels
            } else {
                &[]
            },
        };
        if name.is_empty() {
            // The root has no name: everything in it goes below the one that is asked for.
            let mut below = Below(&mut owned);
            pack::pack_live_tree(&mut below, &parent, live).tried(what)?;
        } else {
            pack::pack_live_one(&mut owned, &parent, name.as_bytes(), live).tried(what)?;
        }
        io::Write::flush(&mut tar.finish().tried(what)?).tried(what)
    };
    let sent = manager
        .with_files(&container, &request.path.clone(), false, send)
        .await;
    Ok(sent?)
}

/// Turns owners on the host into the container's.
struct Owned<'a, S>(&'a mut S, Option<&'a UserMap>);

impl<S: pack::Sink> pack::Sink for Owned<'_, S> {
    fn append(
        &mut self,
        entry: &slipway_image::layer::Entry,
        content: &mut dyn io::Read,
    ) -> io::Result<()> {
        let Some(map) = self.1 else {
            return self.0.append(entry, content);
        };
        let mut entry = entry.clone();
        (entry.uid, entry.gid) = (map.uid_inside(entry.uid), map.gid_inside(entry.gid));
        self.0.append(&entry, content)
    }
}

/// Puts a name before every path, so that each has a first part to be renamed.
struct Below<'a, S>(&'a mut S);

impl<S: pack::Sink> pack::Sink for Below<'_, S> {
    fn append(
        &mut self,
        entry: &slipway_image::layer::Entry,
        content: &mut dyn io::Read,
    ) -> io::Result<()> {
        use slipway_image::layer::Kind;
        let mut entry = entry.clone();
        entry.path = [&b"root/"[..], &entry.path].concat();
        if let Kind::HardLink(target) = &entry.kind {
            entry.kind = Kind::HardLink([&b"root/"[..], target].concat());
        }
        self.0.append(&entry, content)
    }
}

/// Unpacks a tar stream into a folder that is there.
pub async fn copy_to(
    manager: &Manager,
    mut requests: Streaming<pb::CopyToRequest>,
) -> Result<pb::CopyToResponse, Status> {
    let first = requests.message().await?.and_then(|r| r.part);
    let Some(pb::copy_to_request::Part::Start(start)) = first else {
        let sentence = "the first message of a copy must be its start".to_owned();
        return Err(Error::Invalid(sentence).into());
    };
    let container = manager.find(&start.container)?;
    let (send, receive) = mpsc::channel(QUEUE);
    // Looked up in the container, also when the path leads into a volume.
    let user = container.record().effective.user;
    let owner = match start.copy_owner && !user.is_empty() {
        false => String::new(),
        true => {
            let look = move |place: &Place| worker::user_in(&place.root, &user);
            let (uid, gid) = manager.with_files(&container, "/", false, look).await?;
            format!("{uid}:{gid}")
        }
    };
    let of = container.clone();
    let path = start.path.clone();
    let apply = move |place: &Place| {
        let found = worker::find_path(&place.root, &place.path, true)?
            .ok_or_else(|| missing(&of, &start.path))?;
        if !FileType::from_raw_mode(found.stat.st_mode).is_dir() {
            let sentence = "extraction point is not a directory".to_owned();
            return Err(Error::Invalid(sentence));
        }
        let target = Target {
            path: place.path.clone(),
            // As docker: with -a to the container's user, else as in the archive.
            owner,
            mode: 0,
            archive: true,
            keep_kinds: start.no_overwrite_dir_non_dir,
            ids: place.ids.clone(),
        };
        worker::apply(
            &place.root,
            &target,
            slipway_service::chunks::ChunkReader::new(receive),
        )
    };
    let work = manager.with_files(&container, &path, true, apply);
    let feed = async move {
        while let Some(request) = requests.message().await? {
            if let Some(pb::copy_to_request::Part::Data(data)) = request.part
                && send.send(data).await.is_err()
            {
                break;
            }
        }
        Ok::<_, Status>(())
    };
    let (applied, fed) = tokio::join!(work, feed);
    let applied = applied?;
    fed?;
    Ok(pb::CopyToResponse {
        bytes: applied.bytes,
    })
}

/// Sends image and changes together, without volumes, as a tar stream.
pub async fn export(
    manager: Manager,
    container: Arc<Container>,
    client: Client<pb::CopyChunk>,
) -> Result<(), Status> {
    let root = manager.merged(&container)?;
    let sent = blocking(move || {
        let what = || format!("cannot read container {}", container.name());
        let writer = io::BufWriter::with_capacity(slipway_service::CHUNK_SIZE, CopyWriter(client));
        let mut tar = pack::Plain::new(writer);
        if let Some(root) = root {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::openat(&root, ".", flags, rustix::fs::Mode::empty());
            pack::pack_tree(&mut tar, root.tried(what)?).tried(what)?;
        }
        io::Write::flush(&mut tar.finish().tried(what)?).tried(what)
    });
    Ok(sent.await?)
}

/// docker's letters for what changed.
pub const fn letter(change: files::Change) -> &'static str {
    match change {
        files::Change::Added => "A",
        files::Change::Changed | files::Change::Touched => "C",
        files::Change::Deleted => "D",
    }
}

/// What changed in a container's own layer.
pub async fn diff(
    manager: &Manager,
    container: &Arc<Container>,
) -> Result<pb::DiffResponse, Status> {
    let changes = manager.changes(container).await?;
    Ok(pb::DiffResponse {
        changes: changes
            .into_iter()
            .map(|(path, change)| pb::diff_response::Change {
                path,
                kind: letter(change).to_owned(),
            })
            .collect(),
    })
}
