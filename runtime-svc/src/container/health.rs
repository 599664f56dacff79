//! A container's health: how it is looked after ([`Check`]), and what was found ([`Health`]); docker's
//! rules (moby, daemon/health.go), without doing anything.

use std::{io, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use slipway_image::config::RunConfig;
use slipway_proto::runtime::v1::HealthCheck;

use crate::error::Error;

/// What is used where nothing is said.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// The shortest span that docker takes.
const SHORTEST: Duration = Duration::from_millis(1);
/// Results that are kept.
const KEPT: usize = 5;
/// Bytes of a probe's output that are kept.
pub const MOST_OUTPUT: usize = 4096;

/// How a container's health is looked after: the image's HEALTHCHECK with the caller's options upon it.
/// Zero = the default, as docker shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `["CMD", ...]` or `["CMD-SHELL", "..."]`, as docker has it.
    pub test: Vec<String>,
    /// What runs.
    pub command: Vec<String>,
    /// From the end of a probe to the begin of the next.
    pub interval: Duration,
    /// The longest that a probe may take.
    pub timeout: Duration,
    /// Failures that begin in this time after the start do not count.
    pub start_period: Duration,
    /// Instead of `interval` in that time.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

impl Check {
    /// The caller's options upon the image's; none when nothing is to be looked after.
    pub fn merge(own: Option<&HealthCheck>, image: &RunConfig) -> Result<Option<Self>, Error> {
        let own = own.cloned().unwrap_or_default();
        let base = image.healthcheck.clone().unwrap_or_default();
        let test = if own.test.is_empty() {
            base.test
        } else {
            own.test
        };
        let pick = |name: &str, own: Option<prost_types::Duration>, image: u64| {
            let own = own.unwrap_or_default();
            if own.seconds < 0 || own.nanos < 0 {
                return Err(Error::Invalid(format!(
                    "{name} in Healthcheck cannot be negative"
                )));
            }
            let own = Duration::new(own.seconds.unsigned_abs(), own.nanos.unsigned_abs());
            if !own.is_zero() && own < SHORTEST {
                return Err(Error::Invalid(format!(
                    "{name} in Healthcheck cannot be less than 1ms"
                )));
            }
            Ok(if own.is_zero() {
                Duration::from_nanos(image)
            } else {
                own
            })
        };
        let check = Self {
            interval: pick("Interval", own.interval, base.interval)?,
            timeout: pick("Timeout", own.timeout, base.timeout)?,
            start_period: pick("StartPeriod", own.start_period, base.start_period)?,
            start_interval: pick("StartInterval", own.start_interval, base.start_interval)?,
            retries: if own.retries == 0 {
                base.retries
            } else {
                own.retries
            },
            command: Vec::new(),
            test,
        };
        let Some((kind, words)) = check.test.split_first() else {
            return Ok(None);
        };
        let command = match kind.as_str() {
            "NONE" => return Ok(None),
            "CMD" => words.to_vec(),
            "CMD-SHELL" => {
                let shell = image.shell.clone();
                let shell = if shell.is_empty() {
                    vec!["/bin/sh".to_owned(), "-c".to_owned()]
                } else {
                    shell
                };
                [&shell, words].concat()
            }
            other => {
                return Err(Error::Invalid(format!(
                    "Unknown healthcheck type '{other}' (expected 'CMD', 'CMD-SHELL' or 'NONE')"
                )));
            }
        };
        if command.is_empty() {
            return Err(Error::Invalid(
                "the health check names no command to run".to_owned(),
            ));
        }
        Ok(Some(Self { command, ..check }))
    }

    /// How long to wait for the next probe of a container of this age.
    pub fn wait(&self, state: State, age: Duration) -> Duration {
        if age < self.start_period && state == State::Starting {
            or(self.start_interval, START_INTERVAL)
        } else {
            or(self.interval, INTERVAL)
        }
    }

    /// How long a probe may take.
    pub fn patience(&self) -> Duration {
        or(self.timeout, TIMEOUT)
    }
}

fn or(span: Duration, default: Duration) -> Duration {
    if span.is_zero() { default } else { span }
}

/// docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum State {
    /// Not known yet.
    #[default]
    Starting,
    /// The last probe went well.
    Healthy,
    /// Too many failed.
    Unhealthy,
}

impl State {
    /// As docker writes it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One probe. Times in nanoseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// When it began.
    pub start: u64,
    /// When it was over.
    pub end: u64,
    /// 0 = healthy; -1 = it did not come to an end of its own.
    pub code: i32,
    /// What it wrote, or why it has no result.
    pub output: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Now.
    pub state: State,
    /// Failures in a row that count.
    pub streak: u32,
    /// The last results, oldest first.
    pub log: Vec<Outcome>,
}

