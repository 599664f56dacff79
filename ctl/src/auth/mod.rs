//! Accounts at registries, where docker keeps them: `config.json`, or a credential helper that it names.
//!
//! A call that may go to a registry takes that registry's account along, and nothing keeps it: services use it for
//! that call and forget it. Nothing here is ever shown.

mod config;
mod helper;

use std::fmt;

use slipway_proto::types::v1::RegistryAuth;

use config::Keeper;
pub use config::{File, HUB, key_of};
use helper::Helper;

use crate::failure::Outcome;

/// An account at a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub username: String,
    /// Empty with an identity token.
    pub password: String,
    /// What the registry's token server gave in place of the password.
    pub identity_token: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").finish_non_exhaustive()
    }
}

impl From<Account> for RegistryAuth {
    fn from(account: Account) -> Self {
        Self {
            username: account.username,
            password: account.password,
            identity_token: account.identity_token,
        }
    }
}

/// Where accounts are kept, read once.
pub struct Accounts(File);

impl Accounts {
    /// Of the caller's configuration.
    pub fn open() -> Outcome<Self> {
        File::load().map(Self)
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.0
    }

    /// The account of a registry.
    pub async fn get(&self, key: &str) -> Outcome<Option<Account>> {
        match self.0.keeper(key) {
            Keeper::File => Ok(self.0.account(key)),
            Keeper::Helper(name) => Helper::new(name).get(key).await,
        }
    }

    /// Whether a program has to be asked for it.
    pub fn needs_helper(&self, key: &str) -> bool {
        matches!(self.0.keeper(key), Keeper::Helper(_))
    }

    /// Keeps an account; true when it lies in the file, readable for who may read that.
    pub async fn set(&mut self, key: &str, account: &Account) -> Outcome<bool> {
        match self.0.keeper(key) {
            Keeper::File => {
                self.0.set(key, account);
                self.0.save()?;
                Ok(true)
            }
            Keeper::Helper(name) => {
                Helper::new(name).store(key, account).await?;
                // An entry without content says that there is an account, as docker's client does; a password
                // that was kept in the file before goes.
                self.0.mark(key);
                self.0.save()?;
                Ok(false)
            }
        }
    }

    /// Forgets the account of a registry.
    pub async fn remove(&mut self, key: &str) -> Outcome<()> {
        if let Keeper::Helper(name) = self.0.keeper(key) {
            Helper::new(name).erase(key).await?;
        }
        if self.0.remove(key) {
            self.0.save()?;
        }
        Ok(())
    }

    /// All accounts, by the hosts as image names have them.
    pub async fn all(&self) -> Vec<(String, Account)> {
        let mut keys = self.0.keys();
        for name in self.0.helpers() {
            match Helper::new(name).list().await {
                Ok(found) => keys.extend(found.into_keys()),
                Err(failure) => warn(&failure.text),
            }
        }
        keys.sort();
        keys.dedup();
        let mut accounts = Vec::new();
        for key in keys {
            match self.get(&key).await {
                Ok(Some(account)) => accounts.push((config::host_of(&key), account)),
                Ok(None) => {}
                Err(failure) => warn(&failure.text),
            }
        }
        accounts
    }
}

/// The account for an image's registry, to be sent with a call. What is wrong with the configuration is said, and
/// is no reason not to try: most images need none.
pub async fn for_image(image: &str) -> Option<RegistryAuth> {
    let key = key_of_image(image)?;
    let found = match Accounts::open() {
        Ok(accounts) => accounts.get(&key).await,
        Err(failure) => Err(failure),
    };
    found
        .unwrap_or_else(|failure| {
            warn(&failure.text);
            None
        })
        .map(RegistryAuth::from)
}

/// The same for an image that is here most times: a program is not asked before `is_here` says that it is not.
pub async fn if_missing(image: &str, is_here: impl AsyncFnOnce() -> bool) -> Option<RegistryAuth> {
    let key = key_of_image(image)?;
    match Accounts::open() {
        Ok(accounts) if accounts.needs_helper(&key) && is_here().await => None,
        _ => for_image(image).await,
    }
}

/// All accounts by host, for a call that may go to any of them.
pub async fn for_all() -> std::collections::HashMap<String, RegistryAuth> {
    match Accounts::open() {
        Ok(accounts) => {
            let all = accounts.all().await.into_iter();
            all.map(|(host, account)| (host, account.into())).collect()
        }
        Err(failure) => {
            warn(&failure.text);
            std::collections::HashMap::new()
        }
    }
}

fn key_of_image(image: &str) -> Option<String> {
    let reference: slipway_image::Reference = image.parse().ok()?;
    Some(key_of(reference.domain()))
}

fn warn(text: &str) {
    eprintln!("WARNING: {text}");
}
