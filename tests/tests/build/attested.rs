//! Attestations: what is said of an image beside it, in BuildKit's form, and that nobody takes it for an image.

use std::{fs, path::PathBuf};

use serde_json::Value;
use slipway_image::Digest;
use slipway_tests::installed;

use super::*;

/// In no file of the test's own.
const CANARY: &str = "5b0c4e99d7f1a2";

const FILE: &str = r#"FROM busybox AS build
ARG GREETING=hello
RUN --mount=type=secret,id=token,required --mount=type=secret,id=key,env=KEY echo $GREETING > /said
FROM busybox
COPY --from=build /said /said
COPY file /data/
"#;

/// An OCI layout of attested images.
struct Layout(PathBuf);

impl Layout {
    /// A blob that is what its name says.
    fn blob(&self, descriptor: &Value) -> Value {
        let digest = descriptor["digest"].as_str().unwrap();
        let path = self.0.join("blobs").join(digest.replace(':', "/"));
        let content = fs::read(path).unwrap();
        assert_eq!(Digest::of(&content).to_string(), digest);
        serde_json::from_slice(&content).unwrap()
    }

    fn index(&self) -> Value {
        let top = fs::read(self.0.join("index.json")).unwrap();
        let top: Value = serde_json::from_slice(&top).unwrap();
        self.blob(&top["manifests"][0])
    }

    /// The descriptor of the only image, and the statements about it.
    fn said(&self) -> (Value, Vec<Value>) {
        let index = self.index();
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests.len(), 2, "{index:#}");
        let (image, about) = (&manifests[0], &manifests[1]);
        let unknown = serde_json::json!({"architecture": "unknown", "os": "unknown"});
        assert_eq!(about["platform"], unknown);
        let annotations = &about["annotations"];
        assert_eq!(
            annotations["vnd.docker.reference.type"],
            "attestation-manifest"
        );
        assert_eq!(annotations["vnd.docker.reference.digest"], image["digest"]);
        let manifest = self.blob(about);
        let config = self.blob(&manifest["config"]);
        let layers = manifest["layers"].as_array().unwrap();
        let digests: Vec<_> = layers.iter().map(|l| l["digest"].clone()).collect();
        assert_eq!(config["rootfs"]["diff_ids"], Value::from(digests));
        let of = |layer: &Value| {
            assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
            let statement = self.blob(layer);
            assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
            let kind = &layer["annotations"]["in-toto.io/predicate-type"];
            assert_eq!(statement["predicateType"], *kind);
            let subject = &statement["subject"][0];
            let digest = format!("sha256:{}", subject["digest"]["sha256"].as_str().unwrap());
            assert_eq!(image["digest"], digest);
            statement
        };
        (image.clone(), layers.iter().map(of).collect())
    }
}

fn attest(site: &Site, tag: &str, words: &[&str]) -> Said {
    let secret = format!("id=token,src={}", site.path("token").display());
    let key = format!("id=key,src={}", site.path("token").display());
    let all = [&["--secret", &secret, "--secret", &key], words].concat();
    build(site, tag, &all)
}

fn prepare(site: &Site, file: &str) {
    fs::write(site.path("token"), CANARY).unwrap();
    write(
        &site.path("context"),
        &[("Dockerfile", file), ("file", "x")],
    );
}

fn skopeo(site: &Site, words: &[&str]) -> Said {
    let all = [&["--insecure-policy"], words].concat();
    Said::from(site.output("skopeo", &all))
}

