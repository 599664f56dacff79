//! The worker interface by itself, without a builder: what it does, what it refuses, and that nothing stays.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::Command,
    time::Duration,
};

use slipway_image::layer::{Entry, Kind};
use slipway_proto::{
    registry::v1::DiskUsageRequest,
    runtime::v1::{self as pb, apply_request::Part},
};
use slipway_tests::{
    Site, eventually,
    image::entry,
    worker::{Build, data, reason, start, tar},
};
use tonic::Status;

const LONG: Duration = Duration::from_secs(60);

async fn begin() -> Option<(Site, Build)> {
    let site = Site::with_busybox().await?;
    let build = site.begin_build("a test", LONG).await;
    Some((site, build))
}

async fn no_snapshots(site: &Site) {
    let folder = site.path("state/runtime/snapshots");
    eventually("the snapshots are gone", async || {
        (fs::read_dir(&folder).unwrap().count() == 0).then_some(())
    })
    .await;
}

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// A tree of every kind of thing, folders before what is in them.
fn some_tree(numbers: &mut Numbers) -> Vec<(Entry, Vec<u8>)> {
    let (mut all, mut folders, mut files) = (Vec::new(), vec![String::new()], Vec::new());
    for number in 0..60 {
        let parent = folders[numbers.below(folders.len() as u64) as usize].clone();
        let path = format!("{parent}n{number}");
        let mut content = Vec::new();
        let kind = match numbers.below(8) {
            0 | 1 => {
                folders.push(format!("{path}/"));
                Kind::Folder
            }
            2 => Kind::Symlink(format!("../{number}/nowhere").into_bytes()),
            3 if !files.is_empty() => {
                let at = numbers.below(files.len() as u64) as usize;
                let target: &String = &files[at];
                Kind::HardLink(target.clone().into_bytes())
            }
            4 => Kind::Fifo,
            _ => {
                content = vec![number as u8; numbers.below(20_000) as usize];
                files.push(path.clone());
                Kind::File
            }
        };
        let link = matches!(kind, Kind::Symlink(_));
        let entry = Entry {
            mode: if link {
                0o777
            } else {
                0o400 + numbers.below(0o377) as u32
            },
            uid: numbers.below(70_000) as u32,
            gid: numbers.below(70_000) as u32,
            mtime: (1_000_000_000 + numbers.below(1_000_000) as i64, 0),
            ..entry(&path, kind, content.len() as u64)
        };
        all.push((entry, content));
    }
    all
}

