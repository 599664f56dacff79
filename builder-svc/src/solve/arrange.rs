//! Finds the sources of a COPY or ADD, and fetches those that are elsewhere.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Solver, copy::Arrangement};
use crate::{
    cache::{KeyBuilder, REPOSITORY, Record},
    context::{
        Entry, Kind, Manifest,
        fetch::{file_name, redacted},
        git,
    },
    error::{Error, Result, Tried as _},
    layer::Layer,
    plan::{CopyAction, copy::Origin},
    worker::placing::{Home, Wanted},
};

impl Solver {
    /// All sources but those of other layers.
    pub(super) async fn arrange(
        &self,
        copy: &CopyAction,
        context: Option<&str>,
    ) -> Result<Arrangement> {
        let mut arrangement = Arrangement::new(copy)?;
        for origin in &copy.origins {
            match origin {
                Origin::Path(path) => {
                    let Some(context) = context else { continue };
                    let manifest = self.context.manifest(context).await?;
                    arrangement.add(&manifest, path, copy)?;
                }
                Origin::Content { name, data } => {
                    let manifest = self.document(name, data).await?;
                    arrangement.add_one(Arc::new(manifest), false);
                }
                Origin::Url(url) => {
                    let checksum = copy.checksum.as_deref();
                    let fetched = self.context.fetcher.fetch(url, checksum).await?;
                    let entry = fetched.entry()?;
                    if let (Some(sources), Kind::File { digest, .. }) = (&self.sources, &entry.kind)
                    {
                        sources.http(redacted(url), digest.clone());
                    }
                    let manifest = Manifest::of_file(&file_name(url), entry);
                    let manifest = manifest.map_err(Error::Dockerfile)?;
                    arrangement.add_one(Arc::new(manifest), copy.unpack_urls);
                }
                Origin::Git(source) => {
                    let place = (&*self.context.fetcher, &*self.caller);
                    let (manifest, commit) = git::manifest(place, source).await?;
                    if let Some(sources) = &self.sources {
                        sources.git(source.shown(), commit);
                    }
                    arrangement.add_all(manifest);
                }
            }
        }
        Ok(arrangement)
    }

    /// A named context as the layers of a stage.
    pub(super) async fn context_layers(&self, name: &str) -> Result<Vec<Layer>> {
        let manifest = self.context.manifest(name).await?;
        let copy = CopyAction {
            destination: "/".to_owned(),
            ..CopyAction::default()
        };
        let mut arrangement = Arrangement::new(&copy)?;
        arrangement.add(&manifest, "/", &copy)?;
        let mut key = KeyBuilder::new("named context");
        key.part(self.latest.map(|l| l.to_string()).unwrap_or_default());
        arrangement.add_to(&mut key);
        let key = key.finish();
        if !self.no_cache.all
            && let Some(record) = self.cache.find(&key).await?
        {
            return Ok(record.layer.into_iter().collect());
        }
        let layer = self.layer_of(&copy, &Arc::new(arrangement)).await?;
        let record = Record {
            layer,
            created: self.now(),
        };
        self.cache
            .keep(&key, &record, &format!("the context {name}"))
            .await?;
        Ok(record.layer.into_iter().collect())
    }

    /// The layer that a copy upon nothing makes.
    async fn layer_of(
        &self,
        copy: &CopyAction,
        arrangement: &Arc<Arrangement>,
    ) -> Result<Option<Layer>> {
        let home = Home::default();
        let leases = &self.progress.leases;
        let mut search = leases.search(Wanted::files(&[], &home), &self.events);
        loop {
            let placed = search.next().await?;
            let made = async {
                let snapshot = placed.lease.prepare(&[]).await?;
                self.copy_files(copy, arrangement, &snapshot).await?;
                snapshot.commit(REPOSITORY, self.latest).await
            };
            match made.await {
                Ok(layer) => {
                    search.done(&placed, layer.as_ref());
                    return Ok(layer);
                }
                Err(error) => search.goes_on(placed, error).await?,
            }
        }
    }

    /// A here-document as a file (BuildKit: 0644, made now).
    async fn document(&self, name: &str, data: &str) -> Result<Manifest> {
        let (store, content) = (self.context.store.clone(), data.as_bytes().to_vec());
        let size = content.len() as u64;
        let digest = tokio::task::spawn_blocking(move || store.put(&content))
            .await
            .map_err(std::io::Error::other)
            .and_then(|r| r)
            .tried(|| format!("cannot keep the here-document {name}"))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let entry = Entry {
            kind: Kind::File { size, digest },
            mode: 0o644,
            mtime: now.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or_default()),
            same: 0,
            capability: None,
        };
        Manifest::of_file(name, entry).map_err(Error::Dockerfile)
    }
}
