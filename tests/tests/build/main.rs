//! `ctl build` with a busybox as its base: what a Dockerfile means, what is cached, what is refused.
//!
//! This file has what all of them need; each other file tests one subject.

mod attested;
mod cache;
mod cache_mounts;
mod cancelled;
mod carried;
mod check;
mod contexts;
mod copying;
mod encrypted;
mod files;
mod git;
mod git_kept;
mod git_known;
mod git_ssh;
mod git_ssh_hosts;
mod git_ssh_refused;
mod history;
mod hostile;
mod image_of;
mod language;
mod mounts;
mod outputs;
mod parts;
mod platforms;
mod refused;
mod reproducible;
mod screen;
mod secrets;
mod slow;
mod together;
mod workers;

use std::{fs, path::Path};

use slipway_tests::{Said, Site, eventually, image};

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

async fn site() -> Site {
    let site = Site::start().await;
    image::busybox(&site).await;
    fs::create_dir_all(site.path("context")).unwrap();
    site
}

fn build(site: &Site, tag: &str, arguments: &[&str]) -> Said {
    let folder = site.path("context");
    let mut all = vec!["build", "-t", tag];
    all.extend(arguments);
    all.push(folder.to_str().unwrap());
    site.ctl(&all)
}

fn built(site: &Site, tag: &str, arguments: &[&str]) -> Said {
    let said = build(site, tag, arguments);
    assert_eq!(said.code, 0, "{}", said.err);
    said
}

/// "n of m steps cached"
fn cached(said: &Said) -> (u32, u32) {
    let line = said
        .err
        .lines()
        .find(|l| l.contains("steps cached"))
        .unwrap();
    let mut numbers = line.split(' ').filter_map(|w| w.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn shell(site: &Site, image: &str, script: &str) -> String {
    let said = site.ctl(&["run", "--rm", "--entrypoint", "sh", image, "-c", script]);
    assert_eq!(said.code, 0, "{}", said.err);
    said.out
}

/// Root filesystems of builds are taken back as soon as the build has ended.
async fn nothing_is_left(site: &Site, what: &str) {
    let folder = site.path("state/runtime/snapshots");
    eventually(&format!("nothing is left {what}"), async || {
        (fs::read_dir(&folder).unwrap().count() == 0).then_some(())
    })
    .await;
}
