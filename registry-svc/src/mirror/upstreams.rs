//! The upstreams: how each is reached, and what is known of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use http::HeaderMap;

use super::{Client, Credentials, figures::Figures, lock, metrics::Counts};
use crate::{
    config::UpstreamConfig,
    error::{Error, Result},
};

/// Hosts that everybody knows: strangers' names do not crowd them out.
const KNOWN: [&str; 4] = ["docker.io", "quay.io", "ghcr.io", "registry.k8s.io"];

/// Hosts of which something is kept, and clients.
const MOST: usize = 64;

/// See the module's page.
pub struct Upstreams {
    configured: Vec<UpstreamConfig>,
    clients: Mutex<HashMap<String, Arc<Client>>>,
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
        let observed = self.observed(host);
        if credentials.is_some() {
            return Client::new(&self.config(host)?, credentials, observed).map(Arc::new);
        }
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(host) {
            return Ok(Arc::clone(client));
        }
        // Names come from whoever may ask: the table must not grow without end.
        if clients.len() >= MOST {
            clients.clear();
        }
        let client = Arc::new(Client::new(&self.config(host)?, None, observed)?);
        clients.insert(host.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    fn observed(&self, host: &str) -> Arc<Observed> {
        let mut observed = lock(&self.observed);
        let reserved = KNOWN.contains(&host) || self.configured.iter().any(|c| c.host == host);
        let label = match reserved || observed.contains_key(host) || observed.len() < MOST {
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
