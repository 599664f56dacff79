//! `ctl registry`: the store is checked, mended, measured and cleaned by hand while it serves.

use std::path::{Path, PathBuf};

use slipway_image::Digest;
use slipway_tests::{
    Said, Site, eventually,
    fixtures::Upstream,
    image, installed,
    pusher::{self, Pusher},
    ready,
};

/// What is wrong is told, and the exit code says so.
#[track_caller]
fn unmended(said: &Said) {
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
}

/// The files of all blobs.
fn blobs(site: &Site) -> Vec<PathBuf> {
    let list = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().path()).collect::<Vec<_>>()
    };
    let folders = list(&site.path("state/registry/blobs/sha256"));
    folders.iter().flat_map(|folder| list(folder)).collect()
}

fn blob(site: &Site, content: &[u8]) -> PathBuf {
    let digest = Digest::of(content);
    let hex = digest.encoded();
    site.path(&format!("state/registry/blobs/sha256/{}/{hex}", &hex[..2]))
}

/// As a bad disk does.
fn rot(path: &Path) {
    let mut content = std::fs::read(path).unwrap();
    content[0] ^= 1;
    std::fs::write(path, content).unwrap();
}

#[tokio::test]
async fn whoever_runs_a_site_sees_what_is_wrong_and_what_takes_room() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    site.configure("registry.toml", "[[retention]]\nof = 'own'\nkeep = 1\n");
    site.start_service("registry").await;
    image::busybox(&site).await;
    let usage = site.ctl(&["registry", "df"]).ok();
    assert!(
        usage.starts_with("REPOSITORY") && usage.contains("\nbusybox "),
        "{usage}"
    );
    assert!(usage.contains("All blobs: "), "{usage}");
    let json = site.ctl(&["registry", "usage", "--format", "json"]).ok();
    let json: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert!(json["UniqueBytes"].as_u64().unwrap() > 100_000, "{json}");
    let nothing = site.ctl(&["registry", "prune", "--dry-run"]).ok();
    assert_eq!(nothing.trim_end(), "Space that would be reclaimed: 0B");
    let nothing = site.ctl(&["registry", "gc"]).ok();
    assert!(
        nothing.trim_end().ends_with("Total reclaimed space: 0B"),
        "{nothing}"
    );
    let well = site.ctl(&["registry", "fsck", "--rate", "1g"]).ok();
    assert!(well.trim_end().ends_with("Nothing is wrong"), "{well}");
    let mut all = blobs(&site);
    all.sort_by_key(|path| path.metadata().unwrap().len());
    let largest = all.pop().unwrap();
    rot(&largest);
    for arguments in [
        &["registry", "fsck", "-q"][..],
        &["registry", "fsck", "--repair"],
    ] {
        assert!(largest.exists());
        let said = site.ctl(arguments);
        unmended(&said);
        let told = format!(
            "broken blob sha256:{}",
            largest.file_name().unwrap().to_str().unwrap()
        );
        assert!(said.out.starts_with(&told), "{}", said.out);
        assert!(
            said.out
                .contains("[NOT MENDED]\n  damaged: busybox:latest\n"),
            "{}",
            said.out
        );
    }
    assert!(!largest.exists());
    image::busybox(&site).await;
    site.ctl(&["registry", "fsck"]).ok();
}

#[tokio::test]
async fn what_came_from_upstream_is_whole_again_and_the_index_is_made_anew() {
    if !ready() || !installed(&["docker-registry", "curl"]) {
        return;
    }
    let mut site = Site::bare();
    let upstream = Upstream::empty(&site, 5001).await;
    let (far, own) = (pusher::image("far"), pusher::image("own"));
    upstream.push(&site, "library/far", "v1", &far);
    site.configure("registry.toml", &upstream.as_docker_io("1h"));
    site.start_service("registry").await;
    let mut held = Pusher::default();
    held.push_image(&site, "team/own", "v1", &own).unwrap();
    let layer = format!("/v2/library/far/blobs/{}", Digest::of(&far.layer));
    let pull = |site: &Site| {
        let get = |target: &str| site.registry_http("GET", target).send().is(200).body;
        assert_eq!(get("/v2/library/far/manifests/v1"), far.manifest);
        assert_eq!(get(&layer), far.layer);
    };
    pull(&site);
    held.has_manifest("library/far", "v1", &far.manifest);
    let place = blob(&site, &far.layer);
    // Who asked has it before the disk.
    eventually("the layer is stored", async || place.exists().then_some(())).await;
    rot(&place);
    rot(&blob(&site, &far.manifest));
    let told = site.ctl(&["registry", "fsck", "-q"]);
    unmended(&told);
    assert!(told.out.contains("damaged: far:v1"), "{}", told.out);
    let mended = site.ctl(&["registry", "fsck", "--repair"]).ok();
    assert!(
        mended.contains(&format!("broken blob {}: ", Digest::of(&far.layer)))
            && mended.contains("moved aside, and fetched again [mended]")
            && mended.trim_end().ends_with("Found: 2, not mended: 0"),
        "{mended}"
    );
    assert_eq!(std::fs::read(&place).unwrap(), far.layer);
    let aside = std::fs::read_dir(site.path("state/registry/blobs/quarantine")).unwrap();
    assert_eq!(aside.count(), 2);
    pull(&site);
    assert_eq!(upstream.requests(&format!("GET {layer}")).len(), 2);
    // sled goes, or is torn: the files have it all.
    let index = site.path("state/registry/index");
    for torn in [false, true] {
        site.kill_service("registry");
        match torn {
            false => std::fs::remove_dir_all(&index).unwrap(),
            true => std::fs::write(index.join("db"), vec![0x5a; 100_000]).unwrap(),
        }
        site.start_service("registry").await;
        held.hold(&site);
        let well = site.ctl(&["registry", "fsck"]).ok();
        assert!(well.trim_end().ends_with("Nothing is wrong"), "{well}");
        pull(&site);
    }
    assert_eq!(upstream.requests(&format!("GET {layer}")).len(), 2);
}