#[tokio::test]
async fn provenance_stands_beside_the_image() {
    let site = site().await;
    prepare(&site, FILE);
    let path = |name: &str| site.path(name).display().to_string();
    let plain = path("plain.json");
    attest(&site, "plain", &["--metadata-file", &plain]).ok();
    let plain: Value = serde_json::from_slice(&fs::read(plain).unwrap()).unwrap();
    let output = format!("type=oci,tar=false,dest={}", path("layout"));
    let words = [
        "--provenance=mode=max,builder-id=https://ci/1,reproducible=true",
        "--build-arg",
        "GREETING=hello",
        "--build-arg",
        "HTTPS_PROXY=http://u:pass-canary@h/",
        "-o",
        "type=image",
        "-o",
        &output,
    ];
    let said = attest(&site, "attested", &words).ok();
    drop(said);
    let layout = Layout(site.path("layout"));
    let (image, statements) = layout.said();
    // The image itself is what it is without: only the index is more.
    assert_eq!(image["digest"], plain["containerimage.digest"]);
    let [statement] = &statements[..] else {
        panic!("{statements:?}");
    };
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let name = statement["subject"][0]["name"].as_str().unwrap();
    assert!(
        name.starts_with("pkg:docker/attested@latest?platform=linux%2F"),
        "{name}"
    );
    let definition = &statement["predicate"]["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:GREETING"], "hello");
    let ids: Vec<_> = request["secrets"].as_array().unwrap().iter().collect();
    assert_eq!(
        ids,
        [
            &serde_json::json!({"id": "key", "optional": true}),
            &serde_json::json!({"id": "token"})
        ]
    );
    assert_eq!(request["locals"][0]["name"], "context");
    let base = &definition["resolvedDependencies"][0];
    assert!(
        base["uri"]
            .as_str()
            .unwrap()
            .starts_with("pkg:docker/busybox@latest?platform=")
    );
    let raw = skopeo(
        &site,
        &[
            "inspect",
            "--raw",
            "--tls-verify=false",
            "docker://127.0.0.1:5000/busybox",
        ],
    );
    let digest = format!("sha256:{}", base["digest"]["sha256"].as_str().unwrap());
    assert_eq!(Digest::of(raw.ok()).to_string(), digest);
    let metadata = &statement["predicate"]["runDetails"]["metadata"];
    let source = &metadata["buildkit_metadata"]["source"]["infos"][0];
    assert_eq!(source["filename"], "Dockerfile");
    assert_eq!(metadata["buildkit_reproducible"], true);
    let steps = &definition["internalParameters"]["buildConfig"]["llbDefinition"];
    assert_eq!(steps.as_array().unwrap().len(), 5, "{steps:#}");
    let all = statement.to_string();
    for secret in [CANARY, "pass-canary"] {
        assert!(!all.contains(secret), "{all}");
    }

    // It is an image like any other for everybody here.
    assert_eq!(shell(&site, "attested", "cat /said"), "hello\n");
    let rows = site
        .ctl(&["images", "--format", "{{.Repository}}", "attested"])
        .ok();
    assert_eq!(rows, "attested\n");
    let os = site
        .ctl(&[
            "image",
            "inspect",
            "-f",
            "{{.Os}} {{len .RootFS.Layers}}",
            "attested",
        ])
        .ok();
    assert_eq!(os, "linux 3\n");
    // And for others, with and without what is said of it.
    let ours = "docker://127.0.0.1:5000/attested";
    let one = format!("oci:{}", path("one"));
    skopeo(&site, &["copy", "-q", "--src-tls-verify=false", ours, &one]).ok();
    let whole = format!("oci:{}", path("whole"));
    skopeo(
        &site,
        &[
            "copy",
            "-q",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
            ours,
            &whole,
        ],
    )
    .ok();
    assert_eq!(Layout(site.path("whole")).said().1.len(), 1);
    if installed(&["podman"]) {
        let storage = [
            "--root",
            &path("podman"),
            "--runroot",
            &path("podman-run"),
            "--storage-driver",
            "vfs",
        ];
        let words = [
            "pull",
            "-q",
            "--tls-verify=false",
            "127.0.0.1:5000/attested",
        ];
        Said::from(site.output("podman", &[&storage[..], &words].concat())).ok();
        Said::from(site.output("podman", &[&storage[..], &["rmi", "-af"]].concat())).ok();
    }
    // Pulled from elsewhere, as an index with a stranger in it.
    skopeo(
        &site,
        &[
            "copy",
            "-q",
            "--all",
            "--dest-tls-verify=false",
            &whole,
            "docker://127.0.0.1:5000/again",
        ],
    )
    .ok();
    assert_eq!(shell(&site, "127.0.0.1:5000/again", "cat /data/file"), "x");
    site.ctl(&["rmi", "attested", "127.0.0.1:5000/again"]).ok();
    nothing_is_left(&site, "after attested builds").await;
}

#[tokio::test]
async fn provenance_is_as_much_as_is_wanted() {
    let site = site().await;
    prepare(&site, FILE);
    let path = |name: &str| site.path(name).display().to_string();
    let output = format!("type=oci,tar=false,dest={}", path("layout"));
    let words = [
        "--attest",
        "type=provenance,mode=min,version=v0.2",
        "--build-arg",
        "GREETING=x",
        "-o",
        &output,
    ];
    attest(&site, "least", &words).ok();
    let (_, statements) = Layout(site.path("layout")).said();
    let told = &statements[0];
    assert_eq!(told["predicateType"], "https://slsa.dev/provenance/v0.2");
    let invocation = &told["predicate"]["invocation"];
    assert_eq!(invocation["parameters"]["args"], serde_json::json!({}));
    assert!(invocation["parameters"].get("secrets").is_none());
    assert_eq!(
        told["predicate"]["metadata"]["completeness"]["parameters"],
        false
    );
    assert!(!told.to_string().contains("llbDefinition"));

    // Files: a statement about each of them, beside them.
    attest(&site, "x", &["--provenance=true", "-o", &path("files")]).ok();
    let told: Value =
        serde_json::from_slice(&fs::read(site.path("files/provenance.json")).unwrap()).unwrap();
    let subjects = told["subject"].as_array().unwrap();
    let data = subjects.iter().find(|s| s["name"] == "data/file").unwrap();
    assert_eq!(data["digest"]["sha256"], Digest::of("x").encoded());
    attest(
        &site,
        "x",
        &["--provenance=inline-only=true", "-o", &path("bare")],
    )
    .ok();
    assert!(!site.path("bare/provenance.json").exists());

    let archive = format!("type=docker,dest={}", path("docker.tar"));
    for (words, sentence) in [
        (&["--provenance=mode=most"][..], "invalid mode \"most\""),
        (
            &["--provenance=version=v2"],
            "invalid provenance SLSA version: v2",
        ),
        (&["--attest", "type=signature"], "unknown attestation type"),
        (
            &["--provenance=true", "--attest=type=provenance"],
            "duplicate attestation field provenance",
        ),
        (
            &["--provenance=true", "-o", &archive],
            "docker exporter does not currently support",
        ),
        (
            &["--provenance=true", "-o", "type=image,oci-mediatypes=false"],
            "attestations need oci-mediatypes=true",
        ),
    ] {
        let error = attest(&site, "x", words).error(1);
        assert!(error.contains(sentence), "{error}");
    }
}

