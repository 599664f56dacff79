//! `--cache-to`: the records of a build as an image, into a registry or to the caller.

use super::{
    Exporter, Output,
    annotation::Annotations,
    image::{Whole, image},
    spec::names,
    store::store,
};
use crate::{
    cache::{
        Key, Record,
        carried::{self, Kind, MountId, To},
    },
    error::Result,
    layer::Layer,
    solve::Built,
};
use slipway_image::Platform;

impl Exporter<'_> {
    /// Sends the records out, as a step of its own. What goes to the caller is output `number`.
    pub async fn cache(
        &self,
        to: &To,
        records: &[(Key, Record)],
        mounts: &[(MountId, Layer)],
        (number, index): (u32, u32),
    ) -> Result<()> {
        if to.kind == Kind::Inline {
            return Ok(());
        }
        let name = match to.kind {
            Kind::Registry(_) => "exporting cache to registry".to_owned(),
            _ => "exporting cache to client directory".to_owned(),
        };
        let sending = self.send(to, records, mounts, (number, index));
        match self.events.step((index, name), sending).await {
            Err(_) if to.ignore_error => Ok(()),
            other => other,
        }
    }

    async fn send(
        &self,
        to: &To,
        records: &[(Key, Record)],
        mounts: &[(MountId, Layer)],
        (number, index): (u32, u32),
    ) -> Result<()> {
        let mounts = if to.mounts { mounts } else { &[] };
        let results = self
            .results
            .iter()
            .flat_map(|r| r.built.layers.iter().cloned());
        let results: Vec<Layer> = results.collect();
        let (config, layers) = carried::image(&carried::chosen(records, to.mode, &results), mounts);
        let tags = match &to.kind {
            Kind::Registry(name) => names([name.as_str()])?,
            _ => Vec::new(),
        };
        let output = Output::parse("oci", &to.attributes, &tags, Annotations::default(), None)?;
        let layers = self.compressed(&layers, &output.format).await?;
        let built = Built {
            config,
            layers: layers.clone(),
            arguments: crate::plan::variables::Inherited::default(),
        };
        let field = built.config.other.clone().into_iter().collect::<Vec<_>>();
        let no_labels = std::collections::BTreeMap::new();
        let image = image(
            &built,
            Platform::host(),
            &no_labels,
            &field,
            layers,
            &output,
        );
        let whole = Whole::new(vec![image]);
        if tags.is_empty() {
            return self.archive(&whole, &output, false, number).await;
        }
        store(self.registry, &whole, &tags).await?;
        for tag in &tags {
            self.push(tag, index).await?;
        }
        Ok(())
    }
}
