//! Uploads that are under way, by caller: so many at once, and so many bytes of them on the disk.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use slipway_image::Digest;

use crate::{
    access::Caller,
    error::{Error, Result},
    files,
};

/// What one caller may have under way.
#[derive(Debug, Clone)]
pub struct UploadLimits {
    /// Uploads at once.
    pub count: usize,
    /// Bytes of them together.
    pub bytes: u64,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self {
            count: 512,
            bytes: 256 << 30,
        }
    }
}

/// In the name of one that is a single request.
const WHOLE: &str = ".whole.";

/// Bytes by name of an upload.
type Names = HashMap<String, u64>;

/// See the module's page. An upload's name ends with `.<owner>`.
pub struct Unfinished {
    limits: UploadLimits,
    by_owner: Mutex<HashMap<String, Names>>,
}

/// What a caller is in the names of his uploads.
pub fn owner(caller: &Caller) -> String {
    Digest::of(caller.to_string()).encoded()[..16].to_owned()
}

fn owner_in(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, owner)| owner)
}

impl Unfinished {
    /// With what is in this folder from before.
    pub fn new(folder: &Path, limits: UploadLimits) -> Arc<Self> {
        let mut by_owner: HashMap<String, Names> = HashMap::new();
        // What cannot be read is told to whoever comes back for it.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let bytes = entry.metadata().map_or(0, |m| m.len());
            let own = by_owner.entry(owner_in(&name).to_owned()).or_default();
            own.insert(name, bytes);
        }
        Arc::new(Self {
            limits,
            by_owner: Mutex::new(by_owner),
        })
    }

    /// Room for one more.
    pub fn begin(self: &Arc<Self>, name: &str) -> Result<Room> {
        let mut table = self.table();
        let own = table.entry(owner_in(name).to_owned()).or_default();
        if own.len() >= self.limits.count {
            return Err(Error::TooManyUploads(format!(
                "{} are under way: finish or cancel one",
                own.len()
            )));
        }
        own.insert(name.to_owned(), 0);
        Ok(self.room(name))
    }

    /// Room for one that nobody comes back for: it ends when that is dropped.
    pub fn begin_whole(self: &Arc<Self>, caller: &Caller) -> Result<Whole> {
        let name = format!("{}{WHOLE}{}", files::random_uuid(), owner(caller));
        self.begin(&name).map(Whole)
    }

    /// Room of one that is known.
    pub fn room(self: &Arc<Self>, name: &str) -> Room {
        Room {
            unfinished: Arc::clone(self),
            name: name.to_owned(),
        }
    }

    /// One has ended.
    pub fn end(&self, name: &str) {
        let mut table = self.table();
        if let Some(own) = table.get_mut(owner_in(name)) {
            own.remove(name);
            if own.is_empty() {
                table.remove(owner_in(name));
            }
        }
    }

    /// Those have ended that are in no file, but for those that `stay`. Whoever sends one in a single request ends it.
    pub fn end_lost(&self, stays: impl Fn(&str) -> bool) {
        let mut table = self.table();
        table.retain(|_, own| {
            own.retain(|name, _| name.contains(WHOLE) || stays(name));
            !own.is_empty()
        });
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Names>> {
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of one upload.
pub struct Room {
    unfinished: Arc<Unfinished>,
    name: String,
}

impl Room {
    /// It is to have so many bytes more.
    pub fn grow(&self, more: u64) -> Result<()> {
        let mut table = self.unfinished.table();
        let own = table.entry(owner_in(&self.name).to_owned()).or_default();
        let all: u64 = own.values().sum();
        let limit = self.unfinished.limits.bytes;
        if all.saturating_add(more) > limit {
            return Err(Error::TooManyUploads(format!(
                "they may have {limit} bytes together: finish or cancel one"
            )));
        }
        *own.entry(self.name.clone()).or_default() += more;
        Ok(())
    }

    /// It has so many bytes.
    pub fn note(&self, bytes: u64) {
        let mut table = self.unfinished.table();
        let own = table.entry(owner_in(&self.name).to_owned()).or_default();
        own.insert(self.name.clone(), bytes);
    }

    /// It has ended.
    pub fn end(&self) {
        self.unfinished.end(&self.name);
    }
}

/// The part of one upload that is a single request.
pub struct Whole(Room);

impl Whole {
    /// Its room.
    pub fn room(&self) -> &Room {
        &self.0
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caller_has_room_of_his_own() {
        let folder = tempfile::tempdir().unwrap();
        let (alice, bob) = (
            Caller::User("alice".into()),
            Caller::Certificate("bob".into()),
        );
        let name = |id: &str, who: &Caller| format!("{id}.repository.{}", owner(who));
        // From before.
        fs::write(folder.path().join(name("old", &alice)), "12345").unwrap();
        let limits = UploadLimits {
            count: 3,
            bytes: 10,
        };
        let unfinished = Unfinished::new(folder.path(), limits);
        let one = unfinished.begin(&name("one", &alice)).unwrap();
        let whole = unfinished.begin_whole(&alice).unwrap();
        assert!(unfinished.begin(&name("two", &alice)).is_err());
        assert!(unfinished.begin_whole(&alice).is_err());
        let bobs = unfinished.begin(&name("one", &bob)).unwrap();
        bobs.grow(10).unwrap();
        one.grow(3).unwrap();
        whole.room().grow(2).unwrap();
        assert!(one.grow(1).is_err());
        drop(whole);
        one.grow(1).unwrap();
        one.note(0);
        one.grow(5).unwrap();
        assert!(one.grow(1).is_err());
        unfinished.end(&name("old", &alice));
        one.grow(5).unwrap();
        one.end();
        bobs.end();
        assert!(unfinished.table().is_empty());
    }
}
