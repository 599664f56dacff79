//! `ctl network reconcile`: who lives is runtime-svc's to say, all else netd's.

use slipway_proto::{netd::v1::ReconcileRequest, runtime::v1::ReconcileNetworksRequest};

use crate::{
    client::Site,
    failure::Outcome,
    output::{self, table},
};

/// Exits with 1 if something could not be put right.
pub async fn run(site: &Site) -> Outcome {
    // First: what belongs to nobody any more needs no repair.
    let containers = site
        .containers()
        .reconcile_networks(ReconcileNetworksRequest {})
        .await?
        .into_inner();
    let host = site.networks().reconcile(ReconcileRequest {}).await?;
    let of_containers = containers.findings.into_iter().map(|f| (f.what, f.trouble));
    let of_host = host.into_inner().findings.into_iter();
    let found: Vec<_> = of_containers
        .chain(of_host.map(|f| (f.what, f.trouble)))
        .collect();
    if found.is_empty() {
        output::print("Nothing had to be put right.\n")?;
        return Ok(0);
    }
    let failed = found.iter().any(|(_, trouble)| !trouble.is_empty());
    let mut lines = vec![["FOUND", "DONE"].map(str::to_owned).to_vec()];
    lines.extend(found.into_iter().map(|(what, trouble)| {
        let done = match trouble.as_str() {
            "" => "put right".to_owned(),
            trouble => format!("not put right: {trouble}"),
        };
        vec![what, done]
    }));
    output::print(&table::align(&lines))?;
    Ok(u8::from(failed))
}
