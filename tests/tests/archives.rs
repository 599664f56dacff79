//! `save` and `load`: archives that docker, podman and skopeo read and write, and those that are not sound.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use slipway_tests::{Site, docker::Docker, eventually, installed};

#[track_caller]
fn succeed(site: &Site, program: &str, arguments: &[&str]) -> String {
    let output = site.output(program, arguments);
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[track_caller]
fn skopeo_copy(site: &Site, from: &str, to: &str) {
    let options = "copy -q --insecure-policy --src-tls-verify=false --dest-tls-verify=false";
    let arguments: Vec<&str> = options.split(' ').chain([from, to]).collect();
    succeed(site, "skopeo", &arguments);
}

#[track_caller]
fn podman(site: &Site, arguments: &[&str]) -> String {
    let (root, run) = (site.path("podman"), site.path("podman-run"));
    let mut all = vec!["--root", root.to_str().unwrap()];
    all.extend([
        "--runroot",
        run.to_str().unwrap(),
        "--storage-driver",
        "vfs",
    ]);
    all.extend(arguments);
    succeed(site, "podman", &all)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The id of an image.
#[track_caller]
fn id(site: &Site, name: &str) -> String {
    site.inspect(name, "{{.Id}}")
}

/// All content of the site's registry, and what is on its way.
fn content(site: &Site) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![
        site.path("state/registry/blobs"),
        site.path("state/registry/tmp"),
    ];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path().is_dir() {
                true => left.push(entry.path()),
                false => drop(found.insert(entry.path())),
            }
        }
    }
    found
}

#[tokio::test]
async fn what_is_saved_is_read_by_skopeo_and_podman() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    if !installed(&["skopeo", "podman"]) {
        return;
    }
    site.ctl(&["tag", "busybox", "team/two:v2"]).ok();
    let archive = site.path("images.tar");
    let to = text(&archive);
    site.ctl(&["save", "-o", to, "busybox:latest", "team/two:v2"])
        .ok();
    let expected = id(&site, "busybox");
    for name in [
        format!("docker-archive:{to}:busybox:latest"),
        format!("docker-archive:{to}:team/two:v2"),
        format!("oci-archive:{to}:latest"),
        format!("oci-archive:{to}:v2"),
    ] {
        let raw = succeed(&site, "skopeo", &["inspect", "--raw", &name]);
        assert!(raw.contains("\"layers\""), "{name}: {raw}");
        let config = ["inspect", "--config", "--raw", &name];
        let config = site.output("skopeo", &config).stdout;
        assert_eq!(
            slipway_image::Digest::of(config).to_string(),
            expected,
            "{name}"
        );
    }
    let said = podman(&site, &["load", "-q", "-i", to]);
    assert!(said.contains("team/two:v2"), "{said}");
    let theirs = ["image", "inspect", "--format", "{{.Id}}", "team/two:v2"];
    assert_eq!(format!("sha256:{}", podman(&site, &theirs)), expected);

    // To a pipe, byte for byte the same; by its id without names; and what there is not is not there at all.
    let piped = site.command(
        text(&slipway_tests::site::program_path("ctl")),
        &["image", "save", "busybox:latest", "team/two:v2"],
    );
    let piped = { piped }.output().unwrap();
    assert_eq!(piped.stdout, fs::read(&archive).unwrap());
    let unnamed = site.path("unnamed.tar");
    site.ctl(&["save", "-o", text(&unnamed), &expected]).ok();
    let said = site.ctl(&["load", "-i", text(&unnamed)]).ok();
    assert_eq!(said, format!("Loaded image ID: {expected}\n"));
    let none = site.path("none.tar");
    let said = site.ctl(&["save", "-o", text(&none), "busybox", "nosuch"]);
    assert!(said.error(1).contains("No such image: nosuch"));
    assert!(!none.exists());
    let arm = [
        "save",
        "--platform",
        "linux/s390x",
        "-o",
        text(&none),
        "busybox:latest",
    ];
    assert!(site.ctl(&arm).error(1).contains("linux/s390x"));
}

