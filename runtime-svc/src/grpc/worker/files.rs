//! Files of a snapshot, as calls: put there, read, looked up.

use std::io;

use slipway_proto::runtime::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Events, QUEUE};
use crate::{
    error::Error,
    grpc::streams::{CopyWriter, blocking},
    worker::{Found, Standing, Survey, Target, Worker, survey as look},
};

pub async fn apply(
    worker: &Worker,
    request: Request<Streaming<pb::ApplyRequest>>,
) -> Result<Response<pb::ApplyResponse>, Status> {
    let mut requests = request.into_inner();
    let first = requests.message().await?.and_then(|r| r.part);
    let Some(pb::apply_request::Part::Start(start)) = first else {
        return Err(
            Error::Invalid("the first message of an apply must be its start".to_owned()).into(),
        );
    };
    let snapshot = worker.find(&start.snapshot_id)?;
    let turn = snapshot.turn_to_change().await?;
    let target = Target {
        path: start.path,
        owner: start.owner,
        mode: start.mode,
        archive: start.archive,
        // As BuildKit: an archive's folder takes the place of a file, a copied one does not.
        keep_kinds: !start.archive,
        ids: None,
    };
    let (send, receive) = mpsc::channel(QUEUE);
    let work = {
        let snapshot = snapshot.clone();
        blocking(move || {
            // The call may end before the work does: the snapshot stays taken until then.
            let _turn = turn;
            let root = snapshot.open()?;
            slipway_fault::point("runtime.apply.opened");
            let stream = slipway_service::chunks::ChunkReader::new(receive);
            let mut stream = snapshot.limit(stream);
            let applied = crate::worker::apply(&root, &target, &mut stream);
            let refused = stream.finish();
            // What was refused in the middle is there, too.
            let measured = snapshot.check_quota();
            refused.and(measured)?;
            applied
        })
    };
    let feed = async {
        while let Some(request) = requests.message().await? {
            let data = match request.part {
                Some(pb::apply_request::Part::Data(data)) => data,
                Some(pb::apply_request::Part::Start(_)) => {
                    return Err(Error::Invalid(
                        "an apply has only one start: its first message".to_owned(),
                    )
                    .into());
                }
                None => continue,
            };
            if send.send(data).await.is_err() {
                break;
            }
        }
        drop(send);
        Ok::<_, Status>(())
    };
    // When the lease ends, feeding does, and with it the work.
    let both = async { Ok::<_, Error>(tokio::join!(work, feed)) };
    let (applied, fed) = snapshot.while_there(both).await?;
    fed?;
    let applied = applied?;
    Ok(Response::new(pb::ApplyResponse {
        bytes: applied.bytes,
        entries: applied.entries,
    }))
}

pub async fn read_path(
    worker: &Worker,
    request: Request<pb::ReadPathRequest>,
) -> Result<Response<Events<pb::CopyChunk>>, Status> {
    let request = request.into_inner();
    let snapshot = worker.find(&request.snapshot_id)?;
    let (send, receive) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let (turns, chunks) = (snapshot.clone(), send.clone());
        let turn = match turns.turn().await {
            Ok(turn) => turn,
            Err(error) => {
                // The client is gone: nobody is to be told.
                let _ = send.send(Err(error.into())).await;
                return;
            }
        };
        let read = blocking(move || {
            let _turn = turn;
            let root = snapshot.open()?;
            let writer =
                io::BufWriter::with_capacity(slipway_service::CHUNK_SIZE, CopyWriter(chunks));
            crate::worker::read_path(&root, &request.path, request.follow_links, writer)
        });
        if let Err(error) = read.await {
            // The client is gone: nobody is to be told.
            let _ = send.send(Err(error.into())).await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
}

pub async fn resolve(
    worker: &Worker,
    request: Request<pb::ResolvePathRequest>,
) -> Result<Response<pb::ResolvePathResponse>, Status> {
    let request = request.into_inner();
    let snapshot = worker.find(&request.snapshot_id)?;
    let turn = snapshot.turn().await?;
    let answer = blocking(move || {
        let _turn = turn;
        let root = snapshot.open()?;
        if slipway_pattern::has_wildcards(&request.path) {
            let matches = crate::worker::expand(&root, &request.path)?;
            return Ok(pb::ResolvePathResponse {
                exists: !matches.is_empty(),
                matches,
                ..Default::default()
            });
        }
        let found = crate::worker::find_path(&root, &request.path, request.follow)?;
        Ok(found.map(found_message).unwrap_or_default())
    });
    Ok(Response::new(answer.await?))
}

pub async fn survey(
    worker: &Worker,
    request: Request<pb::SurveyRequest>,
) -> Result<Response<pb::SurveyResponse>, Status> {
    let request = request.into_inner();
    let snapshot = worker.find(&request.snapshot_id)?;
    let turn = snapshot.turn().await?;
    let asked = Survey {
        path: request.path,
        owner: request.owner,
        names: request.names,
        folders: request.folders,
    };
    let answer = blocking(move || {
        let _turn = turn;
        look(&snapshot.open()?, &asked)
    });
    Ok(Response::new(standing_message(answer.await?)))
}

fn standing_message(standing: Standing) -> pb::SurveyResponse {
    let folder = |(stat, has_xattrs): (rustix::fs::Stat, bool)| pb::survey_response::Folder {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: Some(prost_types::Timestamp {
            seconds: stat.st_mtime,
            nanos: stat.st_mtime_nsec as i32,
        }),
        has_xattrs,
    };
    pb::SurveyResponse {
        folders: standing.folders.into_iter().map(folder).collect(),
        blocked: standing.blocked,
        taken: standing.taken,
        uid: standing.owner.0,
        gid: standing.owner.1,
    }
}

fn found_message(found: Found) -> pb::ResolvePathResponse {
    let name = found.path.rsplit('/').next().unwrap_or_default().to_owned();
    let modified = prost_types::Timestamp {
        seconds: found.stat.st_mtime,
        nanos: found.stat.st_mtime_nsec as i32,
    };
    pb::ResolvePathResponse {
        exists: true,
        path: found.path,
        stat: Some(pb::PathStat {
            name,
            size: u64::try_from(found.stat.st_size).unwrap_or_default(),
            mode: found.stat.st_mode,
            modified: Some(modified),
            link_target: found.link_target,
        }),
        matches: Vec::new(),
    }
}
