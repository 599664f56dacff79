//! The time by the server's clock. How old an object is, and what several registry-svc tell each other of times, is
//! counted by that one clock: those of their hosts may be minutes apart, and content would go before its time.
//!
//! A server tells it with any answer, to the second (`Date`, RFC 9110, 6.6.1). One that does not is taken to have the
//! host's.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Method, header::DATE};

use super::{Bucket, MARK};
use crate::error::Result;

/// What the server told.
#[derive(Debug, Default)]
pub struct Clock(Mutex<Option<Told>>);

#[derive(Debug, Clone, Copy)]
struct Told {
    server: SystemTime,
    /// The host's clock then.
    host: SystemTime,
    at: Instant,
}

impl Told {
    /// The host's clock may have been set since, which [`Instant`] does not notice, or the host may have slept, which
    /// only its clock does: what says that more time went by is believed until the server is asked again. A promise
    /// that is dated too late lasts longer than it must.
    fn now(&self, host: SystemTime, at: Instant) -> SystemTime {
        let by_clock = host.duration_since(self.host).unwrap_or_default();
        self.server + by_clock.max(at.duration_since(self.at))
    }
}

impl Clock {
    fn set(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let server = date.and_then(|date| httpdate::parse_http_date(date).ok());
        let told = server.map(|server| Told {
            // It was that second, somewhere in it.
            server: server + Duration::from_millis(500),
            host: SystemTime::now(),
            at: Instant::now(),
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    fn now(&self) -> SystemTime {
        let told = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told {
            Some(told) => told.now(SystemTime::now(), Instant::now()),
            None => SystemTime::now(),
        }
    }
}

impl Bucket {
    /// The time by the server's clock, to a second or so, as far as it was told.
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// How long ago, by the server's clock, something was; nothing for what is to come.
    pub fn age(&self, at: SystemTime) -> Duration {
        self.now().duration_since(at).unwrap_or_default()
    }

    /// Asks the server what time it is.
    pub async fn look_at_the_clock(&self) -> Result<()> {
        let mut url = self.raw.address.clone();
        let path = format!("{}/{}", url.path().trim_end_matches('/'), self.key(MARK));
        url.set_path(&path);
        // Whatever it answers, it says when.
        let answer = self.raw.ask(self, Method::HEAD, &url).await?;
        self.clock.set(answer.headers());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_whatever_is_done_to_the_hosts_clock() {
        let (host, at) = (SystemTime::now(), Instant::now());
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let server = host - minutes(30);
        let told = Told { server, host, at };
        for (by_clock, by_instant, went_by) in [
            (host + minutes(5), at + minutes(5), minutes(5)),
            // Set back.
            (host - minutes(50), at + minutes(5), minutes(5)),
            // It slept.
            (host + minutes(50), at + minutes(5), minutes(50)),
        ] {
            assert_eq!(told.now(by_clock, by_instant), server + went_by);
        }
    }

    #[test]
    fn a_server_that_tells_no_time_has_the_hosts() {
        let clock = Clock::default();
        let distance = || {
            let (here, there) = (SystemTime::now(), clock.now());
            let ahead = there.duration_since(here);
            ahead.unwrap_or_else(|behind| behind.duration())
        };
        assert!(distance() < Duration::from_secs(60));
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        clock.set(&headers);
        let then = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let since = clock.now().duration_since(then).unwrap();
        assert!(since >= Duration::from_millis(500) && since < Duration::from_secs(60));
        headers.insert(DATE, "yesterday".parse().unwrap());
        clock.set(&headers);
        assert!(distance() < Duration::from_secs(60));
    }
}
