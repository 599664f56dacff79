//! What carries a network.

use serde::{Deserialize, Serialize};

use crate::overlay::Overlay;

use super::Direct;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// See [`Driver::Bridge`].
    #[default]
    Bridge,
    /// See [`Driver::Overlay`].
    Overlay,
    /// See [`Driver::Direct`].
    Macvlan,
    /// See [`Driver::Direct`].
    Ipvlan,
}

/// What joins the containers of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of this host.
    #[default]
    Bridge,
    /// A bridge on each of several hosts, with tunnels between them.
    Overlay(Overlay),
    /// The wire of one of this host's links: nothing of this host is between its containers and others.
    Direct(Direct),
}

impl Driver {
    /// As `network ls` shows it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Overlay(_) => "overlay",
            Self::Direct(direct) => direct.share.kind(),
        }
    }

    /// Where the network is known: on this host, or on all that it spans.
    pub fn scope(&self) -> &'static str {
        match self {
            Self::Bridge | Self::Direct(_) => "local",
            Self::Overlay(_) => "global",
        }
    }

    pub(super) fn is_bridge(&self) -> bool {
        *self == Self::Bridge
    }
}
