//! What each repository takes on disk, to the block. A blob, and a part of blobs, that several repositories have
//! counts once in the sum of all.
//!
//! The first question looks at every blob; from then on the index notes which blobs something happened to
//! ([`crate::store::Index::touch`]), and the next question looks at those alone.

mod account;

use std::{collections::HashMap, path::Path, sync::Arc};

use slipway_image::Digest;
use slipway_service::disk;

pub use account::Account;

use crate::{
    blobs::{BlobInfo, quarantine, staging::blocking},
    error::{Error, Result},
    names::Repository,
    registry::Registry,
};

/// Bytes on disk. `exclusive` of all repositories, `shared` and `unneeded` together are what all blobs take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Each repository that has manifests, the platform's own ones too, by name.
    pub repositories: Vec<RepositoryUsage>,
    /// What several repositories have, each once.
    pub shared: u64,
    /// What no repository has: uploads whose manifest is still to come, and what the next sweep takes.
    pub unneeded: u64,
    /// Upload sessions.
    pub uploads: u64,
    /// Transfers from upstream that are under way, or broke off.
    pub partial: u64,
    /// What is being written.
    pub staged: u64,
    /// Broken blobs that were moved aside.
    pub quarantined: u64,
}

/// Bytes on disk of what the manifests of a repository name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryUsage {
    /// Which.
    pub repository: Repository,
    /// What goes with it.
    pub exclusive: u64,
    /// What others have, too.
    pub shared: u64,
}

impl Registry {
    /// What each repository takes, as of now.
    pub async fn repository_usage(&self) -> Result<StoreUsage> {
        let mut kept = self.account.lock().await;
        // What happens from here on is looked at by the next question.
        let touched = self.index.watch();
        let account = match (kept.take(), touched) {
            (Some(account), Some(touched)) => self.refresh(account, touched).await,
            _ => self.build_account().await,
        };
        let account = match account {
            Ok(account) => account,
            Err(error) => {
                // What was touched is not known any more.
                self.index.unwatch();
                return Err(error);
            }
        };
        let mut usage = account.usage()?;
        *kept = Some(account);
        drop(kept);
        let root = self.root.clone();
        let measure = move || {
            let folder = |path: &Path| {
                let fail = || Error::io("cannot measure", path);
                let own = disk::of_folder(path).map_err(fail())?;
                Ok::<_, Error>(disk::usage(path).map_err(fail())?.saturating_sub(own))
            };
            let [uploads, partial, staged] =
                ["uploads", "partial", "tmp"].map(|name| folder(&root.join(name)));
            let aside = folder(&root.join("blobs").join(quarantine::FOLDER));
            Ok((uploads?, partial?, staged?, aside?))
        };
        (
            usage.uploads,
            usage.partial,
            usage.staged,
            usage.quarantined,
        ) = blocking(measure).await?;
        usage.quarantined += self.blobs.quarantined().await?;
        Ok(usage)
    }

    async fn build_account(&self) -> Result<Account> {
        let listed = self.blobs.list().await?;
        let index = Arc::clone(&self.index);
        blocking(move || {
            let mut account = Account::default();
            let mut sizes: HashMap<String, BlobInfo> = HashMap::new();
            for blob in listed {
                match sizes.get_mut(&blob.digest.to_string()) {
                    // Two who stored it at once may have done so in both forms.
                    Some(known) => {
                        known.disk += blob.disk;
                        known.parts.extend(blob.parts);
                    }
                    None => drop(sizes.insert(blob.digest.to_string(), blob)),
                }
            }
            // The index has those of one blob beside each other.
            let mut of: Option<(BlobInfo, Vec<String>)> = None;
            index.each_reference(|blob, repository, _| {
                if of
                    .as_ref()
                    .is_none_or(|(info, _)| info.digest.to_string() != blob)
                {
                    if let Some((info, owners)) = of.take() {
                        account.set(&info.digest, Some(&info), owners.iter().map(|o| &**o));
                    }
                    of = sizes.remove(blob).map(|info| (info, Vec::new()));
                }
                if let Some((_, owners)) = &mut of {
                    owners.push(repository.to_owned());
                }
            })?;
            if let Some((info, owners)) = of {
                account.set(&info.digest, Some(&info), owners.iter().map(|o| &**o));
            }
            for info in sizes.values() {
                account.set(&info.digest, Some(info), []);
            }
            Ok(account)
        })
        .await
    }

    async fn refresh(&self, mut account: Account, touched: Vec<Digest>) -> Result<Account> {
        for digest in touched {
            let info = self.blobs.info(&digest).await?;
            let holders = self.index.holders(&digest)?;
            let owners = holders.iter().map(|(repository, _)| repository.as_str());
            account.set(&digest, info.as_ref(), owners);
        }
        Ok(account)
    }
}
