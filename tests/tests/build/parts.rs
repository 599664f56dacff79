//! What two layers have in common is stored once, and both are whole to everybody.

use std::{fs, io::Write as _, os::unix::fs::MetadataExt as _, path::Path};

use slipway_image::layer::gzip::GzipWriter;
use slipway_proto::{
    registry::v1::{DiskUsageRequest, DiskUsageResponse, ImageUsage},
    runtime::v1::PruneLayersRequest,
};

use super::*;

const LARGE: usize = 3 << 20;

/// Content that cannot be compressed: nothing hides whether it was stored twice.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..LARGE / 8).flat_map(|_| next().to_le_bytes()).collect()
}

/// Bytes on disk below a folder.
fn on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.metadata().unwrap() {
            meta if meta.is_dir() => on_disk(&entry.path()),
            meta => meta.blocks() * 512,
        })
        .sum()
}

#[tokio::test]
async fn what_did_not_change_is_stored_once_and_stays_as_long_as_a_layer_has_it() {
    let mut site = site().await;
    let context = site.path("context");
    let file = "FROM busybox\nRUN mkdir /app\nCOPY . /app\nRUN true > /last\n";
    write(&context, &[("Dockerfile", file), ("small", "1")]);
    for (name, seed) in [("a", 1), ("b", 2), ("c/d", 3)] {
        fs::create_dir_all(context.join("c")).unwrap();
        fs::write(context.join(name), noise(seed)).unwrap();
    }
    let state = site.path("state/registry");
    built(&site, "one", &[]);
    let first = on_disk(&state);
    fs::write(context.join("small"), "2").unwrap();
    built(&site, "two", &[]);
    let grown = on_disk(&state) - first;
    assert!(grown < 512 << 10, "{grown}");
    let sums = "cd /app && sha256sum a b c/d && cat small";
    let (one, two) = (shell(&site, "one", sums), shell(&site, "two", sums));
    assert_eq!(one.trim_end_matches('1'), two.trim_end_matches('2'));
    // Whoever asks over HTTP gets a blob like any other: skopeo checks its digest.
    if slipway_tests::installed(&["skopeo"]) {
        let from = "docker://127.0.0.1:5000/two";
        let to = format!("dir:{}", site.path("pulled").display());
        let words = ["--insecure-policy", "copy", "-q", "--src-tls-verify=false"];
        let words = [&words[..], &[from, &to]].concat();
        Said::from(site.output("skopeo", &words)).ok();
    }
    // The layer that the parts came with goes; what the other one has of them stays, also through a kill.
    site.ctl(&["rmi", "one"]).ok();
    site.ctl(&["builder", "prune", "-af"]).ok();
    site.kill_and_restart("registry").await;
    assert_eq!(shell(&site, "two", sums), two);
    // A builder that counts on parts that are gone sends them again.
    site.ctl(&["rmi", "-f", "two"]).ok();
    site.ctl(&["builder", "prune", "-af"]).ok();
    let left = on_disk(&state);
    assert!(left < first - 2 * LARGE as u64, "{left} of {first}");
    built(&site, "three", &["--no-cache"]);
    assert_eq!(shell(&site, "three", sums), two);
    // So does one whose registry has lost everything behind its back.
    site.kill_service("registry");
    fs::remove_dir_all(&state).unwrap();
    site.start_service("registry").await;
    image::busybox(&site).await;
    built(&site, "four", &[]);
    assert_eq!(shell(&site, "four", sums), two);
}

#[tokio::test]
async fn what_images_share_is_told_of_each_of_them() {
    let site = site().await;
    let context = site.path("context");
    let file = "FROM scratch\nCOPY . /app\n";
    write(&context, &[("Dockerfile", file), ("small", "1")]);
    fs::write(context.join("large"), noise(1)).unwrap();
    built(&site, "one", &[]);
    write(&context, &[("small", "2")]);
    built(&site, "two", &[]);
    let usage = async |in_use: &[&ImageUsage]| {
        let id = |image: &&ImageUsage| image.image.as_ref().unwrap().id.clone();
        let request = DiskUsageRequest {
            verbose: true,
            in_use: in_use.iter().map(id).collect(),
            ..DiskUsageRequest::default()
        };
        let answer = site.registry().disk_usage(request).await;
        answer.unwrap().into_inner()
    };
    let of = |usage: &DiskUsageResponse, name: &str| {
        let tag = format!("docker.io/library/{name}:latest");
        let is_it = |i: &&ImageUsage| i.image.as_ref().unwrap().repo_tags.contains(&tag);
        usage.each.iter().find(is_it).unwrap().clone()
    };
    let both = usage(&[]).await;
    let (one, two) = (of(&both, "one"), of(&both, "two"));
    let (large, little) = (LARGE as u64, 256 << 10);
    for image in [&one, &two] {
        assert!(image.shared >= large && image.unique < little, "{image:?}");
        assert!(image.unique > 0 && image.size == image.shared + image.unique);
    }
    // All of it once; and what goes with one of them is not what the other one needs.
    let base = of(&both, "busybox");
    assert_eq!(both.size, one.size + two.unique + base.size);
    assert_eq!(usage(&[&one, &two]).await.reclaimable, base.size);
    assert_eq!(usage(&[&two, &base]).await.reclaimable, one.unique);
    site.ctl(&["rmi", "one"]).ok();
    let left = usage(&[]).await;
    assert_eq!(left.size, both.size - one.unique);
    let two = of(&left, "two");
    assert_eq!((two.shared, two.unique), (0, two.size));
}

#[tokio::test]
async fn what_a_worker_has_already_is_taken_from_there() {
    let site = site().await;
    let context = site.path("context");
    let file = "FROM busybox\nCOPY . /app\nRUN gunzip -k /app/packed.gz\n";
    write(&context, &[("Dockerfile", file), ("small", "1")]);
    for (name, seed) in [("a", 1), ("b", 2), ("twin", 2)] {
        fs::write(context.join(name), noise(seed)).unwrap();
    }
    let mut packed = GzipWriter::new(Vec::new(), 1);
    packed.write_all(&noise(7)).unwrap();
    fs::write(context.join("packed.gz"), packed.finish().unwrap()).unwrap();
    let sums = "cd /app && sha256sum a b twin packed && cat small";
    let refused = || {
        let log = fs::read_to_string(site.path("builder.log")).unwrap();
        log.matches("the worker did not take a layer").count()
    };
    built(&site, "one", &[]);
    let one = shell(&site, "one", sums);
    // In a new layer each file is its own: programs that pass over files of several names do not pass over it.
    let same = |image: &str, small: char| {
        let said = shell(&site, image, sums);
        assert_eq!(said.trim_end_matches(small), one.trim_end_matches('1'));
        let links = shell(&site, image, "stat -c %h /app/* | sort -u");
        assert_eq!(links, "1\n");
    };
    fs::write(context.join("small"), "2").unwrap();
    built(&site, "two", &[]);
    same("two", '2');
    assert_eq!(refused(), 0);
    // A builder that counts on layers which are gone: the worker fetches the new one.
    let all = PruneLayersRequest { all: true };
    site.host().prune_layers(all).await.unwrap();
    fs::write(context.join("small"), "3").unwrap();
    built(&site, "three", &[]);
    same("three", '3');
    assert_eq!(refused(), 1);
    // And knows it again.
    fs::write(context.join("small"), "4").unwrap();
    built(&site, "four", &[]);
    same("four", '4');
    assert_eq!(refused(), 1);
}
