//! Finds the sources of a COPY or ADD, and fetches those that are elsewhere.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Solver, copy::Arrangement};
use crate::{
    context::{Entry, Kind, Manifest},
    error::{Error, Result, Tried as _},
    plan::{CopyAction, copy::Origin},
};

impl Solver {
    /// All sources but those of other layers.
    pub(super) async fn arrange(
        &self,
        copy: &CopyAction,
        from_layers: bool,
    ) -> Result<Arrangement> {
        let mut arrangement = Arrangement::new(copy)?;
        for origin in &copy.origins {
            match origin {
                Origin::Path(_) if from_layers => {}
                Origin::Path(path) => {
                    let manifest = self.context.manifest().await?;
                    arrangement.add(&manifest, path, copy)?;
                }
                Origin::Content { name, data } => {
                    let manifest = self.document(name, data).await?;
                    arrangement.add_one(Arc::new(manifest), false);
                }
                Origin::Url(url) => {
                    return Err(Error::Unsupported(format!(
                        "ADD of {url:?} is not supported yet"
                    )));
                }
                Origin::Git(git) => {
                    return Err(Error::Unsupported(format!(
                        "ADD of the git repository {:?} is not supported yet",
                        git.shown()
                    )));
                }
            }
        }
        Ok(arrangement)
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
        };
        Manifest::of_file(name, entry).map_err(Error::Dockerfile)
    }
}
