//! Giving a container another name.

use super::{
    manager::{Manager, ReleaseName},
    state::Container,
};
use crate::error::{Error, Tried as _};

impl Manager {
    /// Gives a container another name; who runs is found by it at once.
    pub async fn rename(&self, container: &Container, name: &str) -> Result<(), Error> {
        let _turn = container.operation.lock().await;
        let old = container.name();
        if name.trim_start_matches('/').is_empty() {
            return Err(Error::Invalid(
                "Neither old nor new names may be empty".to_owned(),
            ));
        }
        if name.trim_start_matches('/') == old {
            return Err(Error::Invalid(
                "Renaming a container with the same name as its current name".to_owned(),
            ));
        }
        let new = self.take_name(name, &container.id)?;
        let release = ReleaseName::unless_kept(self, &new);
        let what = || format!("cannot rename {old}");
        slipway_fault::fallible("runtime.rename.recorded").tried(what)?;
        let recorded = container.update(|r| r.name.clone_from(&new)).await;
        recorded.tried(what)?;
        release.keep();
        slipway_fault::point("runtime.rename.renamed");
        if !container.endpoints().is_empty() {
            self.0.netd.rename(&container.id, &new).await;
        }
        self.lock_names().remove(&old);
        self.tell(container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}
