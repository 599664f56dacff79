//! Several share one bucket.

use std::{process::Command, sync::Arc, time::Duration};

use reqwest::StatusCode;

use crate::{
    between::{Act, Between},
    server::Server,
    service::{Service, eventually},
    support::{TestImage, client, files_below},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_is_told_all_see_at_once() {
    let Some(server) = Server::shared() else {
        return;
    };
    let a = Service::start(server, "coherent", "").await;
    let b = Service::start(server, "coherent", "").await;
    let (first, second) = (TestImage::new("1", 100), TestImage::new("2", 100));
    a.push("team/app", "now", &first).await;
    b.has("team/app", &first).await;
    assert_eq!(
        b.tag("team/app", "now").await,
        Some(first.digest().to_string())
    );
    b.push("team/app", "now", &second).await;
    assert_eq!(
        a.tag("team/app", "now").await,
        Some(second.digest().to_string())
    );
    b.push("team/app", "other", &first).await;
    let tags = a.get("team/app/tags/list").await.text().await.unwrap();
    assert!(tags.contains(r#"["now","other"]"#), "{tags}");
    let catalog = a.get("_catalog").await.text().await.unwrap();
    assert!(catalog.contains("team/app"), "{catalog}");
    // A blob that came here may be named there.
    let third = TestImage::new("3", 100);
    for blob in [&third.config, &third.layer] {
        assert_eq!(a.push_blob("team/app", blob).await, StatusCode::CREATED);
    }
    let put = b.push_manifest("team/app", "third", &third).await;
    assert_eq!(put, StatusCode::CREATED);
    assert_eq!(
        a.delete("team/app/manifests/now").await,
        StatusCode::ACCEPTED
    );
    assert_eq!(b.tag("team/app", "now").await, None);
    let gone = format!("team/app/manifests/{}", first.digest());
    assert_eq!(a.delete(&gone).await, StatusCode::ACCEPTED);
    assert_eq!(b.status(&gone).await, StatusCode::NOT_FOUND);
    let layer = format!("team/app/blobs/{}", first.layer_digest());
    assert_eq!(b.status(&layer).await, StatusCode::NOT_FOUND);
    // A session is where it began.
    let begun = client().post(a.url("team/app/blobs/uploads/")).send().await;
    let begun = begun.unwrap().headers()["location"]
        .to_str()
        .unwrap()
        .to_owned();
    let there = client()
        .get(format!("http://{}{begun}", b.address))
        .send()
        .await;
    assert_eq!(there.unwrap().status(), StatusCode::NOT_FOUND);
    // What a process keeps of it can be thrown away.
    let folder = b.kill();
    std::fs::remove_dir_all(folder.path().join("state")).unwrap();
    let b = Service::on(folder).await;
    b.has("team/app", &second).await;
    b.has("team/app", &third).await;
    assert_eq!(b.status(&gone).await, StatusCode::NOT_FOUND);
    assert_eq!(
        b.tag("team/app", "third").await,
        Some(third.digest().to_string())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_a_crash_cuts_off_leaves_nothing_to_be_seen() {
    let Some(server) = Server::shared() else {
        return;
    };
    let b = Service::start(server, "crash", "").await;
    let image = TestImage::new("large", 20 << 20);
    let mut folder = Service::start(server, "crash", "").await.kill();
    let layer = format!("team/app/blobs/{}", image.layer_digest());
    // At different moments: while it comes, while it goes to the bucket, when it is there.
    for delay in [5, 50, 100, 200, 400] {
        let a = Service::on(Arc::clone(&folder)).await;
        let halves = a.folder.path().join("state/registry/bucket/halves");
        assert_eq!(files_below(&halves), [""; 0].map(std::path::PathBuf::from));
        let url = a.url(&format!(
            "team/app/blobs/uploads/?digest={}",
            image.layer_digest()
        ));
        let push = client().post(url).body(image.layer.clone()).send();
        let push = tokio::spawn(push);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        folder = a.kill();
        let told = push.await.unwrap();
        let seen = b.get(&layer).await;
        match seen.status() {
            StatusCode::OK => assert_eq!(seen.bytes().await.unwrap(), image.layer),
            status => assert!(status == StatusCode::NOT_FOUND && told.is_err()),
        }
    }
    let a = Service::on(folder).await;
    a.push("team/app", "now", &image).await;
    b.has("team/app", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_push_the_same_and_all_agree_in_the_end() {
    let Some(server) = Server::shared() else {
        return;
    };
    let a = Arc::new(Service::start(server, "race", "").await);
    let b = Arc::new(Service::start(server, "race", "").await);
    let images: Vec<_> = (0..6)
        .map(|n| TestImage::new(&n.to_string(), 50_000))
        .collect();
    let mut pushes = Vec::new();
    for image in &images {
        for service in [&a, &b] {
            let (service, image) = (Arc::clone(service), image.clone());
            pushes.push(tokio::spawn(async move {
                service.push("team/app", "now", &image).await;
            }));
        }
    }
    for push in pushes {
        push.await.unwrap();
    }
    let tag = a.tag("team/app", "now").await.unwrap();
    assert_eq!(b.tag("team/app", "now").await.as_ref(), Some(&tag));
    assert!(images.iter().any(|image| image.digest().to_string() == tag));
    for image in &images {
        a.has("team/app", image).await;
        b.has("team/app", image).await;
    }
}

/// Nobody is promised anything (`grace`), so the sweep of one takes what it may while the other one pushes it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_the_sweep_of_another() {
    let Some(server) = Server::shared() else {
        return;
    };
    let a = Service::start(server, "sweep", "grace = '0s'").await;
    let b = Service::start(server, "sweep", "grace = '0s'").await;
    // All have the same layer.
    let images: Vec<_> = (0..25)
        .map(|n| {
            let mut image = TestImage::new("shared", 30_000);
            let text = String::from_utf8(image.manifest.to_vec()).unwrap();
            let annotated = text.replacen('{', &format!("{{\"annotations\":{{\"n\":\"{n}\"}},"), 1);
            image.manifest = annotated.into();
            image
        })
        .collect();
    let mut kept: Option<&TestImage> = None;
    let mut refused = 0;
    for image in &images {
        let push = async {
            loop {
                let mut told = Vec::new();
                for blob in [&image.config, &image.layer] {
                    told.push(b.push_blob("team/app", blob).await);
                }
                let tag = image.digest().to_string();
                told.push(b.push_manifest("team/app", &tag, image).await);
                if told.iter().all(|status| *status == StatusCode::CREATED) {
                    break;
                }
                // What was removed in between is said to be missing, nothing else.
                let missing = [
                    StatusCode::CREATED,
                    StatusCode::NOT_FOUND,
                    StatusCode::BAD_REQUEST,
                ];
                assert!(
                    told.iter().all(|status| missing.contains(status)),
                    "{told:?}"
                );
                refused += 1;
            }
        };
        let remove = async {
            if let Some(kept) = kept {
                let gone = format!("team/app/manifests/{}", kept.digest());
                assert_eq!(a.delete(&gone).await, StatusCode::ACCEPTED);
            }
        };
        tokio::join!(push, remove);
        a.has("team/app", image).await;
        b.has("team/app", image).await;
        kept = Some(image);
    }
    println!("{refused} manifests came too late");
    let last = images.last().unwrap();
    let gone = format!("team/app/manifests/{}", last.digest());
    assert_eq!(b.delete(&gone).await, StatusCode::ACCEPTED);
    let layer = format!("team/app/blobs/{}", last.layer_digest());
    assert_eq!(a.status(&layer).await, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_sent_to_the_bucket_for_blobs() {
    let Some(server) = Server::shared() else {
        return;
    };
    let a = Service::start(server, "redirect", "").await;
    let settings = a.folder.path().join("registry.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{text}redirect = true\n")).unwrap();
    let a = Service::on(a.kill()).await;
    let image = TestImage::new("redirect", 300_000);
    a.push("team/app", "now", &image).await;
    a.has("team/app", &image).await;
    let layer = a.url(&format!("team/app/blobs/{}", image.layer_digest()));
    let direct = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let answer = direct.get(&layer).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    let address = answer.headers()["location"].to_str().unwrap().to_owned();
    assert!(address.starts_with(&format!("http://127.0.0.1:{}/", server.port)));
    let changed = address.replace("X-Amz-Signature=", "X-Amz-Signature=0");
    let changed = client().get(changed).send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::FORBIDDEN);
    let head = direct.head(&layer).send().await.unwrap();
    let length = image.layer.len().to_string();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], *length);
    let part = client()
        .get(&layer)
        .header("range", "bytes=5-9")
        .send()
        .await;
    let part = part.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.unwrap(), image.layer[5..10]);
    let known = direct
        .get(&layer)
        .header("if-none-match", format!("\"{}\"", image.layer_digest()));
    assert_eq!(
        known.send().await.unwrap().status(),
        StatusCode::NOT_MODIFIED
    );
    let elsewhere = a.url(&format!("team/other/blobs/{}", image.layer_digest()));
    let elsewhere = direct.get(elsewhere).send().await.unwrap();
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
    // A real client.
    let target = a.folder.path().join("copied");
    let copied = Command::new("skopeo")
        .args(["copy", "--src-tls-verify=false"])
        .arg(format!("docker://{}/team/app:now", a.address))
        .arg(format!("dir:{}", target.display()))
        .output()
        .unwrap();
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let layer = target.join(image.layer_digest().encoded());
    assert_eq!(std::fs::read(layer).unwrap(), image.layer);
}

/// One says "it is here" while another one takes it away.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_that_a_blob_is_here_which_another_one_has_just_removed() {
    let Some(server) = Server::shared() else {
        return;
    };
    let between = Between::start(server).await;
    let store = between.text(server, "told");
    // The server tells whole seconds: to this one what the other one has just written is surely past.
    between.shift(60);
    let a = Service::with(&format!("grace = '0s'\n[store]\n{store}")).await;
    let b = Service::start(server, "told", "grace = '0s'").await;
    assert_eq!(
        b.push_blob("team/app", b"content").await,
        StatusCode::CREATED
    );
    let blob = format!("team/app/blobs/{}", slipway_image::Digest::of("content"));
    // The promise is on its way for as long as that takes.
    between.rule(
        |method, path| match method == "PUT" && path.contains("/journal/") {
            true => Act::Held,
            false => Act::Pass,
        },
    );
    let head = tokio::spawn(client().head(a.url(&blob)).send());
    eventually("it is about to be promised", async || {
        !between.noted().is_empty()
    })
    .await;
    assert_eq!(b.delete(&blob).await, StatusCode::ACCEPTED);
    between.let_go();
    let told = head.await.unwrap().unwrap();
    assert_eq!(told.status(), StatusCode::NOT_FOUND);
}
