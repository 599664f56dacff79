//! What a Dockerfile of all sorts of instructions becomes.

use std::{fs, os::unix::fs::symlink};

use slipway_tests::ready;

use crate::{built, shell, site, write};

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
