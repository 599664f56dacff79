//! Domain errors as gRPC statuses: the one place where they are mapped.

use slipway_service::error::{passed_on, status};
use tonic::{Code, Status};

use crate::{error::Error, executor::StartError};

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let sentence = error.to_string();
        match error {
            Error::NoSuchContainer(_) => status(Code::NotFound, "CONTAINER_NOT_FOUND", sentence),
            Error::AmbiguousId(_) => status(Code::InvalidArgument, "AMBIGUOUS_ID", sentence),
            Error::Unreadable(_) => status(Code::FailedPrecondition, "RECORD_UNREADABLE", sentence),
            Error::NameInUse { .. } => status(Code::AlreadyExists, "NAME_IN_USE", sentence),
            Error::Invalid(_) => status(Code::InvalidArgument, "INVALID_ARGUMENT", sentence),
            Error::Unsupported(_) => status(Code::InvalidArgument, "OPTION_UNSUPPORTED", sentence),
            Error::NoSuchPath { .. } => status(Code::NotFound, "PATH_NOT_FOUND", sentence),
            Error::NoSuchVolume(_) => status(Code::NotFound, "VOLUME_NOT_FOUND", sentence),
            Error::VolumeInUse { .. } => {
                status(Code::FailedPrecondition, "VOLUME_IN_USE", sentence)
            }
            Error::NoSuchLease(_) => status(Code::NotFound, "LEASE_NOT_FOUND", sentence),
            Error::NoSuchSnapshot(_) => status(Code::NotFound, "SNAPSHOT_NOT_FOUND", sentence),
            Error::SnapshotEnded(_) => status(Code::Aborted, "SNAPSHOT_ENDED", sentence),
            Error::SnapshotInUse(_) => {
                status(Code::FailedPrecondition, "SNAPSHOT_IN_USE", sentence)
            }
            Error::LeaseLimit(_) => status(Code::ResourceExhausted, "LEASE_LIMIT", sentence),
            Error::Conflict(_) => status(Code::FailedPrecondition, "CONFLICT", sentence),
            Error::Start(StartError::NotFound(..)) => {
                status(Code::FailedPrecondition, "COMMAND_NOT_FOUND", sentence)
            }
            Error::Start(StartError::NotExecutable(..)) => {
                status(Code::FailedPrecondition, "COMMAND_NOT_EXECUTABLE", sentence)
            }
            Error::Start(StartError::Failed { .. }) | Error::NoMonitor(_) => {
                status(Code::FailedPrecondition, "START_FAILED", sentence)
            }
            Error::Registry(remote) | Error::Netd(remote) => {
                passed_on(Code::from(remote.code), &remote.reason, sentence)
            }
            Error::Network { status: remote, .. } => {
                passed_on(Code::from(remote.code), &remote.reason, sentence)
            }
            Error::Layer { .. } => status(Code::DataLoss, "LAYER_INVALID", sentence),
            Error::Io { .. } => status(Code::Internal, "SYSTEM_ERROR", sentence),
        }
    }
}
