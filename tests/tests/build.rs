//! `ctl build` with a busybox as its base: what a Dockerfile means, what is cached, what is refused.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use slipway_tests::{Said, Site, eventually, image, ready};

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

async fn site() -> Site {
    let site = Site::start().await;
    image::busybox(&site).await;
    fs::create_dir_all(site.path("context")).unwrap();
    site
}

fn build(site: &Site, tag: &str, arguments: &[&str]) -> Said {
    let folder = site.path("context");
    let mut all = vec!["build", "-t", tag];
    all.extend(arguments);
    all.push(folder.to_str().unwrap());
    site.ctl(&all)
}

fn built(site: &Site, tag: &str, arguments: &[&str]) -> Said {
    let said = build(site, tag, arguments);
    assert_eq!(said.code, 0, "{}", said.err);
    said
}

/// "n of m steps cached"
fn cached(said: &Said) -> (u32, u32) {
    let line = said
        .err
        .lines()
        .find(|l| l.contains("steps cached"))
        .unwrap();
    let mut numbers = line.split(' ').filter_map(|w| w.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn shell(site: &Site, image: &str, script: &str) -> String {
    let said = site.ctl(&["run", "--rm", "--entrypoint", "sh", image, "-c", script]);
    assert_eq!(said.code, 0, "{}", said.err);
    said.out
}

const FILE: &str = r#"# syntax=docker/dockerfile:1
ARG BASE=busybox
FROM ${BASE} AS build
ARG GREETING=hello
ENV SOME_VALUE=some-value NAME="two words"
WORKDIR /src
RUN echo "${SOME_VALUE} $GREETING" > said \
    # a comment in between
    && id -u >> said
RUN ["sh", "-c", "echo $NAME > exec"]
COPY . all/
RUN <<EOF
cat all/app/link > linked
EOF

FROM busybox AS unused
RUN exit 1

FROM busybox
LABEL a=b
COPY --from=build /src/said /src/exec /data/
COPY --from=0 /src/all/app /app
COPY --from=build --chown=12:34 --chmod=700 /src/linked /renamed
ADD archive.tgz /unpacked/
EXPOSE 80 443/udp
USER 12
VOLUME /vol
ENTRYPOINT ["cat"]
CMD ["/renamed"]
"#;

#[tokio::test]
async fn a_dockerfile_becomes_an_image() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(
        &context,
        &[
            ("Dockerfile", FILE),
            (".dockerignore", "*.log\n!keep.log\n"),
            ("app/a.js", "the app"),
            ("noise.log", "x"),
            ("keep.log", "y"),
        ],
    );
    symlink("a.js", context.join("app/link")).unwrap();
    let tar = ["-C", context.to_str().unwrap(), "-czf"];
    let archive = context.join("archive.tgz");
    let arguments = [&tar[..], &[archive.to_str().unwrap(), "app"]].concat();
    assert!(site.output("tar", &arguments).status.success());

    let said = built(
        &site,
        "one",
        &["--build-arg", "GREETING=hi", "--build-arg", "OTHER=1"],
    );
    assert!(said.err.contains("[build 3/6] RUN echo"), "{}", said.err);
    assert!(
        said.err.contains("[\"OTHER\"] were not consumed"),
        "{}",
        said.err
    );
    assert!(
        !said.err.contains("unused"),
        "a stage that nobody needs is not built: {}",
        said.err
    );

    assert_eq!(site.ctl(&["run", "--rm", "one"]).out, "the app");
    assert_eq!(
        shell(&site, "one", "cat /data/said /data/exec; id -u"),
        "some-value hi\n0\ntwo words\n12\n"
    );
    assert_eq!(
        shell(&site, "one", "ls /app /unpacked/app"),
        "/app:\na.js\nlink\n\n/unpacked/app:\na.js\nlink\n"
    );
    assert!(shell(&site, "one", "ls -ln /renamed").starts_with("-rwx------    1 12       34"));
    let inspected: serde_json::Value =
        serde_json::from_str(&site.ctl(&["inspect", "one"]).out).unwrap();
    let config = &inspected[0]["Config"];
    assert_eq!(config["Labels"]["a"], "b");
    assert_eq!(config["User"], "12");
    assert!(config["ExposedPorts"]["443/udp"].is_object() && config["Volumes"]["/vol"].is_object());
    assert!(!config["Env"].to_string().contains("GREETING"));

    built(&site, "target", &["--target", "build"]);
    assert_eq!(
        shell(&site, "target", "pwd; ls all; cat said"),
        "/src\nDockerfile\napp\narchive.tgz\nkeep.log\nsome-value hello\n0\n"
    );
    let history = site.ctl(&["history", "--no-trunc", "one"]).out;
    assert!(
        history.contains("CMD [\"/renamed\"]") && history.contains("COPY /src/said"),
        "{history}"
    );

    // Another name for the file, from outside of the context, and quietly.
    let other = site.path("Other");
    fs::write(&other, "FROM scratch\nCOPY app/a.js /only\n").unwrap();
    let quiet = built(&site, "scratch", &["-q", "-f", other.to_str().unwrap()]);
    assert!(
        quiet.out.starts_with("sha256:") && quiet.err.is_empty(),
        "{}",
        quiet.err
    );
}

const AWKWARD: &str = r#"FROM busybox AS first
ARG INHERITED=yes
RUN mkdir /real && ln -s /real /link && ln -s /real/sub /sub && mkdir /real/sub
COPY tree /
COPY private /private
COPY --chown=${NONE:-7} one /owned
USER 1000
WORKDIR /home/of/user
FROM first
USER 0
COPY one /a
COPY two /a
COPY one /a
COPY --from=first /sub /copied
RUN echo $INHERITED > /inherited
"#;

#[tokio::test]
async fn links_owners_and_repeated_layers() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(
        &context,
        &[
            ("Dockerfile", AWKWARD),
            ("tree/link/file", "through the link"),
            ("tree/sub/deep", "deeper"),
            ("private/x", ""),
            ("one", "1"),
            ("two", "2"),
        ],
    );
    let mode = |name: &str, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(context.join(name), permissions).unwrap();
    };
    mode("tree/link", 0o777);
    mode("private", 0o700);
    built(&site, "awkward", &[]);
    let listing = "cat /real/file /real/sub/deep /copied/deep /a /inherited";
    let out = shell(&site, "awkward", listing);
    assert!(
        out.starts_with("through the linkdeeperdeeper1yes\n"),
        "{out}"
    );
    let owner = |path: &str| {
        let script = format!("ls -lnd {path}");
        let line = shell(&site, "awkward", &script);
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {} {}", words[0], words[2], words[3])
    };
    assert_eq!(
        owner("/real"),
        "drwxrwxrwx 0 0",
        "the folder that the link leads to"
    );
    assert!(owner("/link").starts_with('l'));
    assert_eq!(owner("/private"), "drwx------ 0 0");
    assert_eq!(owner("/owned"), "-rw-r--r-- 7 7");
    assert_eq!(owner("/home/of/user"), "drwxr-xr-x 1000 1000");
}

