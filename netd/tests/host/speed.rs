//! How long an attachment takes and how much memory an idle netd has: printed, and held to bounds
//! generous enough for a busy machine with an unoptimised build.

use std::time::{Duration, Instant};

use slipway_proto::netd::v1::InfoRequest;

use crate::world::*;

const ROUNDS: usize = 20;

#[test]
fn attaching_is_a_matter_of_milliseconds() {
    on_a_host(|world| {
        let prepared = || {
            let info = world
                .call(async |mut netd| netd.info(InfoRequest {}).await)
                .unwrap();
            info.facts["prepared namespaces"] == "2"
        };
        let timed = |what: &str, address: Option<u8>| {
            let mut took: Vec<Duration> = Vec::new();
            for round in 0..ROUNDS {
                eventually("the pool is full", prepared);
                let name = format!("{what}{round}");
                let mut wanted = request(&name, &[&format!("{}:80", 4000 + round)]);
                if let Some(net) = address {
                    wanted.ipv4_address = format!("172.17.{net}.{}", round + 1);
                }
                let start = Instant::now();
                let container = world.attach(wanted).unwrap();
                took.push(start.elapsed());
                drop(container);
                world.release(&name);
            }
            took.sort();
            eprintln!(
                "attach and publish one port, {what}, by gRPC with a new connection: \
                 median {:?}, best {:?}, worst {:?}",
                took[ROUNDS / 2],
                took[0],
                took[ROUNDS - 1]
            );
            took[ROUNDS / 2]
        };
        let from_pool = timed("pool", None);
        let built = timed("built", Some(200));
        assert!(from_pool < Duration::from_millis(50) && built < Duration::from_millis(200));
        let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
        let lines = status
            .lines()
            .filter(|line| line.starts_with("VmRSS") || line.starts_with("Rss"));
        eprintln!("{}", lines.collect::<Vec<_>>().join(", "));
    });
}
