//! `docker search`, of what is here: repositories by a part of their name.

use crate::{
    error::{Error, Result},
    names::{ImageName, Pointer, Repository},
    registry::Registry,
};

/// Most repositories of an answer, as with docker's.
pub const MOST: usize = 100;
/// What is given when nobody says how many.
pub const DEFAULT: usize = 25;
/// Repositories that are looked at in one go, and tags of one.
const PAGE: usize = 1000;
/// Where an image says what it is (image-spec, annotations.md).
const DESCRIPTION: &str = "org.opencontainers.image.description";

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub repository: Repository,
    /// What its newest image says of itself, or nothing.
    pub description: String,
}

impl Found {
    /// It has docker's official images.
    pub fn is_official(&self) -> bool {
        is_official(&self.repository)
    }
}

fn is_official(repository: &Repository) -> bool {
    repository.as_str().starts_with("docker.io/library/")
}

impl Registry {
    /// Repositories whose name has that in it: the one of that very name first, then by name.
    pub async fn search(
        &self,
        term: &str,
        most: usize,
        official: Option<bool>,
    ) -> Result<Vec<Found>> {
        let most = match most {
            0 => DEFAULT,
            most if most > MOST => {
                return Err(Error::InvalidArgument(format!(
                    "limit {most} is outside the range of [1, {MOST}]"
                )));
            }
            most => most,
        };
        let mut term = term.to_lowercase();
        if let Some((host, rest)) = term.split_once('/')
            && (self.own.is_own(host) || host == crate::names::DEFAULT_HOST)
        {
            term = rest.to_owned();
        }
        let mut names = self.named_like(&term, official)?;
        names.sort_by_cached_key(|name| (name.familiar() != term, name.familiar().to_owned()));
        names.truncate(most);
        let mut found = Vec::new();
        for repository in names {
            let description = self.description(&repository).await?;
            found.push(Found {
                repository,
                description,
            });
        }
        Ok(found)
    }

    fn named_like(&self, term: &str, official: Option<bool>) -> Result<Vec<Repository>> {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let batch = self.index.repositories(after.as_deref(), PAGE)?;
            let Some(end) = batch.last() else {
                return Ok(names);
            };
            after = Some(end.as_str().to_owned());
            names.extend(batch.into_iter().filter(|name| {
                !name.is_internal()
                    && official.is_none_or(|wanted| wanted == is_official(name))
                    && (name.familiar().contains(term) || name.path().contains(term))
            }));
        }
    }

    async fn description(&self, repository: &Repository) -> Result<String> {
        let tags = self.index.tags_of(repository, None, PAGE)?;
        let newest = tags
            .into_iter()
            .max_by_key(|(tag, record)| (tag.as_str() == "latest", record.tagged));
        let Some((tag, _)) = newest else {
            return Ok(String::new());
        };
        let name = ImageName {
            repository: repository.clone(),
            pointer: Pointer::Tag(tag),
        };
        match self.image_of(&name, None).await {
            Ok(image) => {
                let label = image.labels().remove(DESCRIPTION);
                let annotation = || image.parsed.annotations.get(DESCRIPTION).cloned();
                Ok(label.or_else(annotation).unwrap_or_default())
            }
            // An artifact, or an image that was begun to be mirrored and never fetched.
            Err(
                Error::ImageNotFound(_)
                | Error::ManifestInvalid(_)
                | Error::PlatformNotFound { .. },
            ) => Ok(String::new()),
            Err(e) => Err(e),
        }
    }
}
