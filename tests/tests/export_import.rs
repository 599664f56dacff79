//! `export` and `import`: the files of a container as an archive, and an archive as an image.

use std::{fs, path::Path, process::Stdio};

use serde_json::Value;
use slipway_tests::{Reply, Said, Server, Site, docker::Docker, installed, ready};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An archive of a container with something of everything in it.
fn exported(site: &Site) -> std::path::PathBuf {
    let script = "b=/bin/busybox; mkdir -m 750 /made; echo content > /made/file; $b chown 7:8 /made/file; \
        $b chmod 4755 /made/file; ln /made/file /made/hard; ln -s file /made/soft; $b mkfifo /made/pipe; \
        touch -d @1000000000 /made/hard";
    site.ctl(&["run", "--name", "box", "busybox", "sh", "-c", script])
        .ok();
    let archive = site.path("root.tar");
    site.ctl(&["export", "-o", text(&archive), "box"]).ok();
    archive
}

/// Those that docker 20.10 takes, too.
const CHANGES: [&str; 6] = [
    "ENV A=1 B=two",
    "CMD [\"sh\", \"-c\", \"echo $B\"]",
    "EXPOSE 80 53/udp",
    "LABEL tier=one",
    "WORKDIR /made",
    "HEALTHCHECK --interval=5s CMD true",
];

fn with_changes<'a>(first: &[&'a str], last: &[&'a str]) -> Vec<&'a str> {
    let changes = CHANGES.iter().flat_map(|change| ["-c", change]);
    first
        .iter()
        .copied()
        .chain(changes)
        .chain(last.iter().copied())
        .collect()
}

#[tokio::test]
async fn what_is_exported_is_imported_and_runs() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let archive = exported(&site);
    let words = with_changes(
        &["import", "-c", "STOPSIGNAL SIGQUIT"],
        &[text(&archive), "team/root:v1"],
    );
    let id = site.ctl(&words).ok();
    assert!(id.starts_with("sha256:") && id.len() == 72, "{id}");
    assert_eq!(site.inspect("team/root:v1", "{{.Id}}"), id.trim());
    let signal = site.inspect("team/root:v1", "{{.Config.StopSignal}}");
    assert_eq!(signal, "SIGQUIT");
    assert_eq!(site.ctl(&["run", "--rm", "team/root:v1"]).ok(), "two\n");
    let script = "b=/bin/busybox; $b stat -c '%n %a %u:%g %h %Y' hard; $b readlink soft; test -p pipe && $b stat -c %a .; \
        echo $A; pwd";
    let said = site.ctl(&["run", "--rm", "team/root:v1", "sh", "-c", script]);
    assert_eq!(
        said.ok(),
        "hard 4755 7:8 2 1000000000\nfile\n750\n1\n/made\n"
    );
    let history = ["history", "--no-trunc", "--format", "{{.Comment}}"];
    let comment = |name: &str| site.ctl(&[&history[..], &[name]].concat()).ok();
    assert_eq!(comment("team/root:v1"), "Imported from -\n");

    // From standard input, however it is compressed; with a message, for a platform, without a name.
    let plain = fs::read(&archive).unwrap();
    if installed(&["zstd", "xz"]) {
        for pack in ["zstd -q", "xz -0"] {
            let line = format!("{pack} -c {}", text(&archive));
            let packed = site.output("sh", &["-c", &line]).stdout;
            site.ctl_with(&["image", "import", "-m", "packed", "-", "packed"], &packed)
                .ok();
            let layers = |name: &str| site.inspect(name, "{{json .RootFS.Layers}}");
            assert_eq!(layers("packed"), layers("team/root:v1"));
            assert_eq!(comment("packed"), "packed\n");
        }
    }
    let arm = ["import", "--platform", "linux/arm/v6", "-"];
    let id = site.ctl_with(&arm, &plain).ok();
    let platform = "{{.Os}}/{{.Architecture}}/{{.Variant}} {{json .RepoTags}}";
    assert_eq!(site.inspect(id.trim(), platform), "linux/arm/v6 []");
    // The root of scratch.
    site.ctl_with(&["import", "-", "scratched"], &[0; 1024])
        .ok();
    assert_eq!(site.ctl(&["create", "scratched", "/x"]).code, 0);
}

