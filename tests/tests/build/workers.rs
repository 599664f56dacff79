//! A builder with several workers, each a host of its own: steps are spread, and none is lost with its worker.

use std::{path::PathBuf, process::Child};

use slipway_tests::{ready, site::SERVICES, uplink::Cable};

use super::*;

/// Makes a site a worker: runtime-svc and netd, and the registry is the other's.
async fn start_worker(worker: &mut Site, site: &Site, settings: &str) {
    let registry = site.path("run/registry.sock");
    let text = format!("registry = \"unix://{}\"\n{settings}", registry.display());
    worker.configure("runtime.toml", &text);
    worker.start_service("netd").await;
    worker.start_service("runtime").await;
}

fn socket(site: &Site) -> String {
    format!("unix://{}", site.path("run/runtime.sock").display())
}

/// A builder of these workers, with a registry and a worker beside it.
async fn start(site: &mut Site, workers: &[String], settings: &str) {
    let mut text = settings.to_owned();
    for address in workers {
        text.push_str(&format!("[[workers]]\naddress = \"{address}\"\n"));
    }
    site.configure("builder.toml", &text);
    for service in SERVICES {
        site.start_service(service).await;
    }
    image::busybox(site).await;
    fs::create_dir_all(site.path("context")).unwrap();
}

fn steps_at(site: &Site) -> usize {
    fs::read_dir(site.path("run/runtime/containers")).map_or(0, Iterator::count)
}

async fn runs_a_step(site: &Site) {
    eventually("the worker runs a step", async || {
        (steps_at(site) > 0).then_some(())
    })
    .await;
}

/// Two stages that take so many seconds, and a third that needs both.
fn two_stages(site: &Site, mark: &str, seconds: u32) {
    let file = format!(
        "FROM busybox AS a\nRUN sleep {seconds}; echo a {mark} > /a\nFROM busybox AS b\nRUN sleep {seconds}; echo b {mark} > /b\nFROM busybox\nCOPY --from=a /a /a\nCOPY --from=b /b /b\nRUN cat /a /b > /both\n"
    );
    write(&site.path("context"), &[("Dockerfile", &file)]);
}

fn begin(site: &Site, tag: &str) -> Child {
    let folder = site.path("context").display().to_string();
    site.ctl_start(&["build", "-t", tag, &folder])
}

