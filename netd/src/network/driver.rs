//! What carries a network.

use serde::{Deserialize, Serialize};

use crate::overlay::Overlay;

/// What joins the containers of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of this host.
    #[default]
    Bridge,
    /// A bridge on each of several hosts, with tunnels between them.
    Overlay(Overlay),
}

impl Driver {
    /// As `network ls` shows it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Overlay(_) => "overlay",
        }
    }

    /// Where the network is known: on this host, or on all that it spans.
    pub fn scope(&self) -> &'static str {
        match self {
            Self::Bridge => "local",
            Self::Overlay(_) => "global",
        }
    }

    pub(super) fn is_bridge(&self) -> bool {
        *self == Self::Bridge
    }
}
