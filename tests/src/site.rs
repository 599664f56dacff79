//! A host with the services on it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    eventually,
    leaks::{self, Traces},
    uplink::{self, Uplink},
    watchdog::{self, Watchdog},
};

/// Services in the order in which they are started.
pub const SERVICES: [&str; 4] = ["registry", "netd", "runtime", "builder"];

/// A host of its own.
pub struct Site {
    services: Vec<(&'static str, Child)>,
    uplink: Option<Uplink>,
    links: Vec<String>,
    watchdog: Watchdog,
    namespace: String,
    folder: Option<tempfile::TempDir>,
}

impl Site {
    /// Starts a host with all services.
    pub async fn start() -> Self {
        let mut site = Self::bare();
        site.start_services().await;
        site
    }

    /// A host with all services and the image `busybox`; `None`, and said aloud, where such a test cannot run.
    pub async fn with_busybox() -> Option<Self> {
        if !crate::ready() {
            return None;
        }
        let site = Self::start().await;
        crate::image::busybox(&site).await;
        Some(site)
    }

    /// A host without anything on it yet.
    pub fn bare() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// The same for images of many files, with its folder in memory where there is enough of it: to remove
    /// tens of thousands of files from a disk that others use takes longer than the test itself.
    pub fn roomy() -> Self {
        let memory = Path::new("/dev/shm");
        let enough = memory.is_dir() && available_memory() > 6 << 30;
        Self::within(if enough {
            memory
        } else {
            Path::new("/var/tmp")
        })
    }

    fn within(parent: &Path) -> Self {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep);
        let namespace = format!("swt-{}-{}", std::process::id(), number());
        succeed(Command::new("ip").args(["netns", "add", &namespace]));
        let folder = tempfile::tempdir_in(parent).unwrap();
        let site = Self {
            services: Vec::new(),
            uplink: None,
            links: Vec::new(),
            watchdog: Watchdog::start(folder.path(), &namespace),
            namespace,
            folder: Some(folder),
        };
        succeed(&mut site.command("ip", &["link", "set", "lo", "up"]));
        site
    }

    /// Lets the test have its site for longer than usual.
    pub fn allow(&self, limit: Duration) {
        self.watchdog.allow(limit);
    }

    /// Gives the host a way to the outside world, for package registries.
    pub fn connect(&mut self) {
        self.links.push(uplink::LINK.into());
        self.uplink = Some(Uplink::start(&self.namespace));
    }

