//! registry-svc among real registries and clients: docker-registry as docker.io, skopeo, podman, docker.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Stdio},
};

use slipway_image::{Digest, media_type};
use slipway_tests::{
    Reply, Server, Site,
    dockerd::{Dockerd, Store},
    fixtures::{self, Upstream},
    image, installed, ready, tree,
};

/// Where docker-registry listens on a site.
const UPSTREAM: u16 = 5001;

/// registry-svc's default.
const OURS: &str = "127.0.0.1:5000";

/// A site that has docker-registry with the real images as docker.io.
async fn mirroring(tag_ttl: &str) -> Option<(Site, Upstream)> {
    fixtures::images()?;
    let mut site = Site::roomy();
    let upstream = Upstream::of_images(&site, UPSTREAM).await;
    site.configure("registry.toml", &upstream.as_docker_io(tag_ttl));
    site.start_services().await;
    Some((site, upstream))
}

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
    let options = "copy -q --insecure-policy --preserve-digests --src-tls-verify=false --dest-tls-verify=false";
    let arguments: Vec<&str> = options.split(' ').chain([from, to]).collect();
    succeed(site, "skopeo", &arguments);
}

/// The manifest of an image in a registry, byte by byte.
#[track_caller]
fn raw(site: &Site, reference: &str) -> Vec<u8> {
    let image = format!("docker://{reference}");
    let output = site.output(
        "skopeo",
        &["inspect", "--raw", "--tls-verify=false", &image],
    );
    assert!(output.status.success(), "{reference}");
    output.stdout
}

/// The blobs of an OCI layout that a manifest names, checked against their names.
fn blobs(layout: &Path, manifest: &[u8]) -> BTreeSet<(String, u64)> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    let mut named = vec![manifest["config"].clone()];
    named.extend(manifest["layers"].as_array().unwrap().iter().cloned());
    named
        .iter()
        .map(|descriptor| {
            let digest = descriptor["digest"].as_str().unwrap().to_owned();
            let path = layout.join("blobs").join(digest.replace(':', "/"));
            let content = std::fs::read(path).unwrap();
            assert_eq!(Digest::of(&content).to_string(), digest);
            (digest, content.len() as u64)
        })
        .collect()
}

#[tokio::test]
async fn skopeo_copies_there_and_back_byte_by_byte() {
    let Some(images) = fixtures::images() else {
        return;
    };
    let mut site = Site::roomy();
    site.start_services().await;
    let (back, ours) = (site.path("back"), format!("{OURS}/team/node:v1"));
    skopeo_copy(
        &site,
        &format!("oci:{}:node", images.join("images").display()),
        &format!("docker://{ours}"),
    );
    skopeo_copy(
        &site,
        &format!("docker://{ours}"),
        &format!("oci:{}", back.display()),
    );
    let manifest = raw(&site, &ours);
    let sent = blobs(&images.join("images"), &manifest);
    assert_eq!(sent.len(), 3, "a config, debian's layer and node's");
    assert_eq!(sent, blobs(&back, &manifest));
    let index = std::fs::read_to_string(images.join("images/index.json")).unwrap();
    let digest = Digest::of(&manifest).to_string();
    assert!(index.contains(&digest), "the manifest kept its digest");
    // By digest, and as ctl names it.
    assert_eq!(raw(&site, &format!("{OURS}/team/node@{digest}")), manifest);
    let inspected = site.ctl(&["image", "inspect", "-f", "{{.Id}}", &ours]).ok();
    assert!(sent.iter().any(|(config, _)| config == inspected.trim()));
    // What is removed is gone for foreign clients, too.
    site.ctl(&["rmi", &ours]).ok();
    let url = format!("http://{OURS}/v2/team/node/manifests/v1");
    assert_eq!(status(&site, &url), "404");
}

fn status(site: &Site, url: &str) -> String {
    succeed(
        site,
        "curl",
        &["-s", "-o", "/dev/null", "-w", "%{http_code}", url],
    )
}

