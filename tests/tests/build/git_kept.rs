//! The `.git` that a build keeps.

use std::{fs, path::Path, process::Command};

use slipway_tests::{installed, ready};

use crate::{
    contexts::allow,
    git::{git, serve},
    site, write,
};

/// What git itself says of a `.git` that a build kept.
pub fn seen(at: &Path, arguments: &[&str]) -> String {
    let done = Command::new("git")
        .args(["-c", "safe.directory=*", "-C"])
        .arg(at)
        .args(arguments)
        .env("HOME", "/nowhere")
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn git_understands_what_is_kept_of_it() {
    if !ready() || !installed(&["git"]) {
        return;
    }
    let mut site = site().await;
    allow(&mut site, "\"127.0.0.1/32\"").await;
    let repo = site.path("repo");
    let commit = || {
        git(&site, &["commit", "-qm", "x"]);
        git(&site, &["rev-parse", "HEAD"])
    };
    write(&repo, &[("file", "of the module")]);
    git(&site, &["init", "-q"]);
    git(&site, &["add", "-A"]);
    let module = commit();
    fs::rename(repo.join(".git"), site.path("module.git")).unwrap();
    fs::remove_dir_all(&repo).unwrap();
    let modules = "[submodule \"the m\"]\n\tpath = lib/m\n\turl = ../module.git\n";
    let files = [
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        (".gitmodules", modules),
        ("run.sh", "#!/bin/sh\n"),
        ("empty", ""),
        ("long", &"x".repeat(300_000)),
    ];
    write(&repo, &files);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(repo.join("run.sh"), mode).unwrap();
    std::os::unix::fs::symlink("run.sh", repo.join("link")).unwrap();
    git(&site, &["init", "-q"]);
    git(&site, &["add", "-A"]);
    commit();
    let link = format!("160000,{module},lib/m");
    git(&site, &["update-index", "--add", "--cacheinfo", &link]);
    let head = commit();
    git(&site, &["tag", "light"]);
    git(&site, &["tag", "-a", "v1", "-m", "the first"]);
    fs::rename(repo.join(".git"), site.path("whole.git")).unwrap();
    let server = serve(&site);
    let url = format!("http://me:word@{}/whole.git", server.address);
    let out = site.path("out");
    let output = format!("type=local,dest={}", out.display());
    let context = site.path("context");
    for (n, (reference, tag)) in [
        ("", "heads/main"),
        ("#light", "tags/light"),
        ("#v1", "tags/v1"),
        ("?tag=v1&keep-git-dir=1", "tags/v1"),
        (&format!("#{head}"), ""),
    ]
    .into_iter()
    .enumerate()
    {
        let _ = fs::remove_dir_all(&out);
        let said = if n == 0 {
            let keep = "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1";
            site.ctl(&["build", "--build-arg", keep, "-o", &output, &url])
        } else {
            let flag = if reference.contains('=') {
                ""
            } else {
                "--keep-git-dir"
            };
            let text = format!("FROM scratch\nADD {flag} {url}{reference} /\n");
            write(&context, &[("Dockerfile", &text)]);
            let context = context.display().to_string();
            site.ctl(&["build", "-o", &output, &context])
        };
        assert_eq!(said.code, 0, "{reference}: {}", said.err);
        assert_eq!(seen(&out, &["log", "--format=%H %s"]), format!("{head} x"));
        assert_eq!(
            seen(&out, &["status", "--porcelain", "--ignore-submodules=none"]),
            ""
        );
        assert_eq!(
            seen(&out, &["rev-parse", "--is-shallow-repository"]),
            "true"
        );
        seen(&out, &["fsck", "--strict", "--full"]);
        assert_eq!(seen(&out, &["rev-parse", "HEAD"]), head);
        if !tag.is_empty() {
            assert_eq!(
                seen(&out, &["rev-parse", &format!("refs/{tag}^{{commit}}")]),
                head
            );
        }
        let described = seen(&out, &["describe", "--always", "--abbrev=40"]);
        let expected = if tag == "tags/v1" { "v1" } else { &head };
        assert_eq!(described, expected);
        let shown = seen(&out, &["remote", "get-url", "origin"]);
        assert!(shown.starts_with("http://xxxxx:xxxxx@"), "{shown}");
        let below = out.join("lib/m");
        assert_eq!(seen(&below, &["rev-parse", "HEAD"]), module);
        assert_eq!(seen(&below, &["status", "--porcelain"]), "");
        let state = seen(&out, &["submodule", "status"]);
        assert!(state.starts_with(&format!("{module} lib/m")), "{state}");
    }
    // A change is one: what was kept is not just believed.
    fs::write(out.join("run.sh"), "#!/bin/sx\n").unwrap();
    assert_eq!(seen(&out, &["status", "--porcelain"]), "M run.sh");
}
