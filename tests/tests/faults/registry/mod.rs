//! registry-svc killed, or without room, at every step of what is asked of it: what it acknowledged is there, what
//! it did not is there whole or not at all, all of it can be done again, and nothing is left in the end.

mod scenarios;

use std::collections::BTreeSet;

use slipway_fault::{
    Action,
    inventory::{self, Point},
};
use slipway_image::Digest;
use slipway_proto::registry::v1::PruneImagesRequest;
use slipway_tests::{
    Site, eventually,
    fixtures::Upstream,
    pusher::{Pusher, image, whatever_is_there_is_whole},
};

use self::scenarios::*;
use crate::wanted;

/// What is driven here, and by which of the scenarios.
const WAYS: &[(&str, &[Scenario])] = &[
    ("registry.upload", &[UPLOAD]),
    ("registry.store", &[UPLOAD, MANIFEST]),
    ("registry.mount", &[MOUNT]),
    ("registry.compose", &[COMPOSE]),
    ("registry.manifest", &[MANIFEST]),
    ("registry.tag", &[MANIFEST]),
    ("registry.untag", &[UNTAG, DELETE]),
    ("registry.delete", &[DELETE]),
    ("registry.collect", &[DELETE]),
    ("registry.fetch", &[FETCH]),
    ("registry.aside", &[REPAIR]),
];

/// At the start and at the end of the service.
const ENDS: [&str; 2] = ["registry.open", "registry.close"];

/// What is driven here.
pub fn driven() -> impl Iterator<Item = &'static str> {
    // With a bucket: registry-svc/tests/bucket/crash.rs, which takes them from the same list.
    let elsewhere = ["registry.bucket"];
    let ways = WAYS.iter().map(|(operation, _)| *operation);
    ways.chain(ENDS).chain(elsewhere)
}

/// A site with a registry that has something already, and an upstream of it.
pub struct Stand {
    pub site: Site,
    _upstream: Upstream,
    before: BTreeSet<String>,
}

impl Stand {
    async fn start() -> Option<Self> {
        if !slipway_tests::ready() || !slipway_tests::installed(&["docker-registry", "curl"]) {
            return None;
        }
        let mut site = Site::bare();
        site.allow(std::time::Duration::from_secs(300));
        site.allow_faults();
        let upstream = Upstream::empty(&site, 5001).await;
        let settings = format!("grace = '0s'\n{}", upstream.as_docker_io("1h"));
        site.configure("registry.toml", &settings);
        site.start_service("registry").await;
        upstream.push(&site, "library/far", "v1", &image("far"));
        let mut stand = Self {
            site,
            _upstream: upstream,
            before: BTreeSet::new(),
        };
        let beside = image("beside");
        let mut pusher = Pusher::default();
        pusher
            .push_image(&stand.site, "beside", "v1", &beside)
            .unwrap();
        stand.before = stand.files();
        Some(stand)
    }

    /// All that it has on the disk but its index and which names are its own.
    fn files(&self) -> BTreeSet<String> {
        let root = self.site.path("state/registry");
        let mut found = BTreeSet::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                if path.is_dir() {
                    folders.push(path);
                } else if !name.starts_with("index") && !name.starts_with("ours/") {
                    // Which names are the site's own outlives what is below them.
                    found.insert(name);
                }
            }
        }
        found
    }

    async fn revive(&mut self, point: &Point) {
        let what = format!("registry-svc is gone at {}", point.name);
        eventually(&what, async || {
            self.site.has_ended("registry").then_some(())
        })
        .await;
        self.site.revive("registry").await;
    }

    async fn prune(&self) {
        let request = PruneImagesRequest::default();
        self.site.registry().prune_images(request).await.unwrap();
    }

    /// What was there before everything is there, and nothing else after a while.
    async fn is_as_before(&mut self, pusher: &Pusher, point: &Point) {
        beside_is_unharmed(self);
        pusher.undo(&self.site);
        self.prune().await;
        // A session whose id nobody was told ends by time.
        let sessions = self.site.path("state/registry/uploads");
        let left: Vec<_> = std::fs::read_dir(&sessions).unwrap().collect();
        assert!(left.len() <= usize::from(point.name == "registry.upload.opened"));
        for session in left {
            std::fs::remove_file(session.unwrap().path()).unwrap();
        }
        let left: Vec<_> = self
            .files()
            .symmetric_difference(&self.before)
            .cloned()
            .collect();
        assert!(left.is_empty(), "after {}: {left:#?}", point.name);
        self.site.disarm(point.name);
    }
}

