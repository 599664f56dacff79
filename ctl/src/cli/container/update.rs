//! `update`: limits of containers that are there.

use clap::Args;
use slipway_proto::runtime::v1::{Resources, UpdateRequest};

use super::super::each;
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    spec::options::{ResourceOptions, restart_policy},
};

/// `ctl update`
#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    resources: ResourceOptions,
    /// Restart policy to apply when a container exits
    #[arg(long)]
    restart: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Update {
    pub async fn run(&self, site: &Site) -> Outcome {
        // As docker: a value that cannot be read is a mistake of the command line.
        let resources = self.resources.message();
        let resources = resources.map_err(|why| Failure::new(why).exits(125))?;
        let restart = self.restart.as_deref().map(restart_policy).transpose()?;
        if resources == Resources::default() && restart.is_none() {
            return Err(Failure::new(
                "you must provide one or more flags when using this command",
            ));
        }
        let (resources, restart) = (&resources, &restart);
        each(&self.containers, |container| async move {
            let request = UpdateRequest {
                container: container.clone(),
                resources: Some(resources.clone()),
                restart: restart.clone(),
            };
            let answer = site.containers().update(request).await?.into_inner();
            for warning in answer.warnings {
                eprintln!("WARNING: {warning}");
            }
            Ok(container)
        })
        .await
    }
}
