//! `cp` while the container works against it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use slipway_tests::Site;

/// How long each race is run.
const RACE: Duration = Duration::from_secs(2);
/// How long at most, until the way was there and was not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Copies in both directions for a while; whatever the answers are, nothing of the host is read or written.
/// Returns how often each direction worked.
fn race(site: &Site, inside: &str, here: &Path) -> (u32, u32) {
    let one = here.join("one");
    let begun = Instant::now();
    let (mut out, mut into) = (0, 0);
    for n in 0.. {
        let both = out > 0 && into > 0;
        if begun.elapsed() > if both { RACE } else { PATIENCE } {
            break;
        }
        let copy = here.join(format!("copies/{n}"));
        let from = format!("box:{inside}/flag");
        if site.ctl(&["cp", &from, copy.to_str().unwrap()]).code == 0 {
            out += 1;
        }
        if copy.is_file() {
            // Empty: made, and not written yet.
            let content = fs::read_to_string(&copy).unwrap();
            assert!(["", "inside\n"].contains(&&*content), "{content}");
        }
        let to = format!("box:{inside}/planted");
        let said = site.ctl(&["cp", one.to_str().unwrap(), &to]);
        into += u32::from(said.code == 0);
    }
    (out, into)
}

/// CVE-2018-15664: a folder on the way is exchanged for a link to / and back, all the time. Both lead to a
/// file inside; the host has another one at the same path.
#[tokio::test]
async fn a_folder_that_becomes_a_link_while_it_is_copied() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let here = site.path("here");
    fs::create_dir_all(here.join("copies")).unwrap();
    fs::write(here.join("flag"), "outside\n").unwrap();
    fs::write(here.join("one"), "one\n").unwrap();
    let path = here.display();
    let script = format!(
        "mkdir -p {path} /d/x{path}; echo inside > {path}/flag; echo inside > /d/x{path}/flag; ln -s / /d/link; touch /ready; \
        while :; do busybox mv /d/x /d/folder; busybox mv /d/link /d/x; busybox mv /d/x /d/link; busybox mv /d/folder /d/x; done"
    );
    let run = ["run", "-d", "--name", "box", "busybox", "sh", "-c", &script];
    site.ctl(&run).ok();
    slipway_tests::eventually("it is ready", async || {
        (site.ctl(&["exec", "box", "test", "-e", "/ready"]).code == 0).then_some(())
    })
    .await;
    let (out, into) = race(&site, &format!("/d/x{path}"), &here);
    assert!(
        out > 0 && into > 0,
        "the way was there at times: {out} {into}"
    );
    assert!(!here.join("planted").exists());
    assert_eq!(fs::read_to_string(here.join("flag")).unwrap(), "outside\n");
    site.ctl(&["rm", "-f", "box"]).ok();
}

/// CVE-2026-41568 and CVE-2026-42306: docker mounts a container's volumes once more for `cp`, and a link in
/// the place of the mount's target led it to the host. Nothing is mounted here, and nothing made.
#[tokio::test]
async fn a_volumes_place_that_becomes_a_link_while_it_is_copied() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let here = site.path("here");
    fs::create_dir_all(here.join("copies")).unwrap();
    fs::create_dir_all(here.join("host")).unwrap();
    fs::write(here.join("one"), "one\n").unwrap();
    let host = here.join("host");
    let script = format!(
        "echo inside > /v/in/data/flag; mkdir -p {0}; ln -s {0} /link; touch /ready; \
        while :; do busybox mv /v /folder; busybox mv /link /v; busybox mv /v /link; busybox mv /folder /v; done",
        host.display()
    );
    let run = [
        "run",
        "-d",
        "--name",
        "box",
        "-v",
        "data:/v/in/data",
        "busybox",
        "sh",
        "-c",
        &script,
    ];
    site.ctl(&run).ok();
    slipway_tests::eventually("it is ready", async || {
        (site.ctl(&["exec", "box", "test", "-e", "/ready"]).code == 0).then_some(())
    })
    .await;
    let (out, into) = race(&site, "/v/in/data", &here);
    assert!(
        out > 0 && into > 0,
        "the way was there at times: {out} {into}"
    );
    site.ctl(&["stop", "-t", "0", "box"]).ok();
    // At rest, whichever of the two is in the volume's place now.
    race(&site, "/v/in/data", &here);
    assert_eq!(fs::read_dir(&host).unwrap().count(), 0);
    site.ctl(&["rm", "box"]).ok();
    site.ctl(&["volume", "rm", "data"]).ok();
}

