//! The gRPC contracts of Slipway's services: generated code, and nothing else but what hides
//! passwords.
//!
//! The sources are the `.proto` files beside this crate's manifest; their comments are the reference.
//! Byte fields are [`bytes::Bytes`](https://docs.rs/bytes), so that a chunk is never copied on its way.

#![allow(clippy::all, clippy::undocumented_unsafe_blocks, rustdoc::all)]

/// Messages that more than one service speaks.
pub mod types {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("slipway.types.v1");

        /// Messages find their way into logs, passwords must not.
        impl std::fmt::Debug for RegistryAuth {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("RegistryAuth").finish_non_exhaustive()
            }
        }
    }
}

/// The image store.
pub mod registry {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("slipway.registry.v1");
    }
}

/// Networks of one host.
pub mod netd {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("slipway.netd.v1");
    }
}

/// Containers of one host.
pub mod runtime {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("slipway.runtime.v1");
    }
}

/// Builds.
pub mod builder {
    /// Version 1.
    pub mod v1 {
        tonic::include_proto!("slipway.builder.v1");
    }
}

/// All contracts as one encoded `FileDescriptorSet`, for the reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/slipway.bin"));
