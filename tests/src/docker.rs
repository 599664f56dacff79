//! A docker daemon on a host of its own, with the images of a site.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{Said, Site, eventually_within, installed};

/// Names the root of another Debian with docker.io in it (made with mmdebstrap), whose daemon is the judge in
/// place of the installed one.
const OTHER_ROOT: &str = "SLIPWAY_PARITY_ROOT";

/// Where Debian has docker's plugin for builds, below such a root.
const BUILDX: &str = "usr/libexec/docker/cli-plugins/docker-buildx";

/// Makes the other root the daemon's own. A chroot is not enough: dockerd pivots itself.
pub(crate) const ENTER: &str = "mount --rbind $root $root; for at in proc sys dev; do mount --rbind /$at $root/$at; done; \
    mount -t tmpfs tmpfs $root/tmp; mkdir -p $root$work; mount --bind $work $root$work; \
    mount -t tmpfs tmpfs $root/run; cd $root; pivot_root . mnt; umount -l /mnt";

fn other_root() -> String {
    std::env::var(OTHER_ROOT).unwrap_or_default()
}

/// dockerd with namespaces, folders and a containerd of its own.
pub struct Docker {
    host: Site,
    daemon: Child,
    group: String,
    /// Major version of the daemon.
    pub version: u32,
}

impl Docker {
    /// Starts one; `None`, said aloud, where there is no docker.
    pub async fn start() -> Option<Self> {
        Self::start_with("").await
    }

    /// Starts one with further options.
    pub async fn start_with(options: &str) -> Option<Self> {
        Self::launch(options, "{}").await
    }

    /// Starts one to build with: of another root with containerd's store, without which BuildKit does not
    /// merge the layers of `--link`.
    pub async fn start_builder() -> Option<Self> {
        let features = match other_root().is_empty() {
            true => "{}",
            false => r#"{"features":{"containerd-snapshotter":true}}"#,
        };
        Self::launch("", features).await
    }

    async fn launch(options: &str, features: &str) -> Option<Self> {
        let other = other_root();
        if other.is_empty() && !installed(&["dockerd", "docker", "containerd", "runc", "iptables"])
        {
            return None;
        }
        let host = Site::bare();
        let folder = host.path("");
        let folder = folder.to_str().unwrap().trim_end_matches('/');
        let group = format!("slipway-parity-{}", std::process::id());
        fs::write(host.path("daemon.json"), features).unwrap();
        // runc refuses hybrid cgroups, and docker keeps things in /run whatever it is told.
        let script = format!(
            "set -e; root={other}; work={folder}
            ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
            mount -t tmpfs tmpfs /run
            [ -z \"$root\" ] || {{ {ENTER}; }}
            exec dockerd --config-file $work/daemon.json --data-root $work/data \
                --exec-root $work/exec --pidfile $work/pid --host unix://$work/sock --group root \
                --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /{group} {options}"
        );
        let log = fs::File::create(host.path("docker.log")).unwrap();
        let unshare = ["--mount", "--propagation", "private", "sh", "-c", &script];
        let daemon = host
            .command("unshare", &unshare)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut docker = Self {
            host,
            daemon,
            group,
            version: 0,
        };
        let patience = Duration::from_secs(60);
        docker.version = eventually_within(patience, "dockerd answers", async || {
            let said = docker.run(&["version", "--format", "{{.Server.Version}}"]);
            said.out.split('.').next()?.parse().ok()
        })
        .await;
        Some(docker)
    }

    /// Runs `docker` to its end.
    pub fn run(&self, words: &[&str]) -> Said {
        let said: Said = self.command(words).output().unwrap().into();
        // Now and then docker loses what a short container said: it is asked once more.
        let nothing = said.code == 0 && said.out.is_empty() && said.err.is_empty();
        if nothing && words.starts_with(&["run", "--rm"]) {
            return self.command(words).output().unwrap().into();
        }
        said
    }

    /// A command that runs `docker`.
    pub fn command(&self, words: &[&str]) -> Command {
        self.client("docker", words)
    }

    /// A command that builds with the daemon's BuildKit: with the buildx beside it in the other root, else
    /// with Debian's client, where it is there: that came with the daemon and needs no plugin.
    pub fn build(&self, words: &[&str]) -> Command {
        let buildx = Path::new(&other_root()).join(BUILDX);
        let debians = Path::new("/usr/bin/docker").exists();
        let program = if buildx.exists() {
            let plugins = self.host.path("client/cli-plugins");
            fs::create_dir_all(&plugins).unwrap();
            // There from the build before.
            let _ = std::os::unix::fs::symlink(buildx, plugins.join("docker-buildx"));
            "docker"
        } else if debians {
            "/usr/bin/docker"
        } else {
            "docker"
        };
        let mut command = self.client(program, &["build"]);
        command.args(words).env("DOCKER_BUILDKIT", "1");
        command
    }

    fn client(&self, program: &str, words: &[&str]) -> Command {
        let socket = format!("unix://{}", self.host.path("sock").display());
        let config = self.host.path("client");
        let mut command = self.host.command(program, &[]);
        command
            .args(["--host", &socket, "--config", config.to_str().unwrap()])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// Lets its host live longer than a test usually does.
    pub fn allow(&self, time: Duration) {
        self.host.allow(time);
    }

    /// A folder for what the lines make.
    pub fn folder(&self) -> PathBuf {
        self.host.path("here")
    }

    /// Takes an image over from a site's registry: the very same one.
    pub fn take(&self, site: &Site, name: &str) {
        let archive = site.path(&format!("{name}.tar"));
        let archive = archive.to_str().unwrap();
        let from = format!("docker://127.0.0.1:5000/{name}:latest");
        let to = format!("docker-archive:{archive}:{name}:latest");
        let copy = ["copy", "--src-tls-verify=false", "-q", &from, &to];
        let copied: Said = site.output("skopeo", &copy).into();
        copied.ok();
        self.run(&["load", "-q", "-i", archive]).ok();
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // What of this fails is told by the host's own look for what was left.
        let all = self.run(&["ps", "-aq"]).out;
        let mut remove = vec!["rm", "-f", "-v"];
        remove.extend(all.split_whitespace());
        if remove.len() > 3 {
            self.run(&remove);
        }
        let _ = Command::new("kill")
            .arg(self.daemon.id().to_string())
            .output();
        let _ = self.daemon.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.host.path("docker.log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        remove_groups(&self.group);
    }
}

/// Takes away the cgroups that docker made its containers' in.
fn remove_groups(name: &str) {
    fn remove(folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                remove(&entry.path());
            }
        }
        // Not there in most of the trees.
        let _ = fs::remove_dir(folder);
    }
    for tree in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        remove(&tree.path().join(name));
    }
    remove(&Path::new("/sys/fs/cgroup").join(name));
}
