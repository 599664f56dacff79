//! What is broken is kept: a blob whose content is not what its digest says is moved aside, never deleted
//! (`blobs/quarantine/<algorithm>-<hex>`). It is not here from then on, so that it can be fetched or pushed again;
//! whoever wants to look at what is left of it finds it there, and removes it by hand.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use slipway_image::Digest;

use crate::{
    error::{Error, Result},
    files,
};

/// Name of the folder. No algorithm of a digest has it.
pub const FOLDER: &str = "quarantine";

/// See the module's page.
pub struct Quarantine {
    folder: PathBuf,
}

/// Part of a file that is part of a blob.
pub struct Section {
    /// Which file.
    pub path: PathBuf,
    /// First byte.
    pub offset: u64,
    /// Bytes, `None` = to the end.
    pub size: Option<u64>,
}

impl Quarantine {
    /// Of the store in this folder.
    pub fn below(store: &Path) -> Self {
        Self {
            folder: store.join(FOLDER),
        }
    }

    /// Moves a blob's file aside when it is broken; false when it is whole, or there is none.
    pub fn take_file(&self, path: &Path, digest: &Digest) -> Result<bool> {
        let all = |path: &Path| {
            [Section {
                path: path.to_owned(),
                offset: 0,
                size: None,
            }]
        };
        if !path.exists() || is_whole(digest, all(path))? {
            return Ok(false);
        }
        let Some(place) = self.put(path, &name_of(digest))? else {
            return Ok(false);
        };
        // Somebody may have stored it anew between the two steps.
        if is_whole(digest, all(&place))? {
            let fail = || Error::io("cannot put back", path);
            fs::rename(&place, path).map_err(fail())?;
            files::sync_folder(path.parent().expect("blobs have a folder")).map_err(fail())?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Moves a file here, durably; `None` when it is not there any more.
    pub fn put(&self, path: &Path, name: &str) -> Result<Option<PathBuf>> {
        let place = self.place(name)?;
        let fail = || Error::io("cannot move aside", path);
        match fs::rename(path, &place) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            moved => moved.map_err(fail())?,
        }
        slipway_fault::point("registry.aside.moved");
        files::sync_folder(&self.folder).map_err(fail())?;
        files::sync_folder(path.parent().expect("files have a folder")).map_err(fail())?;
        Ok(Some(place))
    }

    /// Gives a part that other blobs may have a second name here.
    pub fn keep_part(&self, path: &Path, part: &Digest) -> Result<()> {
        let place = self.place(&format!("part-{}", name_of(part)))?;
        match fs::hard_link(path, place) {
            // It is one that is missing.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            linked => linked.map_err(Error::io("cannot keep", path)),
        }
    }

    /// A name that is free.
    fn place(&self, name: &str) -> Result<PathBuf> {
        files::create_folders(&self.folder).map_err(Error::io("cannot make", &self.folder))?;
        let place = self.folder.join(name);
        match place.exists() {
            false => Ok(place),
            true => Ok(self.folder.join(format!("{name}.{}", files::random_name()))),
        }
    }
}

/// Name of a blob's file.
pub fn name_of(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.encoded())
}

/// These, one after the other, are what the digest says. What the disk cannot read any more is not.
pub fn is_whole(digest: &Digest, sections: impl IntoIterator<Item = Section>) -> Result<bool> {
    let mut digester = digest.digester();
    let mut buffer = vec![0; super::READ_SIZE];
    for section in sections {
        let mut hash = || -> io::Result<bool> {
            let mut file = File::open(&section.path)?;
            file.seek(SeekFrom::Start(section.offset))?;
            let mut left = section.size.unwrap_or(u64::MAX);
            while left > 0 {
                let want = left.min(buffer.len() as u64) as usize;
                match file.read(&mut buffer[..want])? {
                    0 => return Ok(section.size.is_none()),
                    read => {
                        digester.update(&buffer[..read]);
                        left -= read as u64;
                    }
                }
            }
            Ok(true)
        };
        match hash() {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(e) if is_damage(&e) => return Ok(false),
            Err(e) => return Err(Error::io("cannot read", section.path)(e)),
        }
    }
    Ok(digester.finish() == *digest)
}

/// The disk or its file system lost what was there; other errors say nothing about the content.
pub fn is_damage(error: &io::Error) -> bool {
    // EIO, EBADMSG (ext4 and xfs: a checksum is wrong), EUCLEAN (their structure is).
    error.kind() == io::ErrorKind::NotFound || matches!(error.raw_os_error(), Some(5 | 74 | 117))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slipway_image::Algorithm;

    use super::{
        super::{BlobStore, FsStore, Staged, assembly::Assembly, fs::entries},
        *,
    };

    #[tokio::test]
    async fn what_is_broken_is_not_here_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("blobs");
        let store: Arc<dyn BlobStore> = Arc::new(FsStore::open(root.clone()).unwrap());
        let staged = async |content: &'static str| {
            let staged = Staged::create(dir.path(), Algorithm::Sha256).await.unwrap();
            staged.write(vec![content.into()]).await.unwrap();
            staged.finish(None, None).await.unwrap()
        };
        let put = async || store.adopt(staged("content").await).await.unwrap();
        assert!(put().await);
        let digest = Digest::of("content");
        let path = root
            .join("sha256")
            .join(&digest.encoded()[..2])
            .join(digest.encoded());
        for rust in ["c0ntent", "cont", "contents"] {
            fs::write(&path, rust).unwrap();
            assert!(store.quarantine(&digest).await.unwrap());
            assert_eq!(store.stat(&digest).await.unwrap(), None);
            // It can be stored again.
            assert!(put().await);
            assert!(!store.quarantine(&digest).await.unwrap());
        }
        let aside = || entries(&root.join("quarantine")).unwrap();
        assert_eq!(aside().len(), 3);
        let mut blobs = Vec::new();
        for rest in ["one", "two"] {
            let mut blob = Assembly::begin(Arc::clone(&store), dir.path())
                .await
                .unwrap();
            blob.write(vec![rest.into()]).await.unwrap();
            blob.begin_part().await.unwrap();
            blob.write(vec!["a part".into()]).await.unwrap();
            blob.end_part().await.unwrap();
            let assembled = blob.finish(None, None).await.unwrap();
            blobs.push(assembled.digest.clone());
            store.compose(assembled).await.unwrap();
        }
        let part = Digest::of("a part");
        let place = store.pin_part(&part).await.unwrap().unwrap().path();
        fs::write(&place, "apart").unwrap();
        for blob in &blobs {
            assert!(store.quarantine(blob).await.unwrap());
            assert_eq!(store.stat(blob).await.unwrap(), None);
        }
        // Two recipes, three parts of which one is in both.
        assert!(!place.exists());
        let kept = aside().into_iter().map(|p| fs::read(p).unwrap());
        assert_eq!(kept.filter(|content| content == b"apart").count(), 2);
        assert_eq!(aside().len(), 3 + 2 + 4);
        let reopened = FsStore::open(root.clone()).unwrap();
        assert_eq!(reopened.list().await.unwrap().len(), 1);
    }
}
