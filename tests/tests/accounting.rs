//! What is told of the disk is what is on the disk: compared with `du`, and with the file system's own count.

use std::{fs, path::Path, process::Command, time::Duration};

use slipway_image::{config::RunConfig, layer::Kind};
use slipway_proto::{
    builder::v1 as builder,
    registry::v1 as registry,
    runtime::v1::{DiskUsageRequest, DiskUsageResponse, PruneLayersRequest},
};
use slipway_tests::{
    Site, eventually,
    image::{self, entry},
    ready,
    worker::tar,
};

fn du(path: &Path) -> u64 {
    let said = Command::new("du").args(["-sx", "-B1"]).arg(path).output();
    let text = String::from_utf8(said.unwrap().stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

async fn usage(site: &Site) -> DiskUsageResponse {
    let request = DiskUsageRequest { verbose: true };
    site.host().disk_usage(request).await.unwrap().into_inner()
}

fn sum(usage: &DiskUsageResponse) -> u64 {
    let parts = [
        &usage.containers,
        &usage.volumes,
        &usage.layers,
        &usage.snapshots,
    ];
    let parts = parts.iter().map(|u| u.unwrap_or_default().size);
    parts.sum::<u64>() + usage.temporary + usage.other
}

/// An image with files of several names, sparse ones, long names and attributes.
async fn quirks(site: &Site) {
    let mut entries = vec![(entry("d", Kind::Folder, 0), vec![])];
    for number in 0..200 {
        let path = format!("d/file-with-a-name-that-is-rather-long-{number}");
        entries.push((entry(&path, Kind::File, 5000), vec![1; 5000]));
        let other = format!("d/other-{number}");
        entries.push((entry(&other, Kind::HardLink(path.into_bytes()), 0), vec![]));
    }
    let mut dressed = entry("dressed", Kind::File, 10);
    dressed.xattrs = vec![(b"user.much".to_vec(), vec![b'x'; 2000])];
    entries.push((dressed, vec![1; 10]));
    image::store(site, "quirks", RunConfig::default(), &entries).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_together_are_what_du_says() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    quirks(&site).await;
    site.ctl(&["create", "--name", "unused", "quirks", "/x"])
        .ok();
    let script = "i=0; while [ $i -lt 300 ]; do echo $i; echo $i > /f$i; ln /f$i /l$i; i=$((i+1)); done; \
                  head -c 1000000 /dev/zero > /big; echo data > /vol/data; sleep 1000";
    site.ctl(&[
        "run",
        "-d",
        "--name",
        "busy",
        "-v",
        "named:/vol",
        "-v",
        "/other",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    site.ctl(&["volume", "create", "lonely"]).ok();
    eventually("it has written all", async || {
        let said = site.ctl(&["exec", "busy", "cat", "/vol/data"]);
        (said.out == "data\n").then_some(())
    })
    .await;
    let build = site.begin_build("a test", Duration::from_secs(60)).await;
    let snapshot = build.prepare(&[]).await.unwrap();
    let file = vec![(entry("file", Kind::File, 70_000), vec![1; 70_000])];
    build.apply(&snapshot, "/", &tar(&file)).await.unwrap();
    let layers = site.path("state/runtime/layers");
    // What a crash left, and what somebody put there.
    fs::create_dir_all(layers.join("tmp-left/fs")).unwrap();
    fs::write(layers.join("tmp-left/fs/half"), vec![1; 30_000]).unwrap();
    fs::write(layers.join("notes.txt"), "mine").unwrap();
    let state = site.path("state/runtime");
    // A log may grow while it is looked at.
    let told = eventually("all parts together are all there is", async || {
        let (before, told) = (du(&state), usage(&site).await);
        (sum(&told) == before && du(&state) == before).then_some(told)
    })
    .await;
    assert!(told.temporary >= 30_000);
    assert_eq!(told.foreign, ["layers/notes.txt"]);
    assert!(layers.join("notes.txt").exists());
    // Each by itself, too.
    for layer in &told.each_layer {
        let home = layers.join(layer.diff_id.strip_prefix("sha256:").unwrap());
        assert_eq!(layer.size, du(&home), "{}", layer.diff_id);
        assert_eq!(layer.containers, 1);
    }
    assert_eq!(told.each_layer.len(), 2);
    for volume in &told.each_volume {
        let folder = state.join("volumes").join(&volume.name);
        assert_eq!(volume.size, du(&folder), "{}", volume.name);
    }
    assert_eq!(told.each_volume.iter().filter(|v| v.links == 1).count(), 2);
    assert_eq!(told.volumes.unwrap().active, 2);
    let busy = told.each_container.iter().find(|c| c.running).unwrap();
    let folder = state.join("containers").join(&busy.id);
    assert_eq!(busy.writable, du(&folder.join("upper")));
    assert_eq!(busy.writable + busy.logs + busy.other, du(&folder));
    assert!(busy.logs > 0 && busy.writable > 1_000_000);
    assert_eq!(
        told.leases[0].snapshots[0].size,
        du(&state.join("snapshots").join(&snapshot))
    );
    assert_eq!(
        told.containers.unwrap().reclaimable,
        told.each_container
            .iter()
            .filter(|c| !c.running)
            .map(|c| c.writable + c.logs + c.other)
            .sum::<u64>()
    );
    // Nothing was measured wrong by an older instance: the sizes are those of the files.
    fs::remove_dir_all(layers.join("tmp-left")).unwrap();
    build.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_and_the_builder_know_what_they_have() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    quirks(&site).await;
    site.ctl(&["tag", "quirks", "again"]).ok();
    fs::create_dir_all(site.path("context")).unwrap();
    fs::write(site.path("context/data"), vec![1; 100_000]).unwrap();
    let file = "FROM busybox\nCOPY data /data\nRUN head -c 500000 /dev/urandom > /noise\n";
    fs::write(site.path("context/Dockerfile"), file).unwrap();
    let context = site.path("context");
    site.ctl(&["build", "-q", "-t", "made", context.to_str().unwrap()])
        .ok();
    let id = site.inspect("made", "{{.Id}}");
    let told = async |in_use: Vec<String>| {
        let request = registry::DiskUsageRequest {
            in_use,
            verbose: true,
            tags_of: String::new(),
        };
        site.registry()
            .disk_usage(request)
            .await
            .unwrap()
            .into_inner()
    };
    let all = eventually("all parts together are all there is", async || {
        let before = du(&site.path("state/registry"));
        let u = told(vec![id.clone()]).await;
        let sum = u.size + u.internal + u.artifacts + u.unneeded + u.transfers + u.records;
        (sum == before).then_some(u)
    })
    .await;
    assert_eq!((all.images, all.active), (3, 1));
    let image = |name: &str| {
        let named =
            |i: &&registry::ImageUsage| i.image.as_ref().unwrap().repo_tags[0].contains(name);
        all.each.iter().find(named).unwrap().clone()
    };
    let (made, busybox) = (image("made"), image("busybox"));
    // The base's layer is the only thing that they share.
    assert!(
        made.shared > 0 && made.shared == busybox.shared,
        "{made:?} {busybox:?}"
    );
    assert_eq!(made.unique, made.size - made.shared);
    assert!(made.unique > 500_000);
    assert_eq!((made.containers, busybox.containers), (1, 0));
    // Without the image its layers are the build cache's.
    site.ctl(&["rmi", "made"]).ok();
    let after = told(vec![]).await;
    assert!(after.internal > all.internal + 500_000, "{after:?}");
    let request = builder::DiskUsageRequest::default();
    let cache = site
        .builder()
        .disk_usage(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(cache.content + cache.other, du(&site.path("state/builder")));
    assert!(cache.content >= 100_000);
    assert_eq!(cache.records.len(), 3);
    assert!(cache.records.iter().all(|r| !r.shared));
    let shown = site
        .ctl(&[
            "system",
            "df",
            "--format",
            "{{.Type}} {{.TotalCount}} {{.Active}}",
        ])
        .ok();
    assert!(
        shown.starts_with(
            "Images 2 0\nContainers 0 0\nLocal Volumes 0 0\nBuild Cache 3 0\nUnpacked Layers "
        ),
        "{shown}"
    );
    let json = site.ctl(&["system", "df", "-v", "--format", "json"]).ok();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["BuildCache"].as_array().unwrap().len(), 3);
    assert_eq!(value["Images"][0]["Containers"], "0");
    // What was told is what comes back.
    let before = du(&site.path("state/registry"));
    let request = builder::PruneRequest {
        all: true,
        ..Default::default()
    };
    let pruned = site.builder().prune(request).await.unwrap().into_inner();
    let back = before - du(&site.path("state/registry"));
    assert_eq!(pruned.reclaimed, after.internal + cache.content);
    // Beyond that only names and their folders go.
    let names = back - after.internal;
    assert!(names < 100_000, "{names}");
}

/// A file system of a test's own, so that nobody else writes there.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (image, mount) = (folder.path().join("image"), folder.path().join("mount"));
        fs::File::create(&image)
            .unwrap()
            .set_len(400 << 20)
            .unwrap();
        fs::create_dir(&mount).unwrap();
        let ok = |program: &str, arguments: &[&str]| {
            let said = Command::new(program).args(arguments).output();
            said.is_ok_and(|s| s.status.success())
        };
        let (image, mount) = (image.display().to_string(), mount.display().to_string());
        if ok("mkfs.ext4", &["-q", "-b", "4096", &image])
            && ok("mount", &["-o", "loop", &image, &mount])
        {
            return Some(Self(folder));
        }
        slipway_tests::skipped("cannot make a file system in a file");
        None
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("mount")
    }

    fn free(&self) -> u64 {
        // Blocks of files that are gone come back when their journal entries are written.
        rustix::fs::syncfs(fs::File::open(self.path()).unwrap()).unwrap();
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        stat.f_bfree * stat.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_to_be_reclaimed_is_what_the_file_system_gets_back() {
    if !ready() {
        return;
    }
    let Some(disk) = Disk::new() else { return };
    let mut site = Site::bare();
    fs::create_dir(site.path("state")).unwrap();
    std::os::unix::fs::symlink(disk.path(), site.path("state/runtime")).unwrap();
    site.start_services().await;
    image::busybox(&site).await;
    quirks(&site).await;
    let script = "i=0; while [ $i -lt 200 ]; do echo $i > /f$i; ln /f$i /l$i; i=$((i+1)); done; \
                  head -c 3000000 /dev/zero > /big; echo data > /vol/data";
    site.ctl(&[
        "run", "--name", "done", "-v", "/vol", "busybox", "sh", "-c", script,
    ])
    .ok();
    site.ctl(&["create", "--name", "other", "quirks", "/x"])
        .ok();
    let gained = async |what: &str, told: u64, before: u64| {
        eventually(&format!("{what} gives back what was told"), async || {
            (disk.free() == before + told).then_some(())
        })
        .await;
    };
    let told = usage(&site).await;

    let (before, size) = (disk.free(), told.containers.unwrap().reclaimable);
    let request = slipway_proto::runtime::v1::PruneRequest::default();
    let pruned = site.containers().prune(request).await.unwrap().into_inner();
    assert_eq!(pruned.reclaimed, size);
    gained("container prune", size, before).await;

    let (before, size) = (disk.free(), told.volumes.unwrap().size);
    let request = slipway_proto::runtime::v1::PruneVolumesRequest::default();
    let pruned = site
        .volumes()
        .prune_volumes(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(pruned.reclaimed, size);
    gained("volume prune", size, before).await;

    let (before, size) = (disk.free(), told.layers.unwrap().size);
    let request = PruneLayersRequest { all: true };
    let pruned = site
        .host()
        .prune_layers(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((pruned.removed, pruned.reclaimed), (2, size));
    gained("pruning layers", size, before).await;
    drop(site);
}
