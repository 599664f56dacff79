//! How the domain's errors cross gRPC: the only place that knows both.

use slipway_service::error::status;
use tonic::{Code, Status};

use crate::error::Error;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, reason) = match &error {
            Error::Invalid(_) => (Code::InvalidArgument, "INVALID_ARGUMENT"),
            Error::Unsupported(_) => (Code::Unimplemented, "UNSUPPORTED"),
            Error::NoNetwork(_) => (Code::NotFound, "NETWORK_NOT_FOUND"),
            Error::AmbiguousNetwork(_) => (Code::InvalidArgument, "NETWORK_AMBIGUOUS"),
            Error::NoEndpoint(_) => (Code::NotFound, "ENDPOINT_NOT_FOUND"),
            Error::NetworkExists(_) => (Code::AlreadyExists, "NETWORK_EXISTS"),
            Error::NetworkInUse { .. } => (Code::FailedPrecondition, "NETWORK_IN_USE"),
            Error::Predefined(_) => (Code::FailedPrecondition, "NETWORK_PREDEFINED"),
            Error::Overlap(_) => (Code::FailedPrecondition, "POOL_OVERLAP"),
            Error::PoolsExhausted => (Code::ResourceExhausted, "POOLS_EXHAUSTED"),
            Error::AddressesExhausted(_) => (Code::ResourceExhausted, "ADDRESSES_EXHAUSTED"),
            Error::NetworkFull(_) => (Code::ResourceExhausted, "NETWORK_FULL"),
            Error::AddressInUse(_) => (Code::FailedPrecondition, "ADDRESS_IN_USE"),
            Error::AlreadyAttached { .. } => (Code::AlreadyExists, "ALREADY_ATTACHED"),
            Error::PortAllocated { .. } => (Code::AlreadyExists, "PORT_ALLOCATED"),
            Error::PortsExhausted { .. } => (Code::ResourceExhausted, "PORTS_EXHAUSTED"),
            Error::Firewall(_) => (Code::Internal, "FIREWALL_FAILED"),
            Error::System { .. } => (Code::Internal, "SYSTEM_REFUSED"),
            Error::Store(_) | Error::Damaged { .. } => (Code::Internal, "STORE_FAILED"),
        };
        status(code, reason, error.to_string())
    }
}
