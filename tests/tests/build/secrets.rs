//! `--secret`, `--ssh`, `--allow`, `--ulimit`: what a caller gives to its steps, and where it must not stay.

use std::{
    fs,
    io::Read as _,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, ExitStatus},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::{build, built, cached, nothing_is_left, shell, site, write};
use slipway_tests::{Site, ready};

/// In no file of the test's own.
const CANARY: &str = "8d1f0c6e5b77aa";

const SECRETS: &str = r#"FROM busybox
WORKDIR /w
RUN --mount=type=secret,id=file cat /run/secrets/file | grep -q "^canary-.*-file$" \
    && test "$(busybox stat -c %a:%u:%g /run/secrets/file)" = 400:0:0 \
    && ! echo x 2> /dev/null > /run/secrets/file
RUN --mount=type=secret,id=var,dst=key,mode=0444,uid=12,gid=34 \
    cat /w/key | grep -q "^canary-.*-var$" && test "$(busybox stat -c %a:%u:%g /w/key)" = 444:12:34
RUN --mount=type=secret,id=var,env=TOKEN echo $TOKEN | grep -q "^canary-.*-var$" && test ! -e /run/secrets
RUN --mount=type=secret,id=var,env=TOKEN,target=/both test "$TOKEN" = "$(cat /both)"
RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent
RUN busybox grep -q " /run/secrets" /proc/mounts && exit 1; test ! -e /run && test ! -e /both
"#;

/// Files below a folder whose content, inflated where it is compressed, holds the canary.
fn found_in(folder: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            found_in(&path, found);
        }
        let Some(content) = kind.is_file().then(|| fs::read(&path).ok()).flatten() else {
            continue;
        };
        let holds = |bytes: &[u8]| bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes());
        let mut plain = Vec::new();
        if content.starts_with(&[0x1f, 0x8b]) || content.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let inflated = slipway_image::layer::compression::decompress(&content[..]);
            // Half of a blob is looked at as far as it goes.
            let _ = inflated.map(|mut inflated| inflated.read_to_end(&mut plain));
        }
        if holds(&content) || holds(&plain) {
            found.push(path.display().to_string());
        }
    }
}

