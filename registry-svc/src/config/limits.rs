//! `[limits]`: what one caller may take.

use serde::Deserialize;

use crate::{http::Limits, unfinished::UploadLimits};

/// `[limits]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsFile {
    /// Connections at once.
    pub connections: Option<usize>,
    /// Connections at once from one address.
    pub connections_per_client: Option<usize>,
    /// Uploads under way of one caller.
    pub uploads: Option<usize>,
    /// Bytes of them together.
    pub upload_bytes: Option<u64>,
}

impl LimitsFile {
    /// Of connections.
    pub fn connections(&self) -> Limits {
        let default = Limits::default();
        let per_client = self.connections_per_client;
        Limits {
            connections: self.connections.unwrap_or(default.connections),
            connections_per_client: per_client.unwrap_or(default.connections_per_client),
            ..default
        }
    }

    /// Of uploads.
    pub fn uploads(&self) -> UploadLimits {
        let default = UploadLimits::default();
        UploadLimits {
            count: self.uploads.unwrap_or(default.count),
            bytes: self.upload_bytes.unwrap_or(default.bytes),
        }
    }
}
