//! A docker daemon in a site's own network: for what docker does with the site's registry.

use std::{
    fs,
    process::{Child, Stdio},
};

use crate::{Said, Site, docker::ENTER, eventually_within, fixtures, installed};

/// Where a daemon keeps its images: each kind has a registry client of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// docker's own, of the installed daemon.
    Docker,
    /// containerd's, of a newer daemon in a root of its own.
    Containerd,
}

impl Store {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Containerd];

    /// Whether a daemon with it can be started here; says why not.
    pub fn is_there(self) -> bool {
        match self {
            Self::Docker => installed(&["dockerd", "docker", "containerd"]),
            Self::Containerd => installed(&["docker"]) && fixtures::docker_root().is_some(),
        }
    }
}

/// Its mounts are in a namespace of theirs and go with it.
pub struct Dockerd {
    daemon: Child,
    host: String,
}

impl Dockerd {
    /// Starts one.
    pub async fn start(site: &Site) -> Self {
        Self::of(Store::Docker, site, "").await
    }

    /// Starts one that believes an authority (a PEM file) at a registry.
    pub async fn trusting(store: Store, site: &Site, registry: &str, authority: &str) -> Self {
        let folder = format!("$root/etc/docker/certs.d/{registry}");
        let mut trust = format!("mkdir -p {folder}; cp {authority} {folder}/ca.crt");
        if store == Store::Containerd {
            // It asks for tokens as one who has never heard of certs.d (docker 26).
            trust += &format!("; export SSL_CERT_FILE={authority}");
        }
        Self::launch(store, site, &trust, "").await
    }

    /// Starts one with further options.
    pub async fn of(store: Store, site: &Site, options: &str) -> Self {
        Self::launch(store, site, ":", options).await
    }

    async fn launch(store: Store, site: &Site, before: &str, options: &str) -> Self {
        let path = |name: &str| site.path(name).to_str().unwrap().to_owned();
        let host = format!("unix://{}", path("docker.sock"));
        let log = fs::File::create(site.path("dockerd.log")).unwrap();
        let root = match store {
            Store::Docker => String::new(),
            Store::Containerd => fixtures::docker_root()
                .expect("the caller has asked whether it is there")
                .display()
                .to_string(),
        };
        let (driver, settings) = match store {
            Store::Docker => ("vfs", "{}"),
            Store::Containerd => ("native", r#"{"features":{"containerd-snapshotter":true}}"#),
        };
        fs::write(site.path("daemon.json"), settings).unwrap();
        // Nothing of what the host has configured, and nothing left there. runc refuses hybrid cgroups.
        let script = format!(
            "set -e; root={root}; work={}
            ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
            mkdir -p $root/etc/docker; mount -t tmpfs tmpfs $root/etc/docker
            {before}
            [ -z \"$root\" ] || {{ {ENTER}; }}
            exec dockerd -H {host} --config-file $work/daemon.json --data-root $work/docker \
                --exec-root $work/docker-run --pidfile $work/docker.pid --storage-driver {driver} \
                --bridge=none --iptables=false --ip-forward=false --ip-masq=false {options}",
            path("").trim_end_matches('/'),
        );
        let unshare = ["--mount", "--propagation", "private", "sh", "-c", &script];
        let daemon = site
            .command("unshare", &unshare)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let docker = Self { daemon, host };
        let patience = std::time::Duration::from_secs(60);
        eventually_within(patience, "dockerd answers", async || {
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
