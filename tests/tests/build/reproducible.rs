//! The same sources and SOURCE_DATE_EPOCH give the same digest, whoever builds and when.

use std::os::unix::fs::MetadataExt as _;

use super::*;

const FILE: &str = "FROM busybox AS made
WORKDIR /src/deep
COPY . .
RUN mkdir -p out && cat a > out/b && ln out/b out/c && ln -s b out/d && touch out/now
FROM busybox
ARG SOURCE_DATE_EPOCH
LABEL l=m
WORKDIR /app
COPY --from=made /src/deep/out /app/
RUN date > /dev/null; echo $SOURCE_DATE_EPOCH > epoch; rm -f /bin/true
";

#[tokio::test]
async fn two_builders_two_times_one_digest() {
    let mut seen = Vec::new();
    for number in 0..2 {
        let site = site().await;
        let files = [("Dockerfile", FILE), ("a", "1"), ("z/y", "2")];
        // Made in another order, so at other times.
        for file in if number == 0 { [0, 1, 2] } else { [2, 1, 0] } {
            write(&site.path("context"), &[files[file]]);
        }
        for more in [&[][..], &["--no-cache"][..]] {
            let metadata = site.path("metadata.json").display().to_string();
            let mut words = vec![
                "--build-arg",
                "SOURCE_DATE_EPOCH=1700000000",
                "--metadata-file",
                &metadata,
            ];
            words.extend(more);
            built(&site, "app", &words);
            seen.push(site.inspect("app", "{{.Id}} {{.RepoDigests}}"));
        }
        assert_eq!(site.inspect("app", "{{.Created}}"), "2023-11-14T22:13:20Z");
        let folder = site.path("context").display().to_string();
        let files = format!("type=local,dest={}", site.path("files").display());
        let words = [
            "build",
            "-o",
            &files,
            "--build-arg",
            "SOURCE_DATE_EPOCH=1700000000",
            &folder,
        ];
        site.ctl(&words).ok();
        for name in ["app", "app/b", "app/epoch", "app/now"] {
            let meta = std::fs::symlink_metadata(site.path("files").join(name)).unwrap();
            assert_eq!(meta.mtime(), 1_700_000_000, "{name}");
        }
        // The environment says it as well as an argument does.
        let program = slipway_tests::site::program_path("ctl");
        let done = site
            .command(
                program.to_str().unwrap(),
                &["build", "-q", "-t", "env", &folder],
            )
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .output()
            .unwrap();
        assert!(done.status.success());
        assert_eq!(
            site.inspect("env", "{{.Id}}"),
            site.inspect("app", "{{.Id}}")
        );
        // So does the Dockerfile, in front of its first stage.
        let file = format!("ARG SOURCE_DATE_EPOCH=1700000000\n{FILE}");
        write(&site.path("context"), &[("Dockerfile", &file)]);
        built(&site, "file", &[]);
        assert_eq!(site.inspect("file", "{{.Created}}"), "2023-11-14T22:13:20Z");
        assert_eq!(shell(&site, "file", "cat epoch"), "1700000000\n");
        let said = build(&site, "x", &["--build-arg", "SOURCE_DATE_EPOCH=context"]);
        assert!(said.err.contains("is not supported"), "{}", said.err);
    }
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|s| *s == seen[0]), "{seen:#?}");
}