    /// Writes a settings file: `registry.toml`.
    pub fn configure(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path("etc")).unwrap();
        std::fs::write(self.path("etc").join(name), text).unwrap();
    }

    /// Starts all services.
    pub async fn start_services(&mut self) {
        for service in SERVICES {
            self.start_service(service).await;
        }
    }

    /// Starts one service and waits until it listens.
    pub async fn start_service(&mut self, name: &'static str) {
        self.spawn_service(name);
        let socket = self.socket(name);
        eventually(&format!("{name} listens"), async || {
            tokio::net::UnixStream::connect(&socket).await.ok()
        })
        .await;
    }

    /// Starts one service, which may not live for long.
    pub fn spawn_service(&mut self, name: &'static str) {
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
    }

    /// Starts a service again that has ended by itself or was killed.
    pub async fn revive(&mut self, name: &'static str) {
        if self.has_ended(name) {
            self.services.retain(|(n, _)| *n != name);
            self.start_service(name).await;
        }
    }

    /// Processes of a name in the site's network namespace.
    pub fn processes(&self, name: &str) -> std::collections::BTreeSet<i32> {
        let called = |pid: &String| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == name)
        };
        let all = watchdog::processes(&self.namespace);
        let named = all.iter().filter(|pid| called(pid));
        named.filter_map(|pid| pid.parse().ok()).collect()
    }

    /// The process of a service.
    pub fn service_pid(&self, name: &str) -> u32 {
        let found = self.services.iter().find(|(n, _)| *n == name);
        found.map(|(_, child)| child.id()).unwrap()
    }

    /// Whether a service has ended by itself.
    pub fn has_ended(&mut self, name: &str) -> bool {
        let found = self.services.iter_mut().find(|(n, _)| *n == name);
        found.is_none_or(|(_, child)| child.try_wait().unwrap().is_some())
    }

    /// Kills a service with SIGKILL and starts it again.
    pub async fn kill_and_restart(&mut self, name: &'static str) {
        self.kill_service(name);
        self.start_service(name).await;
    }

    /// Kills a service with SIGKILL.
    pub fn kill_service(&mut self, name: &str) {
        let at = self.services.iter().position(|(n, _)| *n == name).unwrap();
        let (_, mut child) = self.services.remove(at);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends a service by a signal and says how it ended.
    pub fn end_service(&mut self, name: &str, signal: rustix::process::Signal) -> ExitStatus {
        let at = self.services.iter().position(|(n, _)| *n == name).unwrap();
        let (_, mut child) = self.services.remove(at);
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap()
    }

    /// A file or folder of this site.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.as_ref().unwrap().path().join(name)
    }

    /// Its network namespace.
    pub fn namespace_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// A name for another link of the harness in the site.
    pub(crate) fn new_link(&mut self) -> String {
        let name = format!("lan{}", self.links.len());
        self.links.push(name.clone());
        name
    }

    /// A command on this host.
    ///
    /// nsenter and not `ip netns exec`: that mounts a /sys of its own, without the cgroups.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace_path().display()))
            .arg(program)
            .args(arguments)
            .env("SLIPWAY_STATE_DIR", self.path("state"))
            .env("SLIPWAY_RUN_DIR", self.path("run"))
            .env("SLIPWAY_CONFIG_DIR", self.path("etc"))
            .env("XDG_CONFIG_HOME", self.path("xdg"))
            .env("HOME", self.path("home"));
        if let Some(folder) = self.faults() {
            command.env(slipway_fault::VARIABLE, folder);
        }
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

    /// Its network namespace's name.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Links there that are the harness' own.
    pub(crate) fn own_links(&self) -> &[String] {
        &self.links
    }

    /// Ids of the containers that there have been.
    pub(crate) fn known_containers(&self) -> std::collections::BTreeSet<String> {
        self.watchdog.containers()
    }

    pub(crate) fn socket(&self, service: &str) -> PathBuf {
        self.path("run").join(format!("{service}.sock"))
    }

    /// Takes everything away as a user would, and says what is still there then.
    fn finish(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        let running = |services: &mut Vec<(&'static str, Child)>, name: &str| {
            services
                .iter_mut()
                .any(|(n, child)| *n == name && matches!(child.try_wait(), Ok(None)))
        };
        if running(&mut self.services, "runtime") {
            let all = self.ctl(&["ps", "-aq", "--no-trunc"]).out;
            let mut remove = vec!["rm", "-f", "-v"];
            remove.extend(all.split_whitespace());
            if remove.len() > 3 {
                let said = self.ctl(&remove);
                if said.code != 0 {
                    left.push(format!("a container: {}", said.err.trim_end()));
                }
            }
        }
        let everything =
            running(&mut self.services, "netd") && running(&mut self.services, "runtime");
        if everything {
            let said = self.ctl(&["down", "--containers"]);
            if said.code != 0 {
                left.push(format!("services: {}", said.err.trim_end()));
            }
        }
        for (name, child) in self.services.iter_mut().rev() {
            match end(child) {
                Some(status) if status.success() => {}
                Some(status) => left.push(format!("{name} ended with {status}")),
                None => left.push(format!("{name} did not end when asked to")),
            }
        }
        if everything {
            let containers = self.watchdog.containers();
            let traces = Traces {
                folder: self.folder.as_ref().unwrap().path(),
                namespace: &self.namespace,
                links: &self.links,
                containers: &containers,
            };
            left.extend(traces.wait());
        }
        left
    }

    /// Ends whatever there is, in whatever state.
    fn clear(&mut self) {
        // Monitors first: a container goes with its monitor.
        for group in leaks::cgroups(&self.watchdog.containers()) {
            let pids = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            pids.split_whitespace().for_each(watchdog::kill);
        }
        for (_, child) in &mut self.services {
            // Gone already is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in watchdog::processes(&self.namespace) {
            watchdog::kill(&pid);
        }
        for group in leaks::cgroups(&self.watchdog.containers()) {
            // Its processes may take a moment; an empty group that stays costs nothing.
            let _ = std::fs::remove_dir(group);
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let mut left = Vec::new();
        if std::thread::panicking() {
            eprintln!("{}", watchdog::logs(&self.path(""), 30));
        } else {
            left = self.finish();
            if !left.is_empty() {
                eprintln!("{}", watchdog::logs(&self.path(""), 30));
            }
        }
        self.clear();
        self.uplink = None;
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .output();
        if let Err(e) = self.folder.take().unwrap().close() {
            left.push(format!("folder: {e}"));
        }
        if std::thread::panicking() {
            return;
        }
        assert!(!self.watchdog.expired(), "the test took too long");
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}

/// Asks a process to end, and waits for that; `None` when it does not.
fn end(child: &mut Child) -> Option<ExitStatus> {
    // Gone already is fine.
    let _ = Command::new("kill").arg(child.id().to_string()).output();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(15) {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// Takes away the namespaces of test programs that were killed.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        let (Some("swt" | "swn"), Some(pid)) = (parts.next(), parts.next()) else {
            continue;
        };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            watchdog::processes(&name)
                .iter()
                .for_each(|pid| watchdog::kill(pid));
            // Another test program may be sweeping, too.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Another number in this process.
pub(crate) fn number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// Where a program is: beside this test's own folder.
pub fn program_path(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().join(name)
}

pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
