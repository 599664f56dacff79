//! A registry whose disk loses what it was given: what comes meanwhile is not acknowledged, the rest stays.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use slipway_image::Digest;
use slipway_tests::{Answer, Site, ready};

const ADDRESS: &str = "127.0.0.1:5000";

/// A file system on a file in memory that has less room than the file system believes.
const MAKE: &str = "cd $0; mkdir small disk; mount -t tmpfs -o size=24m tmpfs small; \
    truncate -s 256m small/image; mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0 small/image; \
    mount -o loop small/image disk; mkdir disk/registry";

/// See the module's page.
struct Disk(tempfile::TempDir);

impl Disk {
    fn make(site: &Site) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        disk.run(MAKE);
        fs::create_dir_all(site.path("state")).unwrap();
        let folder = disk.0.path().join("disk/registry");
        std::os::unix::fs::symlink(folder, site.path("state/registry")).unwrap();
        disk
    }

    fn run(&self, script: &str) {
        let mut shell = Command::new("sh");
        let ran = shell.args(["-ec", script]).arg(self.0.path()).status();
        assert!(ran.unwrap().success(), "{script}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for name in ["disk", "small"] {
            let mount = self.0.path().join(name);
            let _ = Command::new("umount").arg("-l").arg(mount).status();
        }
    }
}

fn push(site: &Site, content: &[u8]) -> Answer {
    let target = format!("/v2/app/blobs/uploads/?digest={}", Digest::of(content));
    site.ask(ADDRESS, "POST", &target).body(content).send()
}

fn get(site: &Site, content: &[u8]) -> Answer {
    let target = format!("/v2/app/blobs/{}", Digest::of(content));
    site.ask(ADDRESS, "GET", &target).send()
}

fn refused(answer: &Answer) {
    let text = String::from_utf8_lossy(&answer.body);
    assert!(answer.status >= 500, "{}: {text}", answer.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_lost_is_not_acknowledged() {
    if !ready() {
        return;
    }
    if !Path::new("/dev/loop-control").exists() {
        slipway_tests::skipped("needs loop devices");
        return;
    }
    let mut site = Site::bare();
    let disk = Disk::make(&site);
    site.start_service("registry").await;
    let process = site.service_pid("registry");
    let kept = vec![1; 1_000_000];
    push(&site, &kept).is(201);
    // Far more than the disk is asked to begin with while it comes, and than it has room for.
    let large = noise(40_000_000);
    refused(&push(&site, &large));
    get(&site, &large).is(404);
    assert_eq!(get(&site, &kept).is(200).body, kept);
    // It has room again when the last of it comes; what it lost before that stays lost. All of the first is given to
    // the disk while it comes, which is by 8 MiB.
    let begun = site.ask(ADDRESS, "POST", "/v2/app/blobs/uploads/").send();
    let place = begun.is(202).told("location").to_owned();
    let place = place.trim_start_matches(&format!("http://{ADDRESS}"));
    let (first, last) = large.split_at(32 << 20);
    site.ask(ADDRESS, "PATCH", place).body(first).send().is(202);
    disk.run("! sync -f $0/disk; mount -o remount,size=200m $0/small");
    let place = format!("{place}?digest={}", Digest::of(&large));
    refused(&site.ask(ADDRESS, "PUT", &place).body(last).send());
    get(&site, &large).is(404);
    assert_eq!(get(&site, &kept).is(200).body, kept);
    assert_eq!(site.service_pid("registry"), process);
    assert!(!site.has_ended("registry"));
    push(&site, &large).is(201);
    // As the disk has it, not the memory.
    let blob = find(&site.path("state/registry/"), large.len());
    let file = fs::File::open(blob).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert_eq!(get(&site, &large).is(200).body, large);
    drop(site);
}

/// Bytes that nobody can do with less of.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        // Xorshift (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next)
        .flatten()
        .take(size)
        .collect()
}

/// The file of that size.
fn find(folder: &Path, size: usize) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let is = entry.metadata().unwrap();
            if is.is_dir() {
                folders.push(entry.path());
            } else if is.len() == size as u64 {
                return entry.path();
            }
        }
    }
    panic!("no file of {size} bytes");
}