/// Pipes that nobody writes to, also in the place of a file that was there a moment ago; a device.
#[tokio::test]
async fn pipes_and_devices_hang_nothing() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let here = site.path("here");
    fs::create_dir_all(here.join("copies")).unwrap();
    fs::create_dir_all(here.join("out")).unwrap();
    fs::write(here.join("one"), "one\n").unwrap();
    let script = "mkdir /d /e; busybox mkfifo /e/fifo; busybox mknod /e/null c 1 3; touch /ready; \
        while :; do echo inside > /d/flag; rm /d/flag; busybox mkfifo /d/flag; rm /d/flag; done";
    let run = ["run", "-d", "--name", "box", "busybox", "sh", "-c", script];
    site.ctl(&run).ok();
    slipway_tests::eventually("it is ready", async || {
        (site.ctl(&["exec", "box", "test", "-e", "/ready"]).code == 0).then_some(())
    })
    .await;
    race(&site, "/d", &here);
    let out = here.join("out");
    site.ctl(&["cp", "box:/e", out.to_str().unwrap()]).ok();
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let kind = |name: &str| fs::symlink_metadata(out.join("e").join(name)).unwrap();
    assert!(kind("fifo").file_type().is_fifo());
    assert!(kind("null").file_type().is_char_device());
    assert_eq!(kind("null").rdev(), rustix::fs::makedev(1, 3));
    // Back again, and the pipe itself as what is copied.
    site.ctl(&["cp", out.join("e").to_str().unwrap(), "box:/back"])
        .ok();
    let fifo = out.join("e/fifo");
    site.ctl(&["cp", fifo.to_str().unwrap(), "box:/alone"]).ok();
    let test = "test -p /back/fifo && test -c /back/null && test -p /alone";
    site.ctl(&["exec", "box", "sh", "-c", test]).ok();
    site.ctl(&["rm", "-f", "box"]).ok();
}

/// CVE-2026-41567: docker unpacked compressed streams with the container's own programs.
#[tokio::test]
async fn a_compressed_stream_is_unpacked_by_nobody_of_the_containers() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let here = site.path("here");
    fs::create_dir_all(&here).unwrap();
    fs::write(here.join("one"), "one\n").unwrap();
    let evil = "for name in gzip gunzip unpigz xz unxz zstd bzip2; do \
        printf '#!/bin/sh\\ntouch /evil\\n' > /bin/$name; busybox chmod 755 /bin/$name; done; sleep 1000";
    let run = ["run", "-d", "--name", "box", "busybox", "sh", "-c", evil];
    site.ctl(&run).ok();
    slipway_tests::eventually("it is ready", async || {
        (site.ctl(&["exec", "box", "test", "-x", "/bin/bzip2"]).code == 0).then_some(())
    })
    .await;
    let packed = site.output("tar", &["-czf", "-", "-C", here.to_str().unwrap(), "one"]);
    site.ctl_with(&["cp", "-", "box:/tmp"], &packed.stdout).ok();
    assert_eq!(site.ctl(&["exec", "box", "cat", "/tmp/one"]).ok(), "one\n");
    assert_ne!(site.ctl(&["exec", "box", "test", "-e", "/evil"]).code, 0);
    site.ctl(&["rm", "-f", "box"]).ok();
}