const PACKAGES: &str = r#"FROM busybox AS base
COPY root/ /
COPY --link more/ /
RUN rm -r /app/node_modules/gone
FROM base
COPY upper/ /
"#;

/// Name, version and package URL of everything that a document lists.
fn listed(document: &Value) -> Vec<String> {
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    let packages = document["packages"].as_array().unwrap();
    let mut all: Vec<_> = packages
        .iter()
        .filter_map(|p| p["externalRefs"][0]["referenceLocator"].as_str())
        .map(str::to_owned)
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn an_image_lists_its_packages() {
    let site = site().await;
    prepare(&site, PACKAGES);
    let node = |name: &str| format!(r#"{{"name":"{name}","version":"1.0.0","license":"MIT"}}"#);
    let dpkg = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\nMaintainer: A <a@b>\n\nPackage: old\nStatus: deinstall ok config-files\nVersion: 1\n";
    let (left, gone, scoped) = (node("left"), node("gone"), node("@s/p"));
    write(
        &site.path("context"),
        &[
            ("root/usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
            ("root/var/lib/dpkg/status", dpkg),
            ("root/app/node_modules/left/package.json", &left),
            ("root/app/node_modules/gone/package.json", &gone),
            ("more/app/node_modules/@s/p/package.json", &scoped),
            (
                "upper/usr/lib/python3/site-packages/a_b-1.dist-info/METADATA",
                "Name: A_b\nVersion: 1\n\n",
            ),
            ("upper/lib/apk/db/installed", "P:musl\nV:1.2-r0\nA:x86_64\n"),
        ],
    );
    let path = |name: &str| site.path(name).display().to_string();
    let output = format!("type=oci,tar=false,dest={}", path("layout"));
    let words = ["--sbom=true", "--provenance=mode=min", "-o", &output];
    let said = attest(&site, "listed", &words);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("generating sbom"), "{}", said.err);
    let (_, statements) = Layout(site.path("layout")).said();
    let kinds: Vec<_> = statements.iter().map(|s| &s["predicateType"]).collect();
    assert_eq!(
        kinds,
        [
            "https://spdx.dev/Document",
            "https://slsa.dev/provenance/v1"
        ]
    );
    let expected = [
        "pkg:apk/debian/musl@1.2-r0?arch=x86_64&distro=debian-12",
        "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12",
        "pkg:npm/%40s/p@1.0.0",
        "pkg:npm/left@1.0.0",
        "pkg:pypi/a-b@1",
    ];
    assert_eq!(listed(&statements[0]["predicate"]), expected);
    // Again, from what is known of the layers: the very same document.
    fs::remove_dir_all(site.path("layout")).unwrap();
    attest(&site, "listed", &words).ok();
    let (_, again) = Layout(site.path("layout")).said();
    assert_eq!(again[0], statements[0]);
    // Beside files.
    attest(&site, "x", &["--sbom=true", "-o", &path("files")]).ok();
    let told = fs::read(site.path("files/sbom.spdx.json")).unwrap();
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(listed(&told["predicate"]), expected);
    // An image of nothing has nothing.
    write(
        &site.path("context"),
        &[("Dockerfile", "FROM scratch\nLABEL a=b\n")],
    );
    fs::remove_dir_all(site.path("layout")).unwrap();
    attest(&site, "nothing", &["--sbom=true", "-o", &output]).ok();
    assert!(listed(&Layout(site.path("layout")).said().1[0]["predicate"]).is_empty());

    let file = "ARG BUILDKIT_SBOM_SCAN_STAGE=true\nFROM busybox\n";
    write(&site.path("context"), &[("Dockerfile", file)]);
    for (words, sentence) in [
        (
            &["--sbom=generator=a/b"][..],
            "generator=a/b of --sbom is not supported",
        ),
        (
            &["--sbom=true"],
            "BUILDKIT_SBOM_SCAN_STAGE is not supported",
        ),
    ] {
        let said = attest(&site, "x", words);
        assert!(
            said.code == 1 && said.err.contains(sentence),
            "{}",
            said.err
        );
    }
    nothing_is_left(&site, "after lists of packages").await;
}
