//! What is looked at in a container: processes, its whole tree of files.

use slipway_proto::{
    netd::v1::PortBinding,
    runtime::v1::{ExportRequest, TopRequest},
};

use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        archive::Archive,
        table::{self},
    },
};

/// `ctl top`
pub async fn top(site: &Site, words: &[String]) -> Outcome {
    let (container, ps_args) = words
        .split_first()
        .ok_or_else(|| Failure::new("a container is required"))?;
    let request = TopRequest {
        container: container.clone(),
        ps_args: ps_args.to_vec(),
    };
    let answer = site.containers().top(request).await?.into_inner();
    let mut lines = vec![answer.titles];
    lines.extend(answer.processes.into_iter().map(|p| p.fields));
    output::print(&table::align(&lines))?;
    Ok(0)
}

/// `ctl export`
pub async fn export(site: &Site, container: String, path: Option<String>) -> Outcome {
    let mut out = Archive::to(path.as_deref())?;
    let mut chunks = site
        .containers()
        .export(ExportRequest { container })
        .await?
        .into_inner();
    while let Some(chunk) = chunks.message().await? {
        out.write(&chunk.data)?;
    }
    out.finish()
}

/// "tcp", "udp", "sctp".
pub fn protocol(port: &PortBinding) -> String {
    use slipway_proto::netd::v1::Protocol;
    match port.protocol() {
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
        Protocol::Tcp | Protocol::Unspecified => "tcp",
    }
    .to_owned()
}
