//! A builder, its worker and the registry on hosts of their own: everything between them by mutual TLS.

use std::path::Path;

use slipway_tests::{authority::Authority, installed, ready, site::SERVICES, uplink::Cable};

use super::*;

/// What services have of an authority.
struct Certified(Authority);

impl Certified {
    /// What a listener has of it.
    fn listens(&self, name: &str, address: &str) -> String {
        format!(
            "[service]\nlisten = [\"tcp://{address}\"]\ntls_cert = {:?}\ntls_key = {:?}\ntls_client_ca = {:?}\n",
            self.0.file(&format!("{name}.pem")),
            self.0.file(&format!("{name}.key")),
            self.0.file("ca.pem"),
        )
    }

    /// What a client of registry-svc has of it.
    fn registry(&self, name: &str, address: &str) -> String {
        format!(
            "registry = \"tcp://{address}\"\nregistry_tls = {{ cert = {:?}, key = {:?}, ca = {:?} }}\n",
            self.0.file(&format!("{name}.pem")),
            self.0.file(&format!("{name}.key")),
            self.0.file("ca.pem"),
        )
    }

    /// What a client of a worker has of it.
    fn worker(&self, name: &str, trusted: &Path, address: &str) -> String {
        format!(
            "[[workers]]\naddress = \"tcp://{address}\"\ntls_cert = {:?}\ntls_key = {:?}\ntls_ca = {trusted:?}\n",
            self.0.file(&format!("{name}.pem")),
            self.0.file(&format!("{name}.key")),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_between_hosts_is_encrypted_and_shows_who_it_is() {
    if !ready() || !installed(&["openssl"]) {
        return;
    }
    let mut site = Site::bare();
    let mut other = Site::bare();
    let cable = Cable::between(&mut site, &mut other);
    let ours = Certified(Authority::new(site.path("pki")));
    let theirs = Certified(Authority::new(site.path("foreign")));
    for (authority, name, address) in [
        (&ours, "registry", "198.51.100.1"),
        (&ours, "worker", &*cable.address),
        (&ours, "builder", "198.51.100.1"),
        (&theirs, "builder", "198.51.100.1"),
    ] {
        authority.0.certify(name, address);
    }
    let (registry, worker) = ("198.51.100.1:7010", format!("{}:7012", cable.address));
    site.configure("registry.toml", &ours.listens("registry", registry));
    let builder = |authority: &Certified| {
        let trusted = ours.0.folder().join("ca.pem");
        ours.registry("builder", registry) + &authority.worker("builder", &trusted, &worker)
    };
    site.configure("builder.toml", &builder(&ours));
    for service in SERVICES {
        site.start_service(service).await;
    }
    image::busybox(&site).await;
    let settings = ours.registry("worker", registry) + &ours.listens("worker", &worker);
    other.configure("runtime.toml", &settings);
    other.start_service("netd").await;
    other.start_service("runtime").await;

    let file = "FROM busybox\nCOPY file /copied\nRUN cat /copied > /made && head -c 3000000 /dev/urandom > /large\n";
    write(
        &site.path("context"),
        &[("Dockerfile", file), ("file", "content")],
    );
    built(&site, "app", &[]);
    assert_eq!(shell(&site, "app", "cat /made"), "content");
    // The other host did it: it has what is below and what was made.
    let layers = fs::read_dir(other.path("state/runtime/layers")).unwrap();
    assert!(layers.count() >= 3);
    nothing_is_left(&other, "after the build").await;

    // Whose certificate is of somebody else may not even ask.
    site.kill_service("builder");
    site.configure("builder.toml", &builder(&theirs));
    site.start_service("builder").await;
    let said = build(&site, "app", &["--no-cache"]);
    assert_ne!(said.code, 0);
    assert!(said.err.contains("cannot be used"), "{}", said.err);
    // And nobody believes a worker that is somebody else's.
    site.kill_service("builder");
    let foreign = theirs.0.folder().join("ca.pem");
    let settings = ours.registry("builder", registry) + &ours.worker("builder", &foreign, &worker);
    site.configure("builder.toml", &settings);
    site.start_service("builder").await;
    assert_ne!(build(&site, "app", &["--no-cache"]).code, 0);
    // Nor is anything told to who does not speak TLS at all.
    let plain = format!("http://{registry}/");
    assert!(site.fetch(&plain).is_none());
}
