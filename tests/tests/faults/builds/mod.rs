//! What a builder asks of a worker, and fetching and collecting layers, with runtime-svc killed at each
//! step. Leases do not survive it, so all that may stay is what outlives a lease: layers, whole, and cache
//! mounts, whole.

mod found;
mod scenarios;

use std::time::Duration;

use slipway_fault::{
    Action,
    inventory::{self, Point},
};
use slipway_image::{config::RunConfig, layer::Kind};
use slipway_proto::runtime::v1 as pb;
use slipway_tests::{
    Site, eventually,
    image::{self, entry},
};

pub use self::found::{layers_are_whole, the_disk_is_accounted};
use self::{
    found::{caches, has_built_layer, is_whole, nothing_of_a_lease_is_left, on_disk},
    scenarios::*,
};
use crate::{bench::Bench, told::Told, wanted};

/// What is driven here, and by which of the scenarios below.
const WAYS: &[(&str, &[Scenario])] = &[
    ("runtime.fetch", &[CREATE, PREPARE]),
    ("runtime.keep", &[CREATE, COMMIT, IMPORT]),
    ("runtime.settle", &[CREATE, PREPARE]),
    ("runtime.measure", &[MEASURE]),
    ("runtime.collect", &[COLLECT]),
    ("runtime.sweep", &[COLLECT, RELEASE, END, UNCACHE]),
    ("runtime.prepare", &[PREPARE]),
    ("runtime.step", &[STEP]),
    ("runtime.cache", &[STEP, IMPORT_CACHE]),
    ("runtime.count", &[STEP]),
    ("runtime.uncache", &[UNCACHE, IMPORT_CACHE]),
    ("runtime.carry", &[EXPORT_CACHE]),
    ("runtime.uncarry", &[IMPORT_CACHE]),
    ("runtime.apply", &[APPLY]),
    ("runtime.diff", &[DIFF]),
    ("runtime.send", &[COMMIT, EXPORT_CACHE]),
    ("runtime.pack", &[COMMIT]),
    ("runtime.import", &[IMPORT]),
    ("runtime.release", &[RELEASE]),
    ("runtime.unlease", &[END]),
];

/// What is driven here.
pub fn driven() -> impl Iterator<Item = &'static str> {
    WAYS.iter().map(|(operation, _)| *operation)
}

const LONG: Duration = Duration::from_secs(60);
/// An image that nothing of is unpacked at first.
pub const IMAGE: &str = "parcel";

/// An image with folders that its archive does not name.
pub async fn store_image(site: &Site) {
    let mut entries = image::busybox_entries();
    entries.push((entry("deep/er/file", Kind::File, 5), b"deep\n".to_vec()));
    let run = RunConfig {
        cmd: Some(vec!["cat".into(), "/deep/er/file".into()]),
        ..RunConfig::default()
    };
    image::store(site, IMAGE, run, &entries).await;
}

async fn prepare(site: &Site, scenario: Scenario) -> Ready {
    let build = site.begin_build("faults", LONG).await;
    let base = site.layers_of("busybox").await;
    let snapshot = build.prepare(&base).await.unwrap();
    let file = archive("file");
    build.apply(&snapshot, "/written", &file).await.unwrap();
    let mut ready = Ready {
        layers: site.layers_of(IMAGE).await,
        standing: (base[0].diff_id.clone(), "bin/busybox"),
        host: site.host(),
        containers: site.containers(),
        build,
        snapshot,
        cache: String::new(),
        carried: None,
    };
    if scenario.first == First::Layers {
        let snapshot = ready.build.prepare(&ready.layers).await.unwrap();
        ready.build.release(&snapshot).await;
        let folder = site.path("state/runtime/snapshots");
        eventually("its snapshot is gone", async || {
            (on_disk(&folder).len() == 1).then_some(())
        })
        .await;
    }
    if scenario.first == First::Cache {
        let done = step(&ready.build, &ready.snapshot, "echo x > /cache/x").await;
        assert_eq!(done.unwrap(), "0");
        ready.cache = caches(site).await.remove(0);
        ready.carried = Some(export(&ready).await.unwrap());
    }
    ready
}

