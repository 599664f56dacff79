//! The upstreams: how each is reached, and what is known of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Instant,
};

use http::HeaderMap;

use super::{Client, Credentials, client::Roots, figures::Figures, lock, metrics::Counts};
use crate::{
    config::UpstreamConfig,
    error::{Error, Result},
};

/// Hosts that everybody knows: strangers' names do not crowd them out.
const KNOWN: [&str; 4] = ["docker.io", "quay.io", "ghcr.io", "registry.k8s.io"];

/// Hosts of which something is kept, and clients, beside those that are known or configured.
const MOST: usize = 64;

/// See the module's page.
pub struct Upstreams {
    configured: Vec<UpstreamConfig>,
    /// By host, and when it was wanted last.
    clients: Mutex<HashMap<String, (Arc<Client>, Instant)>>,
    roots: Roots,
    observed: Mutex<BTreeMap<String, Arc<Observed>>>,
    counts: Counts,
}

/// What the answers of an upstream say of it.
pub struct Observed {
    /// Host, or "other".
    label: String,
    counts: Counts,
    figures: Mutex<Option<Figures>>,
}

impl Observed {
    /// It answered, or did not. Its figures count for our own account only.
    pub fn note(&self, answer: Option<(u16, &HeaderMap)>, own_account: bool) {
        self.counts
            .answered(&self.label, answer.map(|(status, _)| status));
        let figures = answer.and_then(|(_, headers)| Figures::of(headers));
        if let Some(figures) = figures.filter(|_| own_account) {
            self.counts.figures(&self.label, &figures);
            *lock(&self.figures) = Some(figures);
        }
    }
}

impl Upstreams {
    /// With these configured; others are asked over https.
    pub fn new(configured: Vec<UpstreamConfig>) -> Self {
        Self {
            configured,
            clients: Mutex::default(),
            roots: Roots::default(),
            observed: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// What is counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How a host is reached.
    pub fn config(&self, host: &str) -> Result<UpstreamConfig> {
        let found = self.configured.iter().find(|c| c.host == host);
        found
            .cloned()
            .or_else(|| UpstreamConfig::of_host(host))
            .ok_or_else(|| Error::InvalidReference {
                text: host.to_owned(),
                reason: "that is not a host name".to_owned(),
            })
    }

    /// The client for a host; credentials of a call are used for that call's client only.
    pub fn client(&self, host: &str, credentials: Option<Credentials>) -> Result<Arc<Client>> {
        let new = |credentials| {
            let (config, observed) = (self.config(host)?, self.observed(host));
            Client::new(&config, credentials, observed, &self.roots).map(Arc::new)
        };
        if credentials.is_some() {
            return new(credentials);
        }
        if let Some((client, wanted)) = lock(&self.clients).get_mut(host) {
            *wanted = Instant::now();
            return Ok(Arc::clone(client));
        }
        // Made while nobody waits for the table; of two that are made at once the first is used.
        let client = new(None)?;
        let mut clients = lock(&self.clients);
        let entry = clients.entry(host.to_owned());
        let client = Arc::clone(&entry.or_insert((client, Instant::now())).0);
        // Names come from whoever may ask: the table must not grow without end, nor lose what the site uses.
        let strangers = clients.iter().filter(|(host, _)| !self.is_reserved(host));
        if strangers.clone().count() > MOST {
            let oldest = strangers.min_by_key(|(_, (_, wanted))| *wanted);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                clients.remove(&oldest);
            }
        }
        Ok(client)
    }

    /// Strangers' names do not crowd it out.
    fn is_reserved(&self, host: &str) -> bool {
        KNOWN.contains(&host) || self.configured.iter().any(|c| c.host == host)
    }

    fn observed(&self, host: &str) -> Arc<Observed> {
        let mut observed = lock(&self.observed);
        let label =
            match self.is_reserved(host) || observed.contains_key(host) || observed.len() < MOST {
                true => host,
                false => "other",
            };
        let entry = observed.entry(label.to_owned()).or_insert_with(|| {
            Arc::new(Observed {
                label: label.to_owned(),
                counts: self.counts.clone(),
                figures: Mutex::default(),
            })
        });
        Arc::clone(entry)
    }

    /// Name of a host in metrics.
    pub fn label(&self, host: &str) -> String {
        self.observed(host).label.clone()
    }

    /// Upstreams by name: where they are, and what they say of their limits.
    pub fn report(&self) -> BTreeMap<String, String> {
        let configured = self.configured.iter();
        let mut report: BTreeMap<String, String> = configured
            .map(|c| (c.host.clone(), c.url.to_string()))
            .collect();
        for (host, observed) in lock(&self.observed).iter() {
            if let Some(figures) = &*lock(&observed.figures) {
                let at = report.entry(host.clone()).or_default();
                if !at.is_empty() {
                    at.push_str(", ");
                }
                at.push_str(&figures.to_string());
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    static READ: AtomicUsize = AtomicUsize::new(0);

    fn nobody() -> Result<rustls::ClientConfig, rustls::Error> {
        READ.fetch_add(1, Ordering::SeqCst);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions()?;
        let roots = rustls::RootCertStore::empty();
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }

    #[test]
    fn strangers_names_cost_little_and_push_out_each_other_only() {
        let place = "https://10.0.0.1".parse().unwrap();
        let own = UpstreamConfig::at("own.example", place);
        let upstreams = Upstreams {
            roots: Roots::new(nobody),
            ..Upstreams::new(vec![own])
        };
        let client = |host: &str| upstreams.client(host, None).unwrap();
        let kept = ["docker.io", "own.example"].map(|host| (host, client(host)));
        let (busy, idle) = (client("busy.example"), client("idle.example"));
        for number in 0..2 * MOST {
            client(&format!("h{number}.example"));
            client("busy.example");
        }
        for (host, before) in &kept {
            assert!(Arc::ptr_eq(before, &client(host)), "{host}");
        }
        assert!(Arc::ptr_eq(&busy, &client("busy.example")));
        assert!(!Arc::ptr_eq(&idle, &client("idle.example")));
        assert_eq!(lock(&upstreams.clients).len(), MOST + kept.len());
        assert_eq!(READ.load(Ordering::SeqCst), 1);
    }
}
