//! What was acknowledged is found again after kill -9, with a missing, an old or a torn index.

mod support;

use std::sync::Arc;

use support::{Site, TestImage, client};

async fn expect(site: &Site, image: &TestImage) {
    let url = site.url("team/app/manifests/v1");
    let response = client().get(url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.bytes().await.unwrap(), image.manifest);
    let url = site.url(&format!("team/app/blobs/{}", image.layer_digest()));
    let blob = client()
        .get(url)
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(blob, image.layer);
    let images = site.registry.images().await.unwrap();
    assert_eq!(images.len(), 1);
}

#[tokio::test]
async fn a_pushed_image_survives_a_crash_right_after_the_answer() {
    let image = TestImage::new("crash", 100_000);
    let site = Site::start().await;
    site.push_image("team/app", "v1", &image).await;
    let dir = site.crash().await;
    let site = Site::reopen(dir, None, 0).await;
    expect(&site, &image).await;
}

#[tokio::test]
async fn a_missing_or_torn_index_is_rebuilt_from_the_files() {
    let image = TestImage::new("torn", 100_000);
    for damage in ["missing", "garbage", "cut", "zeroed"] {
        let site = Site::start().await;
        site.push_image("team/app", "v1", &image).await;
        site.registry.close().await.unwrap();
        let dir = site.crash().await;
        let db = dir.path().join("index/db");
        match damage {
            "missing" => std::fs::remove_dir_all(dir.path().join("index")).unwrap(),
            "garbage" => std::fs::write(&db, vec![0xa5; 300_000]).unwrap(),
            "cut" => std::fs::File::options()
                .write(true)
                .open(&db)
                .unwrap()
                .set_len(100)
                .unwrap(),
            _ => {
                let length = db.metadata().unwrap().len() as usize;
                std::fs::write(&db, vec![0; length]).unwrap();
                // The power went: nothing says that the index is whole.
                std::fs::remove_file(dir.path().join("index.clean")).unwrap();
            }
        }
        // A torn database without its mark is what a crash leaves.
        let _ = std::fs::remove_file(dir.path().join("index.clean"));
        let site = Site::reopen(dir, None, 0).await;
        expect(&site, &image).await;
    }
}

