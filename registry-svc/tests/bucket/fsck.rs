//! A check of a bucket: what is wrong in it is told, and mended for all who share it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use registry_svc::{
    bucket::{Bucket, settings::StoreFile},
    config::Config,
    fsck::check::{CheckEvent, CheckRequest, Finding, Kind},
};
use slipway_image::Digest;
use tokio::sync::mpsc;

use crate::{
    between::{Act, Between},
    server::Server,
    service::eventually,
    support::{Site, TestImage, Upstream, client},
};

const LOOK: CheckRequest = CheckRequest {
    repair: false,
    restart: false,
    rate: Some(u64::MAX),
};
const MEND: CheckRequest = CheckRequest {
    repair: true,
    ..LOOK
};

async fn site(text: &str, upstream: Option<&Upstream>) -> Site {
    let file: StoreFile = toml::from_str(text).unwrap();
    let config = Config {
        bucket: file.check().unwrap(),
        ..Config::default()
    };
    let folder = Arc::new(tempfile::tempdir().unwrap());
    Site::with(config, folder, upstream.map(|u| u.address), 3600).await
}

async fn check(site: &Site, request: CheckRequest) -> Vec<Finding> {
    let (sender, mut events) = mpsc::channel(1000);
    let summary = site.registry.check(request, &sender).await.unwrap();
    drop(sender);
    let mut found = Vec::new();
    while let Some(event) = events.recv().await {
        if let CheckEvent::Found(finding) = event {
            found.push(finding);
        }
    }
    assert_eq!(summary.found, found.len() as u64);
    found.sort_by(|a, b| a.what.cmp(&b.what));
    found
}

async fn get(site: &Site, path: &str) -> (u16, Bytes) {
    let got = client().get(site.url(path)).send().await.unwrap();
    (got.status().as_u16(), got.bytes().await.unwrap())
}

fn object(site: &Site, digest: &Digest) -> String {
    let object = site.registry.index.object(digest).unwrap();
    object.expect("it is stored").name
}