#[tokio::test]
async fn what_is_no_root_is_refused_and_leaves_nothing() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let archive = exported(&site);
    let plain = fs::read(&archive).unwrap();
    for (words, input, why) in [
        (&["import", "-"][..], &b"no archive"[..], "invalid archive"),
        (&["import", "-"], &[], "invalid archive: it is empty"),
        (
            &["import", "-"],
            &plain[..plain.len() / 2],
            "invalid archive",
        ),
        (&["import", "/not/there"], &[], "/not/there"),
        (&["import", "-", "Nope"], &plain, "invalid reference format"),
        (
            &["import", "-c", "RUN x", "-"],
            &plain,
            "RUN is not a valid change command",
        ),
        (
            &["import", "-c", "STOPSIGNAL x", "-"],
            &plain,
            "invalid signal",
        ),
        (&["import"], &[], "'ctl import' requires at least 1"),
        (
            &["import", "http://127.0.0.1:1/x"],
            &[],
            "fetch_allow in registry.toml",
        ),
        (
            &["import", "http://localhost:1/x"],
            &[],
            "fetch_allow in registry.toml",
        ),
    ] {
        let said = site.ctl_with(words, input).error(1);
        assert!(said.contains(why), "{words:?}: {said}");
    }
    let digest = format!("a@sha256:{}", "a".repeat(64));
    let said = site.ctl_with(&["import", "-", &digest], &plain).error(1);
    assert!(said.contains("cannot import digest reference"), "{said}");
    let names = ["images", "--format", "{{.Repository}}"];
    assert_eq!(site.ctl(&names).ok(), "busybox\n");
    assert_eq!(
        fs::read_dir(site.path("state/registry/tmp"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn a_root_is_fetched_by_the_service() {
    if !ready() {
        return;
    }
    let mut site = Site::start().await;
    slipway_tests::image::busybox(&site).await;
    let archive = fs::read(exported(&site)).unwrap();
    site.configure("registry.toml", "fetch_allow = [\"127.0.0.1/32\"]\n");
    site.kill_and_restart("registry").await;
    let server = Server::start(&site, move |_, path| match path {
        "/root.tar" => Reply {
            status: 200,
            body: archive.clone(),
            ..Reply::default()
        },
        "/half.tar" => Reply {
            status: 200,
            body: archive[..archive.len() / 2].to_vec(),
            length: Some(archive.len() as u64),
            ..Reply::default()
        },
        "/moved" => Reply {
            status: 302,
            headers: vec![("Location", "/root.tar".to_owned())],
            ..Reply::default()
        },
        "/inside" => Reply {
            status: 302,
            headers: vec![("Location", "http://127.0.0.2:1/".to_owned())],
            ..Reply::default()
        },
        _ => Reply {
            status: 404,
            ..Reply::default()
        },
    });
    let at = |path: &str| format!("http://{}{path}", server.address);
    let said = site.ctl(&["import", &at("/moved"), "fetched"]).ok();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], format!("Downloading from {}", at("/moved")));
    assert_eq!(lines[1], site.inspect("fetched", "{{.Id}}"));
    let said = site.ctl(&["run", "--rm", "fetched", "cat", "/made/file"]);
    assert_eq!(said.ok(), "content\n");
    let comment = [
        "history",
        "--format",
        "{{.Comment}}",
        "--no-trunc",
        "fetched",
    ];
    let expected = format!("Imported from {}\n", at("/moved"));
    assert_eq!(site.ctl(&comment).ok(), expected);
    for (path, why) in [
        ("/half.tar", "invalid archive"),
        ("/inside", "fetch_allow in registry.toml"),
        ("/none", "404"),
    ] {
        let said = site.ctl(&["import", &at(path), "nope"]).error(1);
        assert!(said.contains(why), "{path}: {said}");
    }
}

#[tokio::test]
async fn docker_makes_the_same_image_of_an_archive() {
    let Some(docker) = Docker::start().await else {
        return;
    };
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let archive = exported(&site);
    let ours = with_changes(&["import", "-m", "why"], &[text(&archive), "goals"]);
    site.ctl(&ours).ok();
    let words = with_changes(&["import", "-m", "why"], &["-", "goals"]);
    let input = fs::File::open(&archive).unwrap();
    let theirs = docker.command(&words).stdin(Stdio::from(input)).output();
    let theirs = Said::from(theirs.unwrap()).ok();
    assert_eq!((theirs.len(), theirs.lines().count()), (72, 1), "{theirs}");
    let inspect = ["image", "inspect", "goals"];
    let parsed = |json: &str| serde_json::from_str::<Value>(json).unwrap()[0].take();
    let ours = parsed(&site.ctl(&inspect).ok());
    let theirs = parsed(&docker.run(&inspect).ok());
    for field in ["/RootFS", "/Comment", "/Os", "/Architecture"] {
        assert_eq!(ours.pointer(field), theirs.pointer(field), "{field}");
    }
    for field in [
        "Env",
        "Cmd",
        "ExposedPorts",
        "Labels",
        "WorkingDir",
        "Healthcheck",
    ] {
        assert_eq!(ours["Config"][field], theirs["Config"][field], "{field}");
    }
}
