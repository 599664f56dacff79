//! Dockerfiles in the manner of common stacks, built on Debian as their authors would and run: each has what
//! such projects use of the language. (Node and a plain server stand in files of their own.)

mod compiled;
mod database;
mod python;
mod web;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use slipway_tests::{
    Said, Site,
    fixtures::{self, Upstream},
    installed,
};

/// A project's files: a name ending in `.sh` is a program.
fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let mode = if name.ends_with(".sh") { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// A site with a way to the package registries, docker.io as a docker-registry, and a project.
async fn site(files: &[(&str, &str)]) -> Option<(Site, Upstream)> {
    fixtures::images()?;
    if !installed(&["slirp4netns", "curl"]) {
        return None;
    }
    let mut site = Site::roomy();
    site.connect();
    let upstream = Upstream::of_images(&site, 5001).await;
    site.configure("registry.toml", &upstream.as_docker_io("5m"));
    site.start_services().await;
    write(&site.path("project"), files);
    Some((site, upstream))
}

/// Builds the project as `app`, with the caller's proxy as docker's users behind one do.
fn build(site: &Site, options: &[&str]) -> Said {
    let mut words = vec!["build".to_owned(), "-t".into(), "app".into()];
    for name in ["http_proxy", "https_proxy", "no_proxy"] {
        if let Ok(value) = std::env::var(name) {
            words.extend(["--build-arg".to_owned(), format!("{name}={value}")]);
        }
    }
    words.extend(options.iter().map(|o| (*o).to_owned()));
    words.push(site.path("project").display().to_string());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = site.ctl(&words);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    said
}
