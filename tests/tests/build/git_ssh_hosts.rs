//! Which hosts are believed to be themselves.

use std::{fs, path::Path, process::Command};

use slipway_tests::{Said, Site, installed, ready};

use crate::{
    contexts::allow,
    git::git,
    git_ssh::{PROGRAMS, Sshd, add, key, with},
    site, write,
};

/// A site with a repository, and what adds it from a host and port.
async fn with_repository() -> (Site, impl Fn(&Site, u16) -> Said) {
    let mut site = site().await;
    allow(&mut site, "\"127.0.0.1/32\"").await;
    write(&site.path("repo"), &[("file", "x")]);
    git(&site, &["init", "-q"]);
    git(&site, &["add", "-A"]);
    git(&site, &["commit", "-qm", "x"]);
    let ssh = with(&key(&site, "key", "ed25519"));
    let repo = site.path("repo/.git").display().to_string();
    let from = move |site: &Site, port: u16| {
        let line = format!("ADD ssh://root@127.0.0.1:{port}{repo} /x/");
        add(site, &line, &["--ssh", &ssh])
    };
    (site, from)
}

fn public(key: &Path) -> String {
    let text = fs::read_to_string(key.with_extension("pub")).unwrap();
    text.trim().to_owned()
}

fn refused(said: &Said, part: &str) {
    assert!(said.code != 0 && said.err.contains(part), "{}", said.err);
}

#[tokio::test]
async fn a_host_is_believed_by_the_key_that_it_showed_first() {
    if !ready() || !installed(&PROGRAMS) {
        return;
    }
    let (mut site, from) = with_repository().await;
    let first = key(&site, "first", "ed25519");
    let sshd = Sshd::start(&site, &first, "").await;
    assert_eq!(from(&site, 22).code, 0);
    let kept = site.path("state/builder/ssh_known_hosts");
    assert_eq!(
        fs::read_to_string(&kept).unwrap(),
        format!("127.0.0.1 {}\n", public(&first))
    );
    drop(sshd);
    site.kill_and_restart("builder").await;
    let second = key(&site, "second", "rsa");
    let sshd = Sshd::start(&site, &second, "").await;
    let said = from(&site, 22);
    refused(&said, "somebody may have come between");
    refused(&said, &format!("take its line out of {}", kept.display()));
    assert!(!sshd.log().contains("Accepted publickey"), "{}", sshd.log());
    // Another port is another host.
    assert_eq!(from(&site, 2222).code, 0);
    let text = fs::read_to_string(&kept).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], format!("[127.0.0.1]:2222 {}", public(&second)));
    fs::write(&kept, "").unwrap();
    let said = from(&site, 22);
    assert_eq!(said.code, 0, "{}", said.err);
    // One that has several is asked for the one that is known.
    drop(sshd);
    let both = format!("HostKey {}", first.display());
    let sshd = Sshd::start(&site, &second, &both).await;
    let said = from(&site, 22);
    assert_eq!(said.code, 0, "{}: {}", said.err, sshd.log());
}

#[tokio::test]
async fn only_hosts_of_the_file_are_believed() {
    if !ready() || !installed(&PROGRAMS) {
        return;
    }
    let (mut site, from) = with_repository().await;
    let file = site.path("known");
    let config = fs::read_to_string(site.path("etc/builder.toml")).unwrap();
    let strict = format!(
        "ssh_known_hosts = {:?}\n{config}",
        file.display().to_string()
    );
    site.configure("builder.toml", &strict);
    site.kill_and_restart("builder").await;
    let (own, other) = (key(&site, "first", "ecdsa"), key(&site, "second", "ecdsa"));
    let sshd = Sshd::start(&site, &own, "").await;
    refused(&from(&site, 2222), "cannot read the known hosts in");
    fs::write(&file, format!("127.0.0.1 {}\n", public(&own))).unwrap();
    let said = from(&site, 2222);
    let line = format!("add the line \"[127.0.0.1]:2222 {}\"", public(&own));
    refused(&said, &line);
    fs::write(&file, format!("[127.0.0.1]:2222 {}\n", public(&other))).unwrap();
    refused(&from(&site, 2222), "somebody may have come between");
    assert!(!sshd.log().contains("Accepted publickey"), "{}", sshd.log());
    fs::write(&file, format!("[127.0.0.1]:2222 {}\n", public(&own))).unwrap();
    // As people hide the names of their hosts.
    let hidden = Command::new("ssh-keygen")
        .args(["-q", "-H", "-f"])
        .arg(&file)
        .status();
    assert!(hidden.unwrap().success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("|1|"), "{text}");
    let said = from(&site, 2222);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        text,
        "it is not ours to write"
    );
    assert!(!site.path("state/builder/ssh_known_hosts").exists());
}
