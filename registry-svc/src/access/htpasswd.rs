//! The file of users and passwords, as Apache's `htpasswd -B` writes it: `<name>:<bcrypt hash>` a line.
//!
//! To look a password up costs the same whether or not there is such a user, happens on few threads at once, and is
//! remembered for a minute. Who fails often waits.

use std::{
    collections::HashMap,
    io::ErrorKind::NotFound,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ring::hmac;
use tokio::sync::Semaphore;
use tracing::warn;

use slipway_service::watched::Watched;

use super::failures::Failures;

/// Passwords that are looked up at once: each takes a processor for some 50 ms.
const AT_ONCE: usize = 2;

/// Callers who may wait for that.
const WAITING: usize = 64;

/// How long a password that was right is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Passwords remembered at once.
const REMEMBERED_COUNT: usize = 10_000;

/// Costs of a hash that are taken: below it is no protection, above it a processor is busy for seconds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=15;

/// Longest password (and name) that is looked at; bcrypt itself reads 72 bytes.
const LONGEST: usize = 1024;

/// A password file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HtpasswdError {
    /// It cannot be read.
    #[error("cannot read the password file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of it is nothing that is supported.
    #[error("{}, line {line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
}

/// Why a password does not let anybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No such user, or another password.
    Wrong,
    /// Too many wrong ones from there, or too many at once; ask again after so long.
    Busy(Duration),
}

/// Hashes by user.
#[derive(Debug, Default)]
pub struct Users(HashMap<String, Arc<str>>);

impl Users {
    fn read(path: &Path) -> Result<Self, HtpasswdError> {
        let text = std::fs::read_to_string(path).map_err(|source| HtpasswdError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Parses a password file, which is there.
    pub fn parse(path: &Path, text: &str) -> Result<Self, HtpasswdError> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fail = |message: &str| HtpasswdError::Line {
                path: path.to_owned(),
                line: number + 1,
                message: message.to_owned(),
            };
            let (name, hash) = line
                .split_once(':')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| fail("write <name>:<hash>, as htpasswd -B does"))?;
            if matches!(name, "*" | "anonymous") {
                return Err(fail(&format!(
                    "{name:?} is no name for a user: it means others"
                )));
            }
            check(hash).map_err(|message| fail(&message))?;
            if users.insert(name.to_owned(), hash.into()).is_some() {
                return Err(fail(&format!("{name:?} is there twice")));
            }
        }
        Ok(Self(users))
    }

    /// Everybody, and the hash of his password.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, hash)| (&**name, &**hash))
    }

    /// The hash that a name which is not there is looked up with: that of somebody, always the same one. How long it
    /// takes says as little as the answer, also where users have hashes of several costs.
    fn stand_in(&self, name: &str, key: &hmac::Key) -> Option<Arc<str>> {
        let pick = |user: &str| hmac::sign(key, format!("{name}\0{user}").as_bytes());
        let nearest = self
            .0
            .iter()
            .min_by_key(|(user, _)| pick(user).as_ref().to_owned());
        nearest.map(|(_, hash)| Arc::clone(hash))
    }
}

/// bcrypt and nothing else.
fn check(hash: &str) -> Result<(), String> {
    let kind = match hash {
        _ if ["$2y$", "$2b$", "$2a$"].iter().any(|k| hash.starts_with(k)) => None,
        _ if hash.starts_with("$apr1$") => Some("an MD5 hash of Apache's"),
        _ if hash.starts_with("{SHA}") => Some("a SHA-1 hash"),
        _ if hash.starts_with("$1$") => Some("an MD5 hash"),
        _ if hash.starts_with("$5$") || hash.starts_with("$6$") => Some("a SHA-2 crypt hash"),
        _ if hash.starts_with("$2x$") => Some("a hash of a broken bcrypt"),
        _ if hash.starts_with('$') => Some("a hash of another kind"),
        _ => Some("a crypt hash, or a password in the clear"),
    };
    if let Some(kind) = kind {
        return Err(format!(
            "this is {kind}: only bcrypt is supported, make it by htpasswd -B"
        ));
    }
    let cost = hash.get(4..6).and_then(|cost| cost.parse::<u32>().ok());
    // As it is parsed when a password is compared: one that cannot be would let nobody in, and say nothing.
    let whole = hash.parse::<bcrypt::HashParts>().is_ok();
    match cost {
        Some(cost) if whole && COSTS.contains(&cost) => Ok(()),
        Some(cost) if whole => {
            let (least, most) = (COSTS.start(), COSTS.end());
            Err(format!(
                "a cost of {cost} is not supported: from {least} to {most} it may be"
            ))
        }
        _ => Err("the bcrypt hash is not whole".to_owned()),
    }
}

/// See the module's page.
pub struct Htpasswd {
    users: Watched<Users>,
    /// Of this process: what it makes means nothing elsewhere.
    key: hmac::Key,
    remembered: Mutex<HashMap<Vec<u8>, Instant>>,
    failures: Failures,
    waiting: Semaphore,
    at_once: Arc<Semaphore>,
}

