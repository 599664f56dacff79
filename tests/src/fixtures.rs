//! Real images from Debian's packages, and Debian's docker-registry that plays docker.io with them.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use slipway_image::{Digest, media_type};

use crate::{Site, eventually, installed, pusher::Image, site::program_path};

/// What the images are made and served with.
const PROGRAMS: [&str; 4] = ["mmdebstrap", "umoci", "skopeo", "docker-registry"];

/// The folder with the images (`tests/fixtures/make` says what is in it), made when it is not there.
///
/// `None`, said aloud, where it cannot be made.
pub fn images() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            if !crate::ready() || !installed(&PROGRAMS) {
                return None;
            }
            // target/debug/deps/<test> -> target/fixtures
            let folder = program_path("x").parent()?.parent()?.join("fixtures");
            let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/make");
            let status = Command::new(make).arg(&folder).status().unwrap();
            assert!(status.success(), "tests/fixtures/make failed");
            Some(folder)
        })
        .as_deref()
}

/// A root with a docker in it whose daemon knows containerd's image store (`tests/fixtures/dockerd` makes it), made when
/// it is not there.
///
/// `None`, said aloud, where it cannot be made.
pub fn docker_root() -> Option<&'static Path> {
    static ROOT: OnceLock<Option<PathBuf>> = OnceLock::new();
    ROOT.get_or_init(|| {
        if !crate::ready() || !installed(&["mmdebstrap"]) {
            return None;
        }
        let folder = program_path("x").parent()?.parent()?.join("fixtures");
        let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/dockerd");
        let status = Command::new(make).arg(&folder).status().unwrap();
        assert!(status.success(), "tests/fixtures/dockerd failed");
        Some(folder.join("dockerd"))
    })
    .as_deref()
}

/// A docker-registry on a site.
pub struct Upstream {
    child: Child,
    folder: PathBuf,
    /// Where it listens.
    pub address: String,
}

impl Upstream {
    /// Starts one with the images of [`images`], which it cannot change.
    pub async fn of_images(site: &Site, port: u16) -> Self {
        let images = images().expect("the caller has asked whether there are images");
        Self::start(site, port, &images.join("registry"), true, "").await
    }

    /// Starts one with nothing in it that wants to know who asks: `joe`, whose password is `open sesame`.
    pub async fn private(site: &Site, port: u16) -> Self {
        let storage = site.path(&format!("upstream-{port}"));
        std::fs::create_dir_all(&storage).unwrap();
        let accounts = site.path("htpasswd");
        let joe = "joe:$2y$05$ZLTwm.O//OlI93/Zmaao2uuEwQp.GZqDdCEOTnT921ho/4GQJJBr6";
        std::fs::write(&accounts, joe).unwrap();
        let auth = format!(
            "auth: {{htpasswd: {{realm: tests, path: {}}}}}\n",
            accounts.display()
        );
        Self::start(site, port, &storage, false, &auth).await
    }

    /// Starts one with nothing in it.
    pub async fn empty(site: &Site, port: u16) -> Self {
        let storage = site.path(&format!("upstream-{port}"));
        std::fs::create_dir_all(&storage).unwrap();
        Self::start(site, port, &storage, false, "").await
    }

    async fn start(site: &Site, port: u16, storage: &Path, read_only: bool, auth: &str) -> Self {
        let folder = site.path(&format!("docker-registry-{port}"));
        std::fs::create_dir_all(&folder).unwrap();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\n\
             log: {{level: warn}}\n\
             storage:\n  filesystem: {{rootdirectory: {}}}\n  \
             maintenance: {{readonly: {{enabled: {read_only}}}, uploadpurging: {{enabled: false}}}}\n\
             http: {{addr: \"{address}\"}}\n{auth}",
            storage.display()
        );
        std::fs::write(folder.join("config.yml"), config).unwrap();
        let access = std::fs::File::create(folder.join("access.log")).unwrap();
        let error = std::fs::File::create(folder.join("error.log")).unwrap();
        let config = folder.join("config.yml");
        let child = site
            .command("docker-registry", &["serve", config.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(access)
            .stderr(error)
            .spawn()
            .unwrap();
        let upstream = Self {
            child,
            folder,
            address,
        };
        let url = format!("http://{}/v2/", upstream.address);
        eventually("docker-registry answers", async || {
            let said = site.output("curl", &["-s", &url]);
            said.status.success().then_some(())
        })
        .await;
        upstream
    }

    /// What a site's `registry.toml` says to have it as docker.io.
    pub fn as_docker_io(&self, tag_ttl: &str) -> String {
        format!(
            "[[upstream]]\nhost = \"docker.io\"\nurl = \"http://{}\"\ninsecure = true\ntag_ttl = \"{tag_ttl}\"\n",
            self.address
        )
    }

    /// Puts an image into it that is made of what every image has.
    pub fn push(&self, site: &Site, repository: &str, tag: &str, image: &Image) {
        let ask = |method: &str, target: &str| site.ask(&self.address, method, target);
        for blob in [&image.config, &image.layer] {
            let uploads = format!("/v2/{repository}/blobs/uploads/");
            let begun = ask("POST", &uploads).send().is(202);
            let location = begun.told("location").to_owned();
            let (_, path) = location
                .split_once(&self.address)
                .unwrap_or(("", &location));
            let mark = if path.contains('?') { '&' } else { '?' };
            let target = format!("{path}{mark}digest={}", Digest::of(blob));
            ask("PUT", &target).body(blob).send().is(201);
        }
        let target = format!("/v2/{repository}/manifests/{tag}");
        let put = ask("PUT", &target).header("Content-Type", media_type::OCI_MANIFEST);
        put.body(&image.manifest).send().is(201);
    }

    /// Requests so far whose line contains this: `GET /v2/library/debian/blobs/`.
    pub fn requests(&self, what: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.join("access.log")).unwrap();
        // 127.0.0.1 - - [time] "GET /v2/ HTTP/1.1" 200 2 "" "agent"
        log.lines()
            .filter_map(|line| line.split('"').nth(1))
            .filter(|request| request.contains(what))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
