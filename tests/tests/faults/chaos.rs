//! Many operations on several containers while services, monitors and netd are killed at any instant.
//!
//! `SLIPWAY_CHAOS=<seconds>` lets it go on for so long; `SLIPWAY_SEED=<number>` plays a run again, as far
//! as what is done and to whom: the instants are the machine's.

use std::{
    process::Child,
    time::{Duration, Instant},
};

use slipway_tests::{Site, eventually};

use crate::{bench::Bench, operations::state};

/// Without a wish.
const USUAL: Duration = Duration::from_secs(20);
/// None may be the beginning of an id.
const NAMES: [&str; 4] = ["north", "east", "south", "west"];
const SCRIPT: &str = "trap 'exit 7' USR1 TERM; echo up; sleep 1000 & wait";

/// xorshift64*: enough to choose by, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % sides
    }
}

fn wish(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_whoever_is_killed_whenever() {
    let length = wish("SLIPWAY_CHAOS").map_or(USUAL, Duration::from_secs);
    let seed = wish("SLIPWAY_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    });
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    bench.site.allow(length + Duration::from_secs(300));
    eprintln!("SLIPWAY_SEED={seed}");
    let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(1));
    let begun = Instant::now();
    let (mut rounds, mut killed) = (0, [0; 4]);
    while begun.elapsed() < length {
        rounds += 1;
        let callers: Vec<Child> = (0..4).map(|_| operate(&bench.site, &mut dice)).collect();
        std::thread::sleep(Duration::from_micros(dice.roll(120_000) as u64));
        let victim = dice.roll(4);
        killed[victim] += 1;
        match victim {
            0 => bench.site.kill_service("runtime"),
            1 => bench.site.kill_service("netd"),
            2 => bench.kill_other_monitors(),
            _ => {
                bench.site.kill_service("runtime");
                bench.site.kill_service("netd");
            }
        }
        bench.restart_dead().await;
        for caller in callers {
            bench.answered(caller);
        }
        if rounds % 8 == 0 {
            for name in NAMES {
                is_consistent(&bench.site, name).await;
            }
            bench.beside_is_unharmed().await;
        }
    }
    eprintln!("{rounds} rounds; killed runtime, netd, monitors, both services: {killed:?}");
    for name in NAMES {
        is_consistent(&bench.site, name).await;
    }
    bench.nothing_contradicts("chaos");
    bench.beside_is_unharmed().await;
    let all = bench.site.ctl(&["ps", "-aq"]).ok();
    for id in all.split_whitespace() {
        if bench.site.inspect(id, "{{.Name}}") != "/beside" {
            bench.site.ctl(&["rm", "-f", "-v", id]).ok();
        }
    }
    bench.clean("chaos").await;
}

/// Begins something with one of the containers.
fn operate(site: &Site, dice: &mut Dice) -> Child {
    let name = NAMES[dice.roll(NAMES.len())];
    let policy = [
        "--restart=no",
        "--rm",
        "--restart=on-failure",
        "--restart=unless-stopped",
    ][dice.roll(4)];
    let run = [
        "run", "-d", "--name", name, policy, "-v", "/own", "busybox", "sh", "-c", SCRIPT,
    ];
    let words: &[&str] = match dice.roll(12) {
        0..=3 => &run,
        4 => &["start", name],
        5 => &["stop", "-t", "1", name],
        6 => &["kill", "-s", "USR1", name],
        7 => &["rm", "-f", "-v", name],
        8 => &["exec", name, "echo", "hello"],
        9 => &["restart", "-t", "1", name],
        10 => &["pause", name],
        _ => &["unpause", name],
    };
    let mut caller = site.ctl_start(words);
    caller.stdin = None;
    caller
}

/// What is said of a container is what there is, as soon as nothing is going on with it any more.
async fn is_consistent(site: &Site, name: &str) {
    let what = format!("{name} is what it is said to be");
    eventually(&what, async || {
        let Some(state) = state(site, name) else {
            return Some(());
        };
        match state.status.as_str() {
            "running" => (site.ctl(&["exec", name, "true"]).code == 0).then_some(()),
            "paused" => site.ctl(&["unpause", name]).err.is_empty().then_some(()),
            "exited" => [0, 7, 128, 137, 143].contains(&state.code).then_some(()),
            "created" => Some(()),
            _ => None,
        }
    })
    .await;
}
