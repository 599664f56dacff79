//! What refers to a manifest, at a remote that does not list it by itself: its clients keep the list
//! (distribution-spec, "Pushing Manifests with Subject").

use serde_json::{Value, json};
use slipway_image::{Digest, manifest, media_type};

use super::{Client, referrers::fallback_tag};
use crate::error::Result;

impl Client {
    /// Adds a descriptor to the list of what refers to `subject`, unless it is there. All else in the list stays as it
    /// is, and what is no list is left alone: that is an error. Of two clients that add at once one is lost, which the
    /// specification knows and has no remedy for.
    pub async fn list_referrer(
        &self,
        path: &str,
        subject: &Digest,
        descriptor: Value,
    ) -> Result<()> {
        let tag = fallback_tag(subject);
        let mut list = match self.manifest(path, &tag).await? {
            None => json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX }),
            Some(there) => Some(&there.content)
                .filter(|_| there.media_type == media_type::OCI_INDEX)
                .filter(|content| manifest::check_values(content).is_ok())
                .and_then(|content| serde_json::from_slice(content).ok())
                .filter(Value::is_object)
                .ok_or_else(|| self.nonsense("a list of referrers that is none"))?,
        };
        // Programs in Go write a list of nothing as null.
        if list["manifests"].is_null() {
            list["manifests"] = json!([]);
        }
        let entries = list["manifests"]
            .as_array_mut()
            .ok_or_else(|| self.nonsense("a list of referrers that is none"))?;
        let digest = &descriptor["digest"];
        if entries.iter().any(|entry| entry["digest"] == *digest) {
            return Ok(());
        }
        entries.push(descriptor);
        let list = list.to_string().into();
        self.put_manifest(path, &tag, media_type::OCI_INDEX, list)
            .await?;
        Ok(())
    }
}
