//! Records of upload sessions.

use super::{Index, UploadRecord, get, put};
use crate::error::Result;

impl Index {
    /// An upload session.
    pub fn upload(&self, id: &str) -> Result<Option<UploadRecord>> {
        get(&self.uploads, id.as_bytes())
    }

    /// Remembers an upload session.
    pub fn set_upload(&self, id: &str, record: &UploadRecord) -> Result<()> {
        put(&self.uploads, id.as_bytes(), record)
    }

    /// Forgets an upload session.
    pub fn remove_upload(&self, id: &str) -> Result<()> {
        self.uploads.remove(id.as_bytes())?;
        Ok(())
    }

    /// All upload sessions.
    pub fn all_uploads(&self) -> Result<Vec<(String, UploadRecord)>> {
        let mut found = Vec::new();
        for entry in &self.uploads {
            let (k, v) = entry?;
            if let Ok(record) = serde_json::from_slice(&v) {
                found.push((String::from_utf8_lossy(&k).into_owned(), record));
            }
        }
        Ok(found)
    }
}
