//! The services of this host as background processes: `ctl up`, `ctl down`.

pub mod down;
pub mod up;

use slipway_service::Address;

use crate::context::Context;

/// A service that `up` starts.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Name of its socket, pid file and log.
    pub name: &'static str,
    /// Its program, beside ours.
    pub program: &'static str,
}

impl Service {
    /// Where it listens.
    pub fn address<'a>(&self, context: &'a Context) -> &'a Address {
        match self.name {
            "registry" => &context.registry,
            "builder" => &context.builder,
            "netd" => &context.netd,
            _ => &context.runtime,
        }
    }
}

/// In the order in which they need each other.
pub const SERVICES: [Service; 4] = [
    Service {
        name: "registry",
        program: "registry-svc",
    },
    Service {
        name: "netd",
        program: "netd",
    },
    Service {
        name: "runtime",
        program: "runtime-svc",
    },
    Service {
        name: "builder",
        program: "builder-svc",
    },
];