#[tokio::test]
async fn archives_of_others_are_loaded_however_they_are_compressed() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    if !installed(&["skopeo", "podman", "gzip", "xz", "zstd", "bzip2"]) {
        return;
    }
    let expected = id(&site, "busybox");
    let ours = "docker://127.0.0.1:5000/busybox:latest";
    let file = |name: &str| site.path(name);
    skopeo_copy(
        &site,
        ours,
        &format!("docker-archive:{}:goals:docker", text(&file("docker"))),
    );
    skopeo_copy(
        &site,
        ours,
        &format!("oci-archive:{}:goals:oci", text(&file("oci"))),
    );
    podman(&site, &["load", "-q", "-i", text(&file("docker"))]);
    podman(
        &site,
        &[
            "tag",
            "docker.io/library/goals:docker",
            "docker.io/team/podman:1",
        ],
    );
    let save = |format: &str, to: &str| {
        let to = file(to);
        let words = ["save", "-q", "--format", format, "-o", text(&to)];
        let words = words.into_iter().chain(["docker.io/team/podman:1"]);
        podman(&site, &words.collect::<Vec<_>>());
    };
    save("docker-archive", "podman-docker");
    save("oci-archive", "podman-oci");
    // Only what is not here is written: everything was.
    let before = content(&site);
    for (archive, name) in [
        ("oci", "goals:oci"),
        ("docker", "goals:docker"),
        ("podman-docker", "team/podman:1"),
        ("podman-oci", "team/podman:1"),
    ] {
        let archive = file(archive);
        for pack in ["cat", "gzip -c", "bzip2 -c", "xz -0 -c", "zstd -q -c"] {
            let line = format!("{pack} < {} > {}.packed", text(&archive), text(&archive));
            succeed(&site, "sh", &["-c", &line]);
            let packed = format!("{}.packed", text(&archive));
            let said = site.ctl(&["load", "-i", &packed]).ok();
            assert_eq!(said, format!("Loaded image: {name}\n"), "{pack}");
            assert_eq!(site.ctl(&["run", "--rm", name, "echo", "hi"]).ok(), "hi\n");
            if archive.ends_with("oci") {
                assert_eq!(id(&site, name), expected);
                // The manifest is skopeo's own.
                assert!(content(&site).len() <= before.len() + 1);
            }
            site.ctl(&["rmi", name]).ok();
        }
        let input = fs::read(&archive).unwrap();
        let said = site.ctl_with(&["image", "load"], &input).ok();
        assert_eq!(said, format!("Loaded image: {name}\n"));
    }
}

#[tokio::test]
async fn docker_and_ctl_read_each_others_archives() {
    let Some(docker) = Docker::start().await else {
        return;
    };
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let folder = docker.folder();
    fs::create_dir_all(&folder).unwrap();
    let ours = folder.join("ours.tar");
    site.ctl(&["save", "-o", text(&ours), "busybox"]).ok();
    let said = docker.run(&["load", "-i", text(&ours)]).ok();
    assert!(said.contains("Loaded image: busybox:latest"), "{said}");
    let inspect = ["image", "inspect", "-f", "{{.Id}}", "busybox:latest"];
    assert_eq!(docker.run(&inspect).ok().trim(), id(&site, "busybox"));
    docker
        .run(&["tag", "busybox:latest", "team/theirs:v1"])
        .ok();
    let theirs = folder.join("theirs.tar");
    let save = [
        "save",
        "-o",
        text(&theirs),
        "busybox:latest",
        "team/theirs:v1",
    ];
    docker.run(&save).ok();
    site.ctl(&["rmi", "-f", &id(&site, "busybox")]).ok();
    let said = site.ctl(&["load", "-i", text(&theirs)]).ok();
    let lines: BTreeSet<_> = said.lines().collect();
    let both = [
        "Loaded image: busybox:latest",
        "Loaded image: team/theirs:v1",
    ];
    assert_eq!(lines, BTreeSet::from(both));
    assert_eq!(
        site.ctl(&["run", "--rm", "busybox", "echo", "hi"]).ok(),
        "hi\n"
    );
    assert_eq!(docker.run(&inspect).ok().trim(), id(&site, "busybox"));
}

#[tokio::test]
async fn an_archive_that_is_not_sound_or_cut_off_leaves_nothing() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let archive = site.path("images.tar");
    site.ctl(&["save", "-o", text(&archive), "busybox"]).ok();
    site.ctl(&["rmi", "busybox"]).ok();
    site.ctl(&["image", "prune", "-af"]).ok();
    let before = content(&site);
    let whole = fs::read(&archive).unwrap();

    let at = whole.len() / 2;
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    let said = site.ctl_with(&["load"], &flipped).error(1);
    assert!(said.contains("invalid archive"), "{said}");
    assert_eq!(content(&site), before);
    let said = site.ctl_with(&["load"], &whole[..at]).error(1);
    assert!(said.contains("cut off"), "{said}");
    assert_eq!(content(&site), before);
    assert!(
        site.ctl(&["load", "-i", "/nonexistent"])
            .error(1)
            .contains("/nonexistent")
    );

    let mut load = site.ctl_start(&["load"]);
    let mut stdin = load.stdin.take().unwrap();
    stdin.write_all(&whole[..whole.len() - 20_000]).unwrap();
    eventually("some of it is there", async || {
        (content(&site) != before).then_some(())
    })
    .await;
    load.kill().unwrap();
    load.wait().unwrap();
    drop(stdin);
    eventually("nothing of it is there", async || {
        (content(&site) == before).then_some(())
    })
    .await;
    assert_eq!(site.ctl(&["images", "-aq"]).ok(), "");

    site.ctl(&["load", "-q", "-i", text(&archive)]).ok();
    assert_eq!(
        site.ctl(&["run", "--rm", "busybox", "echo", "hi"]).ok(),
        "hi\n"
    );
}
