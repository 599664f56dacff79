//! A client of netd, as runtime-svc is one: one connection, one call after the other.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use slipway_proto::netd::v1::network_client::NetworkClient;
use slipway_proto::netd::v1::*;
use slipway_service::{Address, client};
use tonic::transport::Channel;

use crate::{Args, Result};

/// The pool has its namespaces again after so long.
const FULL: Duration = Duration::from_secs(10);

type Client = NetworkClient<Channel>;

fn connected<T>(args: &Args, work: impl AsyncFnOnce(Client) -> Result<T>) -> Result<T> {
    let socket = PathBuf::from(args.word("netd's socket")?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut netd = NetworkClient::new(client::connect(&Address::Unix(socket), None)?);
        // The first call connects.
        netd.info(InfoRequest {}).await?;
        work(netd).await
    })
}

/// Whether it answers.
pub fn ready(args: &Args) -> Result<()> {
    connected(args, async |_| Ok(()))
}

fn id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0<64}")
}

fn container(name: &str, ports: Vec<PortBinding>) -> CreateEndpointRequest {
    CreateEndpointRequest {
        container_id: id(name),
        container_name: name.to_owned(),
        ports,
        ..CreateEndpointRequest::default()
    }
}

/// The same port inside and outside, on all addresses of the host.
fn binding(protocol: Protocol, port: u32) -> PortBinding {
    PortBinding {
        protocol: protocol.into(),
        container_port: port,
        host_port: port,
        ..PortBinding::default()
    }
}

async fn release(netd: &mut Client, name: &str) -> Result<Duration> {
    let request = ReleaseEndpointRequest {
        container_id: id(name),
        ..ReleaseEndpointRequest::default()
    };
    let begun = Instant::now();
    let answer = netd.release_endpoint(request).await?.into_inner();
    let took = begun.elapsed();
    match answer.released {
        1 => Ok(took),
        other => Err(format!("{other} endpoints of {name} released").into()),
    }
}

/// Waits until netd has so many namespaces prepared.
async fn full(netd: &mut Client, prepared: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let info = netd.info(InfoRequest {}).await?.into_inner();
        let now = info.facts.get("prepared namespaces");
        if now.is_some_and(|now| now == prepared) {
            return Ok(());
        }
        if begun.elapsed() > FULL {
            return Err(
                format!("{prepared} prepared namespaces, not {now:?}, were waited for").into(),
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A container with one published port after the other. Prints what the call took.
pub fn attach(args: &Args) -> Result<()> {
    let (count, prepared) = (args.number("count")?, args.text("prepared")?);
    connected(args, async |mut netd| {
        let mut took = Vec::new();
        // Two in front: whatever is made at the first use.
        for number in 0..count + 2 {
            full(&mut netd, prepared).await?;
            let name = format!("attach{number}");
            let port = binding(Protocol::Tcp, 20000 + number);
            let begun = Instant::now();
            let endpoint = netd.create_endpoint(container(&name, vec![port])).await?;
            let elapsed = begun.elapsed();
            drop(File::open(&endpoint.get_ref().netns_path)?);
            release(&mut netd, &name).await?;
            if number >= 2 {
                took.push(elapsed);
            }
        }
        crate::tell(took);
        Ok(())
    })
}

/// Ports that are published over tcp. Those beyond are over udp: netd has two files for each port of tcp, and may often
/// have no more than 20,000.
const TCP: u32 = 1000;

/// Ports of one container over tcp, of which the first and the last over udp as well, by so many calls. Prints what a
/// port took, microseconds.
pub fn publish(args: &Args) -> Result<()> {
    let (ports, first) = (args.number("ports")?, args.number("first")?);
    let last = first + ports - 1;
    let all = (first..=last).map(|port| match port - first {
        0..TCP => binding(Protocol::Tcp, port),
        _ => binding(Protocol::Udp, port),
    });
    let mut bindings: Vec<_> = all.collect();
    bindings.push(binding(Protocol::Udp, first));
    if (1..TCP).contains(&(last - first)) {
        bindings.push(binding(Protocol::Udp, last));
    }
    let a_call = bindings.len().div_ceil(args.number("calls")? as usize);
    let mut request = container(args.text("name")?, Vec::new());
    args.text("netns")?.clone_into(&mut request.netns);
    connected(args, async |mut netd| {
        let endpoint_id = netd.create_endpoint(request).await?.into_inner().id;
        let begun = Instant::now();
        for ports in bindings.chunks(a_call) {
            let request = AddPortsRequest {
                endpoint_id: endpoint_id.clone(),
                ports: ports.to_vec(),
            };
            netd.add_ports(request).await?;
        }
        let took = begun.elapsed().as_secs_f64();
        println!("{:.1}", took * 1e6 / bindings.len() as f64);
        Ok(())
    })
}

/// Takes a container's endpoint back. Prints what that took, microseconds.
pub fn withdraw(args: &Args) -> Result<()> {
    let name = args.text("name")?;
    connected(args, async |mut netd| {
        let took = release(&mut netd, name).await?;
        println!("{:.1}", took.as_secs_f64() * 1e6);
        Ok(())
    })
}

/// Many containers with a published port each, until its input ends. Prints what one took, microseconds.
pub fn hold(args: &Args) -> Result<()> {
    let (count, first) = (args.number("count")?, args.number("first")?);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )?;
    connected(args, async |mut netd| {
        let mut held = Vec::new();
        let begun = Instant::now();
        for number in 0..count {
            let port = binding(Protocol::Tcp, first + number);
            let request = container(&format!("held{number}"), vec![port]);
            let endpoint = netd.create_endpoint(request).await?;
            held.push(File::open(&endpoint.get_ref().netns_path)?);
        }
        let took = begun.elapsed().as_secs_f64();
        println!("{:.1}", took * 1e6 / f64::from(count));
        std::io::stdin().read_to_end(&mut Vec::new())?;
        for number in 0..count {
            release(&mut netd, &format!("held{number}")).await?;
        }
        Ok(())
    })
}