impl Health {
    /// For a container that has just been started: its former results stay.
    pub fn begun(self) -> Self {
        Self {
            state: State::Starting,
            streak: 0,
            log: self.log,
        }
    }

    /// Takes a result in. Returns the new state when it is another one.
    pub fn take(&mut self, check: &Check, started: u64, outcome: Outcome) -> Option<State> {
        let before = self.state;
        if outcome.code == 0 {
            self.state = State::Healthy;
            self.streak = 0;
        } else {
            let age = Duration::from_nanos(outcome.start.saturating_sub(started));
            let excused = before == State::Starting && age < check.start_period;
            if !excused {
                self.streak += 1;
                let most = if check.retries == 0 {
                    RETRIES
                } else {
                    check.retries
                };
                if self.streak >= most {
                    self.state = State::Unhealthy;
                }
            }
        }
        self.log.push(outcome);
        let extra = self.log.len().saturating_sub(KEPT);
        self.log.drain(..extra);
        (self.state != before).then_some(self.state)
    }

    /// What an earlier instance of the service knew; none when that cannot be told.
    pub fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    /// Keeps it for the next instance of the service.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let temporary = file.with_extension("json.new");
        std::fs::write(&temporary, serde_json::to_vec(self)?)?;
        std::fs::rename(&temporary, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_image::config::Healthcheck;

    fn outcome(at: u64, code: i32) -> Outcome {
        Outcome {
            start: at * 1_000_000_000,
            end: at * 1_000_000_000,
            code,
            output: String::new(),
        }
    }

    #[test]
    fn the_callers_options_go_upon_the_images() {
        let image = RunConfig {
            healthcheck: Some(Healthcheck {
                test: vec!["CMD-SHELL".into(), "ok".into()],
                interval: 7_000_000_000,
                retries: 4,
                ..Healthcheck::default()
            }),
            ..RunConfig::default()
        };
        let own = HealthCheck {
            interval: Some(prost_types::Duration {
                seconds: 2,
                nanos: 0,
            }),
            ..HealthCheck::default()
        };
        let check = Check::merge(Some(&own), &image).unwrap().unwrap();
        assert_eq!(check.command, ["/bin/sh", "-c", "ok"]);
        assert_eq!((check.interval, check.retries), (Duration::from_secs(2), 4));
        assert_eq!(check.patience(), Duration::from_secs(30));
        let none = HealthCheck {
            test: vec!["NONE".into()],
            ..HealthCheck::default()
        };
        assert_eq!(Check::merge(Some(&none), &image).unwrap(), None);
        assert_eq!(Check::merge(None, &RunConfig::default()).unwrap(), None);
        let words = |test: &[&str]| HealthCheck {
            test: test.iter().map(|w| (*w).to_owned()).collect(),
            ..HealthCheck::default()
        };
        let check = Check::merge(Some(&words(&["CMD", "a", "b"])), &image);
        assert_eq!(check.unwrap().unwrap().command, ["a", "b"]);
        assert!(Check::merge(Some(&words(&["WHAT", "a"])), &image).is_err());
        assert!(Check::merge(Some(&words(&["CMD"])), &image).is_err());
    }

    #[test]
    fn failures_count_when_the_start_period_is_over() {
        let check = Check {
            start_period: Duration::from_secs(10),
            retries: 2,
            ..Check::default()
        };
        let mut health = Health::default();
        assert_eq!(health.take(&check, 0, outcome(1, 1)), None);
        assert_eq!(health.streak, 0);
        assert_eq!(
            check.wait(health.state, Duration::from_secs(1)),
            START_INTERVAL
        );
        assert_eq!(check.wait(health.state, Duration::from_secs(11)), INTERVAL);
        assert_eq!(health.take(&check, 0, outcome(11, 1)), None);
        assert_eq!(
            health.take(&check, 0, outcome(12, -1)),
            Some(State::Unhealthy)
        );
        assert_eq!(health.take(&check, 0, outcome(13, 0)), Some(State::Healthy));
        assert_eq!(health.streak, 0);
        // Once healthy, the start period excuses nothing.
        assert_eq!(health.take(&check, 13_000_000_000, outcome(14, 1)), None);
        assert_eq!(health.streak, 1);
        for at in 20..30 {
            health.take(&check, 0, outcome(at, 0));
        }
        assert_eq!((health.log.len(), health.log[0].start), (5, 25_000_000_000));
        let begun = health.begun();
        assert_eq!((begun.state, begun.log.len()), (State::Starting, 5));
    }
}
