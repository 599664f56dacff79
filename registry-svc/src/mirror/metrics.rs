//! What the mirror counts, a label for each upstream.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use slipway_service::metrics::Metrics;

use super::figures::Figures;

/// An upstream. Those beyond a bounded number are "other": names come from whoever may ask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Host {
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    host: String,
    /// Status, or "none".
    code: String,
}

/// See the module's page. Cheap to clone.
#[derive(Clone, Default)]
pub struct Counts {
    answers: Family<Answer, Counter>,
    stale: Family<Host, Counter>,
    remembered: Family<Host, Counter>,
    put_off: Family<Host, Counter>,
    rest: Family<Host, Gauge>,
    limit: Family<Host, Gauge>,
    remaining: Family<Host, Gauge>,
    window: Family<Host, Gauge>,
}

impl Counts {
    /// Shows them among a service's metrics.
    pub fn register(&self, metrics: &Metrics) {
        let c = self.clone();
        let name = |name: &str| format!("upstream_{name}");
        metrics.register(
            &name("answers"),
            "Answers of upstreams by status",
            c.answers,
        );
        let help = "Answers given from here because the upstream could not be asked";
        metrics.register(&name("stale"), help, c.stale);
        let help = "Questions answered by what the upstream said it lacks a moment before";
        metrics.register(&name("remembered"), help, c.remembered);
        let help = "Questions that were not asked because the upstream is left in peace";
        metrics.register(&name("put_off"), help, c.put_off);
        let help = "Seconds for which the upstream was left in peace the last time; 0 when it answered since";
        metrics.register(&name("rest_seconds"), help, c.rest);
        let help = "Requests that the upstream allows in a window";
        metrics.register(&name("ratelimit_limit"), help, c.limit);
        let help = "Requests that the upstream allows for the rest of a window";
        metrics.register(&name("ratelimit_remaining"), help, c.remaining);
        let help = "Seconds of the window in which the upstream counts requests";
        metrics.register(&name("ratelimit_window_seconds"), help, c.window);
    }

    /// An upstream answered, or did not.
    pub fn answered(&self, host: &str, status: Option<u16>) {
        let code = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        let host = host.to_owned();
        self.answers.get_or_create(&Answer { host, code }).inc();
    }

    /// What is here was given instead of an answer.
    pub fn stale(&self, host: &str) {
        self.stale.get_or_create(&label(host)).inc();
    }

    /// What an upstream lacks was remembered.
    pub fn remembered(&self, host: &str) {
        self.remembered.get_or_create(&label(host)).inc();
    }

    /// An upstream was not asked.
    pub fn put_off(&self, host: &str) {
        self.put_off.get_or_create(&label(host)).inc();
    }

    /// An upstream is left in peace for so many seconds; 0 = not any more.
    pub fn rest(&self, host: &str, seconds: u64) {
        self.rest.get_or_create(&label(host)).set(seconds as i64);
    }

    /// What an upstream says of its limits.
    pub fn figures(&self, host: &str, figures: &Figures) {
        for (family, value) in [
            (&self.limit, figures.limit),
            (&self.remaining, figures.remaining),
            (&self.window, figures.window),
        ] {
            if let Some(value) = value {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                family.get_or_create(&label(host)).set(value);
            }
        }
    }
}

fn label(host: &str) -> Host {
    Host {
        host: host.to_owned(),
    }
}