fn end(build: Child) -> (bool, String) {
    let done = build.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    (done.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_spread_and_go_on_elsewhere() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    let mut other = Site::bare();
    let addresses = [socket(&site), socket(&other)];
    start(&mut site, &addresses, "").await;
    start_worker(&mut other, &site, "").await;

    // Both do something at the same time, and what they made comes together.
    two_stages(&site, "one", 5);
    let build = begin(&site, "app");
    eventually("both workers run a step", async || {
        (steps_at(&site) > 0 && steps_at(&other) > 0).then_some(())
    })
    .await;
    let (good, err) = end(build);
    assert!(good, "{err}");
    assert_eq!(shell(&site, "app", "cat /both"), "a one\nb one\n");
    nothing_is_left(&other, "after a build").await;

    // A line of steps stays where it began.
    let line = "FROM busybox\nRUN echo 1 > /1\nRUN echo 2 > /2\nRUN echo 3 > /3\n";
    write(&site.path("context"), &[("Dockerfile", line)]);
    let layers = |site: &Site| {
        fs::read_dir(site.path("state/runtime/layers"))
            .unwrap()
            .count()
    };
    let before = (layers(&site), layers(&other));
    built(&site, "line", &[]);
    let more = (layers(&site) - before.0, layers(&other) - before.1);
    assert!(more == (3, 0) || more == (0, 3), "{more:?}");

    // One is killed in the middle of a step: it is done again by the other, and nothing of it stays.
    two_stages(&site, "two", 5);
    let build = begin(&site, "app");
    runs_a_step(&other).await;
    other.kill_service("runtime");
    let (good, err) = end(build);
    assert!(good, "{err}");
    assert!(
        err.contains("was lost in the middle of a step") && err.contains(&addresses[1]),
        "{err}"
    );
    assert_eq!(shell(&site, "app", "cat /both"), "a two\nb two\n");

    // It is away when a build begins: it is left out. One that is cached asks nobody.
    two_stages(&site, "three", 0);
    let said = built(&site, "app", &[]);
    assert!(said.err.contains("it is left out"), "{}", said.err);
    let again = built(&site, "app", &[]);
    assert_eq!(cached(&again), (5, 5));
    assert!(!again.err.contains("left out"), "{}", again.err);

    // It comes back: what it had of the build that is over goes, and builds find it again.
    other.start_service("runtime").await;
    nothing_is_left(&other, "of the build that went on elsewhere").await;
    eventually("steps of that build have gone", async || {
        (steps_at(&other) == 0).then_some(())
    })
    .await;
    let mut number = 0;
    eventually("the worker is used again", async || {
        number += 1;
        two_stages(&site, &format!("back {number}"), 0);
        let said = built(&site, "app", &[]);
        (!said.err.contains("left out")).then_some(())
    })
    .await;

    // Nobody is there.
    other.kill_service("runtime");
    site.kill_service("runtime");
    two_stages(&site, "four", 0);
    let said = build_of(&site);
    assert!(
        said.contains("no worker can be used") && said.contains(&addresses[0]),
        "{said}"
    );
    other.start_service("runtime").await;
    site.start_service("runtime").await;
    let built = eventually("builds go on when workers are there", async || {
        let said = super::build(&site, "app", &[]);
        (said.code == 0).then_some(said)
    })
    .await;
    assert_eq!(cached(&built).1, 5);
    nothing_is_left(&other, "at the end").await;
}

fn build_of(site: &Site) -> String {
    let said = super::build(site, "app", &[]);
    assert_ne!(said.code, 0);
    said.err
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_that_is_cut_is_noticed() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    let mut other = Site::bare();
    let cable = Cable::between(&mut site, &mut other);
    let address = format!("tcp://{}:7012", cable.address);
    // The first of those that do nothing is taken: the one behind the cable.
    let addresses = [address.clone(), socket(&site)];
    let settings = "worker_timeout_seconds = 4\nworker_lease_seconds = 5\n";
    start(&mut site, &addresses, settings).await;
    let listen = format!("[service]\nlisten = [\"{address}\"]\nallow_plain_tcp = true\n");
    start_worker(&mut other, &site, &listen).await;
    let file = "FROM busybox\nRUN echo 1 > /1\nRUN test -e /1 && sleep 5 && echo 2 > /2\n";
    write(&site.path("context"), &[("Dockerfile", file)]);
    let build = begin(&site, "app");
    // Its second step, that is: the first does not take as long as looking.
    eventually("the first step has become a layer", async || {
        let layers = fs::read_dir(other.path("state/runtime/layers")).unwrap();
        (layers.count() > 1 && steps_at(&other) > 0).then_some(())
    })
    .await;
    cable.cut(&other);
    let (good, err) = end(build);
    assert!(good, "{err}");
    assert!(err.contains("was lost in the middle of a step"), "{err}");
    assert_eq!(shell(&site, "app", "cat /1 /2"), "1\n2\n");
    // What it does for nobody ends by itself.
    nothing_is_left(&other, "at the worker that was cut off").await;
    cable.mend(&other);
    let mut number = 0;
    eventually("the worker is used again", async || {
        number += 1;
        let before = fs::read_dir(other.path("state/runtime/layers"))
            .unwrap()
            .count();
        two_stages(&site, &format!("back {number}"), 0);
        built(&site, "app", &[]);
        let after = fs::read_dir(other.path("state/runtime/layers"))
            .unwrap()
            .count();
        (after > before).then_some(())
    })
    .await;
}

/// Two steps, of which the second says in a cache mount that it has begun, and waits there until it may end.
fn begin_line(site: &Site, mark: &str) -> Child {
    let file = format!(
        "FROM busybox\nRUN echo {mark} > /1\nRUN --mount=type=cache,id={mark},target=/c test -e /1 && echo >> /c/begun && until test -e /c/go; do usleep 20000; done && echo 2 > /2\n"
    );
    write(&site.path("context"), &[("Dockerfile", &file)]);
    begin(site, "app")
}

/// The folder of the only cache mount of an id, once its step has begun so often.
async fn begun(site: &Site, mark: &str, times: usize) -> PathBuf {
    let what = format!("the second step of {mark} has begun {times} times");
    let caches = site.path("state/runtime/caches");
    eventually(&what, async || {
        let mut folders = fs::read_dir(&caches).ok()?.map(|f| f.unwrap().path());
        folders.find_map(|folder| {
            let record = fs::read_to_string(folder.join("cache.json")).ok()?;
            let begun = fs::read_to_string(folder.join("fs/begun")).ok()?;
            let its = record.contains(&format!("{mark}\"")) && begun.lines().count() == times;
            its.then(|| folder.join("fs"))
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_worker_may_come_back() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    // Longer than a busy machine needs to start a service again.
    start(&mut site, &[], "worker_lease_seconds = 60\n").await;
    let build = begin_line(&site, "one");
    begun(&site, "one", 1).await;
    // Also when it is lost again; not for ever (below).
    for times in [2, 3] {
        site.kill_and_restart("runtime").await;
        begun(&site, "one", times).await;
    }
    fs::write(begun(&site, "one", 3).await.join("go"), "").unwrap();
    let (good, err) = end(build);
    assert!(good, "{err}");
    assert_eq!(err.matches("is there again").count(), 2, "{err}");
    assert_eq!(shell(&site, "app", "cat /1 /2"), "one\n2\n");
    nothing_is_left(&site, "after the build").await;

    // It does not come back in time, and nobody waits for ever.
    site.configure("builder.toml", "worker_lease_seconds = 5\n");
    site.kill_and_restart("builder").await;
    let build = begin_line(&site, "two");
    let cache = begun(&site, "two", 1).await;
    site.kill_service("runtime");
    let (good, err) = end(build);
    assert!(!good && err.contains("5 seconds to come back"), "{err}");
    fs::write(cache.join("go"), "").unwrap();
    site.start_service("runtime").await;
    let said = eventually("the build goes on where it was", async || {
        let said = super::build(&site, "app", &[]);
        (said.code == 0).then_some(said)
    })
    .await;
    assert_eq!(cached(&said).0, 1);
    nothing_is_left(&site, "at the end").await;
}
