//! Who asks, and what he may do: [`policy`] decides, [`htpasswd`] and [`token`] say who somebody is.
//!
//! Architecture invariants: nothing here knows HTTP; every request of the Distribution API gets one [`Permit`], and
//! whatever it may touch or see is asked of that.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::names::{OwnNames, Repository};

mod failures;
pub mod htpasswd;
pub mod policy;
pub mod refusals;
pub mod token;

use htpasswd::{Htpasswd, HtpasswdError, Refused};
use policy::{AccessRule, Action, Policy, PolicyError};
use refusals::{Reason, Refusals};
use token::{Grant, Kind, TokenKeyError, Tokens};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Caller {
    /// Somebody who does not say who he is.
    Anonymous,
    /// A user of the password file.
    User(String),
    /// The holder of a client certificate, by its common name.
    Certificate(String),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::User(name) => f.write_str(name),
            Self::Certificate(name) => write!(f, "cert:CN={name}"),
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A rule.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The password file.
    #[error(transparent)]
    Htpasswd(#[from] HtpasswdError),
    /// The key of tokens.
    #[error(transparent)]
    Key(#[from] TokenKeyError),
    /// Rules for users, and no passwords.
    #[error("registry.toml: [[access]] names users: say htpasswd = \"<file>\"")]
    NoPasswords,
    /// Rules for certificates, and nobody who vouches for them.
    #[error(
        "registry.toml: [[access]] names certificates: say client_ca = \"<file>\" in [http_tls]"
    )]
    NoAuthority,
    /// Users, and nothing that they may do.
    #[error("registry.toml: htpasswd says who may come in, and no [[access]] what he may do")]
    NoRules,
    /// A key of tokens, and nothing that they are good for.
    #[error(
        "registry.toml: token_key is for tokens, and no [[access]] says what they are good for"
    )]
    NoRulesForTokens,
    /// Somebody who vouches for certificates, and nothing that their holders may do.
    #[error(
        "registry.toml: client_ca says whose certificates are known, and no [[access]] what their holders may do"
    )]
    NoRulesForCertificates,
}

/// The policy of a registry, and how it knows its callers.
pub struct Access {
    policy: Policy,
    htpasswd: Option<Htpasswd>,
    tokens: Tokens,
    refusals: Refusals,
}

/// What a token is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub repository: Repository,
    /// What.
    pub actions: Vec<Action>,
}

impl Access {
    /// Opens what the settings say; `None` when they say nothing. `state` is the folder of the key of tokens, unless
    /// there is one that others have, too.
    pub fn open(
        rules: &[AccessRule],
        htpasswd: Option<&PathBuf>,
        knows_certificates: bool,
        own: &OwnNames,
        state: &Path,
        shared_key: Option<&PathBuf>,
    ) -> Result<Option<Arc<Self>>, AccessError> {
        if rules.is_empty() {
            return match htpasswd {
                Some(_) => Err(AccessError::NoRules),
                None if shared_key.is_some() => Err(AccessError::NoRulesForTokens),
                None if knows_certificates => Err(AccessError::NoRulesForCertificates),
                None => Ok(None),
            };
        }
        let policy = Policy::new(rules, own)?;
        if policy.names_users() && htpasswd.is_none() {
            return Err(AccessError::NoPasswords);
        }
        if policy.names_certificates() && !knows_certificates {
            return Err(AccessError::NoAuthority);
        }
        Ok(Some(Arc::new(Self {
            policy,
            htpasswd: htpasswd.map(|file| Htpasswd::open(file)).transpose()?,
            tokens: match shared_key {
                Some(file) => Tokens::sharing(file)?,
                None => Tokens::open(state)?,
            },
            refusals: Refusals::default(),
        })))
    }

