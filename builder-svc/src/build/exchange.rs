//! Caches that come from elsewhere and go there: `--cache-from`, and the cache mounts of `--cache-to`.

use std::collections::BTreeSet;

use super::Builder;
use crate::{
    cache::carried::{self, Imported, MountId, Mounts},
    error::Result,
    events::{Event, Events},
    layer::Layer,
    registry::Fetch,
};

impl Builder {
    /// The cache mounts of a build as layers: those that workers have, else those that it was given.
    pub(super) async fn carry_mounts(
        &self,
        wanted: &BTreeSet<MountId>,
        imported: &Imported,
        events: &Events,
        index: u32,
    ) -> Result<Vec<(MountId, Layer)>> {
        let done = self.layers_of_mounts(wanted, imported, events);
        let step = (index, "exporting cache mounts".to_owned());
        events.step(step, done).await
    }

    async fn layers_of_mounts(
        &self,
        wanted: &BTreeSet<MountId>,
        imported: &Imported,
        events: &Events,
    ) -> Result<Vec<(MountId, Layer)>> {
        let seen = self.fleet.mounts().await;
        for message in seen.warnings {
            let warning = Event::Warning {
                rule: "WorkerUnavailable",
                message,
                line: 0,
            };
            events.tell(warning).await;
        }
        let mut out = Vec::new();
        for id in wanted {
            let those = seen.mounts.iter();
            let those = those.filter(|m| m.mount.as_ref().is_some_and(|m| m.whole == *id));
            match those.max_by_key(|m| m.last_used) {
                Some(there) => out.push((id.clone(), self.fleet.export_mount(there).await?)),
                None => {
                    let given = imported.mounts.get(id);
                    out.extend(given.map(|(layer, _)| (id.clone(), layer.clone())));
                }
            }
        }
        Ok(out)
    }

    /// Records from elsewhere. A source that is not there is told and passed over, as in BuildKit.
    pub(super) async fn import(
        &self,
        sources: &[carried::From],
        fetch: &Fetch,
        events: &Events,
    ) -> Imported {
        let mut all = Imported::default();
        for source in sources {
            let (name, found) = match &source.place {
                carried::Place::Registry(name) => {
                    let fetch = Fetch {
                        always: true,
                        ..fetch.clone()
                    };
                    let found = self.registry.image(name, &fetch).await;
                    (name.as_str(), found.map(|i| (i.config, i.layers)))
                }
                carried::Place::Sent { config, manifest } => {
                    ("the folder", carried::sent(config, manifest))
                }
            };
            let records = match found {
                Ok((config, layers)) => {
                    let replace = source.mounts == Mounts::Replace;
                    if source.mounts != Mounts::No {
                        let mounts = carried::mounts(&config, &layers).into_iter();
                        let mounts = mounts.map(|(id, layer)| (id, (layer, replace)));
                        all.mounts.extend(mounts);
                    }
                    carried::records(&config, &layers)
                        .ok_or_else(|| "it has no records of builder-svc".to_owned())
                }
                Err(error) => Err(error.to_string()),
            };
            match records {
                Ok(records) => all.records.extend(records),
                Err(why) => {
                    let warning = Event::Warning {
                        rule: "CacheImport",
                        message: format!("failed to import the cache of {name}: {why}"),
                        line: 0,
                    };
                    events.tell(warning).await;
                }
            }
        }
        all
    }
}
