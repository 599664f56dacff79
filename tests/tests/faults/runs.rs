//! `run --rm`: creation, start, end and removal in one call, with somebody killed at each step that it
//! comes by; while its caller waits for it, after its caller has gone, and the caller alone.
//!
//! Whatever was cut off, nobody has to take it away: a container of `--rm` goes by itself, with its volume.

use std::process::Child;

use slipway_fault::{
    Action,
    inventory::{self, Point},
};
use slipway_tests::{Site, eventually};

use crate::{bench::Bench, operations::state, told::Told, wanted};

/// What a run comes by.
const PASSED: &[&str] = &[
    "runtime.create",
    "runtime.start",
    "runtime.end",
    "runtime.rm",
    "spawner.start",
    "taker.start",
    "monitor.start",
    "monitor.end",
    "init.start",
    "netd.attach",
    "netd.release",
];

/// Its volume is nobody else's: it goes with it.
const RUN: &[&str] = &[
    "run",
    "--rm",
    "--name",
    "one",
    "-v",
    "/own",
    "busybox",
    "sh",
    "-c",
    "echo up; exit 7",
];

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    /// The program that comes by, while its caller waits.
    Program,
    /// The caller, then the program.
    Both,
    /// The caller; everything else goes on.
    Caller,
}

fn passes(point: &Point, killed: Killed) -> bool {
    let ours = matches!(point.program(), "runtime" | "netd");
    // To the others a caller is nothing.
    PASSED.contains(&crate::operation(point))
        && (ours || killed == Killed::Program)
        && wanted(point.name)
}

async fn drive(killed: Killed) {
    let points: Vec<&Point> = inventory::all().filter(|p| passes(p, killed)).collect();
    if points.is_empty() {
        return;
    }
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    for (number, point) in points.into_iter().enumerate() {
        // A network of its own is asked for while the image is looked up, unless it publishes something.
        let published = number % 2 == 0;
        eprintln!(
            "--- {} (run --rm), {killed:?}, published: {published}",
            point.name
        );
        let mut words = RUN.to_vec();
        if published {
            words.splice(2..2, ["-p", "8081:80"]);
        }
        cut_off(&mut bench, point, killed, &words).await;
        let site = &bench.site;
        let gone = async || state(site, "one").is_none().then_some(());
        eventually("it is gone", gone).await;
        bench.nothing_contradicts(point.name);
        bench.beside_is_unharmed().await;
        let again = bench.site.ctl(&words);
        assert_eq!((again.code, again.out.as_str()), (7, "up\n"), "{again:?}");
        bench.clean(point.name).await;
    }
}

async fn cut_off(bench: &mut Bench, point: &Point, killed: Killed, words: &[&str]) {
    let action = match killed {
        Killed::Program => Action::Kill,
        Killed::Both | Killed::Caller => Action::Wait,
    };
    bench.site.arm(point.name, action);
    let mut caller = bench.site.ctl_start(words);
    caller.stdin = None;
    bench.fires(point).await;
    match killed {
        Killed::Program => {
            bench.dies(point.program()).await;
            let said = bench.answered(caller);
            bench.restart_dead().await;
            let told = Told::by(&said);
            agrees(&bench.site, point, said.code, &told).await;
        }
        Killed::Both => {
            kill(caller);
            let program = point.program().to_owned();
            bench.site.kill_service(&program);
            bench.site.disarm(point.name);
            bench.restart_dead().await;
        }
        Killed::Caller => {
            kill(caller);
            bench.site.disarm(point.name);
        }
    }
}

fn kill(mut caller: Child) {
    caller.kill().unwrap();
    caller.wait().unwrap();
}

/// Who was told of its end was told the truth, after it was gone; who was refused has a reason.
async fn agrees(site: &Site, point: &Point, code: i32, told: &Told) {
    eprintln!("    told: {code} {told:?}");
    match told {
        Told::Done(_) => panic!("it ends with another code"),
        Told::Ended(code, text) => {
            assert!(state(site, "one").is_none(), "it was said to have ended");
            assert_eq!((*code, &**text), (7, "up\n"));
        }
        // With docker's codes for what could not begin, or with that of a killed container.
        Told::Refused(why) => {
            let killed = code == 137 && why.contains("monitor");
            assert!(killed || matches!(code, 125 | 128), "{code}: {why}");
            assert!(state(site, "one").is_none(), "it was refused: {why}");
        }
        Told::Unknown => assert_eq!((point.program(), code), ("runtime", 125)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_is_killed_during_a_run() {
    drive(Killed::Program).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_is_killed_after_the_caller_of_a_run() {
    drive(Killed::Both).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_of_a_run_is_killed() {
    drive(Killed::Caller).await;
}