#[tokio::test]
async fn the_cache_is_content_not_time() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    let file = "FROM busybox\nWORKDIR /app\nRUN echo first >> /count\nCOPY code /app\nRUN echo second >> /count\nCMD cat /count\n";
    write(
        &context,
        &[
            ("Dockerfile", file),
            ("code/a", "1"),
            ("code/b", "2"),
            ("other", "x"),
        ],
    );
    let id = |said: &Said| {
        said.err
            .split("image ")
            .last()
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .to_owned()
    };

    let first = built(&site, "c", &[]);
    assert_eq!(cached(&first), (0, 4));
    let second = built(&site, "c", &[]);
    assert_eq!(cached(&second), (4, 4));
    assert_eq!(id(&first), id(&second), "the very same image");

    // Touched, and something changed that no COPY names.
    let old = std::time::SystemTime::now() - Duration::from_secs(1000);
    fs::File::options()
        .write(true)
        .open(context.join("code/a"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    write(&context, &[("other", "y")]);
    assert_eq!(cached(&built(&site, "c", &[])), (4, 4));

    write(&context, &[("code/b", "changed")]);
    let third = built(&site, "c", &[]);
    assert_eq!(
        cached(&third),
        (2, 4),
        "only what comes after the COPY runs: {}",
        third.err
    );
    assert_eq!(site.ctl(&["run", "--rm", "c"]).out, "first\nsecond\n");
    assert_eq!(shell(&site, "c", "cat b"), "changed");

    // The cache is the registry's: a builder that lost everything it had finds it.
    fs::remove_dir_all(site.path("state/builder")).unwrap();
    assert_eq!(cached(&built(&site, "c", &[])), (4, 4));
    assert_eq!(cached(&built(&site, "c", &["--no-cache"])), (0, 4));

    // What is pruned is built again, and takes no room until then.
    site.ctl(&["rmi", "c"]).ok();
    let pruned = site.ctl(&["builder", "prune", "-f"]).ok();
    assert!(pruned.contains("Deleted build cache objects:"), "{pruned}");
    assert_eq!(
        site.ctl(&["builder", "prune", "-f"]).ok(),
        "Total reclaimed space: 0B\n"
    );
    assert_eq!(cached(&built(&site, "c", &[])), (0, 4));
}

#[tokio::test]
async fn bad_input_is_refused_with_its_place() {
    if !ready() {
        return;
    }
    let site = site().await;
    write(
        &site.path("context"),
        &[
            ("kept", "x"),
            ("ignored", "x"),
            (".dockerignore", "ignored\n"),
        ],
    );
    let table: [(&str, &[&str], i32, &[&str]); 14] = [
        (
            "FROM busybox\nRUNN x\n",
            &[],
            1,
            &[
                "Dockerfile:2:",
                "unknown instruction: RUNN (did you mean RUN?)",
                ">>> RUNN x",
            ],
        ),
        (
            "FROM busybox\n\nCOPY nothere /x\n",
            &[],
            1,
            &[
                "Dockerfile:3:",
                "\"/nothere\": not found",
                ">>> COPY nothere",
            ],
        ),
        (
            "FROM busybox AS one\nFROM busybox\nCOPY --from=one /nothere /x\n",
            &[],
            1,
            &["Dockerfile:3:", "\"/nothere\": not found in one"],
        ),
        (
            "FROM busybox\nCOPY ignored /x\n",
            &[],
            1,
            &["\"/ignored\": not found"],
        ),
        (
            "FROM busybox\nCOPY ../../etc/passwd /x\n",
            &[],
            1,
            &["\"/../../etc/passwd\": not found"],
        ),
        (
            "FROM busybox\nRUN echo the output; exit 7\n",
            &[],
            1,
            &["Dockerfile:2:", "exit code: 7", "the output"],
        ),
        (
            "FROM busybox\nRUN [\"/nonexistent\"]\n",
            &[],
            1,
            &["/nonexistent", "no such file or directory"],
        ),
        (
            "FROM busybox\nUSER nobody-here\nRUN true\n",
            &[],
            1,
            &["Dockerfile:3:", "nobody-here"],
        ),
        (
            "FROM busybox\nCOPY --chown=nobody-here kept /x\n",
            &[],
            1,
            &["Dockerfile:2:", "nobody-here"],
        ),
        (
            "FROM busybox\nRUN --mount=type=cache,target=/x true\n",
            &[],
            1,
            &["RUN --mount is not supported yet"],
        ),
        (
            "FROM busybox\nRUN --network=host true\n",
            &[],
            1,
            &["Dockerfile:2:", "only in a build with --network host"],
        ),
        (
            "FROM busybox\nRUN true\n",
            &["--target", "x"],
            1,
            &["target stage \"x\" could not be found"],
        ),
        (
            "FROM busybox\nRUN true\n",
            &["--ulimit", "nofile=3:3"],
            1,
            &["--ulimit of a build is not supported yet"],
        ),
        ("", &[], 1, &["has no build stage"]),
    ];
    for (file, arguments, code, parts) in table {
        fs::write(site.path("context/Dockerfile"), file).unwrap();
        let said = build(&site, "bad", arguments);
        assert_eq!(said.code, code, "{file}: {}", said.err);
        let last = said.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("Error: "), "{file}: {}", said.err);
        for part in parts {
            assert!(
                said.err.contains(part),
                "{file}: {part:?} is missing in {}",
                said.err
            );
        }
    }
    assert_eq!(site.ctl(&["images", "-q", "bad"]).out, "");
    assert_eq!(site.ctl(&["ps", "-aq"]).out, "");
    nothing_is_left(&site, "of refused builds").await;
}

/// Root filesystems of builds are taken back as soon as the build has ended.
async fn nothing_is_left(site: &Site, what: &str) {
    let folder = site.path("state/runtime/snapshots");
    eventually(&format!("nothing is left {what}"), async || {
        (fs::read_dir(&folder).unwrap().count() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_build_whose_caller_dies_stops_and_leaves_nothing() {
    if !ready() {
        return;
    }
    let site = site().await;
    write(
        &site.path("context"),
        &[("Dockerfile", "FROM busybox\nRUN echo x > /x; sleep 1000\n")],
    );
    let program = slipway_tests::site::program_path("ctl");
    let context = site.path("context");
    let arguments = ["build", context.to_str().unwrap()];
    let mut ctl = site
        .command(program.to_str().unwrap(), &arguments)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let run = site.path("run/runtime/containers");
    let running = |wanted: bool| {
        let run = run.clone();
        async move || {
            let monitors = fs::read_dir(&run).unwrap().count();
            ((monitors > 0) == wanted).then_some(())
        }
    };
    eventually("the step runs", running(true)).await;
    ctl.kill().unwrap();
    ctl.wait().unwrap();
    eventually("the step has stopped", running(false)).await;
    nothing_is_left(&site, "of the build").await;
}
