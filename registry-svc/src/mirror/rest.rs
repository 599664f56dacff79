//! Back-off: whoever cannot answer, or asks to be left in peace, is.
//!
//! What is counted is the account, so a 429 concerns a whole host: Docker Hub counts manifests that were asked for,
//! of whatever repository, and its storage counts nothing. So manifests and blobs rest apart. An answer of 5xx may be
//! due to one repository only, unless it is 503 (RFC 9110, 15.6.4) or no answer at all. 401 and 404 are answers.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, header};

use super::lock;
use crate::{
    error::{Error, Result},
    names::Repository,
};

/// The first rest; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(2);

/// The longest one that we take by ourselves.
const LONGEST: Duration = Duration::from_secs(300);

/// The longest one that an upstream may ask for: there are people who wait.
const LONGEST_ASKED: Duration = Duration::from_secs(900);

/// How long all others wait for whoever asks first when a rest is over.
const PROBE: Duration = Duration::from_secs(5);

/// Trouble that nobody asked about any more is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// Troubles that are remembered at once: names come from whoever may ask.
const REMEMBERED: usize = 256;

/// What does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The repository that was asked about, as far as one can tell.
    Repository,
    /// All of the host; for how long it asked to be left in peace.
    Host(Option<Duration>),
    /// Nothing that time would mend: it sends us where we do not go.
    Refused,
}

/// Who rests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whom {
    Repository(Repository),
    Manifests(String),
    Blobs(String),
}

impl Whom {
    fn host(&self) -> &str {
        match self {
            Self::Repository(repository) => repository.host(),
            Self::Manifests(host) | Self::Blobs(host) => host,
        }
    }
}

struct Rest {
    message: String,
    failures: u32,
    until: Instant,
    /// Somebody asks whether it is over.
    probed: bool,
}

/// Who rests, and until when.
#[derive(Default)]
pub struct Rests(Mutex<HashMap<Whom, Rest>>);

impl Rests {
    /// Why nobody asks about manifests of this repository now. When a rest is over, one asks and the others wait for
    /// what comes of it.
    pub fn manifests(&self, repository: &Repository) -> Option<Error> {
        let host = Whom::Manifests(repository.host().to_owned());
        self.reason(&host)
            .or_else(|| self.reason(&Whom::Repository(repository.clone())))
    }

    /// Why nobody asks this host for blobs now.
    pub fn blobs(&self, host: &str) -> Option<Error> {
        self.reason(&Whom::Blobs(host.to_owned()))
    }

    fn reason(&self, whom: &Whom) -> Option<Error> {
        let mut rests = lock(&self.0);
        let rest = rests.get_mut(whom)?;
        let now = Instant::now();
        if rest.until <= now {
            rest.until = now + PROBE;
            rest.probed = true;
            return None;
        }
        Some(Error::UpstreamUnavailable {
            host: whom.host().to_owned(),
            message: format!("a moment ago: {}", rest.message),
            scope: Scope::Repository,
        })
    }

    /// Takes note of how a question about a repository's manifests ended. Returns the rest that follows from it.
    pub fn note_manifests<T>(
        &self,
        repository: &Repository,
        result: &Result<T>,
    ) -> Option<Duration> {
        let host = Whom::Manifests(repository.host().to_owned());
        let own = Whom::Repository(repository.clone());
        let Err(error) = result else {
            self.answered(&[host, own]);
            return None;
        };
        match error.root() {
            Error::RateLimited { retry_after, .. } => Some(self.failed(host, error, *retry_after)),
            Error::UpstreamUnavailable { scope, .. } => match scope {
                Scope::Host(asked) => Some(self.failed(host, error, *asked)),
                Scope::Repository | Scope::Refused => Some(self.failed(own, error, None)),
            },
            _ => {
                self.answered(&[host, own]);
                None
            }
        }
    }

    /// The same for a blob. That one cannot be had says nothing of others, unless the host counts.
    pub fn note_blob<T>(&self, host: &str, result: &Result<T>) -> Option<Duration> {
        let whom = Whom::Blobs(host.to_owned());
        match result {
            Ok(_) => self.answered(&[whom]),
            Err(error) => {
                if let Error::RateLimited { retry_after, .. } = error.root() {
                    return Some(self.failed(whom, error, *retry_after));
                }
            }
        }
        None
    }

    fn answered(&self, whom: &[Whom]) {
        let mut rests = lock(&self.0);
        for whom in whom {
            rests.remove(whom);
        }
    }

    fn failed(&self, whom: Whom, error: &Error, asked: Option<Duration>) -> Duration {
        let now = Instant::now();
        let mut rests = lock(&self.0);
        if rests.len() >= REMEMBERED && !rests.contains_key(&whom) {
            rests.retain(|_, rest| rest.until > now);
            if rests.len() >= REMEMBERED {
                rests.clear();
            }
        }
        let before = rests.get(&whom);
        // Those who asked before it was known that it rests are not one failure after the other.
        let same = before.filter(|before| before.until > now && !before.probed);
        let failures = match (same, before) {
            (Some(same), _) => same.failures,
            (None, Some(before)) if before.until + FORGOTTEN > now => {
                before.failures.saturating_add(1)
            }
            _ => 1,
        };
        let rest = length(failures, asked, random());
        let until = same.map_or(now, |same| same.until).max(now + rest);
        let entry = Rest {
            message: error.to_string(),
            failures,
            until,
            probed: false,
        };
        rests.insert(whom, entry);
        rest
    }

