//! What is collected, and what never is: content that somebody was told of, that a manifest names which nobody can
//! read, or that is about to be named at the very moment.

mod support;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use slipway_image::{Digest, media_type};
use support::{Site, TestImage, client, files_below};

async fn put(site: &Site, path: &str, kind: &str, body: impl Into<reqwest::Body>) -> u16 {
    let request = client().put(site.url(path));
    let request = request.header("content-type", kind).body(body);
    request.send().await.unwrap().status().as_u16()
}

async fn put_image(site: &Site, path: &str, image: &TestImage) -> u16 {
    put(site, path, media_type::OCI_MANIFEST, image.manifest.clone()).await
}

async fn put_index(site: &Site, index: &str) -> u16 {
    let index = index.to_owned();
    put(site, "a/manifests/all", media_type::OCI_INDEX, index).await
}

fn index_of(image: &TestImage) -> String {
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": [{
            "mediaType": media_type::OCI_MANIFEST,
            "digest": image.digest().to_string(),
            "size": image.manifest.len(),
        }],
    })
    .to_string()
}

fn file_of(site: &Site, digest: &Digest) -> PathBuf {
    let blobs = files_below(&site.dir.path().join("blobs"));
    let is_it = |path: &PathBuf| path.ends_with(digest.encoded());
    blobs.into_iter().find(is_it).unwrap()
}