async fn clear(site: &Site, ready: &Ready) {
    ready.build.end().await;
    nothing_of_a_lease_is_left(site).await;
    let names = caches(site).await;
    let request = pb::RemoveCachesRequest { names };
    site.worker().remove_caches(request).await.unwrap();
    if site.ctl(&["container", "inspect", "one"]).code == 0 {
        site.ctl(&["rm", "-f", "-v", "one"]).ok();
    }
    // So that what is made anew was not there.
    eventually(
        "no layer is there but those of the container beside",
        async || {
            let everything = pb::PruneLayersRequest { all: true };
            site.host().prune_layers(everything).await.unwrap();
            (!has_built_layer(site) && !is_whole(site, IMAGE).await).then_some(())
        },
    )
    .await;
}

async fn drive(operations: &[&str]) {
    let points = |scenarios: &'static [Scenario], operation: &'static str| {
        inventory::all()
            .filter(move |p| crate::operation(p) == operation && wanted(p.name))
            .flat_map(|point| scenarios.iter().map(move |scenario| (point, *scenario)))
    };
    let all: Vec<(&Point, Scenario)> = WAYS
        .iter()
        .filter(|(operation, _)| operations.contains(operation))
        .flat_map(|(operation, scenarios)| points(scenarios, operation))
        .collect();
    if all.is_empty() {
        return;
    }
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    store_image(&bench.site).await;
    for (point, scenario) in all {
        cut_off(&mut bench, point, scenario, Action::Kill).await;
        if point.can_fail {
            cut_off(&mut bench, point, scenario, Action::Fail(28)).await;
        }
    }
}

async fn cut_off(bench: &mut Bench, point: &Point, scenario: Scenario, action: Action) {
    eprintln!("--- {} ({}), {action}", point.name, scenario.name);
    let ready = prepare(&bench.site, scenario).await;
    bench.site.arm(point.name, action);
    let act = tokio::spawn((scenario.act)(ready.clone()));
    bench.fires(point).await;
    let answer = tokio::time::timeout(Duration::from_secs(20), act);
    let answer = answer.await.expect("the caller waits for ever").unwrap();
    let told = Told::by_call(&answer);
    eprintln!("    told: {told:?}");
    if action == Action::Kill {
        bench.dies("runtime").await;
        bench.restart_dead().await;
        assert!(!matches!(told, Told::Refused(_)), "{answer:?}");
        nothing_of_a_lease_is_left(&bench.site).await;
    } else {
        let error = answer.unwrap_err();
        let text = error.message();
        assert!(text.contains("No space left on device"), "{error:?}");
    }
    let site = &bench.site;
    layers_are_whole(site).await;
    if let Some(done) = (scenario.done)(site, &ready, &told).await {
        told.agrees_with(done);
    }
    the_disk_is_accounted(site).await;
    bench.nothing_contradicts(point.name);
    bench.beside_is_unharmed().await;
    clear(site, &ready).await;
    // Anew, to its end.
    let ready = prepare(site, scenario).await;
    let told = Told::by_call(&(scenario.act)(ready.clone()).await);
    assert!(matches!(told, Told::Done(_)), "{told:?}");
    assert_ne!((scenario.done)(site, &ready, &told).await, Some(false));
    clear(site, &ready).await;
    the_disk_is_accounted(site).await;
    bench.clean(point.name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtime_is_killed_while_it_fetches_and_collects() {
    drive(&[
        "runtime.fetch",
        "runtime.keep",
        "runtime.settle",
        "runtime.measure",
        "runtime.collect",
        "runtime.sweep",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtime_is_killed_while_it_builds() {
    drive(&[
        "runtime.prepare",
        "runtime.step",
        "runtime.apply",
        "runtime.diff",
        "runtime.send",
        "runtime.pack",
        "runtime.import",
        "runtime.release",
        "runtime.unlease",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtime_is_killed_while_it_keeps_caches() {
    drive(&[
        "runtime.cache",
        "runtime.count",
        "runtime.uncache",
        "runtime.carry",
        "runtime.uncarry",
    ])
    .await;
}
