//! What an upstream says of how often it may be asked: `RateLimit-Limit` and `RateLimit-Remaining` with `;w=` seconds,
//! and `docker-ratelimit-source` (Docker's "Docker Hub usage and limits").

use std::fmt;

use http::HeaderMap;

/// Longest name of who is counted that is kept.
const SOURCE: usize = 64;

/// See the module's page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests in a window.
    pub limit: Option<u64>,
    /// Requests that are left of them.
    pub remaining: Option<u64>,
    /// Seconds of a window.
    pub window: Option<u64>,
    /// Who is counted: an address or an account.
    pub source: Option<String>,
}

impl Figures {
    /// What an answer says; `None` when it says nothing.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let (limit, window) = text("ratelimit-limit").map_or((None, None), parse);
        let (remaining, same) = text("ratelimit-remaining").map_or((None, None), parse);
        if limit.is_none() && remaining.is_none() {
            return None;
        }
        let source = text("docker-ratelimit-source").map(|source| {
            source
                .chars()
                .filter(char::is_ascii_graphic)
                .take(SOURCE)
                .collect()
        });
        Some(Self {
            limit,
            remaining,
            window: window.or(same),
            source,
        })
    }
}

/// `100;w=21600`
fn parse(value: &str) -> (Option<u64>, Option<u64>) {
    let mut parts = value.split(';').map(str::trim);
    let number = parts.next().and_then(|number| number.parse().ok());
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    (number, window)
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.remaining, self.limit) {
            (Some(left), Some(limit)) => write!(f, "{left} of {limit} requests left")?,
            (Some(left), None) => write!(f, "{left} requests left")?,
            (None, limit) => write!(f, "limit of {} requests", limit.unwrap_or_default())?,
        }
        match self.window {
            Some(seconds) if seconds % 3600 == 0 => write!(f, " in {} h", seconds / 3600)?,
            Some(seconds) => write!(f, " in {seconds} s")?,
            None => {}
        }
        match &self.source {
            Some(source) => write!(f, ", counted for {source}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_hub_says_is_read() {
        let told = |pairs: &[(&'static str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, value.parse().unwrap())
            });
            Figures::of(&pairs.collect()).map(|figures| figures.to_string())
        };
        let hub = [
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "76;w=21600"),
            ("docker-ratelimit-source", "192.0.2.1"),
        ];
        let all = "76 of 100 requests left in 6 h, counted for 192.0.2.1";
        assert_eq!(told(&hub).as_deref(), Some(all));
        let only = [("ratelimit-remaining", "5; w=90")];
        assert_eq!(told(&only).as_deref(), Some("5 requests left in 90 s"));
        assert_eq!(told(&[("ratelimit-limit", "many")]), None);
        assert_eq!(told(&[("docker-ratelimit-source", "192.0.2.1")]), None);
    }
}
