//! A name makes nothing readable: neither one in an archive, nor one that was copied from a mirrored image.

mod support;

use std::{io::Cursor, sync::Arc};

use bytes::Bytes;
use registry_svc::{
    config::UpstreamConfig,
    error::Error,
    images::{
        load::LoadEvent,
        pull::{Policy, PullRequest},
    },
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use slipway_image::{
    Digest,
    layer::{Entry, Kind, tar_write::TarWriter},
    media_type,
};
use support::{Site, TestImage, Upstream, client};

async fn blob(site: &Site, name: &str, digest: &Digest) -> StatusCode {
    let get = client().get(site.url(&format!("{name}/blobs/{digest}")));
    let head = client().head(site.url(&format!("{name}/blobs/{digest}")));
    let (get, head) = (get.send().await.unwrap(), head.send().await.unwrap());
    assert_eq!(get.status(), head.status(), "{name}");
    get.status()
}

async fn manifest(site: &Site, path: &str) -> StatusCode {
    let get = client().get(site.url(path)).send().await.unwrap();
    get.status()
}

fn child(digest: &Digest, size: usize, architecture: &str) -> Value {
    json!({
        "mediaType": media_type::OCI_MANIFEST, "digest": digest.to_string(), "size": size,
        "platform": {"os": "linux", "architecture": architecture},
    })
}

fn index(children: &[Value]) -> String {
    json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": children})
        .to_string()
}

/// An OCI layout of these blobs, the last of which is an index with a name.
fn archive(name: &str, blobs: &[&[u8]]) -> Vec<u8> {
    let top = blobs.last().unwrap();
    let list = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": media_type::OCI_INDEX,
            "digest": Digest::of(top).to_string(), "size": top.len(),
            "annotations": {"io.containerd.image.name": name},
        }],
    });
    let layout = (
        "oci-layout".to_owned(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    );
    let mut files = vec![
        layout,
        ("index.json".to_owned(), list.to_string().into_bytes()),
    ];
    for blob in blobs {
        let path = format!("blobs/sha256/{}", Digest::of(blob).encoded());
        files.push((path, blob.to_vec()));
    }
    let mut tar = TarWriter::new(Vec::new());
    for (path, content) in files {
        let entry = Entry {
            path: path.as_str().into(),
            size: content.len() as u64,
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
        };
        tar.append(&entry, &mut Cursor::new(content)).unwrap();
    }
    tar.finish().unwrap()
}

async fn load(site: &Site, archive: Vec<u8>) -> Result<(), Error> {
    let (events, mut told) = tokio::sync::mpsc::channel::<LoadEvent>(16);
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    site.registry.load(Cursor::new(archive), None, events).await
}

#[tokio::test]
async fn an_archive_makes_nothing_readable_that_it_only_names() {
    let site = Site::start().await;
    let secret = TestImage::new("secret", 1_000);
    site.push_image("private", "v1", &secret).await;
    let sound = TestImage::new("sound", 10);
    let top = index(&[
        child(&sound.digest(), sound.manifest.len(), "amd64"),
        child(&secret.layer_digest(), secret.layer.len(), "arm64"),
        child(&secret.digest(), secret.manifest.len(), "s390x"),
    ]);
    let blobs: [&[u8]; 4] = [&sound.config, &sound.layer, &sound.manifest, top.as_bytes()];
    load(&site, archive("docker.io/team/loaded:v1", &blobs))
        .await
        .unwrap();
    let check = async |site: &Site| {
        for named in [secret.layer_digest(), secret.digest()] {
            let status = blob(site, "team/loaded", &named).await;
            assert_eq!(status, StatusCode::NOT_FOUND);
        }
        for came in [sound.layer_digest(), sound.digest(), Digest::of(&top)] {
            let status = blob(site, "team/loaded", &came).await;
            assert_eq!(status, StatusCode::OK);
        }
        let own = blob(site, "private", &secret.layer_digest()).await;
        assert_eq!(own, StatusCode::OK);
    };
    check(&site).await;
    // Nor after the index was made anew.
    let site = Site::reopen(site.crash().await, None, 0).await;
    check(&site).await;
    // What the repository has it keeps, whatever names it then.
    site.push_image("team/loaded", "v2", &secret).await;
    load(&site, archive("docker.io/team/loaded:v1", &blobs))
        .await
        .unwrap();
    let status = blob(&site, "team/loaded", &secret.layer_digest()).await;
    assert_eq!(status, StatusCode::OK);
}

