//! The unpacked layers that a container was made with, should they be gone when it starts: a power cut may
//! take what was unpacked a moment before.

use slipway_proto::registry::v1::pull_request::Policy;

use super::{manager::Manager, record::Record};
use crate::{error::Error, layers::Holder};

impl Manager {
    /// Fetches layers of a container's image, and of images that it mounts, again.
    pub(super) async fn bring_back_layers(&self, record: &Record) -> Result<(), Error> {
        let mounted = record.spec.mounts.iter().filter(|m| m.r#type == "image");
        let mounted =
            mounted.filter_map(|m| Some((&m.source, record.image_mounts.get(&m.target)?)));
        for (image, layers) in std::iter::once((&record.image_id, &record.layers)).chain(mounted) {
            if layers.iter().all(|layer| self.layer_folder(layer).exists()) {
                continue;
            }
            let found = self
                .0
                .registry
                .image(image, Policy::Never, None, None)
                .await;
            let found = found.and_then(|image| {
                let has = |id: &String| image.layers.iter().any(|l| l.diff_id.to_string() == *id);
                match layers.iter().all(has) {
                    true => Ok(image),
                    false => Err(Error::Invalid("the image is another one now".to_owned())),
                }
            });
            let image = found.map_err(|error| match error.may_pass() {
                // Whoever restarts containers tries again.
                true => Error::Io {
                    what: format!("cannot fetch the image of container {} again", record.name),
                    source: std::io::Error::other(error),
                },
                false => Error::Conflict(format!(
                    "the image of container {} is no longer unpacked here and cannot be fetched again ({error}): \
                     create the container again",
                    record.name
                )),
            })?;
            let holder = Holder::Container(record.id.clone());
            self.0.layers.ensure(&image.layers, holder).await?;
        }
        Ok(())
    }
}
