//! How often somebody was not let in, and why.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use slipway_service::metrics::Metrics;

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// No such user, or another password.
    Password,
    /// The password was not looked at: too many wrong ones from there, or too many at once.
    Busy,
    /// A token that is too old, or none of ours.
    Token,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: &'static str,
}

/// See the module's page. Cheap to clone.
#[derive(Clone, Default)]
pub struct Refusals(Family<Labels, Counter>);

impl Refusals {
    /// Shows them among a service's metrics.
    pub fn register(&self, metrics: &Metrics) {
        let help = "Logins that were refused, by reason";
        metrics.register("registry_logins_refused", help, self.0.clone());
    }

    pub(super) fn count(&self, reason: Reason) {
        let reason = match reason {
            Reason::Password => "password",
            Reason::Busy => "busy",
            Reason::Token => "token",
        };
        self.0.get_or_create(&Labels { reason }).inc();
    }
}