const HOSTILE: &str = "hostile.example/team/app";

async fn hostile_site(upstream: &Upstream) -> Site {
    let url = format!("http://{}", upstream.address).parse().unwrap();
    let folder = Arc::new(tempfile::tempdir().unwrap());
    Site::mirroring(folder, UpstreamConfig::at("hostile.example", url)).await
}

async fn pull(site: &Site) -> Result<(), Error> {
    let (sender, mut events) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let request = PullRequest {
        reference: format!("{HOSTILE}:latest"),
        policy: Policy::Always,
        ..PullRequest::default()
    };
    site.registry.pull(request, &sender).await
}

#[tokio::test]
async fn a_tag_takes_along_what_was_proven_and_nothing_else() {
    let upstream = Upstream::start().await;
    let (sound, secret) = (TestImage::new("sound", 10), TestImage::new("secret", 1_000));
    upstream.add("app:sound", &sound);
    upstream.add_manifest("app:other", secret.manifest.clone());
    let top = Bytes::from(index(&[
        child(&sound.digest(), sound.manifest.len(), "amd64"),
        child(&secret.digest(), secret.manifest.len(), "arm64"),
    ]));
    upstream.add_manifest("app:latest", top);
    let site = hostile_site(&upstream).await;
    site.push_image("private", "v1", &secret).await;
    pull(&site).await.unwrap();
    let other = format!("{HOSTILE}/manifests/{}", secret.digest());
    assert_eq!(manifest(&site, &other).await, StatusCode::OK);
    let source = format!("{HOSTILE}:latest");
    let registry = &site.registry;
    registry.tag_image(&source, "mine:v1").await.unwrap();
    let copy = format!("mine/manifests/{}", secret.digest());
    assert_eq!(manifest(&site, &copy).await, StatusCode::OK);
    let check = async |site: &Site| {
        for named in [secret.layer_digest(), secret.id()] {
            let status = blob(site, "mine", &named).await;
            assert_eq!(status, StatusCode::NOT_FOUND);
        }
        let status = blob(site, "mine", &sound.layer_digest()).await;
        assert_eq!(status, StatusCode::OK);
    };
    check(&site).await;
    let url = format!("http://{}", upstream.address).parse().unwrap();
    let folder = site.crash().await;
    let site = Site::mirroring(folder, UpstreamConfig::at("hostile.example", url)).await;
    check(&site).await;
}

#[tokio::test]
async fn an_image_of_which_something_is_unproven_is_not_here() {
    let upstream = Upstream::start().await;
    let secret = TestImage::new("secret", 1_000);
    upstream.add_manifest("app:latest", secret.manifest.clone());
    let site = hostile_site(&upstream).await;
    site.push_image("private", "v1", &secret).await;
    let path = format!("{HOSTILE}/manifests/latest");
    assert_eq!(manifest(&site, &path).await, StatusCode::OK);
    let is_unknown = async || {
        let name = format!("{HOSTILE}:latest");
        let found = site.registry.find_image(&name, None).await;
        assert!(matches!(found, Err(Error::ImageNotFound(_))));
    };
    is_unknown().await;
    // Whoever asks by hand is told so, also when the upstream only does not say.
    pull(&site).await.unwrap_err();
    let unavailable = 503;
    let answer = &upstream.state.answer;
    answer.store(unavailable, std::sync::atomic::Ordering::SeqCst);
    pull(&site).await.unwrap_err();
    is_unknown().await;
}
