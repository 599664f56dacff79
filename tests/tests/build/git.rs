//! git repositories as contexts and as sources of ADD, from git's own server program behind a little CGI.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use slipway_tests::{Reply, Request, Server, Site, installed, ready};

use crate::{build, contexts::allow, shell, site, write};

pub fn git(site: &Site, arguments: &[&str]) -> String {
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
pub fn serve(site: &Site) -> Server {
    serve_and(site, |_| ())
}

/// The same; `look` sees each request.
pub fn serve_and(site: &Site, look: impl Fn(&Request) + Send + Sync + 'static) -> Server {
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
            "ADD git://localhost/b.git /x".to_owned(),
            "git:// is not supported",
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