    /// The user whose password this is.
    pub async fn by_password(
        &self,
        name: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<Caller, Refused> {
        let verified = match &self.htpasswd {
            Some(users) => users.verify(name, password, from).await,
            None => Err(Refused::Wrong),
        };
        match verified {
            Ok(()) => Ok(Caller::User(name.to_owned())),
            Err(refused) => {
                self.refusals.count(match refused {
                    Refused::Wrong => Reason::Password,
                    Refused::Busy(_) => Reason::Busy,
                });
                Err(refused)
            }
        }
    }

    /// Who was not let in.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Whom a token was given to, and what it is good for.
    pub fn by_token(&self, kind: Kind, token: &str) -> Option<(Caller, Vec<Grant>)> {
        let read = self
            .tokens
            .read(kind, token, |caller| self.bound_to(caller));
        if read.is_none() {
            self.refusals.count(Reason::Token);
        }
        read
    }

    /// A token for what somebody wants and may; what he may not is left out.
    pub fn token_for(&self, caller: &Caller, wanted: &[Wanted]) -> String {
        let grants = wanted.iter().map(|wanted| {
            let may = |action: &Action| self.policy.allows(caller, &wanted.repository, *action);
            Grant {
                repository: wanted.repository.as_str().to_owned(),
                actions: wanted.actions.iter().copied().filter(may).collect(),
            }
        });
        let bound = self.bound_to(caller).unwrap_or_default();
        self.tokens
            .make(Kind::Access, caller, grants.collect(), &bound)
    }

    /// A token to get such tokens with; for users only, and until they have another password.
    pub fn refresh_token_for(&self, caller: &Caller) -> Option<String> {
        let Caller::User(_) = caller else { return None };
        let bound = self.bound_to(caller)?;
        Some(self.tokens.make(Kind::Refresh, caller, Vec::new(), &bound))
    }

    /// What a token of this caller is good with only: the hash of his password. `None` when he is nobody any more.
    fn bound_to(&self, caller: &Caller) -> Option<Arc<str>> {
        match (caller, &self.htpasswd) {
            (Caller::User(name), Some(users)) => users.hash_of(name),
            (Caller::User(_), None) => None,
            _ => Some("".into()),
        }
    }
}

/// What one request may do.
#[derive(Clone)]
pub struct Permit {
    access: Option<Arc<Access>>,
    caller: Caller,
    /// What the token is good for that the caller showed.
    grants: Option<Vec<Grant>>,
}

/// Why something may not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Nobody without a name may.
    Unknown,
    /// He may, and his token is for something else.
    NotInToken,
    /// He may not.
    Forbidden,
}

impl Permit {
    /// Everything, for everybody: there is no policy.
    pub fn open() -> Self {
        Self {
            access: None,
            caller: Caller::Anonymous,
            grants: None,
        }
    }

    /// What the policy gives a caller, and his token if he showed one.
    pub fn new(access: Arc<Access>, caller: Caller, grants: Option<Vec<Grant>>) -> Self {
        Self {
            access: Some(access),
            caller,
            grants,
        }
    }

    /// Who asks.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Somebody who said who he is, or has a token that says he is nobody.
    pub fn is_identified(&self) -> bool {
        self.access.is_none() || self.caller != Caller::Anonymous || self.grants.is_some()
    }

    /// What says who asks is a token.
    pub fn is_by_token(&self) -> bool {
        self.grants.is_some()
    }

    /// Whether this may be done.
    pub fn check(&self, repository: &Repository, action: Action) -> Result<(), Denied> {
        let Some(access) = &self.access else {
            return Ok(());
        };
        if !access.policy.allows(&self.caller, repository, action) {
            return Err(match self.caller {
                Caller::Anonymous => Denied::Unknown,
                _ => Denied::Forbidden,
            });
        }
        match &self.grants {
            Some(grants) if !grants.iter().any(|g| g.allows(repository, action)) => {
                Err(Denied::NotInToken)
            }
            _ => Ok(()),
        }
    }

    /// Whether this repository may be known of. A token that was asked for no repository is for lists of all that the
    /// policy lets the caller see: no client asks for one for each name that it does not know yet.
    pub fn sees(&self, repository: &Repository) -> bool {
        match self.check(repository, Action::Pull) {
            Ok(()) => true,
            Err(Denied::NotInToken) => self.grants.as_ref().is_some_and(Vec::is_empty),
            Err(_) => false,
        }
    }
}

/// The network that whoever has an address has all of: IPv6 is given out by /64.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

fn random_key() -> hmac::Key {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
    hmac::Key::new(hmac::HMAC_SHA256, &bytes)
}

/// How long a token is good for.
pub const TOKEN_LIFE: Duration = Duration::from_secs(5 * 60);

/// How long a user may stay logged in without his password.
pub const REFRESH_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_known_must_be_allowed_something() {
        let folder = tempfile::tempdir().unwrap();
        let own = OwnNames::default();
        let users = folder.path().join("users");
        let open = |htpasswd, certificates| {
            Access::open(&[], htpasswd, certificates, &own, folder.path(), None)
        };
        assert!(open(None, false).unwrap().is_none());
        let error = open(Some(&users), false).err().unwrap();
        assert!(matches!(error, AccessError::NoRules), "{error}");
        let error = open(None, true).err().unwrap();
        let told = "registry.toml: client_ca says whose certificates are known";
        assert!(error.to_string().starts_with(told), "{error}");
    }
}
