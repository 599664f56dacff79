//! Whether a container that ended comes back, and when: docker's rules (moby, daemon/internal/restartmanager
//! and daemon/daemon.go's restore), as pure functions.

use std::time::Duration;

use slipway_proto::runtime::v1::RestartPolicy;

use crate::error::Error;

/// Before the first restart.
const FIRST: Duration = Duration::from_millis(100);
/// However often it fails, it is tried this often.
const LONGEST: Duration = Duration::from_secs(60);
/// Who ran this long begins anew with the first delay.
const STEADY: Duration = Duration::from_secs(10);

/// `--restart`, parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It stays as it ended.
    No,
    /// It comes back, unless it was stopped by hand; with the service even then.
    Always,
    /// It comes back, unless it was stopped by hand.
    UnlessStopped,
    /// It comes back after a failure, at most so many times.
    OnFailure {
        /// 0 = without end.
        most: u32,
    },
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Its exit code.
    pub code: i32,
    /// Somebody asked for its end.
    pub by_hand: bool,
    /// How often the policy has brought it back since somebody started it.
    pub restarts: u32,
}

impl Policy {
    /// As asked for; what docker refuses is refused with its sentences.
    pub fn parse(asked: Option<&RestartPolicy>) -> Result<Self, Error> {
        let Some(asked) = asked else {
            return Ok(Self::No);
        };
        let most = asked.maximum_retry_count;
        let policy = match asked.name.as_str() {
            "" | "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => return Ok(Self::OnFailure { most }),
            other => {
                return Err(Error::Invalid(format!(
                    "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
                )));
            }
        };
        if most > 0 {
            return Err(Error::Invalid(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'"
                    .to_owned(),
            ));
        }
        Ok(policy)
    }

    /// Whether a container comes back that has just ended.
    pub fn after_end(self, ending: Ending) -> bool {
        !ending.by_hand && self.wants(ending)
    }

    /// Whether a container comes back that the service finds ended when it begins.
    pub fn at_service_start(self, ending: Ending) -> bool {
        // docker: what is to run always runs again when the daemon comes back, stopped by hand or not.
        self == Self::Always || self.after_end(ending)
    }

    const fn wants(self, ending: Ending) -> bool {
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure { most } => ending.code != 0 && (most == 0 || ending.restarts < most),
        }
    }
}

/// How long to wait, after a wait of `last` before the run that has just ended.
pub fn delay(last: Option<Duration>, ran: Duration) -> Duration {
    match last {
        Some(last) if ran < STEADY => (last * 2).min(LONGEST),
        _ => FIRST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, most: u32) -> Result<Policy, Error> {
        Policy::parse(Some(&RestartPolicy {
            name: name.into(),
            maximum_retry_count: most,
        }))
    }

    #[test]
    fn policies_are_dockers() {
        assert_eq!(Policy::parse(None).unwrap(), Policy::No);
        assert_eq!(policy("", 0).unwrap(), Policy::No);
        assert_eq!(
            policy("on-failure", 3).unwrap(),
            Policy::OnFailure { most: 3 }
        );
        assert!(policy("always", 3).is_err());
        assert!(policy("sometimes", 0).is_err());
    }

    #[test]
    fn who_comes_back() {
        let end = |code, by_hand, restarts| Ending {
            code,
            by_hand,
            restarts,
        };
        let on_failure = Policy::OnFailure { most: 2 };
        // policy, ending, after its end, when the service begins
        for (policy, ending, after, at_start) in [
            (Policy::No, end(1, false, 0), false, false),
            (Policy::Always, end(0, false, 7), true, true),
            (Policy::Always, end(0, true, 0), false, true),
            (Policy::UnlessStopped, end(0, false, 0), true, true),
            (Policy::UnlessStopped, end(137, true, 0), false, false),
            (on_failure, end(0, false, 0), false, false),
            (on_failure, end(1, false, 1), true, true),
            (on_failure, end(1, false, 2), false, false),
            (on_failure, end(1, true, 0), false, false),
            (Policy::OnFailure { most: 0 }, end(1, false, 99), true, true),
        ] {
            assert_eq!(policy.after_end(ending), after, "{policy:?} {ending:?}");
            assert_eq!(
                policy.at_service_start(ending),
                at_start,
                "{policy:?} {ending:?}"
            );
        }
    }

    #[test]
    fn the_wait_doubles_up_to_a_minute_and_begins_anew_after_a_steady_run() {
        let short = Duration::from_secs(1);
        let mut waits = vec![delay(None, short)];
        for _ in 0..12 {
            waits.push(delay(waits.last().copied(), short));
        }
        assert_eq!(waits[0], Duration::from_millis(100));
        assert_eq!(waits[3], Duration::from_millis(800));
        assert_eq!(waits[12], Duration::from_secs(60));
        assert_eq!(
            delay(Some(LONGEST), Duration::from_secs(10)),
            Duration::from_millis(100)
        );
    }
}
