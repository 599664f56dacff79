//! Contexts that are elsewhere: an archive or a Dockerfile behind a URL, or a git repository.

use std::sync::Arc;

use slipway_image::{archive, layer::limits::Limits};

use super::{
    Fetcher, Kind, Manifest, Material,
    fetch::redacted,
    git::{self, GitSource},
    tarball,
};
use crate::{
    caller::Caller,
    error::{Error, Result},
};

/// Fetches a context; also tells what it is. `keep_git_dir` is for a repository whose URL does not say it.
pub async fn manifest(
    (fetcher, caller): (&Fetcher, &Caller),
    url: &str,
    keep_git_dir: bool,
) -> Result<(Arc<Manifest>, Material)> {
    if let Some(mut git) = GitSource::parse(url).map_err(Error::Invalid)? {
        git.keep_git_dir.get_or_insert(keep_git_dir);
        let (manifest, commit) = git::manifest((fetcher, caller), &git).await?;
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