#[tokio::test]
async fn the_mirror_fetches_only_what_it_lacks() {
    let Some((site, upstream)) = mirroring("0s").await else {
        return;
    };
    let gets = || {
        upstream
            .requests("GET /v2/library/")
            .iter()
            .filter(|r| r.contains("/blobs/"))
            .count()
    };
    let pulled = site.ctl(&["pull", "debian:bookworm"]).ok();
    assert!(
        pulled.lines().last().unwrap().contains("debian:bookworm"),
        "{pulled}"
    );
    assert_eq!(
        gets(),
        2,
        "a config and a layer: {:?}",
        upstream.requests("GET")
    );
    // The same again, by another name of it: nothing but the question what the tag is.
    let again = site.ctl(&["pull", "debian:bookworm"]).ok();
    assert!(again.contains("Image is up to date"), "{again}");
    site.ctl(&["pull", "docker.io/library/debian:latest"]).ok();
    assert_eq!(gets(), 2, "{:?}", upstream.requests("GET"));
    // An image that shares debian's layer: its config and one layer, and four pieces of the shared one, which prove
    // that this repository has it, too.
    site.ctl(&["pull", "-q", "node"]).ok();
    assert_eq!(gets(), 2 + 2 + 4, "{:?}", upstream.requests("GET"));
    assert_eq!(
        raw(&site, &format!("{OURS}/library/node:latest")),
        raw(&site, &format!("{}/library/node:latest", upstream.address)),
    );
    let images = site
        .ctl(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .ok();
    for name in ["debian:bookworm", "debian:latest", "node:latest"] {
        assert!(images.lines().any(|l| l == name), "{images}");
    }
    let layers = |name: &str| {
        let format = "{{range .RootFS.Layers}}{{.}} {{end}}";
        let layers = site.ctl(&["image", "inspect", "-f", format, name]).ok();
        layers
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(layers("debian:bookworm")[..], layers("node")[..1]);
    assert_eq!(layers("node").len(), 2);
    // And they run.
    let hello = [
        "run",
        "--rm",
        "debian:bookworm",
        "sh",
        "-c",
        ". /etc/os-release; echo $ID",
    ];
    assert_eq!(site.ctl(&hello).ok(), "debian\n");
    let hello = ["run", "--rm", "node", "node", "-p", "40 + 2"];
    assert_eq!(site.ctl(&hello).ok(), "42\n");
    assert_eq!(gets(), 8, "running asks upstream for nothing");
}

#[tokio::test]
async fn an_image_unpacks_to_what_umoci_makes_of_it() {
    let Some((site, _upstream)) = mirroring("5m").await else {
        return;
    };
    let layout = fixtures::images().unwrap().join("images");
    site.ctl(&["pull", "-q", "node"]).ok();
    tree::assert_same(
        &tree::seen(&site, "node"),
        &tree::unpacked_by_umoci(&site, &layout, "node"),
    );
}

#[tokio::test]
async fn run_pulls_what_is_not_there() {
    let Some((site, _upstream)) = mirroring("5m").await else {
        return;
    };
    let said = site.ctl(&[
        "run",
        "--rm",
        "debian:bookworm",
        "cat",
        "/etc/debian_version",
    ]);
    assert!(
        said.err
            .contains("Unable to find image 'debian:bookworm' locally"),
        "{}",
        said.err
    );
    assert!(said.ok().starts_with("12"));
}

#[tokio::test]
async fn many_pulls_at_once_are_one_transfer() {
    let Some((site, upstream)) = mirroring("5m").await else {
        return;
    };
    let mut pulls: Vec<Child> = (0..6)
        .map(|_| site.ctl_start(&["pull", "-q", "node"]))
        .collect();
    for n in 0..2 {
        // A foreign client in the midst of them.
        let (from, to) = (
            format!("docker://{OURS}/library/node:latest"),
            site.path(&format!("copy{n}")),
        );
        let target = format!("oci:{}", to.display());
        let mut copy = site.command(
            "skopeo",
            &[
                "copy",
                "-q",
                "--insecure-policy",
                "--src-tls-verify=false",
                &from,
                &target,
            ],
        );
        pulls.push(
            copy.stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
    }
    for pull in pulls {
        let output = pull.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let gets: Vec<String> = upstream.requests("GET /v2/library/node/blobs/");
    let distinct: BTreeSet<&String> = gets.iter().collect();
    assert_eq!((gets.len(), distinct.len()), (3, 3), "{gets:?}");
}

#[tokio::test]
async fn upstream_may_go_away() {
    let Some((site, upstream)) = mirroring("0s").await else {
        return;
    };
    site.ctl(&["pull", "-q", "debian:bookworm"]).ok();
    let before = raw(&site, &format!("{OURS}/library/debian:bookworm"));
    drop(upstream);
    let stale = site.ctl(&["pull", "debian:bookworm"]);
    assert_eq!(stale.code, 0, "{}", stale.err);
    let told = format!("{}{}", stale.out, stale.err);
    assert!(
        told.contains("stale") || told.contains("unavailable") || told.contains("not answer"),
        "it says so: {told}"
    );
    assert_eq!(
        raw(&site, &format!("{OURS}/library/debian:bookworm")),
        before
    );
    site.ctl(&["run", "--rm", "--pull", "always", "debian:bookworm", "true"])
        .ok();
    // What it never had it cannot give, and says whose fault that is.
    let error = site.ctl(&["pull", "node"]).error(1);
    assert!(error.contains("docker.io is unavailable"), "{error}");
    site.ctl(&["run", "--rm", "node", "true"]).error(125);
    assert_eq!(site.ctl(&["ps", "-aq"]).ok(), "");
}

#[tokio::test]
async fn an_image_that_does_not_exist() {
    let Some((site, _upstream)) = mirroring("5m").await else {
        return;
    };
    let error = site.ctl(&["pull", "nosuch"]).error(1);
    assert!(error.contains("nosuch"), "{error}");
    assert!(
        error.contains("manifest unknown") || error.contains("repository does not exist"),
        "{error}"
    );
    let error = site.ctl(&["pull", "debian:nosuch"]).error(1);
    assert!(
        error.contains("manifest for debian:nosuch not found: manifest unknown"),
        "{error}"
    );
    let error = site
        .ctl(&["run", "--rm", "debian:nosuch", "true"])
        .error(125);
    assert!(
        error.contains("manifest for debian:nosuch not found: manifest unknown"),
        "{error}"
    );
    let error = site
        .ctl(&["run", "--rm", "--pull", "never", "debian:bookworm", "true"])
        .error(125);
    assert!(error.contains("No such image: debian:bookworm"), "{error}");
    let error = site.ctl(&["run", "--rm", "UPPER", "true"]).error(125);
    assert!(error.contains("must be lowercase"), "{error}");
    assert_eq!(
        (
            site.ctl(&["ps", "-aq"]).ok(),
            site.ctl(&["images", "-q"]).ok()
        ),
        (String::new(), String::new())
    );
}

/// An image whose layer is not what its digest says.
fn liar() -> (Vec<u8>, Vec<u8>, Digest) {
    let layer = Digest::of(b"what was promised");
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#,
        slipway_image::Platform::host().architecture
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[{{"mediaType":"{}","digest":"{layer}","size":17}}]}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_CONFIG,
        Digest::of(config.as_bytes()),
        config.len(),
        media_type::OCI_LAYER,
    );
    (config.into(), manifest.into(), layer)
}

#[tokio::test]
async fn a_blob_that_is_not_what_its_digest_says_is_never_seen() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    let (config, manifest, layer) = liar();
    let (digest, wrong) = (layer.to_string(), b"what is delivered".to_vec());
    assert_eq!(wrong.len(), 17);
    let server = Server::start(&site, move |_, path| {
        let found = |kind: &str, body: &[u8]| Reply {
            status: 200,
            headers: vec![
                ("Content-Type", kind.to_owned()),
                ("Docker-Distribution-Api-Version", "registry/2.0".to_owned()),
            ],
            body: body.to_vec(),
            ..Reply::default()
        };
        match path {
            "/v2/" => found("application/json", b"{}"),
            _ if path.contains("/manifests/") => found(media_type::OCI_MANIFEST, &manifest),
            _ if path.ends_with(&digest) => found("application/octet-stream", &wrong),
            _ if path.contains("/blobs/") => found("application/octet-stream", &config),
            _ => Reply {
                status: 404,
                ..Reply::default()
            },
        }
    });
    let upstream = format!(
        "[[upstream]]\nhost = \"docker.io\"\nurl = \"http://{}\"\ninsecure = true\n",
        server.address
    );
    site.configure("registry.toml", &upstream);
    site.start_services().await;
    for arguments in [&["pull", "liar"][..], &["run", "--rm", "liar"]] {
        let code = if arguments[0] == "run" { 125 } else { 1 };
        let error = site.ctl(arguments).error(code);
        assert!(
            error.contains("does not match its digest") && error.contains(layer.encoded()),
            "{error}"
        );
    }
    assert!(
        server
            .requests()
            .iter()
            .any(|r| r.ends_with(&layer.to_string()))
    );
    // Not by gRPC, not over HTTP, not on disk.
    assert_eq!(site.ctl(&["images", "-aq"]).ok(), "");
    let url = format!("http://{OURS}/v2/library/liar/blobs/{layer}");
    let output = site.output("curl", &["-sf", &url]);
    assert!(
        !output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let blob = site
        .path("state/registry/blobs/sha256")
        .join(&layer.encoded()[..2])
        .join(layer.encoded());
    assert!(!blob.exists());
    assert!(
        !contains(&site.path("state"), b"what is delivered"),
        "nothing of it is kept"
    );
    assert_eq!(site.ctl(&["ps", "-aq"]).ok(), "");
}

/// Whether a file below a folder has this in it.
fn contains(folder: &Path, what: &[u8]) -> bool {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                contains(&path, what)
            } else {
                kind.is_file()
                    && std::fs::read(path)
                        .unwrap_or_default()
                        .windows(what.len())
                        .any(|w| w == what)
            }
        })
}

