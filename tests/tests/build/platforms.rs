//! Several platforms of one build, on a host of one of them.

use serde_json::Value;
use slipway_proto::registry::v1::GetManifestRequest;
use slipway_tests::ready;

use super::*;

async fn manifest(site: &Site, name: &str, reference: &str) -> Value {
    let request = GetManifestRequest {
        repository: format!("docker.io/library/{name}"),
        reference: reference.to_owned(),
    };
    let found = site.registry().get_manifest(request).await.unwrap();
    serde_json::from_slice(&found.into_inner().content).unwrap()
}

#[tokio::test]
async fn copies_for_two_platforms_give_an_index() {
    if !ready() {
        return;
    }
    let site = site().await;
    let file = "FROM scratch AS files\nARG TARGETARCH\nCOPY bin-$TARGETARCH /bin/program\nFROM files\nCOPY common /common\nCOPY --from=files /bin/program /again\nCMD [\"/bin/program\"]\n";
    write(
        &site.path("context"),
        &[
            ("Dockerfile", file),
            ("bin-amd64", "for amd64"),
            ("bin-arm64", "for arm64"),
            ("common", "for all"),
        ],
    );
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    built(&site, "multi", &platforms);
    let index = manifest(&site, "multi", "latest").await;
    assert_eq!(
        index["mediaType"], "application/vnd.oci.image.index.v1+json",
        "{index}"
    );
    let images = index["manifests"].as_array().unwrap();
    let of = |key: &str| -> Vec<&str> {
        let all = images.iter().map(|m| m["platform"][key].as_str().unwrap());
        all.collect()
    };
    assert_eq!(of("architecture"), ["amd64", "arm64"]);
    assert_eq!(of("os"), ["linux", "linux"]);
    let mut layers = Vec::new();
    for image in images {
        let image = manifest(&site, "multi", image["digest"].as_str().unwrap()).await;
        layers.push(image["layers"].as_array().unwrap().clone());
    }
    assert_eq!((layers[0].len(), layers[1].len()), (3, 3));
    assert_ne!(layers[0][0], layers[1][0], "a program each");

    let folder = site.path("out").display().to_string();
    let output = format!("type=local,dest={folder}");
    let said = built(&site, "multi", &[&platforms[..], &["-o", &output]].concat());
    assert_eq!(cached(&said), (6, 6), "{}", said.err);
    for arch in ["amd64", "arm64"] {
        let at = site.path("out").join(format!("linux_{arch}"));
        let read = |name: &str| fs::read_to_string(at.join(name)).unwrap();
        assert_eq!(read("bin/program"), format!("for {arch}"));
        assert_eq!(read("again"), format!("for {arch}"));
        assert_eq!(read("common"), "for all");
    }
}
