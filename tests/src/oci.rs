//! The OCI runtime command line on a host of its own, with bundles made by hand.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{Said, Site, site::program_path};

/// The runtime with a `--root` of its own. What containers leave behind when they are deleted fails the test.
pub struct Oci {
    /// Its host.
    pub site: Site,
    group: String,
}

impl Oci {
    /// `None`, and said aloud, where such a test cannot run.
    pub fn new() -> Option<Self> {
        if !crate::ready() {
            return None;
        }
        let site = Site::bare();
        symlink(program_path("runtime-svc"), site.path("slipway-oci")).unwrap();
        let group = format!("oci-test-{}-{}", std::process::id(), crate::site::number());
        Some(Self { site, group })
    }

    /// The program by its other name.
    pub fn program(&self) -> PathBuf {
        self.site.path("slipway-oci")
    }

    /// Makes a bundle: a root file system of busybox, and the example of a config.json with this script as
    /// its program, without a terminal, changed as the test wants it.
    pub fn bundle(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.site.path(name);
        make_rootfs(&bundle.join("rootfs"));
        let said = self.call(&["spec", "--bundle", bundle.to_str().unwrap()]);
        assert_eq!(said.code, 0, "{}", said.err);
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["linux"]["cgroupsPath"] = json!(format!("/{}/{name}", self.group));
        change(&mut config);
        fs::write(&path, config.to_string()).unwrap();
        bundle
    }

    /// A command of the runtime on its host.
    pub fn command(&self, words: &[&str]) -> Command {
        let root = self.site.path("root");
        let mut all = vec!["--root", root.to_str().unwrap()];
        all.extend(words);
        self.site.command(self.program().to_str().unwrap(), &all)
    }

    /// Runs it to its end. What it says goes to files: a container keeps its streams open.
    pub fn call(&self, words: &[&str]) -> Said {
        let number = crate::site::number();
        let file = |what: &str| self.site.path(&format!("{what}-{number}"));
        let create = |what: &str| fs::File::create(file(what)).unwrap();
        let status = self
            .command(words)
            .stdin(Stdio::null())
            .stdout(create("out"))
            .stderr(create("err"))
            .status()
            .unwrap();
        let read = |what: &str| {
            let text = fs::read(file(what)).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        };
        Said {
            code: status.code().unwrap_or(-1),
            out: read("out"),
            err: read("err"),
        }
    }

    /// The same, which must go well; what it printed.
    pub fn ok(&self, words: &[&str]) -> String {
        let said = self.call(words);
        assert_eq!(said.code, 0, "{words:?}: {}{}", said.out, said.err);
        said.out
    }

    /// The same, which must fail; what it said about that, in one line.
    pub fn fails(&self, words: &[&str]) -> String {
        let said = self.call(words);
        assert_ne!(said.code, 0, "{words:?}: {}", said.out);
        assert_eq!(
            said.err.trim_end().lines().count(),
            1,
            "{words:?}: {}",
            said.err
        );
        said.err
    }

    /// Runs a bundle's script to its end.
    pub fn run(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> Said {
        let bundle = self.bundle(name, script, change);
        let said = self.call(&["run", "--bundle", bundle.to_str().unwrap(), name]);
        self.is_gone(name);
        said
    }

    /// A container's state.
    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    /// A container's status.
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }

    /// The folders of a container's cgroups, in whatever trees there are.
    pub fn cgroups(&self, name: &str) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let trees = fs::read_dir(root).into_iter().flatten().flatten();
        let trees = trees.map(|tree| tree.path()).chain([root.to_owned()]);
        trees
            .map(|tree| tree.join(&self.group).join(name))
            .filter(|group| group.is_dir())
            .collect()
    }

    /// Asserts that nothing is left of a container.
    pub fn is_gone(&self, name: &str) {
        assert_eq!(self.cgroups(name), Vec::<PathBuf>::new());
        assert!(
            !self.site.path("root").join(name).exists(),
            "{name} has a folder"
        );
        let folder = self.site.path("").to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left: Vec<_> = mounts
            .lines()
            .filter(|line| line.contains(&folder))
            .collect();
        assert_eq!(left, Vec::<&str>::new());
    }
}

impl Drop for Oci {
    fn drop(&mut self) {
        let ids = self.call(&["list", "-q"]).out;
        for id in ids.split_whitespace() {
            self.call(&["delete", "--force", id]);
        }
        for tree in self.cgroups("") {
            // Of the test itself; each container's own were looked at.
            let _ = fs::remove_dir(tree);
        }
        if !std::thread::panicking() {
            assert_eq!(ids, "", "containers that were not deleted");
        }
    }
}

/// Busybox with its usual names.
pub fn make_rootfs(rootfs: &Path) {
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp", "root"] {
        fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    for name in [
        "cat", "chown", "date", "dd", "echo", "env", "false", "grep", "head", "hostname", "id",
        "kill", "ln", "ls", "mkdir", "mknod", "mount", "nc", "ps", "pwd", "readlink", "rm", "sed",
        "sh", "sleep", "stat", "stty", "sync", "tail", "test", "touch", "tr", "true", "tty",
        "umount", "uname", "wc", "wget",
    ] {
        symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
}
