//! What stands at the worker where files are to go, and layers that it gets from here.

use slipway_image::Digest;
use slipway_proto::runtime::v1::{
    ImportLayerRequest, SurveyRequest, import_layer_request::Part, survey_response,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{CHUNKS, Snapshot, failed};
use crate::error::Result;

/// What is there already.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Folders on the way, from that below the root on.
    pub folders: Vec<StandingFolder>,
    /// Something else is on the way.
    pub blocked: bool,
    /// Names that are taken; a regular file may be replaced, but not by a folder.
    pub taken: Vec<String>,
    /// Whose the files will be.
    pub owner: (u32, u32),
}

/// A folder that is there.
#[derive(Debug, Clone, Default)]
pub struct StandingFolder {
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// It has extended attributes that a layer keeps.
    pub has_xattrs: bool,
}

impl Snapshot {
    /// Looks at a folder, at what is to come into it (folders are told by `true`), and at who an owner is
    /// ("" = root).
    pub async fn survey(
        &self,
        path: &str,
        owner: &str,
        names: Vec<(String, bool)>,
    ) -> Result<Standing> {
        let (folders, names): (Vec<_>, Vec<_>) = names.into_iter().partition(|(_, folder)| *folder);
        let alone = |names: Vec<(String, bool)>| names.into_iter().map(|(name, _)| name).collect();
        let request = SurveyRequest {
            snapshot_id: self.id.clone(),
            path: path.to_owned(),
            owner: owner.to_owned(),
            names: alone(names),
            folders: alone(folders),
        };
        let answer = self.lease.client.clone().survey(request).await;
        let answer = match answer {
            // A worker of an older version: it does the whole itself.
            Err(status) if status.code() == Code::Unimplemented => {
                return Ok(Standing {
                    blocked: true,
                    ..Standing::default()
                });
            }
            answer => answer.map_err(|s| failed(format!("cannot copy to {path}"), &s))?,
        };
        let answer = answer.into_inner();
        Ok(Standing {
            folders: answer.folders.into_iter().map(folder).collect(),
            blocked: answer.blocked,
            taken: answer.taken,
            owner: (answer.uid, answer.gid),
        })
    }

    /// Gives the worker the plain archive of a layer, whose digest is told when all of it was sent.
    pub async fn import(
        &self,
        mut chunks: mpsc::Receiver<bytes::Bytes>,
        diff_id: oneshot::Receiver<Digest>,
    ) -> Result<()> {
        let (send, requests) = mpsc::channel(CHUNKS);
        let feed = async move {
            let part = |part| ImportLayerRequest { part: Some(part) };
            let mut next = Some(part(Part::LeaseId(self.lease.id.clone())));
            while let Some(request) = next.take() {
                if send.send(request).await.is_err() {
                    return;
                }
                next = chunks.recv().await.map(|data| part(Part::Data(data)));
            }
            // Without a digest the worker keeps nothing.
            if let Ok(diff_id) = diff_id.await {
                let _ = send.send(part(Part::DiffId(diff_id.to_string()))).await;
            }
        };
        let mut client = self.lease.client.clone();
        let (answer, ()) = tokio::join!(client.import_layer(ReceiverStream::new(requests)), feed);
        answer
            .map(drop)
            .map_err(|s| failed("cannot give the worker a layer".to_owned(), &s))
    }
}

fn folder(folder: survey_response::Folder) -> StandingFolder {
    let modified = folder.modified.unwrap_or_default();
    StandingFolder {
        mode: folder.mode,
        owner: (folder.uid, folder.gid),
        mtime: (
            modified.seconds,
            u32::try_from(modified.nanos).unwrap_or_default(),
        ),
        has_xattrs: folder.has_xattrs,
    }
}
