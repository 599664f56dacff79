//! A host with the services on it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use slipway_proto::{
    registry::v1::registry_client::RegistryClient,
    runtime::v1::{
        ContainerSpec, ContainerSummary, Exited, ListRequest, LogsRequest, RemoveRequest,
        RunRequest, StreamInput, StreamOutput, containers_client::ContainersClient, run_event,
        run_request,
    },
};
use slipway_service::{Address, client};
use tokio_stream::StreamExt as _;
use tonic::{Status, transport::Channel};

use crate::eventually;

/// Services in the order in which they are started.
pub const SERVICES: [&str; 3] = ["registry", "netd", "runtime"];

/// A host of its own.
pub struct Site {
    folder: tempfile::TempDir,
    namespace: String,
    services: Vec<(&'static str, Child)>,
}

/// What a finished `run` gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Its id.
    pub id: String,
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Site {
    /// Starts a host with all services.
    pub async fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let namespace = format!(
            "swt-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        succeed(Command::new("ip").args(["netns", "add", &namespace]));
        let mut site = Self {
            folder: tempfile::tempdir().unwrap(),
            namespace,
            services: Vec::new(),
        };
        succeed(&mut site.command("ip", &["link", "set", "lo", "up"]));
        for service in SERVICES {
            site.start_service(service).await;
        }
        site
    }

    /// Starts one service and waits until it listens.
    pub async fn start_service(&mut self, name: &'static str) {
        let program = if name == "netd" {
            "netd".to_owned()
        } else {
            format!("{name}-svc")
        };
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        // A socket of an instance that was killed must not be taken for the new one's.
        let socket = self.socket(name);
        let _ = std::fs::remove_file(&socket);
        let child = self
            .command(program_path(&program).to_str().unwrap(), &[])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}: build the workspace first"));
        self.services.push((name, child));
        eventually(&format!("{program} listens"), async || {
            tokio::net::UnixStream::connect(&socket).await.ok()
        })
        .await;
    }

    /// Kills a service with SIGKILL and starts it again.
    pub async fn kill_and_restart(&mut self, name: &'static str) {
        let at = self.services.iter().position(|(n, _)| *n == name).unwrap();
        let (_, mut child) = self.services.remove(at);
        child.kill().unwrap();
        child.wait().unwrap();
        self.start_service(name).await;
    }