    /// What is wrong now: hosts, and a sentence each.
    pub fn troubles(&self) -> Vec<(String, String)> {
        let now = Instant::now();
        let mut rests = lock(&self.0);
        rests.retain(|_, rest| rest.until + FORGOTTEN > now);
        let told = rests.iter().map(|(whom, rest)| {
            let left = rest.until.saturating_duration_since(now).as_secs();
            let message = &rest.message;
            let sentence = match left {
                0 => message.clone(),
                _ => format!("{message}; asked again in {left} s"),
            };
            (whom.host().to_owned(), sentence)
        });
        told.collect()
    }
}

/// How long the `failures`th rest in a row is. `chance` is between 0 and 1: whoever was cut off together does not
/// come back together.
fn length(failures: u32, asked: Option<Duration>, chance: f64) -> Duration {
    if let Some(asked) = asked {
        return asked.clamp(Duration::from_secs(1), LONGEST_ASKED);
    }
    let doubled = FIRST.saturating_mul(1 << (failures.clamp(1, 16) - 1));
    doubled.min(LONGEST).mul_f64(0.5 + chance / 2.0)
}

fn random() -> f64 {
    let mut bytes = [0; 4];
    // getrandom(2) cannot fail once the system is up, and any number would do.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_a_limit_and_differ() {
        let seconds = |failures, chance| length(failures, None, chance).as_secs_f64();
        let longest: Vec<f64> = [1, 2, 3, 8, 9, u32::MAX].map(|n| seconds(n, 1.0)).into();
        assert_eq!(longest, [2.0, 4.0, 8.0, 256.0, 300.0, 300.0]);
        assert_eq!((seconds(1, 0.0), seconds(9, 0.5)), (1.0, 225.0));
        let asked = |s| length(7, Some(Duration::from_secs(s)), 0.0).as_secs();
        assert_eq!((asked(0), asked(60), asked(1_700_000_000)), (1, 60, 900));
        assert!((0.0..=1.0).contains(&random()));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:07 GMT").unwrap();
        let told = |value: &str| {
            let headers = [(header::RETRY_AFTER, value.parse().unwrap())];
            retry_after(&HeaderMap::from_iter(headers), now).map(|d| d.as_secs())
        };
        assert_eq!(told("120"), Some(120));
        assert_eq!(told("Sun, 06 Nov 1994 08:49:37 GMT"), Some(30));
        assert_eq!(told("Sunday, 06-Nov-94 08:49:37 GMT"), Some(30));
        assert_eq!(told("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(told("soon"), None);
        assert_eq!(told("-1"), None);
    }

    fn failure(scope: Scope) -> Result<()> {
        Err(Error::UpstreamUnavailable {
            host: "a.example".to_owned(),
            message: "down".to_owned(),
            scope,
        })
    }

    #[test]
    fn what_fails_rests_and_nothing_else() {
        let rests = Rests::default();
        let (one, two) = ("a.example/one", "a.example/two");
        let [one, two] = [one, two].map(|key| Repository::from_key(key).unwrap());
        rests.note_manifests(&one, &failure(Scope::Repository));
        assert!(rests.manifests(&one).is_some());
        assert!(rests.manifests(&two).is_none());
        let limited: Result<()> = Err(Error::RateLimited {
            host: "a.example".to_owned(),
            retry_after: Some(Duration::from_secs(60)),
        });
        assert_eq!(rests.note_manifests(&one, &limited).unwrap().as_secs(), 60);
        assert!(rests.manifests(&two).is_some());
        assert!(rests.blobs("a.example").is_none());
        rests.note_blob("a.example", &failure(Scope::Host(None)));
        assert!(rests.blobs("a.example").is_none());
        rests.note_blob("a.example", &limited);
        assert!(rests.blobs("a.example").is_some());
        let missing: Result<()> = Err(Error::ManifestNotFound("one".to_owned()));
        rests.note_manifests(&one, &missing);
        assert!(rests.manifests(&one).is_none() && rests.manifests(&two).is_none());
        assert_eq!(rests.troubles().len(), 1);
    }

    #[test]
    fn who_fails_at_the_same_time_fails_once() {
        let rests = Rests::default();
        let name = Repository::from_key("a.example/one").unwrap();
        let down = || rests.note_manifests(&name, &failure(Scope::Host(None)));
        for _ in 0..100 {
            assert!(down().unwrap() <= FIRST);
        }
        for rest in lock(&rests.0).values_mut() {
            rest.until = Instant::now();
        }
        assert!(rests.manifests(&name).is_none());
        assert!(down().unwrap() >= FIRST);
    }

    #[test]
    fn one_asks_when_a_rest_is_over() {
        let rests = Rests::default();
        let name = Repository::from_key("a.example/one").unwrap();
        rests.note_manifests(&name, &failure(Scope::Host(None)));
        for rest in lock(&rests.0).values_mut() {
            rest.until = Instant::now();
        }
        assert!(rests.manifests(&name).is_none());
        assert!(rests.manifests(&name).is_some());
        assert_eq!(rests.note_manifests(&name, &Ok(())), None);
        assert!(rests.manifests(&name).is_none());
    }
}
