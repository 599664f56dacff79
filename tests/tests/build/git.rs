//! git repositories as contexts and as sources of ADD, from git's own server program behind a little CGI.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use slipway_tests::{Reply, Request, Server, Site, installed, ready};

use crate::{build, contexts::allow, shell, site, write};

fn git(site: &Site, arguments: &[&str]) -> String {
    let done = Command::new("git")
        .args([
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@b",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(arguments)
        .current_dir(site.path("repo"))
        .env("HOME", site.path("home"))
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// `basic` of `x-access-token:the-token`.
const KEY: &str = "basic eC1hY2Nlc3MtdG9rZW46dGhlLXRva2Vu";

/// `git http-backend` as gitprotocol-http(5) has it.
fn serve(site: &Site) -> Server {
    serve_and(site, |_| ())
}

/// The same; `look` sees each request.
fn serve_and(site: &Site, look: impl Fn(&Request) + Send + Sync + 'static) -> Server {
    let root = site.path("");
    Server::start_raw(site, move |request, out| {
        look(request);
        // Behind a door there is what is for those only who have the key.
        if request.path.starts_with("/private") && request.authorization != KEY {
            let reply = Reply {
                status: 401,
                ..Reply::default()
            };
            return reply.send(request, out);
        }
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let mut backend = Command::new("git")
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", &root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("GIT_PROTOCOL", "version=2")
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("REQUEST_METHOD", &request.method)
            .env("CONTENT_TYPE", "application/x-git-upload-pack-request")
            .env("CONTENT_LENGTH", request.body.len().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let body = request.body.clone();
        let mut input = backend.stdin.take().unwrap();
        let writing = std::thread::spawn(move || input.write_all(&body));
        let answer = backend.wait_with_output().unwrap().stdout;
        let _ = writing.join();
        let head = answer
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .unwrap_or(0);
        let text = String::from_utf8_lossy(&answer[..head]).into_owned();
        let status = text
            .lines()
            .find_map(|l| l.strip_prefix("Status: ")?.get(..3)?.parse().ok());
        let reply = Reply {
            status: status.unwrap_or(200),
            body: answer[head + 4..].to_vec(),
            ..Reply::default()
        };
        reply.send(request, out);
    })
}

#[tokio::test]
async fn repositories_are_contexts_and_sources() {
    if !ready() || !installed(&["git"]) {
        return;
    }
    let mut site = site().await;
    allow(&mut site, "\"127.0.0.1/32\"").await;
    let repo = site.path("repo");
    let text: String = (0..2000).map(|i| format!("line {i}\n")).collect();
    write(
        &repo,
        &[
            ("Dockerfile", "FROM busybox\nCOPY . /all/\n"),
            ("sub/Dockerfile", "FROM busybox\nCOPY . /sub/\n"),
            ("sub/file", "in the folder"),
            ("long", &text),
            ("run.sh", "#!/bin/sh\n"),
        ],
    );
    std::os::unix::fs::symlink("sub/file", repo.join("link")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(repo.join("run.sh"), mode).unwrap();
    git(&site, &["init", "-q"]);
    git(&site, &["add", "-A"]);
    git(&site, &["commit", "-qm", "one"]);
    git(&site, &["tag", "-a", "v1", "-m", "the first"]);
    let first = git(&site, &["rev-parse", "HEAD"]);
    fs::write(repo.join("long"), format!("{text}more\n")).unwrap();
    fs::write(repo.join("copy of long"), format!("before\n{text}")).unwrap();
    git(&site, &["add", "-A"]);
    git(&site, &["commit", "-qm", "two"]);
    git(&site, &["branch", "other", &first]);
    // A pack with changes of changes.
    git(&site, &["repack", "-qadf", "--depth=20"]);
    let second = git(&site, &["rev-parse", "HEAD"]);
    fs::rename(repo.join(".git"), site.path("served.git")).unwrap();

    let server = serve(&site);
    let url = format!("http://{}/served.git", server.address);
    let lines = |image: &str| {
        shell(
            &site,
            image,
            "wc -l < /all/long; readlink /all/link; stat -c %a /all/run.sh /all/long; ls -A /all | wc -l",
        )
    };
    for (reference, expected) in [
        ("", "2001\nsub/file\n755\n644\n6\n"),
        ("#main", "2001\nsub/file\n755\n644\n6\n"),
        ("#refs/heads/other", "2000\nsub/file\n755\n644\n5\n"),
        ("#v1", "2000\nsub/file\n755\n644\n5\n"),
        (&format!("#{first}"), "2000\nsub/file\n755\n644\n5\n"),
    ] {
        let said = site.ctl(&["build", "-t", "git", &format!("{url}{reference}")]);
        assert_eq!(said.code, 0, "{reference}: {}", said.err);
        assert_eq!(lines("git"), expected, "{reference}");
    }
    let said = site.ctl(&["build", "-t", "sub", &format!("{url}#main:sub")]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(shell(&site, "sub", "cat /sub/file"), "in the folder");

    let context = site.path("context");
    let from = |line: &str| {
        write(
            &context,
            &[("Dockerfile", &format!("FROM busybox\n{line}\n"))],
        );
        build(&site, "added", &[])
    };
    let said = from(&format!(
        "ADD --checksum={second} {url} /all\nADD {url}#v1:sub /sub/\nRUN test ! -e /all/.git"
    ));
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(
        shell(&site, "added", "cat /sub/file /all/sub/file"),
        "in the folderin the folder"
    );
    for (line, part) in [
        (
            format!("ADD {url}#nothere /x"),
            "does not contain ref nothere",
        ),
        (format!("ADD {url}#main:nothere /x"), "no folder nothere"),
        (format!("ADD {url}#main:long /x"), "is not a folder"),
        (format!("ADD {url}#--output=x /x"), "invalid git reference"),
        (
            format!("ADD --checksum={first} {url} /x"),
            "expected checksum",
        ),
        (
            format!("ADD --keep-git-dir {url}?keep-git-dir=0 /x"),
            "inconsistent keep-git-dir configuration",
        ),
        (format!("ADD http://{}/none.git /x", server.address), "404"),
        ("ADD http://localhost:1/x.git /x".to_owned(), "cannot fetch"),
        (
            "ADD git@localhost:a/b.git /x".to_owned(),
            "only http and https",
        ),
    ] {
        let said = from(&line);
        assert!(
            said.code != 0 && said.err.contains(part),
            "{line}: {}",
            said.err
        );
    }
}

#[tokio::test]
async fn a_commit_is_fetched_once() {
    if !ready() || !installed(&["git"]) {
        return;
    }
    let mut site = site().await;
    allow(&mut site, "\"127.0.0.1/32\"").await;
    let repo = site.path("repo");
    let commit = |name: &str| {
        git(&site, &["add", "-A"]);
        git(&site, &["commit", "-qm", name]);
        git(&site, &["rev-parse", "HEAD"])
    };
    write(&repo, &[("file", "of the module")]);
    git(&site, &["init", "-q"]);
    let module = commit("module");
    fs::rename(repo.join(".git"), site.path("private.git")).unwrap();
    fs::remove_dir_all(&repo).unwrap();
    let modules = "[submodule \"m\"]\n\tpath = m\n\turl = ../private.git\n";
    let dockerfile = "FROM busybox\nCOPY . /all/\n";
    let files = [
        ("Dockerfile", dockerfile),
        (".gitmodules", modules),
        ("run.sh", "1"),
        ("sub/file", "in the folder"),
    ];
    write(&repo, &files);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(repo.join("run.sh"), mode).unwrap();
    std::os::unix::fs::symlink("sub/file", repo.join("link")).unwrap();
    git(&site, &["init", "-q"]);
    git(&site, &["add", "-A"]);
    let link = format!("160000,{module},m");
    git(&site, &["update-index", "--add", "--cacheinfo", &link]);
    git(&site, &["commit", "-qm", "one"]);
    git(&site, &["tag", "-a", "v1", "-m", "the first"]);
    let first = git(&site, &["rev-parse", "HEAD"]);
    let whole = site.path("whole.git");
    std::os::unix::fs::symlink(repo.join(".git"), whole).unwrap();

    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = bodies.clone();
    let server = serve_and(&site, move |request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        seen.lock().unwrap().push(body);
    });
    let url = format!("http://{}/whole.git", server.address);
    let token = site.path("token");
    fs::write(&token, "the-token\n").unwrap();
    let secret = format!("id=GIT_AUTH_TOKEN,src={}", token.display());
    let asked = |what: &str| {
        let bodies = bodies.lock().unwrap();
        bodies.iter().filter(|body| body.contains(what)).count()
    };
    // How many packs and lists of references a build asks for.
    let counted = |site: &Site, arguments: &[&str]| {
        let before = (asked("command=fetch"), asked("command=ls-refs"));
        let mut all = vec!["build", "-t", "git", "--secret", &secret];
        all.extend(arguments);
        let said = site.ctl(&all);
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        (
            asked("command=fetch") - before.0,
            asked("command=ls-refs") - before.1,
        )
    };
    let on = |site: &Site, reference: &str| counted(site, &[&format!("{url}{reference}")]);
    assert_eq!(
        on(&site, "#main"),
        (2, 1),
        "the repository and its submodule"
    );
    let look = "cd /all; cat sub/file m/file; readlink link; stat -c %a run.sh";
    let seen = shell(&site, "git", look);
    assert_eq!(seen, "in the folderof the modulesub/file\n755\n");
    assert_eq!(on(&site, "#main"), (0, 1));
    assert_eq!(shell(&site, "git", look), seen);
    assert_eq!(
        on(&site, &format!("#{first}")),
        (0, 0),
        "nobody need ask what it is"
    );
    // A tag is an object of its own.
    assert_eq!((on(&site, "#v1"), on(&site, "#v1")), ((1, 1), (0, 1)));
    let context = site.path("context");
    let add = |site: &Site, options: &str| {
        let text = format!("FROM busybox\nADD {options} /x/\n");
        write(&context, &[("Dockerfile", &text)]);
        counted(site, &[context.to_str().unwrap()])
    };
    assert_eq!(add(&site, &format!("{url}#main")), (0, 1));
    assert_eq!(add(&site, &format!("{url}#main:sub")), (1, 1));
    assert_eq!(add(&site, &format!("{url}#main:sub")), (0, 1));
    let keep = format!("--keep-git-dir {url}#main");
    assert_eq!(add(&site, &keep), (2, 1));
    let of = "cd /x; find .git -type f | sort | xargs sha256sum";
    let kept = shell(&site, "git", of);
    assert!(kept.contains(".git/objects/pack/"), "{kept}");
    site.kill_and_restart("builder").await;
    assert_eq!(add(&site, &keep), (0, 1));
    assert_eq!(shell(&site, "git", of), kept);
    // What is known is for those only whom the server lets in.
    let said = site.ctl(&["build", &format!("{url}#main")]);
    assert!(said.code != 0 && said.err.contains("401"), "{}", said.err);
    // What is not there any more is fetched.
    fs::remove_dir_all(site.path("state/builder/content/sha256")).unwrap();
    assert_eq!(on(&site, "#main"), (2, 1));
    assert_eq!(shell(&site, "git", look), seen);
    fs::write(repo.join("sub/file"), "changed").unwrap();
    git(&site, &["add", "sub/file"]);
    git(&site, &["commit", "-qm", "two"]);
    assert_eq!(on(&site, "#main"), (1, 1), "the submodule is as it was");
    let changed = seen.replace("in the folder", "changed");
    assert_eq!(shell(&site, "git", look), changed);
}

/// What git itself says of a `.git` that a build kept.
fn seen(at: &Path, arguments: &[&str]) -> String {
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

#[tokio::test]
async fn repositories_have_submodules_and_doors() {
    if !ready() || !installed(&["git"]) {
        return;
    }
    let mut site = site().await;
    allow(&mut site, "\"127.0.0.1/32\"").await;
    let repo = site.path("repo");
    let commit = |name: &str| {
        git(&site, &["add", "-A"]);
        git(&site, &["commit", "-qm", name]);
        git(&site, &["rev-parse", "HEAD"])
    };
    let begin = |files: &[(&str, &str)]| {
        write(&repo, files);
        git(&site, &["init", "-q"]);
    };
    let end = |name: &str| {
        fs::rename(repo.join(".git"), site.path(name)).unwrap();
        fs::remove_dir_all(&repo).unwrap();
    };
    let link = |path: &str, id: &str| {
        let entry = format!("160000,{id},{path}");
        git(&site, &["update-index", "--add", "--cacheinfo", &entry]);
    };
    begin(&[("leaf", "innermost")]);
    let leaf = commit("leaf");
    end("private.git");
    let modules = "[submodule \"l\"]\n\tpath = deep/l\n\turl = ../private.git\n";
    begin(&[("file", "of the module"), (".gitmodules", modules)]);
    git(&site, &["add", "-A"]);
    link("deep/l", &leaf);
    let module = {
        git(&site, &["commit", "-qm", "module"]);
        git(&site, &["rev-parse", "HEAD"])
    };
    end("module.git");
    let modules = "[submodule \"m\"]\n\tpath = lib/m\n\turl = ../module.git\n";
    let files = [
        ("Dockerfile", "FROM busybox\nCOPY . /all/\n"),
        (".gitmodules", modules),
    ];
    begin(&files);
    git(&site, &["add", "-A"]);
    link("lib/m", &module);
    git(&site, &["commit", "-qm", "whole"]);
    git(&site, &["tag", "good"]);
    link("lost", &leaf);
    git(&site, &["commit", "-qm", "lost"]);
    end("whole.git");

    let server = serve(&site);
    let url = format!("http://{}/whole.git", server.address);
    let own = site.path("token");
    fs::write(&own, "the-token\n").unwrap();
    let of = |name: &str| format!("id={name},src={}", own.display());
    let build = |reference: &str, secret: &str| {
        let from = format!("{url}#{reference}");
        site.ctl(&[
            "build",
            "-t",
            "whole",
            "--progress",
            "plain",
            "--secret",
            secret,
            &from,
        ])
    };
    for secret in [of("GIT_AUTH_TOKEN"), of("GIT_AUTH_TOKEN.127.0.0.1")] {
        let said = build("good", &secret);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(!said.err.contains("the-token"), "{}", said.err);
    }
    let seen = shell(&site, "whole", "cat /all/lib/m/file /all/lib/m/deep/l/leaf");
    assert_eq!(seen, "of the moduleinnermost");
    let context = site.path("context");
    let file = format!("FROM busybox\nADD {url}#good:lib/m/deep /x/\n");
    write(&context, &[("Dockerfile", &file)]);
    let said = crate::build(&site, "part", &["--secret", &of("GIT_AUTH_TOKEN")]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(shell(&site, "part", "cat /x/l/leaf"), "innermost");
    for (reference, secret, part) in [
        ("good", of("GIT_AUTH_TOKEN.example.com"), "401"),
        (
            "main",
            of("GIT_AUTH_TOKEN"),
            "No url found for submodule path 'lost' in .gitmodules",
        ),
    ] {
        let said = build(reference, &secret);
        assert!(said.code != 0 && said.err.contains(part), "{}", said.err);
    }
}