#[tokio::test]
async fn secrets_reach_the_step_and_nothing_else() {
    if !ready() {
        return;
    }
    let site = site().await;
    write(&site.path("context"), &[("Dockerfile", SECRETS)]);
    // Outside of what is searched.
    let own = tempfile::NamedTempFile::new().unwrap();
    fs::write(own.path(), format!("canary-{CANARY}-file")).unwrap();
    let file = format!("id=file,src={}", own.path().display());
    let run = |tag: &str| {
        let context = site.path("context");
        let context = context.to_str().unwrap();
        let mut command = site.command(
            slipway_tests::site::program_path("ctl").to_str().unwrap(),
            &[
                "build",
                "-t",
                tag,
                "--progress",
                "plain",
                "--secret",
                &file,
                "--secret",
                "id=var,env=OWN",
                context,
            ],
        );
        let said = command
            .env("OWN", format!("canary-{CANARY}-var"))
            .output()
            .unwrap();
        (
            said.status.success(),
            String::from_utf8_lossy(&said.stderr).into_owned(),
        )
    };
    let (done, said) = run("secret");
    assert!(done, "{said}");
    assert!(!said.contains(CANARY), "{said}");
    // Other secrets, same key: they do not count.
    fs::write(own.path(), "other").unwrap();
    let (done, said) = run("secret");
    assert!(done && said.contains("7 of 7 steps cached"), "{said}");
    let history = site.ctl(&["history", "--no-trunc", "secret"]).out;
    assert!(!history.contains(CANARY), "{history}");
    let inspected = site.ctl(&["inspect", "secret"]).out;
    assert!(!inspected.contains(CANARY), "{inspected}");
    nothing_is_left(&site, "after secrets").await;
    let mut found = Vec::new();
    for folder in ["state", "run", "context"] {
        found_in(&site.path(folder), &mut found);
    }
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn a_step_that_fails_leaves_no_secret_either() {
    if !ready() {
        return;
    }
    let site = site().await;
    let file = "FROM busybox\nRUN --mount=type=secret,id=s,env=T --mount=type=secret,id=s,target=/k mkdir /made; exit 3\n";
    write(&site.path("context"), &[("Dockerfile", file)]);
    let own = tempfile::NamedTempFile::new().unwrap();
    fs::write(own.path(), CANARY).unwrap();
    let secret = format!("id=s,src={}", own.path().display());
    let said = build(&site, "x", &["--secret", &secret]);
    assert_ne!(said.code, 0);
    assert!(!said.err.contains(CANARY), "{}", said.err);
    nothing_is_left(&site, "after a failed step").await;
    let mut found = Vec::new();
    ["state", "run"]
        .iter()
        .for_each(|f| found_in(&site.path(f), &mut found));
    assert!(found.is_empty(), "{found:?}");
    let said = build(&site, "x", &["--secret", "id=s,src=/not/there"]);
    assert!(
        said.err.contains("failed to stat /not/there"),
        "{}",
        said.err
    );
}

/// Lets the kernel write cores of a process, as far as its settings go.
fn allow_cores(pid: Pid) {
    let endless = Rlimit {
        current: None,
        maximum: None,
    };
    prlimit(Some(pid), Resource::Core, endless).unwrap();
}

fn crash(child: &mut Child) -> ExitStatus {
    let pid = Pid::from_child(child);
    allow_cores(pid);
    rustix::process::kill_process(pid, Signal::ABORT).unwrap();
    child.wait().unwrap()
}

#[tokio::test]
async fn a_crash_leaves_no_memory_of_secrets_on_the_disk() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut other = Command::new("sleep");
    let mut other = other.arg("100").current_dir(folder.path()).spawn().unwrap();
    if !crash(&mut other).core_dumped() {
        slipway_tests::skipped("this host makes no core dumps");
        return;
    }
    let mut site = site().await;
    for service in ["builder", "runtime", "registry"] {
        let pid = i32::try_from(site.service_pid(service)).unwrap();
        allow_cores(Pid::from_raw(pid).unwrap());
        let ended = site.end_service(service, Signal::ABORT);
        assert!(!ended.core_dumped(), "{service}: {ended}");
        assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "{service}");
    }
}

/// A small agent: it knows one key and signs with it, and says so when it is asked for more.
fn agent(site: &Site) -> std::path::PathBuf {
    use std::io::Write as _;
    let path = site.path("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut length = [0; 4];
                while stream.read_exact(&mut length).is_ok() {
                    let mut message = vec![0; u32::from_be_bytes(length) as usize];
                    stream.read_exact(&mut message).unwrap();
                    let reply: &[u8] = match message[0] {
                        11 => &[12, 0, 0, 0, 0],
                        13 => &[14, 0, 0, 0, 3, b's', b'i', b'g'],
                        _ => &[6],
                    };
                    stream
                        .write_all(&(reply.len() as u32).to_be_bytes())
                        .unwrap();
                    stream.write_all(reply).unwrap();
                }
            });
        }
    });
    path
}

const AGENT: &str = r#"FROM busybox
RUN --mount=type=ssh,mode=0666 test "$SSH_AUTH_SOCK" = /run/buildkit/ssh_agent.0 && test -S "$SSH_AUTH_SOCK" \
    && busybox stat -c %a $SSH_AUTH_SOCK | grep -q 666 \
    && busybox printf '\0\0\0\1\13' | busybox nc local:$SSH_AUTH_SOCK | busybox od -An -tx1 > /list; true
