//! containerd with registry-svc in its hosts.toml, as the mirror of another host.

use std::{
    fs,
    process::{Child, Stdio},
};

use slipway_tests::{
    Site, eventually,
    fixtures::{self, Upstream},
    installed, ready,
    secured::{ADDRESS, ALICES, Secured},
};

/// The host in the image's name; nobody is there.
const HOST: &str = "up.example";

/// A containerd of the site's own.
struct Containerd {
    daemon: Child,
    address: String,
}

impl Containerd {
    async fn start(site: &Site) -> Self {
        let path = |name: &str| site.path(name).to_str().unwrap().to_owned();
        let address = path("containerd.sock");
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = {address:?}\n",
            path("containerd"),
            path("containerd-run"),
        );
        fs::write(site.path("containerd.toml"), config).unwrap();
        let log = fs::File::create(site.path("containerd.log")).unwrap();
        let config = path("containerd.toml");
        let daemon = site
            .command("unshare", &["--mount", "containerd", "-c", &config])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { daemon, address };
        eventually("containerd answers", async || {
            containerd.ctr(site, &["version"]).is_ok().then_some(())
        })
        .await;
        containerd
    }

    fn ctr(&self, site: &Site, arguments: &[&str]) -> Result<String, String> {
        let mut all = vec!["-a", &self.address];
        all.extend(arguments);
        let output = site.output("ctr", &all);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        slipway_tests::ctl::signal(&self.daemon, rustix::process::Signal::TERM);
        // Ended already is fine.
        let _ = self.daemon.wait();
    }
}

/// Where containerd finds that host's images: at `server`, with further lines about it.
fn mirrored_by(site: &Site, server: &str, more: &str) -> String {
    let hosts = site.path("hosts");
    let folder = hosts.join(HOST);
    fs::create_dir_all(&folder).unwrap();
    let mirror = format!(
        "server = \"https://{HOST}\"\n[host.{server:?}]\n  capabilities = [\"pull\", \"resolve\"]\n{more}"
    );
    fs::write(folder.join("hosts.toml"), mirror).unwrap();
    hosts.to_str().unwrap().to_owned()
}

/// The digest under which `ctl images` lists the one image of that host.
fn digest_here(site: &Site) -> String {
    let format = "{{.Repository}} {{.Digest}}";
    let listed = site.ctl(&["images", "--digests", "--format", format]).ok();
    let mut lines = listed.lines();
    let line = lines.find(|line| line.starts_with(HOST));
    let line = line.unwrap_or_else(|| panic!("nothing of {HOST} in {listed}"));
    line.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn containerd_pulls_images_of_any_host_through_the_mirror() {
    if !ready() || !installed(&["containerd", "ctr"]) || fixtures::images().is_none() {
        return;
    }
    let mut site = Site::roomy();
    let upstream = Upstream::of_images(&site, 5001).await;
    let settings = upstream.as_docker_io("5m").replace("docker.io", HOST);
    site.configure("registry.toml", &settings);
    site.start_services().await;
    let containerd = Containerd::start(&site).await;
    let hosts = mirrored_by(&site, "http://127.0.0.1:5000", "");
    let name = format!("{HOST}/library/debian:bookworm");
    let fetch = ["content", "fetch", "--hosts-dir", &hosts];
    let pull = [&fetch[..], &[&name]].concat();
    containerd.ctr(&site, &pull).unwrap();
    let images = containerd.ctr(&site, &["images", "ls", "-q"]).unwrap();
    assert_eq!(images.trim(), name);
    // The very same is here, under the name that was asked for.
    let digest = digest_here(&site);
    let content = containerd.ctr(&site, &["images", "ls"]).unwrap();
    assert!(content.contains(&digest), "{content} {digest}");
    // Who runs this sees where that came from.
    let at = format!("{HOST}: http://{}", upstream.address);
    let info = site.ctl(&["info"]).ok();
    assert!(info.contains(&format!("\n Upstreams:\n  {at}")), "{info}");
    let format = "{{json .Slipway.Upstreams}}";
    let json = site.ctl(&["info", "--format", format]).ok();
    let begin = format!("{{\"{HOST}\":\"http://");
    assert!(json.starts_with(&begin), "{json}");
    // What is not there is said so, and nobody else is asked.
    let missing = format!("{HOST}/library/nosuch:v1");
    let error = containerd.ctr(&site, &[&fetch[..], &[&missing]].concat());
    assert!(error.is_err());
    assert_eq!(upstream.requests("/manifests/v1").len(), 1);
    // All of it once, however often somebody pulls.
    let blobs = upstream.requests("/blobs/sha256");
    containerd.ctr(&site, &["images", "rm", &name]).unwrap();
    containerd.ctr(&site, &pull).unwrap();
    assert_eq!(upstream.requests("/blobs/sha256"), blobs);
}

#[tokio::test]
async fn containerd_pulls_through_the_mirror_by_tls_and_in_somebodys_name() {
    let programs = ["containerd", "ctr", "openssl"];
    if !ready() || !installed(&programs) || fixtures::images().is_none() {
        return;
    }
    let site = Site::roomy();
    let upstream = Upstream::of_images(&site, 5001).await;
    let settings = format!(
        "[[access]]\nprefix = {HOST:?}\nwho = [\"alice\"]\nmay = [\"pull\"]\n{}",
        upstream.as_docker_io("5m").replace("docker.io", HOST)
    );
    let secured = Secured::new(site, &settings);
    let ca = secured.ca();
    let mut site = secured.site;
    let upstream = upstream; // gone before its site is
    site.start_services().await;
    let containerd = Containerd::start(&site).await;
    let server = format!("https://{ADDRESS}");
    let hosts = mirrored_by(&site, &server, &format!("  ca = {ca:?}\n"));
    let name = format!("{HOST}/library/debian:bookworm");
    let fetch = ["content", "fetch", "--hosts-dir", &hosts];
    // Nobody gets anything, and neither does who has another password.
    for user in [&[][..], &["--user", "alice:U*V"][..]] {
        let refused = containerd.ctr(&site, &[&fetch[..], user, &[&name]].concat());
        assert!(refused.is_err(), "{refused:?}");
    }
    assert!(upstream.requests("/manifests/").is_empty());
    let alice = format!("alice:{ALICES}");
    let alice = ["--user", &alice, &name];
    containerd
        .ctr(&site, &[&fetch[..], &alice].concat())
        .unwrap();
    let content = containerd.ctr(&site, &["images", "ls"]).unwrap();
    assert!(content.contains(&digest_here(&site)), "{content}");
}
