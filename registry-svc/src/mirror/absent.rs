//! What an upstream said that it does not have, or not for us: remembered for a moment, so that a client that asks
//! again and again is not passed on each time.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::lock;
use crate::{error::Error, names::ImageName};

/// How long it is believed.
const BELIEVED: Duration = Duration::from_secs(10);

/// Names that are remembered at once.
const REMEMBERED: usize = 1024;

#[derive(Clone)]
enum Answer {
    NotFound(String),
    Denied(String),
    Unauthorized(String, String),
}

/// See the module's page.
#[derive(Default)]
pub struct Absent(Mutex<HashMap<ImageName, (Instant, Answer)>>);

impl Absent {
    /// What was said of this name a moment ago.
    pub fn recall(&self, name: &ImageName) -> Option<Error> {
        let (at, answer) = lock(&self.0).get(name).cloned()?;
        (at.elapsed() < BELIEVED).then(|| match answer {
            Answer::NotFound(name) => Error::ManifestNotFound(name),
            Answer::Denied(name) => Error::PullDenied(name),
            Answer::Unauthorized(host, message) => Error::Unauthorized { host, message },
        })
    }

    /// Takes note of an answer; errors of other kinds say nothing.
    pub fn note<T>(&self, name: &ImageName, result: &Result<T, Error>) {
        let mut absent = lock(&self.0);
        let answer = match result {
            Ok(_) => {
                absent.remove(name);
                return;
            }
            Err(Error::ManifestNotFound(name)) => Answer::NotFound(name.clone()),
            Err(Error::PullDenied(name)) => Answer::Denied(name.clone()),
            Err(Error::Unauthorized { host, message }) => {
                Answer::Unauthorized(host.clone(), message.clone())
            }
            Err(_) => return,
        };
        if absent.len() >= REMEMBERED {
            absent.retain(|_, (at, _)| at.elapsed() < BELIEVED);
            if absent.len() >= REMEMBERED {
                absent.clear();
            }
        }
        absent.insert(name.clone(), (Instant::now(), answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::OwnNames;

    fn name(number: usize) -> ImageName {
        let own = OwnNames::new(&[], &[]);
        own.parse_image(&format!("team/app:{number}")).unwrap()
    }

    #[test]
    fn answers_are_believed_for_a_moment_and_bounded() {
        let absent = Absent::default();
        let missing = |n| Err::<(), _>(Error::ManifestNotFound(format!("{n}")));
        absent.note(&name(0), &missing(0));
        assert!(absent.recall(&name(0)).is_some() && absent.recall(&name(1)).is_none());
        absent.note(&name(0), &Ok(()));
        assert!(absent.recall(&name(0)).is_none());
        absent.note::<()>(&name(0), &Err(Error::Interrupted("x".to_owned())));
        assert!(absent.recall(&name(0)).is_none());
        for n in 0..2 * REMEMBERED {
            absent.note(&name(n), &missing(n));
        }
        assert!(lock(&absent.0).len() <= REMEMBERED);
        assert!(absent.recall(&name(2 * REMEMBERED - 1)).is_some());
        for (at, _) in lock(&absent.0).values_mut() {
            *at = Instant::now().checked_sub(BELIEVED).unwrap();
        }
        assert!(absent.recall(&name(2 * REMEMBERED - 1)).is_none());
    }
}
