//! Contexts that are elsewhere: an archive or a Dockerfile behind a URL, or a git repository.

use std::sync::Arc;

use slipway_image::layer::limits::Limits;

use super::{
    Fetcher, Kind, Manifest, Material,
    fetch::redacted,
    git::{self, GitSource},
    tarball,
};
use crate::{
    archive,
    caller::Caller,
    error::{Error, Result},
};

/// Fetches a context; also tells what it is.
pub async fn manifest(
    (fetcher, caller): (&Fetcher, &Caller),
    url: &str,
) -> Result<(Arc<Manifest>, Material)> {
    if let Some(git) = GitSource::parse(url).map_err(Error::Invalid)? {
        let (manifest, commit) = git::manifest((fetcher, caller), &git, None).await?;
        return Ok((manifest, Material::Git(commit)));
    }
    let entry = fetcher.fetch(url, None).await?.entry()?;
    let Kind::File { digest, .. } = entry.kind.clone() else {
        return Err(Error::Invalid(format!("{} gave no file", redacted(url))));
    };
    let material = Material::Http(digest.clone());
    let store = fetcher.store().clone();
    let manifest = tokio::task::spawn_blocking(move || {
        let open = || store.read(&digest).map_err(|e| e.to_string());
        if archive::is_archive(open()?) {
            return tarball::read(&store, open()?, Limits::default());
        }
        // As docker: what is no archive is the Dockerfile.
        Manifest::of_file("Dockerfile", entry)
    });
    let manifest = manifest
        .await
        .map_err(|e| Error::Invalid(format!("interrupted: {e}")))?;
    manifest
        .map(|manifest| (Arc::new(manifest), material))
        .map_err(|e| Error::Context(format!("{}: {e}", redacted(url))))
}