#[tokio::test]
async fn an_index_of_an_earlier_version_is_made_anew_and_keeps_its_uploads() {
    let image = TestImage::new("earlier", 1000);
    let site = Site::start().await;
    site.push_image("team/app", "v1", &image).await;
    let started = client().post(site.url("u/blobs/uploads/")).send().await;
    let location = started.unwrap().headers()["location"].clone();
    site.registry.close().await.unwrap();
    let dir = site.crash().await;
    {
        // As it was before tags were in order whatever their case.
        let db = sled::open(dir.path().join("index")).unwrap();
        db.remove("format").unwrap().unwrap();
        let tags = db.open_tree("tags").unwrap();
        let (key, record) = tags.iter().next().unwrap().unwrap();
        assert_eq!(key, b"docker.io/team/app\0v1\0v1");
        tags.clear().unwrap();
        tags.insert(b"docker.io/team/app\0v1", record).unwrap();
        db.flush().unwrap();
    }
    let site = Site::reopen(dir, None, 0).await;
    expect(&site, &image).await;
    let url = format!("http://{}{}", site.address, location.to_str().unwrap());
    assert_eq!(client().get(url).send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart_and_after_a_crash() {
    for clean in [true, false] {
        upload_over_a_restart(clean).await;
    }
}

async fn upload_over_a_restart(clean: bool) {
    let site = Site::start().await;
    let started = client()
        .post(site.url("u/blobs/uploads/"))
        .send()
        .await
        .unwrap();
    let location = started.headers()["location"].to_str().unwrap().to_owned();
    let url = format!("http://{}{location}", site.address);
    let patch = client().patch(url).body("first,").send().await.unwrap();
    assert_eq!(patch.status(), 202);
    if clean {
        site.registry.close().await.unwrap();
    }
    let dir = site.crash().await;
    let site = Site::reopen(dir, None, 0).await;
    let digest = slipway_image::Digest::of("first,second");
    let url = format!("http://{}{location}?digest={digest}", site.address);
    let end = client().put(url).body("second").send().await.unwrap();
    assert_eq!(end.status(), 201);
}

#[tokio::test]
async fn half_written_files_are_swept_away_at_the_start() {
    let image = TestImage::new("half", 1000);
    let site = Site::start().await;
    site.push_image("team/app", "v1", &image).await;
    let dir = site.crash().await;
    let staged = dir.path().join("tmp/left-over");
    std::fs::write(&staged, "half").unwrap();
    let tag = dir
        .path()
        .join("repositories/docker.io/team/app/_tags/.tmp-1");
    std::fs::write(&tag, "{").unwrap();
    let site = Site::reopen(Arc::clone(&dir), None, 0).await;
    expect(&site, &image).await;
    assert!(!staged.exists() && !tag.exists());
}

#[tokio::test]
async fn an_older_copy_of_the_index_is_not_believed() {
    let (old, new) = (TestImage::new("old", 1000), TestImage::new("new", 2000));
    let site = Site::start().await;
    site.push_image("team/app", "v1", &old).await;
    site.registry.close().await.unwrap();
    let dir = site.crash().await;
    let copy = tempfile::tempdir().unwrap();
    support::copy_tree(&dir.path().join("index"), copy.path());
    let site = Site::reopen(dir, None, 0).await;
    site.push_image("team/app", "v1", &new).await;
    let id = old.id().to_string();
    site.registry.remove_image(&id, true).await.unwrap();
    site.registry.close().await.unwrap();
    let dir = site.crash().await;
    let index = dir.path().join("index");
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::create_dir(&index).unwrap();
    support::copy_tree(copy.path(), &index);
    let site = Site::reopen(dir, None, 0).await;
    expect(&site, &new).await;
}

#[tokio::test]
async fn a_site_made_anew_has_all_that_was_pushed_and_the_same_disk_use() {
    let image = TestImage::new("all", 1000);
    let site = Site::start().await;
    for name in ["team/app", "nginx", "a.example/other"] {
        for tag in ["v1", "latest"] {
            site.push_image(name, tag, &image).await;
        }
    }
    // A signature, and a blob whose manifest is still to come.
    let signature = serde_json::json!({
        "schemaVersion": 2, "mediaType": slipway_image::media_type::OCI_MANIFEST,
        "artifactType": "application/x-signature",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": image.id().to_string(), "size": image.config.len() },
        "layers": [],
        "subject": { "mediaType": slipway_image::media_type::OCI_MANIFEST,
            "digest": image.digest().to_string(), "size": image.manifest.len() },
    });
    let put = client()
        .put(site.url("team/app/manifests/signed"))
        .header("content-type", slipway_image::media_type::OCI_MANIFEST)
        .body(signature.to_string());
    assert_eq!(put.send().await.unwrap().status(), 201);
    let waits = site.push_blob("team/app", b"waits").await;
    let seen = async |site: &Site| {
        let mut seen = Vec::new();
        for path in [
            "_catalog".to_owned(),
            "team/app/tags/list".to_owned(),
            "nginx/tags/list".to_owned(),
            "a.example/other/manifests/latest".to_owned(),
            format!("team/app/referrers/{}", image.digest()),
            format!("team/app/blobs/{waits}"),
            format!("nginx/blobs/{waits}"),
            format!("nginx/blobs/{}", image.layer_digest()),
        ] {
            let got = client().get(site.url(&path)).send().await.unwrap();
            seen.push((path, got.status(), got.text().await.unwrap()));
        }
        let waiting = site.registry.index.waiting().unwrap();
        (
            seen,
            waiting,
            site.registry.repository_usage().await.unwrap(),
        )
    };
    let before = seen(&site).await;
    let site = Site::reopen(site.crash().await, None, 0).await;
    assert_eq!(seen(&site).await, before);
    // Of all blobs the sweep is to look at those alone that no manifest names.
    assert_eq!(
        site.registry.index.pending().unwrap(),
        std::slice::from_ref(&waits)
    );
}

/// Whoever comes second would take the first one's index for what a crash left.
#[tokio::test]
async fn two_services_never_work_on_one_folder() {
    let image = TestImage::new("two", 1000);
    let site = Site::start().await;
    site.push_image("team/app", "v1", &image).await;
    let config = registry_svc::config::Config::default();
    let second = registry_svc::Registry::open(site.dir.path(), config).await;
    let error = second.err().unwrap().to_string();
    assert!(error.contains("another registry-svc works on "), "{error}");
    site.push_image("team/app", "v1", &image).await;
    expect(&site, &image).await;
}

/// Whoever brought it first may still wait for the disk when another one is told that it is stored. In a process of
/// its own, in which the disk can fail.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_manifest_that_is_here_is_acknowledged_when_the_disk_has_it() {
    let Some(faults) = std::env::var_os(slipway_fault::VARIABLE) else {
        let faults = tempfile::tempdir().unwrap();
        let own = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_manifest_that_is_here_is_acknowledged_when_the_disk_has_it",
            ])
            .env(slipway_fault::VARIABLE, faults.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&own.stdout);
        assert!(own.status.success() && said.contains("1 passed"), "{said}");
        return;
    };
    let site = Site::start().await;
    let image = TestImage::new("again", 1000);
    site.push_image("team/app", "v1", &image).await;
    let put = async || {
        let put = client().put(site.url("team/app/manifests/v2"));
        let put = put.header("content-type", slipway_image::media_type::OCI_MANIFEST);
        let answer = put.body(image.manifest.clone()).send().await.unwrap();
        answer.status().as_u16()
    };
    let fault = std::path::Path::new(&faults).join("registry.store.sync");
    std::fs::write(&fault, slipway_fault::Action::Fail(28).to_string()).unwrap();
    assert_eq!(put().await, 507);
    assert_eq!(site.registry.images().await.unwrap().len(), 1);
    // Whether or not it was taken back by itself.
    let _ = std::fs::remove_file(&fault);
    assert_eq!(put().await, 201);
}
