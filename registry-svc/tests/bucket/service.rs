//! A registry-svc on a bucket, as a process of its own.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use slipway_image::{Digest, media_type};
use tempfile::TempDir;

use crate::{
    server::Server,
    support::{TestImage, client},
};

/// Longer than anything takes here.
const LIMIT: Duration = Duration::from_secs(60);

/// A registry-svc.
pub struct Service {
    pub child: Child,
    pub address: SocketAddr,
    pub folder: Arc<TempDir>,
}

impl Service {
    /// One that begins with nothing.
    pub async fn start(server: &Server, prefix: &str, more: &str) -> Self {
        Self::with(&format!("{more}\n[store]\n{}", server.text(prefix))).await
    }

    /// One with these settings.
    pub async fn with(settings: &str) -> Self {
        Self::on(configured(settings)).await
    }

    /// What one says that cannot start.
    pub fn refusal(settings: &str) -> String {
        let folder = configured(settings);
        let (mut command, _) = command(&folder);
        let output = command.output().unwrap();
        assert!(!output.status.success());
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// One that goes on where another one ended.
    pub async fn on(folder: Arc<TempDir>) -> Self {
        let (mut command, address) = command(&folder);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.path().join("log"))
            .unwrap();
        let child = command
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let service = Self {
            child,
            address,
            folder,
        };
        let answers = async || client().get(service.url("")).send().await.is_ok();
        eventually("it answers", answers).await;
        service
    }

    /// It dies at this fault point, when it comes by.
    pub fn arm(&self, point: &str) {
        std::fs::write(self.folder.path().join("faults").join(point), "kill").unwrap();
    }

    /// It died there.
    pub fn died_at(&self, point: &str) -> bool {
        let fired = format!("{point}.fired");
        self.folder.path().join("faults").join(fired).exists()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    /// Ends it as kill -9 does.
    pub fn kill(mut self) -> Arc<TempDir> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Arc::clone(&self.folder)
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        client().get(self.url(path)).send().await.unwrap()
    }

    pub async fn status(&self, path: &str) -> StatusCode {
        self.get(path).await.status()
    }

    pub async fn delete(&self, path: &str) -> StatusCode {
        let sent = client().delete(self.url(path)).send().await;
        sent.unwrap().status()
    }

    pub async fn push_blob(&self, name: &str, content: &[u8]) -> StatusCode {
        let digest = Digest::of(content);
        let url = self.url(&format!("{name}/blobs/uploads/?digest={digest}"));
        let sent = client().post(url).body(content.to_vec()).send().await;
        sent.unwrap().status()
    }

    pub async fn push_manifest(&self, name: &str, tag: &str, image: &TestImage) -> StatusCode {
        let put = client()
            .put(self.url(&format!("{name}/manifests/{tag}")))
            .header("content-type", media_type::OCI_MANIFEST)
            .body(image.manifest.clone());
        put.send().await.unwrap().status()
    }

    pub async fn push(&self, name: &str, tag: &str, image: &TestImage) {
        for blob in [&image.config, &image.layer] {
            assert_eq!(self.push_blob(name, blob).await, StatusCode::CREATED);
        }
        let put = self.push_manifest(name, tag, image).await;
        assert_eq!(put, StatusCode::CREATED);
    }

    /// The digest that a tag names.
    pub async fn tag(&self, name: &str, tag: &str) -> Option<String> {
        let answer = self.get(&format!("{name}/manifests/{tag}")).await;
        let digest = answer.headers().get("docker-content-digest")?;
        Some(digest.to_str().unwrap().to_owned())
    }

    /// All of an image can be read, and is what it should be.
    pub async fn has(&self, name: &str, image: &TestImage) {
        let manifest = self
            .get(&format!("{name}/manifests/{}", image.digest()))
            .await;
        assert_eq!(manifest.bytes().await.unwrap(), image.manifest);
        for blob in [&image.config, &image.layer] {
            let answer = self
                .get(&format!("{name}/blobs/{}", Digest::of(blob)))
                .await;
            assert_eq!(answer.bytes().await.unwrap(), *blob);
        }
    }
}

/// A folder with these settings.
fn configured(settings: &str) -> Arc<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("registry.toml"), settings).unwrap();
    std::fs::create_dir(folder.path().join("faults")).unwrap();
    Arc::new(folder)
}

/// registry-svc, and where it will listen. What is in `hosts` of its folder it takes for `/etc/hosts`.
fn command(folder: &TempDir) -> (Command, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let at = |name: &str| folder.path().join(name);
    let program = env!("CARGO_BIN_EXE_registry-svc");
    let mut command = match at("hosts").exists() {
        false => Command::new(program),
        true => {
            let mut command = Command::new("unshare");
            let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
            command.args(["--mount", "sh", "-c", script]);
            command.arg(at("hosts")).arg(program);
            command
        }
    };
    command
        .args(["--http", &address.to_string()])
        .args([Path::new("--state-dir"), &at("state")])
        .args([Path::new("--run-dir"), &at("run")])
        .args([Path::new("--config-dir"), folder.path()])
        .env(slipway_fault::VARIABLE, at("faults"))
        .stdin(Stdio::null());
    (command, address)
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < LIMIT, "not after {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