#[tokio::test]
async fn podman_pulls_and_pushes() {
    if !installed(&["podman"]) {
        return;
    }
    let Some((site, _upstream)) = mirroring("5m").await else {
        return;
    };
    let (root, run) = (site.path("podman"), site.path("podman-run"));
    let podman = |arguments: &[&str]| {
        let mut all = vec![
            "--root",
            root.to_str().unwrap(),
            "--runroot",
            run.to_str().unwrap(),
            "--storage-driver",
            "vfs",
        ];
        all.extend(arguments);
        succeed(&site, "podman", &all)
    };
    // Through the mirror, from docker-registry.
    let name = format!("{OURS}/library/debian:bookworm");
    let id = podman(&["pull", "-q", "--tls-verify=false", &name]);
    let ours = site
        .ctl(&["image", "inspect", "-f", "{{.Id}}", "debian:bookworm"])
        .ok();
    assert_eq!(format!("sha256:{id}"), ours.trim());
    let digest = podman(&["image", "inspect", "--format", "{{.Digest}}", &name]);
    assert_eq!(digest, Digest::of(raw(&site, &name)).to_string());
    let target = format!("{OURS}/team/pushed:v2");
    podman(&["push", "-q", "--tls-verify=false", &name, &target]);
    let hello = ["run", "--rm", &target, "cat", "/etc/debian_version"];
    assert!(
        site.ctl(&hello).ok().starts_with("12"),
        "what podman pushed runs"
    );
    assert_eq!(
        site.ctl(&["image", "inspect", "-f", "{{.Id}}", &target])
            .ok(),
        ours
    );
}

