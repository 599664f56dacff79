//! A docker daemon in a site's own network: for what docker does with the site's registry.

use std::{
    fs,
    process::{Child, Stdio},
};

use crate::{Said, Site, eventually};

/// Its mounts are in a namespace of theirs and go with it.
pub struct Dockerd {
    daemon: Child,
    host: String,
}

impl Dockerd {
    /// Starts one.
    pub async fn start(site: &Site) -> Self {
        Self::trusting(site, "none", "/dev/null").await
    }

    /// Starts one that believes an authority (a PEM file) at a registry.
    pub async fn trusting(site: &Site, registry: &str, authority: &str) -> Self {
        let path = |name: &str| site.path(name).to_str().unwrap().to_owned();
        let host = format!("unix://{}", path("docker.sock"));
        let log = fs::File::create(site.path("dockerd.log")).unwrap();
        // Nothing of what the host has configured, and nothing left there.
        let script = format!(
            "set -e; mkdir -p /etc/docker; mount -t tmpfs tmpfs /etc/docker
            mkdir -p /etc/docker/certs.d/{registry}
            cp {authority} /etc/docker/certs.d/{registry}/ca.crt
            exec dockerd -H {host} --data-root {} --exec-root {} --pidfile {} --storage-driver vfs \
                --bridge=none --iptables=false --ip-forward=false --ip-masq=false",
            path("docker"),
            path("docker-run"),
            path("docker.pid"),
        );
        let daemon = site
            .command("unshare", &["--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let docker = Self { daemon, host };
        eventually("dockerd answers", async || {
            (docker.run(site, &["version"]).code == 0).then_some(())
        })
        .await;
        docker
    }

    /// Runs `docker` to its end.
    pub fn run(&self, site: &Site, arguments: &[&str]) -> Said {
        let mut all = vec!["-H", &self.host];
        all.extend(arguments);
        site.output("docker", &all).into()
    }

    /// What `docker` said; it must not fail.
    #[track_caller]
    pub fn ok(&self, site: &Site, arguments: &[&str]) -> String {
        self.run(site, arguments).ok().trim().to_owned()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It ends its containerd itself when it is asked to.
        crate::ctl::signal(&self.daemon, rustix::process::Signal::TERM);
        // Ended already is fine.
        let _ = self.daemon.wait();
    }
}
