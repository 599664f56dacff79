//! git repositories over ssh, from Debian's sshd and git.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use slipway_tests::{Said, Site, eventually, installed, ready};

use crate::{build, contexts::allow, git::git, git_kept::seen, shell, site, write};

/// What these tests need.
pub const PROGRAMS: [&str; 5] = ["git", "sshd", "ssh-keygen", "ssh-add", "ssh-agent"];

/// An sshd of a site, on 127.0.0.1: port 22, and 2222. It takes the key of the file `key`.
pub struct Sshd {
    child: Child,
    log: PathBuf,
    /// What git said and heard.
    trace: PathBuf,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sshd {
    /// Starts one that shows this key, and takes these settings.
    pub async fn start(site: &Site, host_key: &Path, more: &str) -> Self {
        // Debian's unit makes it.
        fs::create_dir_all("/run/sshd").unwrap();
        let (log, trace) = (site.path("sshd.log"), site.path("trace"));
        let _ = (fs::remove_file(&log), fs::remove_file(&trace));
        let config = format!(
            "ListenAddress 127.0.0.1:22\nListenAddress 127.0.0.1:2222\nHostKey {}\nPidFile none\n\
             AuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n\
             LogLevel VERBOSE\nSetEnv PATH=/usr/bin:/bin GIT_TRACE_PACKET={} HOME=/nowhere\n{more}\n",
            host_key.display(),
            site.path("key.pub").display(),
            trace.display(),
        );
        let file = site.path("sshd_config");
        fs::write(&file, config).unwrap();
        let child = site
            .command(
                "/usr/sbin/sshd",
                &[
                    "-D",
                    "-f",
                    file.to_str().unwrap(),
                    "-E",
                    log.to_str().unwrap(),
                ],
            )
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let this = Self { child, log, trace };
        let listens = async || (this.log().matches("Server listening").count() == 2).then_some(());
        eventually("sshd listens", listens).await;
        this
    }

    /// What it tells.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many have come.
    pub fn connections(&self) -> usize {
        self.log().matches("Connection from").count()
    }

    /// How often git-upload-pack said or heard something.
    fn said(&self, what: &str) -> usize {
        let text = fs::read_to_string(&self.trace).unwrap_or_default();
        text.lines().filter(|line| line.contains(what)).count()
    }
}

/// A key of a kind in a new file of this name, and of `.pub`.
pub fn key(site: &Site, name: &str, kind: &str) -> PathBuf {
    let path = site.path(name);
    for old in [path.clone(), path.with_extension("pub")] {
        let _ = fs::remove_file(old);
    }
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", "", "-C", "", "-f"])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    path
}

/// `--ssh` for a file.
pub fn with(key: &Path) -> String {
    format!("default={}", key.display())
}

/// A repository `whole.git` with two commits, of which the first has a tag and a branch beside it, and a
/// submodule whose commit is at no tip: the commits of all three.
pub fn repositories(site: &Site) -> [String; 3] {
    let repo = site.path("repo");
    let commit = |name: &str| {
        git(site, &["add", "-A"]);
        git(site, &["commit", "-qm", name]);
        git(site, &["rev-parse", "HEAD"])
    };
    write(&repo, &[("file", "of the module")]);
    git(site, &["init", "-q"]);
    let module = commit("one");
    fs::write(repo.join("file"), "of a later time").unwrap();
    commit("two");
    fs::rename(repo.join(".git"), site.path("it's a module.git")).unwrap();
    fs::remove_dir_all(&repo).unwrap();
    let modules = "[submodule \"m\"]\n\tpath = lib/m\n\turl = \"../it's a module.git\"\n";
    write(
        &repo,
        &[
            ("Dockerfile", "FROM busybox\nCOPY . /all/\n"),
            (".gitmodules", modules),
            ("sub/file", "in the folder"),
        ],
    );
    git(site, &["init", "-q"]);
    git(site, &["add", "-A"]);
    let link = format!("160000,{module},lib/m");
    git(site, &["update-index", "--add", "--cacheinfo", &link]);
    git(site, &["commit", "-qm", "one"]);
    let first = git(site, &["rev-parse", "HEAD"]);
    fs::write(repo.join("sub/file"), "changed").unwrap();
    git(site, &["add", "sub/file"]);
    git(site, &["commit", "-qm", "two"]);
    git(site, &["tag", "-a", "v2", "-m", "the second"]);
    let second = git(site, &["rev-parse", "HEAD"]);
    fs::write(repo.join("sub/file"), "of a later time").unwrap();
    git(site, &["add", "sub/file"]);
    git(site, &["commit", "-qm", "three"]);
    fs::rename(repo.join(".git"), site.path("whole.git")).unwrap();
    [first, second, module]
}

/// Builds what one line adds.
pub fn add(site: &Site, line: &str, arguments: &[&str]) -> Said {
    let text = format!("FROM busybox\n{line}\n");
    write(&site.path("context"), &[("Dockerfile", &text)]);
    build(site, "added", arguments)
}

/// With a server that is asked for version 2 of git's protocol, and with one that does not hear it.
async fn are_contexts_and_sources(more: &str, is_new: bool) {
    if !ready() || !installed(&PROGRAMS) {
        return;
    }
    let mut site = site().await;
    allow(&mut site, "\"127.0.0.1/32\"").await;
    let configured = fs::read_to_string(site.path("etc/builder.toml")).unwrap();
    let loud = format!("{configured}[service]\nlog = \"trace,h2=info\"\n");
    site.configure("builder.toml", &loud);
    site.kill_and_restart("builder").await;
    let [first, second, module] = repositories(&site);
    let key = key(&site, "key", if is_new { "ed25519" } else { "rsa" });
    let host = self::key(&site, "host", if is_new { "ecdsa" } else { "ed25519" });
    let sshd = Sshd::start(&site, &host, more).await;
    let folder = site.path("");
    let whole = site.path("whole.git");
    let (folder, whole) = (folder.display(), whole.display());
    let url = format!("ssh://root@127.0.0.1:2222{whole}");
    let scp = format!("root@localhost:{whole}");
    let ssh = with(&key);
    let built = |arguments: &[&str]| {
        let mut all = vec!["build", "-t", "git", "--ssh", &ssh];
        all.extend(arguments);
        let said = site.ctl(&all);
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
    };
    let look = "cat /all/sub/file /all/lib/m/file";
    for (context, expected) in [
        (url.clone(), "of a later timeof the module"),
        (format!("{scp}#main"), "of a later timeof the module"),
        (format!("{url}?ref=v2"), "changedof the module"),
        // No reference names it.
        (format!("{scp}#{first}"), "in the folderof the module"),
    ] {
        built(&[&context]);
        assert_eq!(shell(&site, "git", look), expected, "{context}");
    }
    assert_eq!(sshd.said("version 2") > 0, is_new, "{}", sshd.log());
    assert_eq!(sshd.said("command=ls-refs") > 0, is_new);

    let lines = format!(
        "ADD {scp}#v2:sub /sub/\nADD --checksum={second} {url}#v2 /all/\nADD {scp}#v2:lib /lib/"
    );
    let said = add(&site, &lines, &["--ssh", &ssh]);
    assert_eq!(said.code, 0, "{}", said.err);
    let seen_there = shell(&site, "added", "cat /sub/file /all/sub/file /lib/m/file");
    assert_eq!(seen_there, "changedchangedof the module");
    let history = site.ctl(&["history", "--no-trunc", "added"]).ok();
    assert!(
        history.contains(&format!("ADD {scp}#v2:sub /sub/")),
        "{history}"
    );

    write(
        &site.path("context"),
        &[("Dockerfile", "FROM busybox\nCOPY --from=it /sub/file /\n")],
    );
    let named = format!("it={scp}#v2");
    let said = build(&site, "named", &["--ssh", &ssh, "--build-context", &named]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(shell(&site, "named", "cat /file"), "changed");

    // What is known is asked for again only as far as whether it is still given.
    let packs = sshd.said("packfile") + sshd.said("NAK");
    let came = sshd.connections();
    built(&[&format!("{url}#v2")]);
    assert_eq!(sshd.said("packfile") + sshd.said("NAK"), packs);
    assert_eq!(
        sshd.connections(),
        came + 2,
        "the repository and its submodule"
    );

    // From an agent, and as git itself sees it.
    let socket = site.path("agent.sock");
    let mut agent = Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the agent listens", async || socket.exists().then_some(())).await;
    let others = ["ed25519", "ecdsa"].map(|kind| self::key(&site, &format!("other-{kind}"), kind));
    let added = Command::new("ssh-add")
        .arg("-q")
        .args(others)
        .arg(&key)
        .env("SSH_AUTH_SOCK", &socket)
        .status();
    assert!(added.unwrap().success());
    let out = site.path("out");
    let output = format!("type=local,dest={}", out.display());
    fs::write(
        site.path("context/Dockerfile"),
        format!("FROM scratch\nADD --keep-git-dir {scp}#v2 /\n"),
    )
    .unwrap();
    let said = build(&site, "kept", &["--ssh", &with(&socket), "-o", &output]);
    assert_eq!(said.code, 0, "{}", said.err);
    // For a context the agent need not be named.
    let ctl = slipway_tests::site::program_path("ctl");
    let context = format!("{url}#v2");
    let mut unnamed = site.command(ctl.to_str().unwrap(), &["build", "-t", "git", &context]);
    let done = unnamed.env("SSH_AUTH_SOCK", &socket).output().unwrap();
    let err = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{err}");
    let done = unnamed.env_remove("SSH_AUTH_SOCK").output().unwrap();
    let err = String::from_utf8_lossy(&done.stderr);
    assert!(
        err.contains("make sure SSH_AUTH_SOCK is set, or name keys: --ssh default=FILE"),
        "{err}"
    );
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(seen(&out, &["rev-parse", "HEAD"]), second);
    assert_eq!(seen(&out, &["status", "--porcelain"]), "");
    assert_eq!(seen(&out, &["remote", "get-url", "origin"]), scp);
    assert_eq!(seen(&out.join("lib/m"), &["rev-parse", "HEAD"]), module);
    let from = seen(&out.join("lib/m"), &["remote", "get-url", "origin"]);
    assert_eq!(from, format!("root@localhost:{folder}it's a module.git"));

    // Neither keys nor what is signed with them stay anywhere.
    let log = fs::read_to_string(site.path("builder.log")).unwrap();
    for told in ["sign_request", "identities: ["] {
        assert!(!log.contains(told), "{told}");
    }
    assert!(log.contains("a host is met for the first time"));
}

#[tokio::test]
async fn repositories_over_ssh_are_contexts_and_sources() {
    are_contexts_and_sources("AcceptEnv GIT_PROTOCOL", true).await;
}

#[tokio::test]
async fn repositories_of_a_plain_sshd_are_contexts_and_sources() {
    are_contexts_and_sources("", false).await;
}
