//! What is looked at in a container: processes, ports, its whole tree of files.

use slipway_proto::{
    netd::v1::PortBinding,
    runtime::v1::{ExportRequest, InspectRequest, TopRequest},
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

/// `ctl port`
pub async fn ports(site: &Site, container: String, wanted: Option<&str>) -> Outcome {
    let request = InspectRequest {
        container: container.clone(),
        size: false,
    };
    let ports = site
        .containers()
        .inspect(request)
        .await?
        .into_inner()
        .summary
        .unwrap_or_default()
        .ports;
    let mut out = String::new();
    let asked = wanted.map(wanted_port).transpose()?;
    for port in &ports {
        let inside = format!("{}/{}", port.container_port, protocol(port));
        for address in output::ports::addresses(port) {
            let outside = output::ports::joined(address, port.host_port);
            match &asked {
                None => out.push_str(&format!("{inside} -> {outside}\n")),
                Some(asked) if *asked == inside => out.push_str(&format!("{outside}\n")),
                Some(_) => {}
            }
        }
    }
    match (out.is_empty(), wanted) {
        (true, Some(wanted)) => Err(Failure::new(format!(
            "No public port '{wanted}' published for {container}"
        ))),
        _ => {
            output::print(&out)?;
            Ok(0)
        }
    }
}

/// "80" or "80/tcp" as the latter.
fn wanted_port(text: &str) -> Outcome<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match number.parse::<u16>() {
        Ok(_) => Ok(format!("{number}/{protocol}")),
        Err(e) => Err(Failure::new(format!("invalid port ({text}): {e}"))),
    }
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
