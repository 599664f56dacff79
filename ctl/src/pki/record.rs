//! What is known of a certificate that was issued.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use slipway_service::roles::Role;

use crate::failure::{Failure, Outcome};

/// To whom a certificate is issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    pub name: String,
    /// What he may do where he calls.
    pub role: Option<String>,
    /// Names and addresses that others find him by.
    pub hosts: Vec<String>,
}

/// See the module's page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// In hex, as the audit logs have it.
    pub serial: String,
    pub to: Named,
    pub issued: Timestamp,
    pub ends: Timestamp,
    pub revoked: Option<Timestamp>,
}

/// Whether a certificate can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Good,
    Expired,
    Revoked,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Named {
    /// Names are names of files, too, and short: RFC 5280 allows 64 characters.
    pub fn new(name: String, role: Option<Role>, hosts: Vec<String>) -> Outcome<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
        let sound = (1..=64).contains(&name.len())
            && name.chars().all(plain)
            && name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !sound {
            return Err(Failure::new(format!(
                "{name:?} cannot be a name: it has 1 to 64 letters, digits, dots, dashes, underscores and @, and \
                 begins with a letter or digit"
            )));
        }
        if let Some(host) = hosts.iter().find(|host| !is_host(host)) {
            return Err(Failure::new(format!(
                "{host:?} is neither the name of a host nor an address"
            )));
        }
        if role.is_none() && hosts.is_empty() {
            return Err(Failure::new(
                "say what it is for: --role for one who calls, --host for one who is called, or both",
            ));
        }
        Ok(Self {
            name,
            role: role.map(|role| role.name().to_owned()),
            hosts,
        })
    }
}

/// As DNS has them (RFC 1123, 2.1), or an address.
fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len())
            && label.chars().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // What ends in a number is an address or nothing.
    let numeric = |host: &str| {
        host.rsplit('.')
            .next()
            .is_some_and(|l| l.parse::<u64>().is_ok())
    };
    host.parse::<IpAddr>().is_ok()
        || (host.len() <= 253 && !numeric(host) && host.split('.').all(label))
}

impl Record {
    /// Fails when it would outlast its authority.
    pub fn new(to: Named, days: u32, now: Timestamp, limit: Timestamp) -> Outcome<Self> {
        let ends = after(now, days)?;
        if ends > limit {
            return Err(Failure::new(format!(
                "a certificate of {days} days would outlast its authority, which ends on {}: say fewer --days, or \
                 make another authority",
                day(limit)
            )));
        }
        let mut serial = [0; 16];
        SystemRandom::new()
            .fill(&mut serial)
            .map_err(|_| Failure::new("the system gives no random numbers"))?;
        // Positive, and of all its bytes (RFC 5280, 4.1.2.2).
        serial[0] = serial[0] & 0x7f | 0x40;
        Ok(Self {
            serial: hex::encode(serial),
            to,
            issued: now,
            ends,
            revoked: None,
        })
    }

    pub fn state(&self, now: Timestamp) -> State {
        match self.revoked {
            Some(_) => State::Revoked,
            None if self.ends < now => State::Expired,
            None => State::Good,
        }
    }
}

/// So many days later.
pub fn after(now: Timestamp, days: u32) -> Outcome<Timestamp> {
    let time = SignedDuration::from_hours(24 * i64::from(days));
    now.checked_add(time)
        .map_err(|_| Failure::new(format!("{days} days are too many")))
}

/// The day of a time, for people.
pub fn day(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).date().to_string()
}