/// Everything below a folder: what it is, whose, and since when. Of files of several names each is told.
fn looks(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, folder: &Path, all: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let what = match () {
                () if stat.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
                () if stat.is_file() => format!(
                    "{} {:?}",
                    stat.nlink(),
                    slipway_image::Digest::of(fs::read(&path).unwrap())
                ),
                () => String::new(),
            };
            let mode = stat.permissions().mode();
            let about = format!(
                "{mode:o} {}:{} {} {what}",
                stat.uid(),
                stat.gid(),
                stat.mtime()
            );
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if stat.is_dir() {
                walk(root, &path, all);
            }
            all.insert(name, about);
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_is_what_is_committed_and_what_is_on_disk() {
    let Some((site, build)) = begin().await else {
        return;
    };
    for seed in 1..6 {
        let tree = some_tree(&mut Numbers(seed * 0x9e37_79b9));
        let stream = tar(&tree);
        // As GNU tar unpacks the same stream.
        let reference = site.path(&format!("reference-{seed}"));
        fs::create_dir(&reference).unwrap();
        let file = site.path("stream.tar");
        fs::write(&file, &stream).unwrap();
        let unpacked = Command::new("tar")
            .args([
                "--numeric-owner",
                "--delay-directory-restore",
                "-xpf",
                file.to_str().unwrap(),
                "-C",
            ])
            .arg(&reference)
            .output()
            .unwrap();
        assert!(unpacked.status.success(), "{unpacked:?}");
        let snapshot = build.prepare(&[]).await.unwrap();
        let applied = build.apply(&snapshot, "/", &stream).await.unwrap();
        assert_eq!(applied.entries, tree.len() as u64);
        let mut named: Vec<String> = tree
            .iter()
            .map(|(e, _)| format!("A /{}", String::from_utf8_lossy(&e.path)))
            .collect();
        named.sort();
        assert_eq!(build.diff(&snapshot).await.unwrap(), named, "seed {seed}");
        let committed = build.commit(&snapshot).await.unwrap();
        let layer = committed.layer.unwrap();
        let hex = layer.diff_id.strip_prefix("sha256:").unwrap();
        let home = site.path("state/runtime/layers").join(hex);
        assert_eq!(looks(&home.join("fs")), looks(&reference), "seed {seed}");
        // And as whoever pulls it would have it.
        let digest = layer.descriptor.unwrap().digest;
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blob = site
            .path("state/registry/blobs/sha256")
            .join(&hex[..2])
            .join(hex);
        let pulled = site.path(&format!("pulled-{seed}"));
        fs::create_dir(&pulled).unwrap();
        let unpacked = Command::new("tar")
            .args([
                "--numeric-owner",
                "--delay-directory-restore",
                "-xzpf",
                blob.to_str().unwrap(),
                "-C",
            ])
            .arg(&pulled)
            .output()
            .unwrap();
        assert!(unpacked.status.success(), "{unpacked:?}");
        assert_eq!(looks(&pulled), looks(&reference), "seed {seed}");
        // A committed snapshot is gone.
        let error = build.diff(&snapshot).await.unwrap_err();
        assert_eq!(reason(&error), "SNAPSHOT_NOT_FOUND");
    }
    // Nothing changed: no layer.
    let empty = build
        .prepare(&site.layers_of("busybox").await)
        .await
        .unwrap();
    assert!(build.diff(&empty).await.unwrap().is_empty());
    assert!(build.commit(&empty).await.unwrap().layer.is_none());
    no_snapshots(&site).await;
    build.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_stand_upon_each_other() {
    let Some((site, build)) = begin().await else {
        return;
    };
    let base = build
        .prepare(&site.layers_of("busybox").await)
        .await
        .unwrap();
    let (code, text) = build
        .run(&base, "echo one > /one; echo two > /two; cat /one")
        .await
        .unwrap();
    assert_eq!((code, &*text), (0, "one\n"));
    assert_eq!(build.diff(&base).await.unwrap(), ["A /one", "A /two"]);
    let (left, right) = (
        build.upon(&base).await.unwrap(),
        build.upon(&base).await.unwrap(),
    );
    // It can be read from now on, and not changed.
    assert!(build.has(&base, "/one").await.unwrap());
    for error in [
        build.run(&base, "true").await.map(drop).unwrap_err(),
        build
            .apply(&base, "/", &tar(&[]))
            .await
            .map(drop)
            .unwrap_err(),
        build.commit(&base).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(reason(&error), "SNAPSHOT_IN_USE", "{error}");
    }
    let (code, text) = build
        .run(&left, "cat /one; rm /two; echo left > /own")
        .await
        .unwrap();
    assert_eq!((code, &*text), (0, "one\n"));
    let (_, text) = build
        .run(&right, "cat /two; ls /own 2>/dev/null; echo more >> /one")
        .await
        .unwrap();
    assert_eq!(text, "two\n");
    assert_eq!(build.diff(&left).await.unwrap(), ["A /own", "D /two"]);
    assert_eq!(build.diff(&right).await.unwrap(), ["C /one"]);
    let parents: Vec<String> = site.leases().await[0]
        .snapshots
        .iter()
        .map(|s| s.parent.clone())
        .collect();
    assert_eq!(parents, [String::new(), base.clone(), base.clone()]);
    // What stands upon it keeps what it needs.
    build.release(&base).await;
    build.release(&base).await;
    let third = build.upon(&left).await.unwrap();
    let (_, text) = build.run(&third, "cat /one /own").await.unwrap();
    assert_eq!(text, "one\nleft\n");
    build.release(&third).await;
    // The last one upon it is gone: it can be committed.
    let layer = build.commit(&left).await.unwrap().layer;
    assert!(layer.is_some());
    build.release(&right).await;
    no_snapshots(&site).await;
    build.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_in_one_lease() {
    let Some((site, build)) = begin().await else {
        return;
    };
    let layers = site.layers_of("busybox").await;
    let mut all = Vec::new();
    for number in 0..8 {
        let (build, layers) = (build.clone(), layers.clone());
        all.push(tokio::spawn(async move {
            let snapshot = build.prepare(&layers).await.unwrap();
            let script = format!("echo {number} > /number; cat /number");
            let (_, text) = build.run(&snapshot, &script).await.unwrap();
            assert_eq!(text, format!("{number}\n"));
            let file = vec![(entry("same", Kind::File, 5), b"bytes".to_vec())];
            build.apply(&snapshot, "/", &tar(&file)).await.unwrap();
            assert_eq!(
                build.diff(&snapshot).await.unwrap(),
                ["A /number", "A /same"]
            );
            match number % 2 {
                0 => drop(build.commit(&snapshot).await.unwrap().layer.unwrap()),
                _ => build.release(&snapshot).await,
            }
        }));
    }
    for one in all {
        one.await.unwrap();
    }
    no_snapshots(&site).await;
    build.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_sent_nothing_leads_out() {
    let Some((site, build)) = begin().await else {
        return;
    };
    let outside = site.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "the host's").unwrap();
    let out = outside.to_str().unwrap();
    let link = |path: &str, target: &str| {
        (
            entry(path, Kind::Symlink(target.as_bytes().to_vec()), 0),
            Vec::new(),
        )
    };
    let file = |path: &str| (entry(path, Kind::File, 4), b"mine".to_vec());
    let hard = |path: &str, target: &str| {
        (
            entry(path, Kind::HardLink(target.as_bytes().to_vec()), 0),
            Vec::new(),
        )
    };
    let up = "../".repeat(12);
    for (entries, refused) in [
        (vec![file("../x")], true),
        (vec![file(&format!("{up}{}/new", &out[1..]))], true),
        (vec![file("a/../../x")], true),
        (vec![file(&format!("{out}/new"))], true),
        // Links are resolved inside: what is behind them is the snapshot's own.
        (vec![link("l", out), file("l/new")], false),
        (
            vec![link("l", &format!("{up}{}", &out[1..])), file("l/new")],
            false,
        ),
        (vec![hard("h", &format!("../..{out}/file"))], true),
        (vec![hard("h", &format!("{out}/file"))], true),
        (vec![link("l", out), hard("h", "l/file")], true),
        (
            vec![(entry("white", Kind::CharacterDevice(0, 0), 0), Vec::new())],
            true,
        ),
    ] {
        let snapshot = build.prepare(&[]).await.unwrap();
        let name = String::from_utf8_lossy(&entries.last().unwrap().0.path).into_owned();
        let applied = build.apply(&snapshot, "/deep/er", &tar(&entries)).await;
        assert_eq!(applied.is_err(), refused, "{name}: {applied:?}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{name}");
        assert_eq!(
            fs::read(outside.join("file")).unwrap(),
            b"the host's",
            "{name}"
        );
        build.release(&snapshot).await;
    }
    // Where it is to go leads out.
    let snapshot = build.prepare(&[]).await.unwrap();
    let away = vec![link("away", out)];
    build.apply(&snapshot, "/", &tar(&away)).await.unwrap();
    for target in ["/away", "/../../..", &format!("/{up}{out}")] {
        // Refused, or inside.
        let _ = build.apply(&snapshot, target, &tar(&[file("new")])).await;
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{target}");
    }
    // What is read through a link is the snapshot's, too.
    assert!(
        !build
            .has(&snapshot, &format!("/away{out}/file"))
            .await
            .unwrap()
    );
    let read = pb::ReadPathRequest {
        snapshot_id: snapshot.clone(),
        path: "/away/file".to_owned(),
        follow_links: true,
    };
    let mut stream = build
        .client
        .clone()
        .read_path(read)
        .await
        .unwrap()
        .into_inner();
    let told = stream.message().await;
    let leaked =
        matches!(&told, Ok(Some(chunk)) if chunk.data.windows(10).any(|w| w == b"the host's"));
    assert!(!leaked);
    build.release(&snapshot).await;
    no_snapshots(&site).await;
    build.end().await;
}

async fn applied(build: &Build, requests: Vec<pb::ApplyRequest>) -> Status {
    let answer = build
        .client
        .clone()
        .apply(tokio_stream::iter(requests))
        .await;
    answer.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_with_a_reason() {
    let Some((site, build)) = begin().await else {
        return;
    };
    let snapshot = build.prepare(&[]).await.unwrap();
    let unknown = "f".repeat(64);
    let is = |error: Status, expected: &str| assert_eq!(reason(&error), expected, "{error}");
    // Things that are not there.
    for id in ["", "../..", &unknown] {
        is(build.has(id, "/").await.unwrap_err(), "SNAPSHOT_NOT_FOUND");
        is(
            build.run(id, "true").await.unwrap_err(),
            "SNAPSHOT_NOT_FOUND",
        );
        is(build.commit(id).await.unwrap_err(), "SNAPSHOT_NOT_FOUND");
        is(build.diff(id).await.unwrap_err(), "SNAPSHOT_NOT_FOUND");
        build.release(id).await;
        let other = Build {
            lease: if id.is_empty() {
                "x".to_owned()
            } else {
                id.to_owned()
            },
            ..build.clone()
        };
        is(other.prepare(&[]).await.unwrap_err(), "LEASE_NOT_FOUND");
        other.end().await;
    }
    // Another lease's snapshot is nothing to build upon.
    let other = site.begin_build("another", LONG).await;
    is(
        other.upon(&snapshot).await.unwrap_err(),
        "SNAPSHOT_NOT_FOUND",
    );
    other.end().await;
    let both = pb::PrepareRequest {
        lease_id: build.lease.clone(),
        layers: site.layers_of("busybox").await,
        parent_snapshot_id: snapshot.clone(),
    };
    let mut events = build
        .client
        .clone()
        .prepare(both)
        .await
        .unwrap()
        .into_inner();
    let error = loop {
        match events.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("both were taken"),
            Err(error) => break error,
        }
    };
    is(error, "INVALID_ARGUMENT");
    let mut broken = site.layers_of("busybox").await;
    broken[0].diff_id = "sha256:../../etc".to_owned();
    is(
        build.prepare(&broken).await.unwrap_err(),
        "INVALID_ARGUMENT",
    );
    // A layer that is not what it is said to be.
    let mut wrong = site.layers_of("busybox").await;
    wrong[0].diff_id = format!("sha256:{unknown}");
    is(build.prepare(&wrong).await.unwrap_err(), "LAYER_INVALID");
    assert!(!site.path("state/runtime/layers").join(&unknown).exists());

    // The wrong order.
    is(applied(&build, vec![data(b"x")]).await, "INVALID_ARGUMENT");
    is(applied(&build, vec![]).await, "INVALID_ARGUMENT");
    let twice = vec![start(&snapshot, "/"), start(&snapshot, "/")];
    is(applied(&build, twice).await, "INVALID_ARGUMENT");
    is(
        applied(&build, vec![start(&snapshot, "/"), data(&[7; 2000])]).await,
        "INVALID_ARGUMENT",
    );
    let cut = tar(&[(entry("a", Kind::File, 3000), vec![1; 3000])]);
    let cut = vec![start(&snapshot, "/"), data(&cut[..1500])];
    is(applied(&build, cut).await, "INVALID_ARGUMENT");
    // A message that is larger than messages are.
    let huge = pb::ApplyRequest {
        part: Some(Part::Data(vec![0; 8 << 20].into())),
    };
    let error = applied(&build, vec![start(&snapshot, "/"), huge]).await;
    assert!(
        matches!(
            error.code(),
            tonic::Code::OutOfRange | tonic::Code::ResourceExhausted
        ),
        "{error:?}"
    );
    for (compression, level) in [("zstd", 0), ("gzip", 99), ("gzip", -1)] {
        let request = pb::CommitSnapshotRequest {
            snapshot_id: snapshot.clone(),
            repository: "docker.io/library/x".to_owned(),
            compression: compression.to_owned(),
            level,
            source_date_epoch: None,
        };
        let error = build
            .client
            .clone()
            .commit_snapshot(request)
            .await
            .unwrap_err();
        assert!(!reason(&error).is_empty(), "{error}");
    }
    let negative = pb::LeaseRequest {
        ttl: Some(prost_types::Duration {
            seconds: -5,
            nanos: 0,
        }),
        ..Default::default()
    };
    is(
        build.client.clone().lease(negative).await.unwrap_err(),
        "INVALID_ARGUMENT",
    );
    // After all that it works.
    let file = vec![(entry("fine", Kind::File, 4), b"fine".to_vec())];
    build.apply(&snapshot, "/", &tar(&file)).await.unwrap();
    assert!(build.has(&snapshot, "/fine").await.unwrap());
    build.end().await;
    build.end().await;
    no_snapshots(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_has_as_much_as_it_may() {
    if !slipway_tests::ready() {
        return;
    }
    let mut site = Site::bare();
    site.configure(
        "runtime.toml",
        "lease_max_snapshots = 2\nlease_max_bytes = \"1m\"\n",
    );
    site.start_services().await;
    slipway_tests::image::busybox(&site).await;
    let build = site.begin_build("a test", LONG).await;
    let first = build
        .prepare(&site.layers_of("busybox").await)
        .await
        .unwrap();
    let second = build.prepare(&[]).await.unwrap();
    let error = build.prepare(&[]).await.unwrap_err();
    assert_eq!(reason(&error), "LEASE_LIMIT", "{error}");
    assert_eq!(
        reason(&build.upon(&second).await.unwrap_err()),
        "LEASE_LIMIT"
    );
    let file = |size: usize| tar(&[(entry("file", Kind::File, size as u64), vec![1; size])]);
    build.apply(&second, "/", &file(500_000)).await.unwrap();
    let error = build
        .apply(&second, "/", &file(2_000_000))
        .await
        .unwrap_err();
    assert_eq!(reason(&error), "LEASE_LIMIT", "{error}");
    // What came until then counts: it cannot be done again and again.
    for at in ["/one", "/two", "/three"] {
        let error = build.apply(&second, at, &file(2_000_000)).await;
        assert_eq!(reason(&error.unwrap_err()), "LEASE_LIMIT");
    }
    let said = Command::new("du")
        .args(["-s", "-B1"])
        .arg(site.path("state/runtime/snapshots").join(&second))
        .output();
    let text = String::from_utf8(said.unwrap().stdout).unwrap();
    let taken: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
    assert!(taken < 1_500_000, "{taken}");
    build.release(&second).await;
    // A step is stopped while it writes.
    let script =
        "i=0; while true; do head -c 300000 /dev/zero > /f$i; i=$((i+1)); usleep 100000; done";
    let error = build.run(&first, script).await.unwrap_err();
    assert_eq!(reason(&error), "LEASE_LIMIT", "{error}");
    // Another lease has its own.
    let other = site.begin_build("another", LONG).await;
    let third = other.prepare(&[]).await.unwrap();
    other.apply(&third, "/", &file(500_000)).await.unwrap();
    other.end().await;
    build.end().await;
    no_snapshots(&site).await;
}

/// Blobs of registry-svc that nothing names, and what is on its way in, bytes.
async fn unneeded(site: &Site) -> (u64, u64) {
    let usage = site
        .registry()
        .disk_usage(DiskUsageRequest::default())
        .await;
    let usage = usage.unwrap().into_inner();
    (usage.unneeded, usage.transfers)
}

/// Waits until the registry gets something.
async fn under_way(site: &Site) {
    eventually("the commit is under way", async || {
        (unneeded(site).await.1 > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_cut_off_publishes_nothing() {
    let Some((mut site, build)) = begin().await else {
        return;
    };
    let layers = site.layers_of("busybox").await;
    let before = unneeded(&site).await.0;
    let blobs = |site: &Site| {
        let said = Command::new("find")
            .arg(site.path("state/registry/blobs"))
            .args(["-type", "f"])
            .output();
        String::from_utf8(said.unwrap().stdout)
            .unwrap()
            .lines()
            .count()
    };
    let count = blobs(&site);
    // Enough to be in the middle of for a while.
    let nothing_comes = async |site: &Site| {
        eventually("the last one has ended", async || {
            (unneeded(site).await.1 == 0).then_some(())
        })
        .await;
    };
    let mut numbers = Numbers(42);
    let bytes: Vec<u8> = (0..12 << 20).map(|_| numbers.below(256) as u8).collect();
    let file = tar(&[(entry("noise", Kind::File, bytes.len() as u64), bytes)]);
    let snapshot = build.prepare(&layers).await.unwrap();
    build.apply(&snapshot, "/", &file).await.unwrap();
    tokio::select! {
        done = build.commit(&snapshot) => panic!("it was not cut off: {done:?}"),
        () = under_way(&site) => {}
    }
    nothing_comes(&site).await;
    // The lease ends in the middle of another.
    let (own, id) = (build.clone(), snapshot.clone());
    let commit = tokio::spawn(async move { own.commit(&id).await });
    under_way(&site).await;
    build.end().await;
    let error = commit.await.unwrap().unwrap_err();
    assert!(
        ["SNAPSHOT_ENDED", "SNAPSHOT_NOT_FOUND"].contains(&&*reason(&error)),
        "{error}"
    );
    nothing_comes(&site).await;
    // And the service dies in the middle of a third.
    let build = site.begin_build("a test", LONG).await;
    let snapshot = build.prepare(&layers).await.unwrap();
    build.apply(&snapshot, "/", &file).await.unwrap();
    let own = build.clone();
    let commit = tokio::spawn(async move { own.commit(&snapshot).await });
    under_way(&site).await;
    site.kill_and_restart("runtime").await;
    commit.await.unwrap().unwrap_err();
    no_snapshots(&site).await;
    eventually("nothing of it is in the registry", async || {
        (unneeded(&site).await == (before, 0)).then_some(())
    })
    .await;
    assert_eq!(blobs(&site), count);
    let layers = fs::read_dir(site.path("state/runtime/layers")).unwrap();
    assert_eq!(layers.count(), 1, "only busybox's");
}
