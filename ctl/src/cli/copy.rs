//! `cp`: files between a container and the caller's, or a tar stream.

use std::{
    io::{self, IsTerminal as _},
    os::fd::OwnedFd,
};

use clap::Args;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use slipway_image::layer::pack;
use slipway_proto::runtime::v1::{
    CopyChunk, CopyFromRequest, CopyToRequest, PathStat, StatPathRequest, copy_to_request,
};
use slipway_service::chunks::ChunkReader;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::{
    client::Site,
    copy::{
        place::{self, Place, There},
        unpack,
    },
    failure::{Failure, Outcome},
    output::human,
};

/// Chunks on the way.
const QUEUE: usize = 16;
/// Bytes of a chunk.
const CHUNK: usize = 256 * 1024;

/// `ctl cp`
#[derive(Debug, Args)]
pub struct Copy {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "CONTAINER:SRC_PATH|SRC_PATH|-")]
    source: String,
    #[arg(value_name = "CONTAINER:DEST_PATH|DEST_PATH|-")]
    target: String,
}

/// "name:path", unless it can only be a local path.
fn container(word: &str) -> Option<(&str, &str)> {
    if word.starts_with(['/', '.']) {
        return None;
    }
    word.split_once(':')
}

impl Copy {
    pub async fn run(self, site: &Site) -> Outcome {
        let (bytes, shown) = match (container(&self.source), container(&self.target)) {
            (Some(_), Some(_)) => {
                return Err(Failure::new("copying between containers is not supported"));
            }
            (None, None) => {
                return Err(Failure::new(
                    "must specify at least one container source: CONTAINER:PATH as the one or the other",
                ));
            }
            (Some((container, path)), None) => (
                self.fetch(site, container, path).await?,
                // As docker: from the root on.
                std::path::absolute(&self.target)?.display().to_string(),
            ),
            (None, Some((container, path))) => {
                (self.send(site, container, path).await?, self.target.clone())
            }
        };
        if !self.quiet && self.target != "-" && io::stderr().is_terminal() {
            eprintln!("Successfully copied {} to {shown}", human::size(bytes));
        }
        Ok(0)
    }

    async fn fetch(&self, site: &Site, container: &str, path: &str) -> Outcome<u64> {
        let request = CopyFromRequest {
            container: container.to_owned(),
            path: path.to_owned(),
            follow_link: self.follow_link,
        };
        let mut chunks = site.containers().copy_from(request).await?.into_inner();
        let stat = chunks
            .message()
            .await?
            .and_then(|c| c.stat)
            .unwrap_or_default();
        if self.target == "-" {
            if io::stdout().is_terminal() {
                return Err(Failure::new("cowardly refusing to copy to a terminal"));
            }
            while let Some(chunk) = chunks.message().await? {
                io::Write::write_all(&mut io::stdout().lock(), &chunk.data)?;
            }
            return Ok(0);
        }
        let there = match std::fs::metadata(&self.target) {
            Ok(data) if data.is_dir() => There::Folder,
            Ok(_) => There::Other,
            Err(_) => There::Nothing,
        };
        let to = place::decide(path, is_folder(&stat), &self.target, there)?;
        if !std::path::Path::new(&to.folder).is_dir() {
            return Err(Failure::new(format!(
                "invalid output path: directory {:?} does not exist",
                to.folder
            )));
        }
        let options = unpack::Options {
            name: to.name,
            owners: self.archive,
            ..unpack::Options::default()
        };
        let (send, receive) = mpsc::channel(QUEUE);
        let folder = to.folder;
        let unpacking = tokio::task::spawn_blocking(move || {
            unpack::unpack(&folder, &options, ChunkReader::new(receive))
        });
        let mut lost = None;
        loop {
            match chunks.message().await {
                Ok(Some(CopyChunk { data, .. })) => {
                    // The unpacker has failed, and says why.
                    if send.send(data).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    lost = Some(status);
                    break;
                }
            }
        }
        drop(send);
        let unpacked = unpacking.await.map_err(io::Error::other)?;
        match lost {
            Some(status) => Err(status.into()),
            None => Ok(unpacked?),
        }
    }