RUN --mount=type=ssh,id=other,target=/agent test -S /agent && test "$(busybox stat -c %a:%u /agent)" = 600:0
RUN --mount=type=ssh,id=absent test ! -e $SSH_AUTH_SOCK
RUN test ! -e /run && test ! -e /agent
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_socket_is_in_the_step() {
    if !ready() {
        return;
    }
    let site = site().await;
    write(&site.path("context"), &[("Dockerfile", AGENT)]);
    let path = agent(&site);
    let (default, other) = (
        format!("default={}", path.display()),
        format!("other={}", path.display()),
    );
    built(&site, "agent", &["--ssh", &default, "--ssh", &other]);
    nothing_is_left(&site, "after an agent").await;
}

/// Programs of this host with the libraries that they need, below a folder.
fn carry(programs: &[&str], folder: &Path) {
    let mut paths: Vec<String> = programs.iter().map(|p| (*p).to_owned()).collect();
    for program in programs {
        let libraries = std::process::Command::new("ldd").arg(program).output();
        let text = String::from_utf8(libraries.unwrap().stdout).unwrap();
        let words = text.split_whitespace().filter(|w| w.starts_with('/'));
        paths.extend(words.map(str::to_owned));
    }
    for path in paths {
        let to = folder.join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
}

const KEYS: &str = r#"FROM busybox
COPY root /
RUN --mount=type=ssh ssh-add -L > /listed \
    && ssh-keygen -q -Y sign -n test -f /rsa.pub < /message > /rsa.sig \
    && ssh-keygen -q -Y sign -n test -f /ed.pub < /message > /ed.sig \
    && ssh-keygen -q -Y sign -n test -f /ec.pub < /message > /ec.sig \
    && ! ssh-add -D 2> /dev/null && ssh-add -l | wc -l | grep -q 3
FROM scratch
COPY --from=0 /listed /*.sig /
"#;

#[tokio::test(flavor = "multi_thread")]
async fn keys_from_files_sign_for_steps() {
    if !ready() || !slipway_tests::installed(&["ssh-keygen", "ssh-add", "ssh-agent"]) {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    let root = context.join("root");
    carry(&["/usr/bin/ssh-add", "/usr/bin/ssh-keygen"], &root);
    write(
        &root,
        &[
            ("message", "what is signed"),
            ("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
        ],
    );
    write(&context, &[("Dockerfile", KEYS)]);
    let ssh = |program: &str, arguments: &[&str]| {
        let done = std::process::Command::new(program)
            .args(arguments)
            .current_dir(site.path(""))
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{program} {arguments:?}: {err}");
        String::from_utf8(done.stdout).unwrap()
    };
    let kinds = [("rsa", "rsa"), ("ed", "ed25519"), ("ec", "ecdsa")];
    for (name, kind) in kinds {
        ssh(
            "ssh-keygen",
            &["-q", "-t", kind, "-N", "", "-C", "", "-f", name],
        );
        fs::copy(
            site.path(&format!("{name}.pub")),
            root.join(format!("{name}.pub")),
        )
        .unwrap();
    }
    let public = |name: &str| fs::read_to_string(site.path(&format!("{name}.pub"))).unwrap();
    let out = site.path("out");
    let output = format!("type=local,dest={}", out.display());
    let files = kinds.map(|(name, _)| site.path(name).display().to_string());
    let real = site.path("real.sock");
    let agent_program = std::process::Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&real)
        .stdout(std::process::Stdio::null())
        .spawn();
    let mut agent_program = agent_program.unwrap();
    slipway_tests::eventually("the agent listens", async || real.exists().then_some(())).await;
    let added = std::process::Command::new("ssh-add")
        .args(["-q"])
        .args(&files)
        .env("SSH_AUTH_SOCK", &real)
        .status();
    assert!(added.unwrap().success());
    // From files, then from a real agent: the same for a step.
    for from in [files.join(","), real.display().to_string()] {
        let _ = fs::remove_dir_all(&out);
        let ssh_option = format!("default={from}");
        built(
            &site,
            "keys",
            &["--no-cache", "--ssh", &ssh_option, "-o", &output],
        );
        let listed = fs::read_to_string(out.join("listed")).unwrap();
        for (name, _) in kinds {
            let key = public(name);
            let key = key.split(' ').nth(1).unwrap();
            assert!(listed.contains(key), "{name}: {listed}");
            let allowed = format!("me {}", public(name));
            fs::write(site.path("allowed"), allowed).unwrap();
            let signature = out.join(format!("{name}.sig")).display().to_string();
            let script = format!(
                "ssh-keygen -q -Y verify -f allowed -I me -n test -s {signature} < context/root/message"
            );
            ssh("sh", &["-c", &script]);
        }
    }
    agent_program.kill().unwrap();
    agent_program.wait().unwrap();
    ssh(
        "ssh-keygen",
        &["-q", "-t", "ed25519", "-N", "a secret", "-f", "locked"],
    );
    let locked = site.path("locked").display().to_string();
    let (both, locked) = (
        format!("default={},{}", files[0], agent(&site).display()),
        format!("default={locked}"),
    );
    for (option, part) in [
        (&*locked, "ssh: this private key is passphrase protected"),
        (&*both, "invalid combination of keys and sockets"),
        ("default=/not/there", "/not/there: No such file"),
    ] {
        let said = build(&site, "x", &["--ssh", option]);
        assert!(said.code != 0 && said.err.contains(part), "{}", said.err);
    }
    let twice = format!("a={}", files[0]);
    let said = build(&site, "x", &["--ssh", &twice, "--ssh", &twice]);
    assert!(
        said.err.contains("duplicate agent ID \"a\""),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn what_is_allowed_and_limited() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    let file = "FROM busybox\nRUN --network=host true\nRUN --network=none test -z \"$(ip -4 addr show up scope global)\"\nRUN test \"$(ulimit -n)\" = 4321\nRUN busybox df -k /dev/shm | grep -q 1024 && grep -q '10.1.2.3.*there' /etc/hosts\n";
    write(&context, &[("Dockerfile", file)]);
    let options = [
        "--ulimit",
        "nofile=4321:4321",
        "--shm-size",
        "1m",
        "--add-host",
        "there:10.1.2.3",
    ];
    let said = build(&site, "x", &options);
    assert!(
        said.err.contains("network.host is not allowed"),
        "{}",
        said.err
    );
    let said = built(
        &site,
        "x",
        &[&options[..], &["--allow", "network.host"]].concat(),
    );
    assert_eq!(cached(&said).1, 4, "{}", said.err);
    for (options, part) in [
        (
            ["--allow", "security.insecure"],
            "granting entitlement security.insecure is not allowed by build daemon configuration",
        ),
        (["--allow", "device=x"], "--allow device=x is not supported"),
        (["--cgroup-parent", "x"], "is not supported"),
    ] {
        let said = build(&site, "x", &options);
        assert_ne!(said.code, 0);
        assert!(said.err.contains(part), "{}", said.err);
    }
    let mut site = site;
    site.configure("builder.toml", "entitlements = [\"security.insecure\"]\n");
    site.kill_and_restart("builder").await;
    write(
        &context,
        &[(
            "Dockerfile",
            "FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status > /caps && mkdir /mnt && busybox mount -t tmpfs t /mnt\nRUN grep CapEff /proc/self/status >> /caps\n",
        )],
    );
    built(&site, "x", &["--allow", "security.insecure"]);
    let caps = shell(&site, "x", "cat /caps");
    let caps: Vec<&str> = caps
        .lines()
        .map(|l| l.rsplit('\t').next().unwrap())
        .collect();
    assert!(
        caps[0] > caps[1] && caps[1] == "00000000a80425fb",
        "{caps:?}"
    );
    let said = build(&site, "x", &["--allow", "network.host"]);
    assert!(
        said.err.contains("granting entitlement network.host"),
        "{}",
        said.err
    );
}
