//! git repositories over ssh that are not fetched, and those that nobody waits for any more.

use std::{fs, io::Read as _};

use slipway_tests::{Site, installed, ready};

use crate::{
    contexts::allow,
    git::git,
    git_ssh::{PROGRAMS, Sshd, add, key, repositories, with},
    site,
};

#[tokio::test]
async fn who_may_not_ask_is_told_why() {
    if !ready() || !installed(&PROGRAMS) {
        return;
    }
    let mut site = site().await;
    repositories(&site);
    let own = key(&site, "key", "ed25519");
    let host = key(&site, "host", "ed25519");
    let sshd = Sshd::start(&site, &host, "").await;
    let whole = site.path("whole.git").display().to_string();
    let ssh = with(&own);
    let refused = |site: &Site, source: &str, arguments: &[&str], part: &str| {
        for said in [
            add(site, &format!("ADD {source} /x/"), arguments),
            site.ctl(&[&["build"], arguments, &[source]].concat()),
        ] {
            assert!(
                said.code != 0 && said.err.contains(part),
                "{source}: {}",
                said.err
            );
            // But for the excerpt of what the caller wrote.
            let mut told = said.err.lines().filter(|line| !line.contains(" | "));
            assert!(!told.any(|line| line.contains("word@")), "{}", said.err);
        }
    };
    // However it is written, and whatever its name leads to.
    for host in ["127.0.0.1", "localhost", "127.1"] {
        let source = format!("root@{host}:{whole}");
        refused(
            &site,
            &source,
            &["--ssh", &ssh],
            "where builds may not fetch from",
        );
    }
    let source = format!("ssh://root@[::ffff:127.0.0.1]{whole}");
    refused(
        &site,
        &source,
        &["--ssh", &ssh],
        "where builds may not fetch from",
    );
    allow(&mut site, "\"127.0.0.1/32\"").await;
    let scp = format!("root@127.0.0.1:{whole}");
    let hint = "no SSH key \"default\" forwarded from the client: pass --ssh default";
    let said = add(&site, &format!("ADD {scp} /x/"), &[]);
    assert!(said.code != 0 && said.err.contains(hint), "{}", said.err);
    let other = format!("other={}", own.display());
    refused(&site, &scp, &["--ssh", &other], hint);
    let source = format!("ssh://root:word@127.0.0.1{whole}");
    refused(
        &site,
        &source,
        &["--ssh", &ssh],
        "passwords are not used over ssh",
    );
    assert_eq!(sshd.connections(), 0, "{}", sshd.log());

    let wrong = with(&key(&site, "wrong", "ed25519"));
    let hint = "127.0.0.1 takes none of the agent's 1 key(s) for the user root";
    refused(&site, &scp, &["--ssh", &wrong], hint);
    let source = format!("somebody@127.0.0.1:{whole}");
    refused(&site, &source, &["--ssh", &ssh], "for the user somebody");
    // What git says there.
    let none = "root@127.0.0.1:/none.git";
    refused(
        &site,
        none,
        &["--ssh", &ssh],
        "'/none.git' does not appear to be a git repository",
    );
    let source = format!("{scp}#nothere");
    refused(
        &site,
        &source,
        &["--ssh", &ssh],
        "does not contain ref nothere",
    );
    let gone = format!("ssh://root@127.0.0.1:23{whole}");
    refused(
        &site,
        &gone,
        &["--ssh", &ssh],
        "cannot connect to [127.0.0.1]:23",
    );

    // More than may come.
    let noise = slipway_tests::gated::noise(200_000, 7);
    let repo = site.path("repo");
    fs::write(repo.join("noise"), noise).unwrap();
    git(&site, &["init", "-q"]);
    git(&site, &["add", "noise"]);
    git(&site, &["commit", "-qm", "noise"]);
    let large = format!("root@127.0.0.1:{}", repo.join(".git").display());
    refused(
        &site,
        &large,
        &["--ssh", &ssh],
        "its pack has more than 100000 bytes",
    );
    drop(sshd);
    refused(&site, &scp, &["--ssh", &ssh], "cannot connect to 127.0.0.1");
}

#[tokio::test]
async fn a_build_that_is_cancelled_hangs_up() {
    if !ready() || !installed(&PROGRAMS) {
        return;
    }
    let mut site = site().await;
    allow(&mut site, "\"127.0.0.1/32\"").await;
    let ssh = with(&key(&site, "key", "ed25519"));
    let listener = slipway_tests::listen(&site, "127.0.0.1:22");
    // One that never says who it is, and one that stops in the middle of agreeing on keys.
    for hello in [&b""[..], b"SSH-2.0-silent\r\n"] {
        let mut ctl = site.ctl_start(&["build", "--ssh", &ssh, "git@127.0.0.1:x"]);
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, hello).unwrap();
        let mut said = vec![0; if hello.is_empty() { 8 } else { 200 }];
        stream.read_exact(&mut said).unwrap();
        assert!(said.starts_with(b"SSH-2.0-"));
        ctl.kill().unwrap();
        ctl.wait().unwrap();
        let limit = std::time::Duration::from_secs(20);
        stream.set_read_timeout(Some(limit)).unwrap();
        let end = stream.read_to_end(&mut Vec::new());
        let reset = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(end.as_ref().map_or_else(reset, |_| true), "{end:?}");
    }
}

#[tokio::test]
async fn a_server_that_never_ends_is_not_listened_to_for_ever() {
    if !ready() || !installed(&PROGRAMS) {
        return;
    }
    let mut site = site().await;
    allow(&mut site, "\"127.0.0.1/32\"").await;
    let ssh = with(&key(&site, "key", "ed25519"));
    let host = key(&site, "host", "ed25519");
    let reference = format!("003a{} refs/heads/x", "a".repeat(40));
    let noise = "sh -c 'exec yes fatal: this is nothing >&2'".to_owned();
    for (endless, part) in [
        (format!("yes '{reference}'"), "its references are too many"),
        ("yes".to_owned(), "the server does not speak git's protocol"),
        (
            format!("timeout 1 {noise}"),
            "it says \"fatal: this is nothing fatal: this",
        ),
    ] {
        let sshd = Sshd::start(&site, &host, &format!("ForceCommand {endless}")).await;
        let said = add(&site, "ADD root@127.0.0.1:x /x/", &["--ssh", &ssh]);
        assert!(said.code != 0 && said.err.contains(part), "{}", said.err);
        assert!(said.err.len() < 10_000, "{}", said.err.len());
        drop(sshd);
    }
}
