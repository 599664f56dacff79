//! What a registry acknowledged is there after a power cut, whichever instant it comes at.

use slipway_image::Digest;
use slipway_tests::{
    Site,
    disk::Disk,
    pusher::{Done, Pusher, image, whatever_is_there_is_whole},
    ready,
};

type Step = fn(&Site, &mut Pusher) -> Done;

const STEPS: &[(&str, Step)] = &[
    ("a first blob", |site, pusher| {
        pusher.push(site, "app", &image("one").layer)
    }),
    ("a second blob", |site, pusher| {
        pusher.push(site, "app", &image("one").config)
    }),
    ("an image", |site, pusher| {
        pusher.put_manifest(site, "app", "v1", &image("one"))
    }),
    ("the same blob again, elsewhere", |site, pusher| {
        pusher.push(site, "other", &image("one").layer)
    }),
    ("a mount", |site, pusher| {
        pusher.mount(site, "third", "app", &image("one").config)
    }),
    ("an image of what was mounted", |site, pusher| {
        pusher.mount(site, "third", "app", &image("one").layer)?;
        pusher.put_manifest(site, "third", "v1", &image("one"))
    }),
    ("a tag that moves", |site, pusher| {
        pusher.push_image(site, "app", "v1", &image("two"))
    }),
    ("a tag that goes", |site, pusher| {
        pusher.delete(site, "third", &["v1"])
    }),
    ("an image that goes", |site, pusher| {
        let digest = Digest::of(image("two").manifest).to_string();
        pusher.delete(site, "app", &[&digest, "v1"])
    }),
];

/// The site goes before its disk.
fn site() -> Option<(Disk, Site)> {
    let site = Site::bare();
    Some((Disk::of(&site, "state/registry")?, site))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_power_cut() {
    if !ready() {
        return;
    }
    let Some((disk, mut site)) = site() else {
        return;
    };
    site.start_service("registry").await;
    let mut pusher = Pusher::default();
    for (name, step) in STEPS {
        eprintln!("--- {name}");
        step(&site, &mut pusher).unwrap();
        let cut = disk.cut();
        site.kill_service("registry");
        cut.returns();
        site.start_service("registry").await;
        pusher.hold(&site);
        whatever_is_there_is_whole(&site);
    }
    // Who was pushing goes on.
    pusher.push(&site, "other", &image("one").config).unwrap();
    pusher
        .put_manifest(&site, "other", "v1", &image("one"))
        .unwrap();
    pusher.hold(&site);
    site.kill_service("registry");
}