    /// A file or folder of this site.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command on this host.
    ///
    /// nsenter and not `ip netns exec`: that mounts a /sys of its own, without the cgroups.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .arg(program)
            .args(arguments)
            .env("SLIPWAY_STATE_DIR", self.path("state"))
            .env("SLIPWAY_RUN_DIR", self.path("run"))
            .env("SLIPWAY_CONFIG_DIR", self.path("etc"))
            .env("XDG_CONFIG_HOME", self.path("xdg"));
        command
    }

    /// Runs a command on this host to its end.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    /// Fetches a page on this host; `None` when that fails.
    pub fn fetch(&self, url: &str) -> Option<String> {
        let arguments = ["5", "/bin/busybox", "wget", "-q", "-O", "-", url];
        let output = self.output("timeout", &arguments);
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn socket(&self, service: &str) -> PathBuf {
        self.path("run").join(format!("{service}.sock"))
    }

    fn channel(&self, service: &str) -> Channel {
        client::connect(&Address::Unix(self.socket(service)), None).unwrap()
    }

    /// registry-svc.
    pub fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel("registry"))
    }

    /// runtime-svc.
    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel("runtime"))
    }

    /// Starts a container in the background; returns its id.
    pub async fn run_detached(&self, spec: ContainerSpec) -> Result<String, Status> {
        let start = run_request::Start {
            spec: Some(spec),
            detach: true,
            ..run_request::Start::default()
        };
        let first = RunRequest {
            part: Some(run_request::Part::Start(start)),
        };
        let mut events = self
            .containers()
            .run(tokio_stream::iter([first]))
            .await?
            .into_inner();
        let mut id = String::new();
        while let Some(event) = events.message().await? {
            if let Some(run_event::Event::Created(created)) = event.event {
                id = created.id;
            }
        }
        Ok(id)
    }

    /// Runs a container attached, with this input, to its end.
    pub async fn run(&self, spec: ContainerSpec, input: Vec<StreamInput>) -> Result<Ran, Status> {
        let start = run_request::Start {
            spec: Some(spec),
            ..run_request::Start::default()
        };
        let first = RunRequest {
            part: Some(run_request::Part::Start(start)),
        };
        let rest = input.into_iter().map(|i| RunRequest {
            part: Some(run_request::Part::Input(i)),
        });
        // The call stays open behind the input, as ctl keeps it.
        let requests =
            tokio_stream::iter(std::iter::once(first).chain(rest)).chain(tokio_stream::pending());
        let mut events = self.containers().run(requests).await?.into_inner();
        let (mut ran, mut out, mut err) = (Ran::default(), Vec::new(), Vec::new());
        while let Some(event) = events.message().await? {
            match event.event {
                Some(run_event::Event::Created(created)) => ran.id = created.id,
                Some(run_event::Event::Output(StreamOutput { stream: 3, data })) => {
                    err.extend(data)
                }
                Some(run_event::Event::Output(StreamOutput { data, .. })) => out.extend(data),
                Some(run_event::Event::Exited(Exited { exit_code, .. })) => {
                    ran.code = exit_code;
                    break;
                }
                _ => {}
            }
        }
        ran.stdout = String::from_utf8_lossy(&out).into_owned();
        ran.stderr = String::from_utf8_lossy(&err).into_owned();
        Ok(ran)
    }

    /// All containers.
    pub async fn list(&self) -> Vec<ContainerSummary> {
        let request = ListRequest {
            all: true,
            ..ListRequest::default()
        };
        self.containers()
            .list(request)
            .await
            .unwrap()
            .into_inner()
            .containers
    }

    /// What a container has written so far.
    pub async fn logs(&self, container: &str) -> String {
        let request = LogsRequest {
            container: container.to_owned(),
            tail: -1,
            ..LogsRequest::default()
        };
        let mut entries = self.containers().logs(request).await.unwrap().into_inner();
        let mut text = Vec::new();
        while let Some(batch) = entries.message().await.unwrap() {
            batch
                .entries
                .iter()
                .for_each(|entry| text.extend(&entry.data));
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Removes a container, running or not.
    pub async fn remove(&self, container: &str) {
        let request = RemoveRequest {
            container: container.to_owned(),
            force: true,
            volumes: true,
        };
        self.containers().remove(request).await.unwrap();
    }

    /// Processes whose command line names this site's folder or that live in its namespace.
    fn processes(&self) -> Vec<String> {
        let output = Command::new("ip")
            .args(["netns", "pids", &self.namespace])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in SERVICES {
                let log =
                    std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(30).collect();
                eprintln!(
                    "--- {name}\n{}",
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
        }
        // Monitors first: a container goes with its monitor.
        let run = self.path("run").join("runtime/containers");
        for entry in std::fs::read_dir(run).into_iter().flatten().flatten() {
            if let Some(id) = entry.file_name().to_str() {
                kill_group(id);
            }
        }
        for (_, child) in &mut self.services {
            // Gone already is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.processes() {
            let _ = Command::new("kill").args(["-9", &pid]).output();
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .output();
    }
}

/// Kills everything in a container's v1 or v2 group.
fn kill_group(id: &str) {
    for base in [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/unified",
    ] {
        let path = Path::new(base)
            .join("slipway")
            .join(id)
            .join("cgroup.procs");
        for pid in std::fs::read_to_string(path)
            .unwrap_or_default()
            .split_whitespace()
        {
            let _ = Command::new("kill").args(["-9", pid]).output();
        }
    }
}

/// Where a program is: beside this test's own folder.
pub fn program_path(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join(name)
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
