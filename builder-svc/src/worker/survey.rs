//! What stands at the worker where files are to go.

use slipway_proto::runtime::v1::{SurveyRequest, survey_response};
use tonic::Code;

use super::{Snapshot, failed};
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
