//! Where a build's result goes: files, archives that other programs take, a registry, metadata.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use super::*;

const FILE: &str = "FROM busybox\nRUN mkdir /made && echo one > /made/file && ln /made/file /made/hard && ln -s /etc /made/out && chmod 750 /made\nCMD [\"cat\", \"/made/file\"]\n";

fn output(site: &Site, words: &[&str]) -> Said {
    let folder = site.path("context");
    let mut all = vec!["build"];
    all.extend(words);
    all.push(folder.to_str().unwrap());
    site.ctl(&all)
}

fn fine(site: &Site, words: &[&str]) -> Said {
    let said = output(site, words);
    assert_eq!(said.code, 0, "{words:?}: {}", said.err);
    said
}

fn run(program: &str, words: &[&str]) -> String {
    let done = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{program} {words:?}: {err}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn has(program: &str) -> bool {
    slipway_tests::installed(&[program])
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn files_archives_and_metadata() {
    let site = site().await;
    write(&site.path("context"), &[("Dockerfile", FILE)]);
    let path = |name: &str| site.path(name).display().to_string();

    // A folder: files with their modes, links as links, as whoever called.
    fine(&site, &["-o", &path("files")]);
    let made = site.path("files/made");
    assert_eq!(fs::read_to_string(made.join("file")).unwrap(), "one\n");
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(fs::read_link(made.join("out")).unwrap(), Path::new("/etc"));
    let inode = |name: &str| fs::metadata(made.join(name)).unwrap().ino();
    assert_eq!(inode("file"), inode("hard"));
    // Once more into the same folder: what is there is replaced.
    fine(
        &site,
        &["-o", &format!("type=local,dest={}", path("files"))],
    );

    // A tar, to a file and to standard output, is what the container would see.
    fine(
        &site,
        &["-o", &format!("type=tar,dest={}", path("root.tar"))],
    );
    let names = run("tar", &["-tf", &path("root.tar")]);
    assert!(names.lines().any(|n| n == "made/file"), "{names}");
    let folder = path("context");
    let out = site
        .ctl_start(&["build", "-o", "-", &folder])
        .wait_with_output()
        .unwrap();
    assert!(out.status.success());
    assert_eq!(out.stdout, fs::read(site.path("root.tar")).unwrap());

    // Archives, several outputs of one build, and what is told of them.
    fine(
        &site,
        &[
            "-t",
            "one/app:1",
            "-t",
            "two/app",
            "--label",
            "l=m",
            "--annotation",
            "org.example.a=b",
            "-o",
            &format!("type=oci,dest={}", path("oci.tar")),
            "-o",
            &format!(
                "type=oci,tar=false,dest={},compression=zstd,force-compression=true",
                path("zstd")
            ),
            "-o",
            "type=image,annotation.org.example.c=d",
            "--metadata-file",
            &path("metadata.json"),
            "--iidfile",
            &path("iid"),
        ],
    );
    let index = json(&site.path("zstd/index.json"));
    let blob = |digest: &serde_json::Value| {
        let name = digest.as_str().unwrap().replace(':', "/");
        json(&site.path("zstd/blobs").join(name))
    };
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    let manifest = blob(&index["manifests"][0]["digest"]);
    assert_eq!(manifest["annotations"]["org.example.a"], "b");
    for layer in manifest["layers"].as_array().unwrap() {
        let kind = layer["mediaType"].as_str().unwrap();
        assert!(kind.ends_with("tar+zstd"), "{kind}");
    }
    assert_eq!(
        blob(&manifest["config"]["digest"])["config"]["Labels"]["l"],
        "m"
    );
    let told = json(&site.path("metadata.json"));
    assert_eq!(
        told["image.name"],
        "docker.io/one/app:1,docker.io/two/app:latest"
    );
    assert_eq!(
        told["containerimage.config.digest"],
        fs::read_to_string(site.path("iid")).unwrap()
    );
    assert_eq!(
        told["containerimage.descriptor"]["digest"],
        told["containerimage.digest"]
    );
    assert!(told["buildx.build.ref"].is_string());
    assert_eq!(shell(&site, "two/app", "cat /made/file"), "one\n");

    // docker's archive.
    fine(
        &site,
        &[
            "-t",
            "one/app:1",
            "-o",
            &format!("type=docker,dest={}", path("docker.tar")),
        ],
    );
    // What others make of them.
    if has("skopeo") {
        let oci = format!("oci-archive:{}:1", path("oci.tar"));
        let docker = format!("docker-archive:{}", path("docker.tar"));
        let zstd = format!("oci:{}:1", path("zstd"));
        for (number, archive) in [&oci, &docker, &zstd].into_iter().enumerate() {
            let folder = path(&format!("copy-{number}"));
            let to = format!("dir:{folder}");
            run("skopeo", &["--insecure-policy", "copy", "-q", archive, &to]);
        }
        let seen = run(
            "skopeo",
            &["--insecure-policy", "inspect", "--config", &docker],
        );
        assert!(seen.contains("/made/file"), "{seen}");
    }
    if has("podman") {
        let (root, live) = (path("podman"), path("podman-run"));
        let podman = |words: &[&str]| {
            let mut all = vec![
                "--root",
                &root,
                "--runroot",
                &live,
                "--storage-driver",
                "vfs",
            ];
            all.extend(words);
            run("podman", &all)
        };
        let loaded = podman(&["load", "-q", "-i", &path("docker.tar")]);
        assert!(loaded.contains("one/app:1"), "{loaded}");
        // podman takes archives of one name only.
        let one = format!("type=oci,dest={}", path("one.tar"));
        fine(&site, &["-t", "one/app:1", "-o", &one]);
        podman(&["load", "-q", "-i", &path("one.tar")]);
        podman(&["rmi", "-af"]);
    }
    nothing_is_left(&site, "after outputs").await;
}

#[tokio::test]
async fn an_image_is_pushed() {
    let site = site().await;
    write(&site.path("context"), &[("Dockerfile", FILE)]);
    // registry-svc stands for the remote registry: its own names are where they are.
    let said = fine(&site, &["-t", "localhost:5000/pushed:1", "--push"]);
    assert!(said.err.contains("exporting to image"), "{}", said.err);
    let error = output(&site, &["--push"]).error(1);
    assert!(
        error.contains("tag is needed when pushing to registry"),
        "{error}"
    );
    // Nobody listens there.
    let error = output(&site, &["-t", "127.0.0.1:9/pushed:1", "--push"]).error(1);
    assert!(
        error.contains("failed to push 127.0.0.1:9/pushed:1"),
        "{error}"
    );
}

#[tokio::test]
async fn what_an_output_does_not_have_is_refused() {
    let site = site().await;
    write(&site.path("context"), &[("Dockerfile", FILE)]);
    for (word, sentence) in [
        ("type=image,unpack=true", "unpack=true is not supported"),
        (
            "type=oci,dest=/tmp/x,compression=estargz",
            "estargz is not supported",
        ),
        ("type=moby", "output type \"moby\" is not supported"),
        (
            "type=image,rewrite-timestamp=true",
            "needs SOURCE_DATE_EPOCH",
        ),
        ("type=local", "dest is required"),
    ] {
        let error = output(&site, &["-o", word]).err;
        assert!(error.contains(sentence), "{word}: {error}");
    }
    fine(
        &site,
        &["--provenance=false", "--sbom=false", "-o", "type=cacheonly"],
    );
    let error = output(&site, &["--annotation", "index:a=b"]).error(1);
    assert!(error.contains("index annotations not supported"), "{error}");
}