fn beside_is_unharmed(stand: &Stand) {
    let beside = image("beside");
    let got = stand
        .site
        .registry_http("GET", "/v2/beside/manifests/v1")
        .send()
        .is(200);
    assert_eq!(got.body, beside.manifest);
    for blob in [&beside.config, &beside.layer] {
        let target = format!("/v2/beside/blobs/{}", Digest::of(blob));
        assert_eq!(
            stand.site.registry_http("GET", &target).send().is(200).body,
            *blob
        );
    }
}

async fn drive(operations: &[&str]) {
    let ways = WAYS.iter().filter(|(o, _)| operations.contains(o));
    let all: Vec<_> = ways
        .flat_map(|(operation, scenarios)| {
            let points = inventory::all()
                .filter(move |p| crate::operation(p) == *operation && wanted(p.name));
            points.flat_map(move |point| scenarios.iter().map(move |s| (point, *s)))
        })
        .collect();
    if all.is_empty() {
        return;
    }
    let Some(mut stand) = Stand::start().await else {
        return;
    };
    for (point, scenario) in all {
        cut_off(&mut stand, point, scenario, Action::Kill).await;
        if point.can_fail {
            cut_off(&mut stand, point, scenario, Action::Fail(28)).await;
        }
    }
}

async fn cut_off(stand: &mut Stand, point: &Point, scenario: Scenario, action: Action) {
    eprintln!("--- {} ({}), {action}", point.name, scenario.name);
    let mut pusher = Pusher::default();
    (scenario.prepare)(&stand.site, &mut pusher).unwrap();
    stand.site.arm(point.name, action);
    let cut = (scenario.act)(&stand.site, &mut pusher).await;
    // What comes from upstream is passed on before it is stored.
    let what = format!("{} is come by: {cut:?}", point.name);
    eventually(&what, async || stand.site.fired(point.name).then_some(())).await;
    match action {
        Action::Kill => stand.revive(point).await,
        _ => {
            let error = cut.expect_err("there was no room, and it was done");
            assert!(error.contains("No space left on device"), "{error}");
        }
    }
    pusher.hold(&stand.site);
    whatever_is_there_is_whole(&stand.site);
    // Anew, to its end.
    (scenario.prepare)(&stand.site, &mut pusher).unwrap();
    (scenario.act)(&stand.site, &mut pusher).await.unwrap();
    pusher.hold(&stand.site);
    stand.is_as_before(&pusher, point).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_is_killed_while_blobs_come() {
    drive(&[
        "registry.upload",
        "registry.store",
        "registry.mount",
        "registry.compose",
        "registry.fetch",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_is_killed_while_manifests_come_and_go() {
    drive(&[
        "registry.manifest",
        "registry.tag",
        "registry.untag",
        "registry.delete",
        "registry.collect",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_is_killed_while_it_is_repaired() {
    drive(&["registry.aside"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_is_killed_at_its_start_and_at_its_end() {
    let is_here = |p: &&Point| ENDS.contains(&crate::operation(p)) && wanted(p.name);
    let points: Vec<_> = inventory::all().filter(is_here).collect();
    if points.is_empty() {
        return;
    }
    let Some(mut stand) = Stand::start().await else {
        return;
    };
    for point in points {
        eprintln!("--- {}", point.name);
        let mut pusher = Pusher::default();
        (MANIFEST.prepare)(&stand.site, &mut pusher).unwrap();
        (MANIFEST.act)(&stand.site, &mut pusher).await.unwrap();
        if crate::operation(point) == "registry.open" {
            stand.site.kill_service("registry");
            stand.site.arm(point.name, Action::Kill);
            stand.site.spawn_service("registry");
        } else {
            stand.site.arm(point.name, Action::Kill);
            let term = rustix::process::Signal::TERM;
            stand.site.end_service("registry", term);
            assert!(stand.site.fired(point.name));
        }
        stand.revive(point).await;
        assert!(stand.site.fired(point.name));
        pusher.hold(&stand.site);
        whatever_is_there_is_whole(&stand.site);
        stand.is_as_before(&pusher, point).await;
    }
}
