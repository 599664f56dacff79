//! Domain errors as gRPC statuses: the one place where they are mapped.

use slipway_service::error::{passed_on, status, status_with};
use tonic::{Code, Status};

use crate::error::Error;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let sentence = error.to_string();
        match error.root() {
            Error::Dockerfile(_) => status(Code::InvalidArgument, "DOCKERFILE_INVALID", sentence),
            // `At` is never the root.
            Error::Invalid(_) | Error::At { .. } => {
                status(Code::InvalidArgument, "INVALID_ARGUMENT", sentence)
            }
            Error::Unsupported(_) => status(Code::InvalidArgument, "OPTION_UNSUPPORTED", sentence),
            Error::SourceMissing(_) => {
                status(Code::FailedPrecondition, "SOURCE_NOT_FOUND", sentence)
            }
            Error::Exit { code, .. } => status_with(
                Code::FailedPrecondition,
                "STEP_FAILED",
                sentence,
                [("exit_code", code.to_string())],
            ),
            Error::Remote { code, reason, .. } => passed_on(Code::from(*code), reason, sentence),
            Error::NoWorker(_) => status(Code::Unavailable, "WORKER_UNAVAILABLE", sentence),
            Error::WorkerLost { .. } => status(Code::Unavailable, "WORKER_LOST", sentence),
            Error::Context(_) => status(Code::FailedPrecondition, "CONTEXT_INCOMPLETE", sentence),
            Error::Conflict(_) => status(Code::FailedPrecondition, "CONFLICT", sentence),
            Error::Io { .. } => status(Code::Internal, "SYSTEM_ERROR", sentence),
        }
    }
}

/// A build that the service's own end cuts off.
pub fn shutting_down() -> Status {
    let sentence = "builder-svc is stopping: build again when it is back";
    status(Code::Unavailable, "BUILD_CANCELED", sentence)
}