#[tokio::test]
async fn docker_pulls_and_pushes() {
    docker_of(Store::Docker).await;
}

#[tokio::test]
async fn docker_with_containerds_store_pulls_and_pushes() {
    docker_of(Store::Containerd).await;
}

/// What docker calls an image: by its config, and with containerd's store by its manifest.
fn id_at(store: Store, config: &str, manifest: &Digest) -> String {
    match store {
        Store::Docker => config.trim().to_owned(),
        Store::Containerd => manifest.to_string(),
    }
}

async fn docker_of(store: Store) {
    if !store.is_there() {
        return;
    }
    let Some((site, _upstream)) = mirroring("5m").await else {
        return;
    };
    let docker = Dockerd::of(store, &site, "").await;
    let name = format!("{OURS}/library/debian:bookworm");
    docker.ok(&site, &["pull", "-q", &name]);
    let ours = site
        .ctl(&["image", "inspect", "-f", "{{.Id}}", "debian:bookworm"])
        .ok();
    let manifest = Digest::of(raw(&site, &name));
    let id = docker.ok(&site, &["image", "inspect", "-f", "{{.Id}}", &name]);
    assert_eq!(id, id_at(store, &ours, &manifest));
    let digests = docker.ok(
        &site,
        &["image", "inspect", "-f", "{{.RepoDigests}}", &name],
    );
    assert!(digests.contains(&manifest.to_string()), "{digests}");
    let target = format!("{OURS}/team/docker:v3");
    docker.ok(&site, &["tag", &name, &target]);
    docker.ok(&site, &["push", "-q", &target]);
    assert_eq!(
        site.ctl(&["image", "inspect", "-f", "{{.Id}}", &target])
            .ok(),
        ours
    );
    assert!(
        site.ctl(&["run", "--rm", &target, "cat", "/etc/debian_version"])
            .ok()
            .starts_with("12")
    );
    let missing = docker.run(&site, &["pull", &format!("{OURS}/library/nosuch")]);
    assert_ne!(missing.code, 0);
    assert!(missing.err.contains("not found"), "{}", missing.err);
}