impl Htpasswd {
    /// Reads the file.
    pub fn open(path: &Path) -> Result<Self, HtpasswdError> {
        // That it is there when the service starts is asked for.
        Users::read(path)?;
        let file = path.to_owned();
        let users = Watched::new("the password file", vec![path.to_owned()], move || {
            match Users::read(&file) {
                // Whoever takes it away wants nobody in. One that cannot be read is a mistake, and shuts nobody out.
                Err(HtpasswdError::Read { source, .. }) if source.kind() == NotFound => {
                    let file = file.display();
                    warn!("{file} is not there any more: nobody is let in until it is");
                    Ok(Users::default())
                }
                users => users,
            }
        })?;
        Ok(Self {
            users,
            key: super::random_key(),
            remembered: Mutex::default(),
            failures: Failures::default(),
            waiting: Semaphore::new(WAITING),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    /// The hash of a user, as a token may be bound to it; `None` when there is no such user (any more).
    pub fn hash_of(&self, name: &str) -> Option<Arc<str>> {
        self.users.get().0.get(name).cloned()
    }

    /// Whether this is the user's password. `from` is whom wrong ones are counted against.
    pub async fn verify(&self, name: &str, password: &str, from: IpAddr) -> Result<(), Refused> {
        // Before anything that costs the more the longer it is.
        if name.len() > LONGEST || password.len() > LONGEST {
            return Err(Refused::Wrong);
        }
        let users = self.users.get();
        let known = users.0.get(name).cloned();
        // The hash is part of it: another password in the file, and the old one is not remembered.
        let proof = known.as_ref().map(|hash| {
            let told = format!("{name}\0{hash}\0{password}");
            hmac::sign(&self.key, told.as_bytes()).as_ref().to_vec()
        });
        let is_remembered = || proof.as_ref().is_some_and(|proof| self.remembers(proof));
        if is_remembered() {
            return Ok(());
        }
        // Before anything that costs more than that.
        self.may_try(from, name)?;
        let _waits = self
            .waiting
            .try_acquire()
            .map_err(|_| Refused::Busy(Duration::from_secs(1)))?;
        let turn = Arc::clone(&self.at_once).acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        // Somebody may have asked the same meanwhile: clients have several connections.
        if is_remembered() {
            return Ok(());
        }
        self.may_try(from, name)?;
        let hash = match &known {
            Some(hash) => Arc::clone(hash),
            None => users.stand_in(name, &self.key).ok_or(Refused::Wrong)?,
        };
        let password = password.to_owned();
        // The turn ends when a failure is counted, or with the work when nobody waits for it any more.
        let compared = tokio::task::spawn_blocking(move || {
            let same = bcrypt::verify(password, &hash).unwrap_or(false);
            (same, turn)
        });
        let (same, _turn) = compared.await.map_err(|_| Refused::Wrong)?;
        match (same, proof) {
            (true, Some(proof)) => {
                self.remember(proof);
                Ok(())
            }
            _ => {
                self.failures.count(from, name, Instant::now());
                Err(Refused::Wrong)
            }
        }
    }

    /// Whoever failed often waits, also who had asked for that before it was known.
    fn may_try(&self, from: IpAddr, name: &str) -> Result<(), Refused> {
        let may = self.failures.check(from, name, Instant::now());
        may.map_err(Refused::Busy)
    }

    fn remembers(&self, proof: &[u8]) -> bool {
        let remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        remembered
            .get(proof)
            .is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn remember(&self, proof: Vec<u8>) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_COUNT {
            remembered.clear();
        }
        remembered.retain(|_, since| since.elapsed() < REMEMBERED);
        remembered.insert(proof, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);

    fn hash(password: &str) -> String {
        bcrypt::hash_with_result(password, 4)
            .unwrap()
            .format_for_version(bcrypt::Version::TwoY)
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn hashes_of_other_kinds_are_refused_with_their_line() {
        let good = hash("x");
        for (line, said) in [
            ("bob:$apr1$abc$def", "MD5 hash of Apache's"),
            ("bob:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "SHA-1"),
            ("bob:$6$abc$def", "SHA-2 crypt"),
            ("bob:$argon2id$v=19$x", "another kind"),
            ("bob:hunter2", "in the clear"),
            ("bob:$2y$04$abc", "not whole"),
            // Bits of the salt that are none of it.
            (
                "bob:$2y$04$CCCCCCCCCCCCCCCCCCCCC/E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
                "not whole",
            ),
            (
                "bob:$2y$04$\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}.",
                "not whole",
            ),
            ("bob", "write <name>:<hash>"),
            (&*format!(":{good}"), "write <name>:<hash>"),
            (&*format!("alice:{good}"), "twice"),
            (&*format!("anonymous:{good}"), "means others"),
            (
                &*format!("bob:{}", good.replace("$04$", "$31$")),
                "cost of 31",
            ),
        ] {
            let text = format!("# users\n\nalice:{good}\n{line}\n");
            let error = Users::parse(Path::new("/etc/users"), &text)
                .unwrap_err()
                .to_string();
            assert!(error.contains(said), "{line}: {error}");
            assert!(error.starts_with("/etc/users, line 4: "), "{error}");
        }
        for kind in ["$2a$", "$2b$", "$2y$"] {
            let text = format!("alice:{}\r\n", good.replace("$2y$", kind));
            assert!(Users::parse(Path::new("x"), &text).is_ok(), "{kind}");
        }
    }

    #[tokio::test]
    async fn passwords_are_asked_of_the_file_as_it_is_now() {
        let (_folder, path) = file(&format!("alice:{}\n", hash("one")));
        let users = Htpasswd::open(&path).unwrap();
        assert_eq!(users.verify("alice", "one", HERE).await, Ok(()));
        assert_eq!(
            users.verify("alice", "two", HERE).await,
            Err(Refused::Wrong)
        );
        assert_eq!(users.verify("bob", "one", HERE).await, Err(Refused::Wrong));
        assert_eq!(users.verify("", "", HERE).await, Err(Refused::Wrong));
        // What was right is not right any more, though it is remembered.
        let text = format!("alice:{}\nbob:{}\n", hash("two"), hash("one"));
        std::fs::write(&path, text).unwrap();
        assert_eq!(
            users.verify("alice", "one", HERE).await,
            Err(Refused::Wrong)
        );
        assert_eq!(users.verify("alice", "two", HERE).await, Ok(()));
        assert_eq!(users.verify("bob", "one", HERE).await, Ok(()));
        // A mistake in it locks nobody out, and lets nobody in.
        std::fs::write(&path, "carol:open\n").unwrap();
        assert_eq!(users.verify("alice", "two", HERE).await, Ok(()));
        assert_eq!(
            users.verify("carol", "open", HERE).await,
            Err(Refused::Wrong)
        );
        assert!(Htpasswd::open(&path).is_err());
        assert!(Htpasswd::open(Path::new("/nothing/here")).is_err());
        // Without one nobody is known, until it is there again.
        std::fs::remove_file(&path).unwrap();
        let gone = users.verify("alice", "two", HERE).await;
        assert_eq!((gone, users.hash_of("alice")), (Err(Refused::Wrong), None));
        std::fs::write(&path, format!("alice:{}\n", hash("two"))).unwrap();
        assert_eq!(users.verify("alice", "two", HERE).await, Ok(()));
    }

    #[tokio::test]
    async fn who_guesses_waits_and_nobody_else() {
        let (_folder, path) = file(&format!("alice:{}\nbob:{}\n", hash("one"), hash("two")));
        let users = Htpasswd::open(&path).unwrap();
        assert_eq!(users.verify("bob", "two", THERE).await, Ok(()));
        let mut refused = Refused::Wrong;
        for guess in 0..100 {
            if refused == Refused::Wrong {
                refused = users
                    .verify("alice", &guess.to_string(), THERE)
                    .await
                    .unwrap_err();
            }
        }
        assert!(matches!(refused, Refused::Busy(_)), "{refused:?}");
        // Not even with the right one, else that would be how to tell it.
        assert!(matches!(
            users.verify("alice", "one", THERE).await,
            Err(Refused::Busy(_))
        ));
        assert_eq!(users.verify("alice", "one", HERE).await, Ok(()));
        // Who was let in before goes on.
        assert_eq!(users.verify("bob", "two", THERE).await, Ok(()));
    }

    #[tokio::test]
    async fn who_guesses_on_many_connections_at_once_is_not_looked_at_more_often() {
        let (_folder, path) = file(&format!("alice:{}\n", hash("one")));
        let users = Htpasswd::open(&path).unwrap();
        let names: Vec<_> = (0..WAITING).map(|n| format!("nobody{n}")).collect();
        let guesses = names.iter().map(|name| users.verify(name, "guess", THERE));
        let begun = Instant::now();
        let said = futures_util::future::join_all(guesses).await;
        // As time passes, some are forgotten.
        let more = AT_ONCE + begun.elapsed().as_secs() as usize / 6 + 1;
        let wrong = said.iter().filter(|said| **said == Err(Refused::Wrong));
        let wrong = wrong.count();
        assert!(
            (10..=10 + more).contains(&wrong) && wrong < WAITING,
            "{wrong}"
        );
    }

    #[test]
    fn a_name_that_is_not_there_costs_what_one_that_is_does() {
        let text = format!(
            "alice:{}\nbob:{}\n",
            hash("one"),
            hash("two").replace("$04$", "$05$")
        );
        let users = Users::parse(Path::new("x"), &text).unwrap();
        let key = super::super::random_key();
        let mut costs = std::collections::BTreeSet::new();
        for number in 0..64 {
            let hash = users.stand_in(&format!("nobody{number}"), &key);
            let again = users.stand_in(&format!("nobody{number}"), &key);
            assert_eq!(hash, again);
            costs.insert(hash.unwrap()[4..6].to_owned());
        }
        assert_eq!(costs.len(), 2, "as those of the users");
    }
}