/// Puts something else where a blob is.
async fn spoil(bucket: &Bucket, name: &str, content: Option<&[u8]>) {
    bucket.delete(name).await.unwrap();
    if let Some(content) = content {
        let content = Bytes::copy_from_slice(content);
        assert!(bucket.create(name, content).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_a_bucket_is_told_and_mended_for_all() {
    let Some(server) = Server::shared() else {
        return;
    };
    let upstream = Upstream::start().await;
    let (mirrored, beside) = (
        TestImage::new("mirrored", 50_000),
        TestImage::new("m2", 700),
    );
    let own = TestImage::new("own", 50_000);
    upstream.add("app:1", &mirrored);
    upstream.add("app:2", &beside);
    let text = server.text("fsck");
    let (a, b) = (
        site(&text, Some(&upstream)).await,
        site(&text, Some(&upstream)).await,
    );
    let bucket = Bucket::new(&server.settings("fsck").check().unwrap().unwrap()).unwrap();
    a.push_image("team/own", "v1", &own).await;
    let all_of = |image: &TestImage| [image.id(), image.layer_digest(), image.digest()];
    for (tag, image) in [("1", &mirrored), ("2", &beside)] {
        assert_eq!(
            get(&a, &format!("library/app/manifests/{tag}")).await.0,
            200
        );
        for blob in [image.id(), image.layer_digest()] {
            assert_eq!(get(&a, &format!("library/app/blobs/{blob}")).await.0, 200);
        }
        let stored = async || {
            let mut all = all_of(image).into_iter();
            all.all(|d| a.registry.index.object(&d).unwrap().is_some())
        };
        eventually("all is in the bucket", stored).await;
    }
    assert_eq!(check(&b, LOOK).await, []);
    // One of each: changed, cut off, too long, nothing left of it, gone; a manifest that is gone; and of our own one
    // that is gone.
    let mut changed = mirrored.layer.to_vec();
    changed[7] ^= 1;
    let longer = [&mirrored.config[..], b" "].concat();
    let spoilt = [
        (mirrored.layer_digest(), Some(changed)),
        (mirrored.id(), Some(longer)),
        (beside.layer_digest(), Some(beside.layer[..9].to_vec())),
        (beside.id(), Some(Vec::new())),
        (beside.digest(), None),
        (own.layer_digest(), None),
    ];
    let names: Vec<_> = spoilt
        .iter()
        .map(|(digest, _)| object(&a, digest))
        .collect();
    for ((_, content), name) in spoilt.iter().zip(&names) {
        spoil(&bucket, name, content.as_deref()).await;
    }
    let mut wrong: Vec<_> = spoilt
        .iter()
        .map(|(digest, _)| digest.to_string())
        .collect();
    wrong.sort();
    let what = |found: &[Finding]| found.iter().map(|f| f.what.clone()).collect::<Vec<_>>();
    // Who only looks changes nothing.
    for _ in 0..2 {
        let found = check(&b, LOOK).await;
        assert_eq!(what(&found), wrong, "{found:#?}");
        assert!(found.iter().all(|f| !f.mended));
        let of_own = found
            .iter()
            .find(|f| f.what == own.layer_digest().to_string());
        let of_own = of_own.unwrap();
        assert_eq!(of_own.damaged, ["team/own:v1"]);
        assert_eq!(of_own.text, "its object is gone from the bucket");
        let manifest = found.iter().find(|f| f.kind == Kind::Manifest).unwrap();
        assert_eq!(manifest.what, beside.digest().to_string());
    }
    let aside = async || -> Vec<_> {
        let listed = bucket
            .list("quarantine", None)
            .try_collect::<Vec<_>>()
            .await;
        listed.unwrap().into_iter().map(|l| l.name).collect()
    };
    assert_eq!(aside().await, [""; 0]);
    // Two at once.
    let (mended, also) = tokio::join!(check(&b, MEND), check(&a, MEND));
    for digest in &wrong {
        let mut told = mended.iter().chain(&also).filter(|f| f.what == *digest);
        let lost = *digest == own.layer_digest().to_string();
        assert!(
            told.any(|f| f.mended != lost),
            "{digest}: {mended:#?} {also:#?}"
        );
    }
    // What there was of it is kept, and counted.
    let mut kept: Vec<_> = names[..4]
        .iter()
        .map(|n| n.replacen("blobs", "quarantine", 1))
        .collect();
    kept.sort();
    assert_eq!(aside().await, kept);
    for name in &names[..4] {
        assert!(bucket.size(name).await.unwrap().is_some());
    }
    let usage = a.registry.repository_usage().await.unwrap();
    let bytes = mirrored.layer.len() + mirrored.config.len() + 1 + 9;
    assert_eq!(usage.quarantined, bytes as u64);
    for (tag, image) in [("1", &mirrored), ("2", &beside)] {
        for site in [&a, &b] {
            let (_, manifest) = get(site, &format!("library/app/manifests/{tag}")).await;
            assert_eq!(manifest, image.manifest);
            for blob in [&image.config, &image.layer] {
                let path = format!("library/app/blobs/{}", Digest::of(blob));
                assert_eq!(get(site, &path).await.1, *blob);
            }
        }
    }
    // Ours is missing, so a client sends it again.
    let path = format!("team/own/blobs/{}", own.layer_digest());
    for site in [&a, &b] {
        let head = client().head(site.url(&path)).send().await.unwrap();
        assert_eq!(head.status(), 404);
    }
    b.push_blob("team/own", &own.layer).await;
    assert_eq!(get(&a, &path).await.1, own.layer);
    for site in [&a, &b] {
        assert_eq!(check(site, LOOK).await, []);
    }
}

/// As with files: what turns out to be broken is not here.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_fetched_again_for_whoever_asks() {
    let Some(server) = Server::shared() else {
        return;
    };
    let upstream = Upstream::start().await;
    let image = TestImage::new("gone", 50_000);
    upstream.add("app:1", &image);
    let text = server.text("gone");
    let (a, b) = (
        site(&text, Some(&upstream)).await,
        site(&text, Some(&upstream)).await,
    );
    let bucket = Bucket::new(&server.settings("gone").check().unwrap().unwrap()).unwrap();
    assert_eq!(get(&a, "library/app/manifests/1").await.0, 200);
    let layer = format!("library/app/blobs/{}", image.layer_digest());
    assert_eq!(get(&a, &layer).await.1, image.layer);
    let stored = async || {
        a.registry
            .index
            .object(&image.layer_digest())
            .unwrap()
            .is_some()
    };
    eventually("it is in the bucket", stored).await;
    for digest in [image.layer_digest(), image.digest()] {
        bucket.delete(&object(&a, &digest)).await.unwrap();
    }
    let (status, manifest) = get(&b, "library/app/manifests/1").await;
    assert_eq!((status, manifest), (200, image.manifest.clone()));
    assert_eq!(get(&b, &layer).await, (200, image.layer.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_goes_on_past_what_cannot_be_read() {
    let Some(server) = Server::shared() else {
        return;
    };
    let between = Between::start(server).await;
    let text = between.text(server, "unreadable");
    let a = site(&text, None).await;
    let images: Vec<_> = (0..3)
        .map(|n| TestImage::new(&format!("u{n}"), 5_000))
        .collect();
    for (n, image) in images.iter().enumerate() {
        a.push_image("team/app", &format!("v{n}"), image).await;
    }
    // Its hash stands first, second and third among others: two blobs and a manifest.
    let mut bad = [images[0].layer_digest(), images[1].id(), images[2].digest()];
    let names: Vec<_> = bad.iter().map(|digest| object(&a, digest)).collect();
    let unreadable = names.clone();
    between.rule(move |method, path| {
        match unreadable
            .iter()
            .position(|name| path.contains(name.as_str()))
        {
            Some(0) if method == "GET" => Act::Refuse(500, "InternalError"),
            Some(_) if method == "GET" => Act::Refuse(403, "AccessDenied"),
            _ => Act::Pass,
        }
    });
    bad.sort();
    let bad = bad.map(|digest| digest.to_string());
    for request in [LOOK, MEND] {
        let found = check(&a, request).await;
        let what: Vec<_> = found.iter().map(|f| f.what.clone()).collect();
        assert_eq!(what, bad, "{found:#?}");
        for finding in &found {
            assert!(
                !finding.mended && !finding.damaged.is_empty(),
                "{finding:?}"
            );
            assert!(finding.text.ends_with("it stays as it is"), "{finding:?}");
        }
    }
    between.rule(|_, _| Act::Pass);
    // Nothing was taken out because somebody could not read it.
    assert_eq!(check(&a, LOOK).await, []);
    // One that does not answer at all ends the check: nobody is told that all is lost.
    between.rule(|_, _| Act::Refuse(503, "ServiceUnavailable"));
    let (sender, mut events) = mpsc::channel(1000);
    let ended = a.registry.check(MEND, &sender);
    let ended = tokio::time::timeout(Duration::from_secs(40), ended).await;
    assert!(ended.unwrap().is_err());
    drop(sender);
    while let Some(event) = events.recv().await {
        assert!(!matches!(event, CheckEvent::Found(_)), "{event:?}");
    }
}

/// The same images come and go, by another process, while what is here is compared with what is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_beside_the_work_of_another_finds_nothing() {
    let Some(server) = Server::shared() else {
        return;
    };
    let text = server.text("beside");
    let (a, b) = (site(&text, None).await, site(&text, None).await);
    let busy = async {
        for number in 0..12 {
            let image = TestImage::new(&format!("beside-{}", number % 2), 20_000);
            b.push_image("team/app", "v1", &image).await;
            let gone = image.id().to_string();
            b.registry.remove_image(&gone, true).await.unwrap();
        }
    };
    let mut busy = std::pin::pin!(busy);
    loop {
        tokio::select! {
            () = &mut busy => return,
            found = check(&a, LOOK) => assert_eq!(found, []),
        }
    }
}