    async fn send(&self, site: &Site, container: &str, path: &str) -> Outcome<u64> {
        if path.is_empty() {
            return Err(Failure::new("no such directory"));
        }
        let (target, there) = look(site, container, path).await?;
        let (place, source) = if self.source == "-" {
            if there != There::Folder {
                return Err(Failure::new(format!(
                    "destination \"{container}:{path}\" must be a directory"
                )));
            }
            let place = Place {
                folder: target,
                name: String::new(),
            };
            (place, None)
        } else {
            let failed = |e: io::Error| Failure::new(format!("{}: {e}", self.source));
            let data = match self.follow_link {
                true => std::fs::metadata(&self.source),
                false => std::fs::symlink_metadata(&self.source),
            }
            .map_err(failed)?;
            let local = Local::open(&self.source, self.follow_link).map_err(failed)?;
            let place = place::decide(&self.source, data.is_dir(), &target, there)?;
            (place, Some(local))
        };
        let start = copy_to_request::Start {
            container: container.to_owned(),
            path: place.folder.clone(),
            no_overwrite_dir_non_dir: true,
            copy_owner: self.archive,
        };
        let (send, receive) = mpsc::channel(QUEUE);
        super::run::queue(
            &send,
            CopyToRequest {
                part: Some(copy_to_request::Part::Start(start)),
            },
        )?;
        let packing = tokio::task::spawn_blocking(move || {
            let mut writer = io::BufWriter::with_capacity(CHUNK, Requests(send));
            match source {
                None => io::copy(&mut io::stdin().lock(), &mut writer).map(drop)?,
                Some(local) => {
                    let mut tar = pack::Plain::new(&mut writer);
                    local.pack(&mut pack::Renamed::new(place.name, &mut tar))?;
                    tar.finish()?;
                }
            }
            io::Write::flush(&mut writer)
        });
        let answer = site
            .containers()
            .copy_to(ReceiverStream::new(receive))
            .await;
        let packed = packing.await.map_err(io::Error::other)?;
        match (answer, packed) {
            // The service's refusal cuts the packer off.
            (Err(status), _) => Err(status.into()),
            (Ok(_), Err(e)) => Err(Failure::new(format!("{}: {e}", self.source))),
            (Ok(answer), Ok(())) => Ok(answer.into_inner().bytes),
        }
    }
}

/// What is at a destination in a container, and where that is when it is a link.
async fn look(site: &Site, container: &str, path: &str) -> Outcome<(String, There)> {
    let mut path = path.to_owned();
    // docker follows one link by itself; a few more do no harm.
    for _ in 0..10 {
        let request = StatPathRequest {
            container: container.to_owned(),
            path: path.clone(),
        };
        let stat = match site.containers().stat_path(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status)
                if status.code() == Code::NotFound
                    && slipway_service::error::reason(&status) == "PATH_NOT_FOUND" =>
            {
                return Ok((path, There::Nothing));
            }
            Err(status) => return Err(status.into()),
        };
        if stat.link_target.is_empty() {
            let there = if is_folder(&stat) {
                There::Folder
            } else {
                There::Other
            };
            return Ok((path, there));
        }
        path = if stat.link_target.starts_with('/') {
            stat.link_target
        } else {
            let parent = path
                .trim_end_matches('/')
                .rsplit_once('/')
                .map_or("", |(p, _)| p);
            format!("{parent}/{}", stat.link_target)
        };
    }
    Err(Failure::new(format!(
        "{path}: too many levels of symbolic links"
    )))
}

fn is_folder(stat: &PathStat) -> bool {
    FileType::from_raw_mode(stat.mode).is_dir()
}

/// What is sent: something in a folder that is open.
struct Local {
    parent: OwnedFd,
    /// "" = the folder itself.
    name: Vec<u8>,
}

impl Local {
    fn open(path: &str, follow: bool) -> io::Result<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let real = if follow || place::is_content(path) || path.ends_with('/') {
            std::fs::canonicalize(path)?
        } else {
            std::path::absolute(path)?
        };
        Ok(match (real.parent(), real.file_name()) {
            (Some(parent), Some(name)) => Self {
                parent: rustix::fs::openat(CWD, parent, flags, Mode::empty())?,
                name: name.as_bytes().to_vec(),
            },
            _ => Self {
                parent: rustix::fs::openat(CWD, &real, flags, Mode::empty())?,
                name: Vec::new(),
            },
        })
    }

    fn pack(&self, sink: &mut impl pack::Sink) -> io::Result<()> {
        if self.name.is_empty() {
            return Err(io::Error::other(
                "the root folder cannot be copied as a whole",
            ));
        }
        pack::pack_one(sink, &self.parent, &self.name)
    }
}

/// A blocking writer into a call.
struct Requests(mpsc::Sender<CopyToRequest>);

impl io::Write for Requests {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = buffer.len().min(CHUNK);
        let data = bytes::Bytes::copy_from_slice(&buffer[..n]);
        let part = Some(copy_to_request::Part::Data(data));
        self.0
            .blocking_send(CopyToRequest { part })
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the service takes no more"))?;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
