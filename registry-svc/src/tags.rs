//! Tags: a small durable file each (`repositories/<name>/_tags/<tag>`), and the index in front.

use std::{path::PathBuf, sync::Arc};

use crate::{
    error::{Error, Result},
    files,
    names::{Repository, Tag},
    store::{Index, TagRecord},
};

pub use crate::store::Origin;

/// Name of the folder of a repository's tags. No component of a name begins with `_`.
pub const FOLDER: &str = "_tags";

/// See the module's page.
pub struct Tags {
    root: PathBuf,
    index: Arc<Index>,
}

impl Tags {
    /// Tags below `root`, the folder of all repositories.
    pub fn new(root: PathBuf, index: Arc<Index>) -> Self {
        Self { root, index }
    }

    /// Points a tag at a manifest, durably. The caller holds the repository's lock.
    pub fn set(&self, repository: &Repository, tag: &Tag, record: &TagRecord) -> Result<()> {
        let path = self.path(repository, tag);
        let content = serde_json::to_vec(record).expect("records are plain data");
        slipway_fault::fallible("registry.tag.write")
            .and_then(|()| files::write_durably(&path, &content))
            .map_err(Error::io("cannot write", &path))?;
        slipway_fault::point("registry.tag.written");
        self.index.set_tag(repository, tag, record)
    }

    /// Takes a tag away, durably; false when there was none.
    pub fn remove(&self, repository: &Repository, tag: &Tag) -> Result<bool> {
        let path = self.path(repository, tag);
        let existed = files::remove_durably(&path).map_err(Error::io("cannot remove", &path))?;
        slipway_fault::point("registry.untag.removed");
        self.index.remove_tag(repository, tag)?;
        let folder = path.parent().expect("tags have a folder");
        files::prune_empty_folders(folder, &self.root);
        Ok(existed)
    }

    fn path(&self, repository: &Repository, tag: &Tag) -> PathBuf {
        self.root
            .join(repository.as_str())
            .join(FOLDER)
            .join(tag.as_str())
    }
}