#[tokio::test]
async fn docker_has_it_as_its_mirror_with_either_store() {
    if !Store::ALL.iter().all(|store| store.is_there()) {
        return;
    }
    let Some((site, upstream)) = mirroring("5m").await else {
        return;
    };
    for store in Store::ALL {
        let mirror = format!("--registry-mirror=http://{OURS}");
        let docker = Dockerd::of(store, &site, &mirror).await;
        // By docker.io's own name, which nobody here can reach otherwise.
        let pulled = docker.ok(&site, &["pull", "debian:bookworm"]);
        let digest = Digest::of(raw(&site, &format!("{OURS}/library/debian:bookworm")));
        assert!(pulled.contains(&format!("Digest: {digest}")), "{pulled}");
        let id = docker.ok(
            &site,
            &["image", "inspect", "-f", "{{.Id}}", "debian:bookworm"],
        );
        let ours = site.ctl(&["image", "inspect", "-f", "{{.Id}}", "debian:bookworm"]);
        assert_eq!(id, id_at(store, &ours.ok(), &digest));
        let missing = docker.run(&site, &["pull", "nosuch:v1"]);
        assert_ne!(missing.code, 0);
    }
    // Whatever was pulled twice came once.
    let mut blobs = upstream.requests("GET /v2/library/debian/blobs/");
    let all = blobs.len();
    blobs.sort();
    blobs.dedup();
    assert_eq!((blobs.len(), all), (2, 2));
}

#[tokio::test]
async fn push_sends_to_another_registry() {
    if fixtures::images().is_none() {
        return;
    }
    let mut site = Site::bare();
    let upstream = Upstream::empty(&site, UPSTREAM).await;
    site.configure("registry.toml", &upstream.as_docker_io("0s"));
    site.start_services().await;
    let id = image::busybox(&site).await;
    site.ctl(&["tag", "busybox", "team/app:v1"]).ok();
    let pushed = site.ctl(&["push", "team/app:v1"]).ok();
    let manifest = raw(&site, &format!("{}/team/app:v1", upstream.address));
    let digest = Digest::of(&manifest);
    assert!(
        pushed.contains(&format!("v1: digest: {digest} size: {}", manifest.len())),
        "{pushed}"
    );
    // Once more: everything is there.
    let uploads = upstream.requests("PUT /v2/team/app/blobs/uploads/").len();
    site.ctl(&["push", "-q", "team/app:v1"]).ok();
    assert_eq!(
        upstream.requests("PUT /v2/team/app/blobs/uploads/").len(),
        uploads
    );
    // And back, on a site that knows nothing of it.
    site.ctl(&["rmi", "team/app:v1", "busybox"]).ok();
    assert_eq!(site.ctl(&["images", "-q"]).ok(), "");
    assert_eq!(
        site.ctl(&["run", "--rm", "team/app:v1", "echo", "back"])
            .ok(),
        "back\n"
    );
    let again = site
        .ctl(&["image", "inspect", "-f", "{{.Id}}", "team/app:v1"])
        .ok();
    assert_eq!(again.trim(), id.to_string());
}
