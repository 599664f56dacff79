//! Many containers: begun at once, listed, found again, ended at once; and what a start costs does not depend
//! on how many there are.
//!
//! `SLIPWAY_SCALE=1000` raises their number; with programs for debugging that takes a minute and a half on two
//! processors, which is too long for every run of all tests. `tests/bench/scale` has a thousand, kills the services
//! with all of them running, and measures how fast it all is.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use slipway_proto::{
    runtime::v1::{ContainerSpec, ListRequest, StopRequest},
    types::v1::Page,
};
use slipway_tests::{Site, eventually, eventually_within, installed};
use tokio::task::JoinSet;

/// How many where nobody asks for another number.
const USUAL: usize = 120;
/// For steps of a thousand on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn number() -> usize {
    std::env::var("SLIPWAY_SCALE").map_or(USUAL, |n| n.parse().unwrap())
}

fn sleeper() -> ContainerSpec {
    ContainerSpec {
        image: "busybox".into(),
        command: vec!["sleep".into(), "100000".into()],
        // As the first process of its namespace it takes no notice of others.
        stop_signal: "KILL".into(),
        ..ContainerSpec::default()
    }
}

fn pid(site: &Site, service: &str) -> String {
    let text = fs::read_to_string(site.path(&format!("run/{service}.pid"))).unwrap();
    text.trim().to_owned()
}

/// What a service holds on to: descriptors, threads.
fn held(site: &Site, service: &str) -> (usize, usize) {
    let pid = pid(site, service);
    let count = |what| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("fd"), count("task"))
}

fn links(site: &Site) -> usize {
    let output = site.output("ip", &["-o", "link"]);
    String::from_utf8_lossy(&output.stdout).lines().count()
}

/// Descriptors, threads and links are what they were, but for a connection or two.
async fn back_to(site: &Site, before: &[(&str, (usize, usize))], links_before: usize) {
    for (service, (files, threads)) in before {
        let what = format!("{service} has {files} descriptors and {threads} threads again");
        eventually_within(PATIENCE, &what, async || {
            let (now, running) = held(site, service);
            (now <= files + 4 && running <= threads + 2).then_some(())
        })
        .await;
    }
    eventually_within(PATIENCE, "the links are gone", async || {
        (links(site) <= links_before).then_some(())
    })
    .await;
}

async fn start_many(site: &Arc<Site>, number: usize) -> Vec<String> {
    let mut starting = JoinSet::new();
    for _ in 0..number {
        let site = site.clone();
        starting.spawn(async move { site.run_detached(sleeper()).await.unwrap() });
    }
    starting.join_all().await
}

async fn running(site: &Site) -> BTreeSet<String> {
    let mut client = site.containers();
    let mut request = ListRequest {
        page: Some(Page {
            size: 7,
            token: String::new(),
        }),
        ..ListRequest::default()
    };
    let mut ids = BTreeSet::new();
    loop {
        let page = client.list(request.clone()).await.unwrap().into_inner();
        assert!(page.containers.len() <= 7);
        for container in page.containers {
            assert!(ids.insert(container.id), "listed twice");
        }
        if page.next_page_token.is_empty() {
            return ids;
        }
        request.page.as_mut().unwrap().token = page.next_page_token;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_begin_live_and_end_at_once_and_leave_nothing() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    site.allow(Duration::from_secs(900));
    let number = number();
    let mut site = Arc::new(site);
    // What the first one makes for all stays.
    site.ctl(&["run", "--rm", "busybox", "true"]).ok();
    let before: Vec<_> = ["runtime", "netd"]
        .map(|service| (service, held(&site, service)))
        .into();
    let links_before = links(&site);

    let ids = start_many(&site, number).await;
    let expected: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(expected.len(), number);
    assert_eq!(running(&site).await, expected);
    let listed = site.list().await;
    assert_eq!(listed.len(), number);
    let names: BTreeSet<&str> = listed.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names.len(), number);
    let format = "{{.NetworkSettings.IPAddress}} {{.State.Running}}";
    let mut inspect = vec!["inspect", "-f", format];
    inspect.extend(ids.iter().map(String::as_str));
    let told = site.ctl(&inspect).ok();
    let addresses: BTreeSet<&str> = told.lines().collect();
    assert_eq!(addresses.len(), number);
    assert!(told.lines().all(|line| line.ends_with(" true")), "{told}");
    // A connection to its monitor each; a namespace each.
    for (service, (files, threads)) in &before {
        let what = format!("{service} has few descriptors and threads for {number} containers");
        eventually_within(PATIENCE, &what, async || {
            let (now, running) = held(&site, service);
            (now <= files + 2 * number + 8 && running <= threads + 2).then_some(())
        })
        .await;
    }

    // The services go and come while they run.
    let host = Arc::get_mut(&mut site).unwrap();
    host.kill_and_restart("runtime").await;
    host.kill_and_restart("netd").await;
    eventually("the services answer", async || {
        (site.ctl(&["ps", "-q"]).code == 0 && site.ctl(&["network", "ls"]).code == 0).then_some(())
    })
    .await;
    assert_eq!(running(&site).await, expected);
    let on_bridge = ["network", "inspect", "-f", "{{len .Containers}}", "bridge"];
    assert_eq!(site.ctl(&on_bridge).ok().trim(), number.to_string());

    let mut stopping = JoinSet::new();
    for id in &ids {
        let (site, container) = (site.clone(), id.clone());
        stopping.spawn(async move {
            let request = StopRequest {
                container,
                ..StopRequest::default()
            };
            site.containers().stop(request).await.unwrap();
        });
    }
    stopping.join_all().await;
    assert_eq!(running(&site).await, BTreeSet::new());
    let mut remove = vec!["rm"];
    remove.extend(ids.iter().map(String::as_str));
    let removed = site.ctl(&remove).ok();
    assert_eq!(removed.lines().collect::<Vec<_>>(), ids);
    assert_eq!(site.list().await, []);
    back_to(&site, &before, links_before).await;
}