/// Waits until something is so.
async fn until(what: impl Fn() -> bool) {
    let waited = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_push_goes_on_after_a_crash() {
    let site = Site::start().await;
    let image = TestImage::new("crash", 1000);
    for blob in [&image.config, &image.layer] {
        site.push_blob("from", blob).await;
    }
    // One that is mounted is told to be here as well.
    let mount = format!("to/blobs/uploads/?mount={}&from=from", image.layer_digest());
    let mounted = client().post(site.url(&mount)).send().await.unwrap();
    assert_eq!(mounted.status(), 201);
    site.push_blob("to", &image.config).await;
    // Both with an index that knows nothing of it, and after an end in good order.
    for clean in [false, true] {
        let dir = {
            if clean {
                site.registry.close().await.unwrap();
            }
            let copy = Arc::new(tempfile::tempdir().unwrap());
            support::copy_tree(site.dir.path(), copy.path());
            copy
        };
        if !clean {
            fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let site = Site::reopen(dir, None, 0).await;
        site.registry.sweep().await.unwrap();
        for name in ["from", "to"] {
            assert_eq!(
                put_image(&site, &format!("{name}/manifests/v1"), &image).await,
                201
            );
        }
        // Nothing is left of what was waiting.
        let links = files_below(&site.dir.path().join("repositories"));
        let waiting = |path: &&PathBuf| path.iter().any(|part| part == "_blobs");
        assert_eq!(links.iter().filter(waiting).count(), 0);
        // A repository that it was not pushed to has no right to it.
        assert_eq!(put_image(&site, "third/manifests/v1", &image).await, 400);
        for name in ["from:v1", "to:v1"] {
            site.registry.remove_image(name, false).await.unwrap();
        }
        site.registry.leases.forget_graces();
        site.registry.sweep().await.unwrap();
        assert_eq!(site.blob_bytes(), 0);
    }
}

#[tokio::test]
async fn what_a_client_was_told_of_outlives_the_manifest_that_held_it() {
    let site = Site::start().await;
    let image = TestImage::new("told", 1000);
    site.push_image("a", "v1", &image).await;
    for digest in [image.layer_digest(), Digest::of(&image.config)] {
        let url = site.url(&format!("a/blobs/{digest}"));
        assert_eq!(client().head(url).send().await.unwrap().status(), 200);
    }
    let url = site.url(&format!("a/manifests/{}", image.digest()));
    assert_eq!(client().delete(&url).send().await.unwrap().status(), 202);
    site.registry.sweep().await.unwrap();
    assert_eq!(put_image(&site, "a/manifests/v2", &image).await, 201);
    assert_eq!(client().delete(&url).send().await.unwrap().status(), 202);
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn nothing_goes_while_a_manifest_cannot_be_read() {
    let site = Site::start().await;
    let image = TestImage::new("unreadable", 1000);
    site.push_image("a", "v1", &image).await;
    let manifest = file_of(&site, &image.digest());
    let content = fs::read(&manifest).unwrap();
    let dir = site.crash().await;
    let damaged = dir.path().join("blobs").join(
        manifest
            .iter()
            .skip_while(|part| *part != "blobs")
            .skip(1)
            .collect::<PathBuf>(),
    );
    fs::write(&damaged, "{").unwrap();
    let site = Site::reopen(dir, None, 0).await;
    site.registry.leases.forget_graces();
    assert!(
        site.registry
            .warnings
            .iter()
            .any(|w| w.contains("collected"))
    );
    let before = site.blob_bytes();
    assert_eq!(site.registry.sweep().await.unwrap(), 0);
    assert_eq!(site.blob_bytes(), before);
    // Somebody puts the file right: all is as it was.
    fs::write(&damaged, &content).unwrap();
    let dir = site.crash().await;
    let site = Site::reopen(dir, None, 0).await;
    site.registry.leases.forget_graces();
    site.registry.sweep().await.unwrap();
    let url = site.url("a/manifests/v1");
    assert_eq!(client().get(url).send().await.unwrap().status(), 200);
    // Or gives it up.
    fs::write(file_of(&site, &image.digest()), "{").unwrap();
    let dir = site.crash().await;
    let site = Site::reopen(dir, None, 0).await;
    let url = site.url(&format!("a/manifests/{}", image.digest()));
    assert_eq!(client().delete(url).send().await.unwrap().status(), 202);
    site.registry.leases.forget_graces();
    site.registry.sweep().await.unwrap();
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn a_child_that_somebody_is_about_to_name_outlives_its_index() {
    let site = Site::start().await;
    let image = TestImage::new("child", 1000);
    site.push_image("a", "v1", &image).await;
    let index = index_of(&image);
    assert_eq!(put_index(&site, &index).await, 201);
    let untag = client().delete(site.url("a/manifests/v1"));
    assert_eq!(untag.send().await.unwrap().status(), 202);
    let whole = site.url(&format!("a/manifests/{}", Digest::of(&index)));
    let child = site.url(&format!("a/manifests/{}", image.digest()));
    // As a PUT of another index does as long as it looks at what that names.
    let naming = site.registry.leases.hold(&image.digest()).await;
    assert_eq!(client().delete(&whole).send().await.unwrap().status(), 202);
    drop(naming);
    assert_eq!(client().get(&child).send().await.unwrap().status(), 200);
    // The same when nobody is: it goes with the index, and no other one can be made of it.
    assert_eq!(put_index(&site, &index).await, 201);
    let other = site.registry.leases.hold(&image.layer_digest()).await;
    assert_eq!(client().delete(&whole).send().await.unwrap().status(), 202);
    assert_eq!(client().get(&child).send().await.unwrap().status(), 404);
    assert_eq!(put_index(&site, &index).await, 400);
    drop(other);
    site.registry.sweep().await.unwrap();
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn a_deletion_comes_to_its_end_without_whoever_asked_for_it() {
    let site = Site::start().await;
    let image = TestImage::new("gone", 1000);
    site.push_image("a", "v1", &image).await;
    let name = site.registry.own.parse_image("a:v1").unwrap();
    {
        let digest = image.digest();
        let removing = site.registry.remove_manifest(&name.repository, &digest);
        let mut removing = std::pin::pin!(removing);
        assert!(futures_util::poll!(&mut removing).is_pending());
    }
    until(|| site.blob_bytes() == 0).await;
}

#[tokio::test]
async fn what_cannot_be_removed_keeps_nothing_else() {
    for (stuck, other) in [("first", "second"), ("second", "first")] {
        let site = Site::start().await;
        let stuck = site.push_blob("a", stuck.as_bytes()).await;
        let other = site.push_blob("a", other.as_bytes()).await;
        // No file any more, so unlink(2) refuses.
        let file = file_of(&site, &stuck);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let gone = file_of(&site, &other);
        site.registry.leases.forget_graces();
        site.registry.sweep().await.unwrap();
        assert!(!gone.exists());
        // It is tried again.
        fs::remove_dir(&file).unwrap();
        fs::write(&file, "again").unwrap();
        site.registry.sweep().await.unwrap();
        assert!(!file.exists());
    }
}

#[tokio::test]
async fn a_blob_that_comes_in_one_request_leaves_no_session() {
    let site = Site::start().await;
    let below = |name: &str| files_below(&site.dir.path().join(name)).len();
    let url = site.url("a/blobs/uploads/?digest=sha256:12");
    assert_eq!(
        client().post(url).body("x").send().await.unwrap().status(),
        400
    );
    let digest = Digest::of("something else");
    let url = site.url(&format!("a/blobs/uploads/?digest={digest}"));
    assert_eq!(
        client().post(&url).body("x").send().await.unwrap().status(),
        400
    );
    assert_eq!((below("uploads"), below("tmp")), (0, 0));
    // Cut off in the middle.
    let (sender, body) = tokio::sync::mpsc::channel::<Result<&str, std::io::Error>>(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(body);
    let request = client().post(&url).body(reqwest::Body::wrap_stream(stream));
    let request = tokio::spawn(request.send());
    sender.send(Ok("begun")).await.unwrap();
    until(|| below("tmp") == 1).await;
    request.abort();
    until(|| below("tmp") == 0).await;
}

#[tokio::test]
async fn the_end_of_an_upload_may_carry_the_range_of_the_chunk_before() {
    let site = Site::start().await;
    let started = client().post(site.url("a/blobs/uploads/")).send().await;
    let location = started.unwrap().headers()["location"]
        .to_str()
        .unwrap()
        .to_owned();
    let url = format!("http://{}{location}", site.address);
    let patch = client()
        .patch(&url)
        .header("content-range", "0-4")
        .body("whole");
    assert_eq!(patch.send().await.unwrap().status(), 202);
    let url = format!("{url}?digest={}", Digest::of("whole"));
    let end = client()
        .put(url)
        .header("content-range", "0-4")
        .header("content-length", "0");
    assert_eq!(end.send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn who_uploads_a_large_layer_keeps_the_small_ones_before_it() {
    let site = Site::start().await;
    let image = TestImage::new("slow", 1000);
    for blob in [&image.config, &image.layer] {
        site.push_blob("a", blob).await;
    }
    site.push_blob("b", b"somebody else's").await;
    let started = client()
        .post(site.url("a/blobs/uploads/"))
        .send()
        .await
        .unwrap();
    let session = started.headers()["location"].to_str().unwrap().to_owned();
    site.registry.leases.forget_graces();
    site.registry.sweep().await.unwrap();
    let both = (image.config.len() + image.layer.len()) as u64;
    assert_eq!(site.blob_bytes(), both);
    let session = format!("http://{}{session}", site.address);
    assert_eq!(client().delete(session).send().await.unwrap().status(), 204);
    site.registry.leases.forget_graces();
    site.registry.sweep().await.unwrap();
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn a_manifest_that_a_client_was_told_of_outlives_the_index_that_named_it() {
    let site = Site::start().await;
    let image = TestImage::new("told", 1000);
    for blob in [&image.config, &image.layer] {
        site.push_blob("a", blob).await;
    }
    let child = format!("a/manifests/{}", image.digest());
    let index = index_of(&image);
    let whole = site.url(&format!("a/manifests/{}", Digest::of(&index)));
    for told_by_put in [true, false] {
        let manifest = image.manifest.clone();
        if told_by_put {
            assert_eq!(
                put(&site, &child, media_type::OCI_MANIFEST, manifest).await,
                201
            );
        }
        assert_eq!(put_index(&site, &index).await, 201);
        let head = client().head(site.url(&child)).send().await.unwrap();
        assert_eq!(head.status(), 200);
        assert_eq!(client().delete(&whole).send().await.unwrap().status(), 202);
        site.registry.sweep().await.unwrap();
        // The index that it was looked at for.
        assert_eq!(put_index(&site, &index).await, 201);
    }
    assert_eq!(client().delete(&whole).send().await.unwrap().status(), 202);
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn what_a_repository_has_no_more_is_not_read_through_it() {
    let site = Site::start().await;
    let image = TestImage::new("slip", 1000);
    site.push_image("private/app", "v1", &image).await;
    site.push_image("public/app", "v1", &image).await;
    let status = async |path: String| client().get(site.url(&path)).send().await.unwrap().status();
    let layer = |name: &str| format!("{name}/blobs/{}", image.layer_digest());
    let public = site.url(&format!("public/app/manifests/{}", image.digest()));
    // Somebody was told that it is there, and may go on for a while.
    let head = client().head(site.url(&layer("public/app")));
    assert_eq!(head.send().await.unwrap().status(), 200);
    assert_eq!(client().delete(&public).send().await.unwrap().status(), 202);
    assert_eq!(status(layer("public/app")).await, 200);
    let config = format!("public/app/blobs/{}", image.id());
    assert_eq!(status(config).await, 404);
    site.registry.leases.forget_graces();
    site.registry.sweep().await.unwrap();
    assert_eq!(status(layer("public/app")).await, 404);
    assert_eq!(status(layer("private/app")).await, 200);
    site.push_image("public/app", "v2", &image).await;
    assert_eq!(status(layer("public/app")).await, 200);
}

#[tokio::test]
async fn what_a_lost_manifest_named_goes_with_it() {
    let site = Site::start().await;
    let image = TestImage::new("lost", 1000);
    site.push_image("a", "v1", &image).await;
    fs::remove_file(file_of(&site, &image.digest())).unwrap();
    let url = site.url(&format!("a/manifests/{}", image.digest()));
    assert_eq!(client().delete(url).send().await.unwrap().status(), 202);
    site.registry.leases.forget_graces();
    site.registry.sweep().await.unwrap();
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn what_cannot_be_cleared_up_keeps_nothing_else_from_going() {
    let config = registry_svc::config::Config {
        grace: Duration::ZERO,
        ..Default::default()
    };
    let site = Site::with_config(config).await;
    site.push_blob("team/app", b"unneeded").await;
    // No folder: what came from upstream cannot be looked through.
    let partial = site.dir.path().join("partial");
    fs::remove_dir_all(&partial).unwrap();
    fs::write(&partial, "").unwrap();
    let dry = site.registry.collect_garbage(true).await.unwrap();
    assert_eq!((dry.blobs, dry.held), (1, 0));
    let wet = site.registry.collect_garbage(false).await.unwrap();
    assert_eq!(wet, dry);
    assert_eq!(site.blob_bytes(), 0);
}