#[tokio::test]
async fn down_stops_those_that_take_their_time_together() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    // Each takes two seconds: one after the other would be longer than any test may take.
    for n in 0..100 {
        site.sleeper(&format!("c{n}"), &["--stop-timeout=2"]);
    }
    site.allow(Duration::from_secs(100));
    site.ctl(&["down", "--containers"]).ok();
    assert!(!site.path("run/runtime.sock").exists());
}

#[tokio::test]
async fn a_full_bridge_is_said_and_has_room_again_afterwards() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    site.sleeper("first", &[]);
    // Links that cost less than containers take all ports that are left.
    let pair = "link add name x& group 77 master slipway0 type veth peer name y&\\n\
                link set y& group 77 master slipway0";
    let script = format!(
        "seq 1 512 | sed 's/.*/{pair}/' | ip -force -batch - 2>&1; \
         ip -o link show group 77 master slipway0 | wc -l"
    );
    let output = site.output("sh", &["-c", &script]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("xchange full"), "{said}");
    let filled: usize = said.lines().last().unwrap().trim().parse().unwrap();
    // One has a container, and a few have namespaces that netd holds ready: those are still given away.
    let ready = 1023 - 1 - filled;
    for n in 0..ready {
        site.sleeper(&format!("ready{n}"), &[]);
    }
    let error = site.ctl(&["run", "--rm", "busybox", "true"]).error(125);
    assert!(error.contains("network bridge is full"), "{error}");
    assert_eq!(site.ctl(&["ps", "-q"]).ok().lines().count(), 1 + ready);
    // Other networks are not concerned.
    site.ctl(&["network", "create", "other"]).ok();
    site.ctl(&["run", "--rm", "--network=other", "busybox", "true"])
        .ok();
    let gone = site.output("ip", &["link", "del", "group", "77"]);
    assert!(gone.status.success(), "{gone:?}");
    site.ctl(&["run", "--rm", "busybox", "true"]).ok();
    site.ctl(&["network", "rm", "other"]).ok();
}

/// System calls that a service makes meanwhile, but for those that only wait.
fn calls(site: &Site, service: &str, work: impl FnOnce()) -> f64 {
    let file = site.path(&format!("{service}.calls"));
    let traced = "trace=!futex,epoll_wait,epoll_pwait,sched_yield,poll,ppoll,restart_syscall,clock_nanosleep,\
                  mmap,munmap,mprotect,madvise,brk,rt_sigprocmask,sigaltstack,rseq,set_robust_list,exit,prctl,\
                  clone3,getrandom,gettid,sched_getaffinity,write,read,recvfrom,sendto,writev,recvmsg,sendmsg";
    // Messages on sockets come in pieces of any number: what is counted is what is done to the system.
    let pid = pid(site, service);
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-e", traced, "-o"])
        .args([file.to_str().unwrap(), "-p", &pid])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = std::time::Instant::now();
    while !traced_by(&pid, strace.id()) {
        assert!(begun.elapsed() < PATIENCE, "strace does not attach");
        std::thread::sleep(Duration::from_millis(10));
    }
    work();
    let interrupt = Command::new("kill")
        .args(["-INT", &strace.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    strace.wait().unwrap();
    let table = fs::read_to_string(&file).unwrap();
    let total = table.lines().rfind(|line| line.ends_with("total")).unwrap();
    let words: Vec<&str> = total.split_whitespace().collect();
    words[3].parse().unwrap()
}

fn traced_by(pid: &str, tracer: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
        .all(|task| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            status.contains(&format!("TracerPid:\t{tracer}\n"))
        })
}

#[tokio::test]
async fn a_start_and_a_stop_cost_the_same_whatever_is_there() {
    if !installed(&["strace"]) {
        return;
    }
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let site = Arc::new(site);
    const ROUNDS: usize = 10;
    let rounds = |service| {
        let cost = calls(&site, service, || {
            for n in 0..ROUNDS {
                site.sleeper(&format!("n{n}"), &["--stop-signal=KILL"]);
                site.ctl(&["stop", &format!("n{n}")]).ok();
                site.ctl(&["rm", &format!("n{n}")]).ok();
            }
        });
        cost / ROUNDS as f64
    };
    // The first makes for all what stays.
    site.ctl(&["run", "--rm", "busybox", "true"]).ok();
    let few = ["runtime", "netd"].map(rounds);
    start_many(&site, 100).await;
    let many = ["runtime", "netd"].map(rounds);
    eprintln!(
        "system calls of runtime-svc and netd for a container: {few:.0?}, beside 100 others {many:.0?}"
    );
    for (few, many) in few.iter().zip(&many) {
        // The pool's and the reaper's work falls into one container's time or another's.
        assert!(*many <= few * 1.2 + 10.0, "{few} became {many}");
    }
}
