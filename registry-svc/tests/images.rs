//! docker's image commands on the domain: list, tag, rmi, prune.

mod support;

use std::{collections::HashSet, sync::Arc};

use registry_svc::{
    Error,
    images::{
        filter::Filters,
        push::{PushEvent, PushRequest},
    },
    manifests::{Put, Require},
    names::{Repository, Tag},
    store::Origin,
};
use slipway_image::media_type;
use support::{Site, TestImage, client};

#[tokio::test]
async fn one_image_has_all_its_names_and_goes_with_the_last() {
    let site = Site::start().await;
    let image = TestImage::new("names", 10_000);
    site.push_image("goals", "latest", &image).await;
    let registry = &site.registry;
    registry.tag_image("goals", "team/app:v1").await.unwrap();
    let own = format!("{}/goals", site.address);
    assert_eq!(
        registry.find_image(&own, None).await.unwrap().id,
        image.id()
    );
    let images = registry.images().await.unwrap();
    assert_eq!((images.len(), images[0].tags.len()), (1, 2));

    let short = image.id().short().to_owned();
    let refused = registry.remove_image(&short, false).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Conflict(m) if m.contains("referenced in multiple repositories"))
    );
    let first = registry.remove_image("goals", false).await.unwrap();
    assert_eq!(first.untagged, ["goals:latest"]);
    assert!(first.deleted.is_empty());
    let last = registry.remove_image(&short, false).await.unwrap();
    assert_eq!(last.untagged[0], "team/app:v1");
    assert_eq!(last.deleted, [image.id().to_string()]);
    assert_eq!(site.blob_bytes(), 0);
    assert!(support::files_below(&site.dir.path().join("repositories")).is_empty());
    let gone = registry.remove_image("goals", false).await.unwrap_err();
    assert_eq!(gone.to_string(), "No such image: goals");
}

#[tokio::test]
async fn a_rebuilt_tag_leaves_a_dangling_image_that_prune_takes() {
    let site = Site::start().await;
    let (old, new) = (TestImage::new("old", 9000), TestImage::new("new", 8000));
    site.push_image("goals", "latest", &old).await;
    site.push_image("goals", "latest", &new).await;
    let registry = &site.registry;
    let images = registry.images().await.unwrap();
    assert_eq!(images.iter().filter(|i| i.is_dangling()).count(), 1);
    let used: HashSet<String> = [old.id().to_string()].into();
    let kept = registry
        .prune_images(false, &Filters::default(), &used, false)
        .await
        .unwrap();
    assert!(kept.deleted.is_empty());
    let in_use = [new.id().to_string(), new.id().to_string()];
    let usage = registry.disk_usage(&in_use, None).await.unwrap();
    let containers: u32 = usage.images.iter().map(|i| i.containers).sum();
    assert_eq!((usage.images.len(), containers), (2, 2));
    assert!(usage.images.iter().all(|i| i.shared == 0 && i.size > 0));
    assert!(usage.reclaimable >= 9000, "{usage:?}");
    let pruned = registry
        .prune_images(false, &Filters::default(), &HashSet::new(), false)
        .await
        .unwrap();
    assert_eq!(pruned.deleted, [old.id().to_string()]);
    assert_eq!(pruned.reclaimed, usage.reclaimable);
    assert_eq!(registry.images().await.unwrap().len(), 1);
}

#[tokio::test]
async fn filters_choose_images() {
    let site = Site::start().await;
    for name in ["one", "two"] {
        site.push_image(name, "v1", &TestImage::new(name, 10)).await;
    }
    let count = async |key: &str, value: &str| {
        let values = [value.to_owned()];
        let filters = Filters::parse([(key, &values[..])], &[key]).unwrap();
        let mut images = site.registry.images().await.unwrap();
        images.retain_mut(|i| filters.apply(i));
        images.len()
    };
    assert_eq!(count("label", "seed=one").await, 1);
    assert_eq!(count("label", "seed").await, 2);
    assert_eq!(count("reference", "t*").await, 1);
    assert_eq!(count("dangling", "true").await, 0);
    assert_eq!(count("until", "2020-01-01T00:00:00Z").await, 0);
    assert_eq!(count("until", "1h").await, 2);
}

#[tokio::test]
async fn the_platforms_own_repositories_are_no_images() {
    let site = Site::start().await;
    let image = TestImage::new("cache", 10);
    site.push_image("a", "v1", &image).await;
    let put = Put {
        repository: Repository::new("slipway.internal", "build-cache").unwrap(),
        tags: vec![Tag::parse("key").unwrap()],
        media_type: media_type::OCI_MANIFEST.to_owned(),
        content: image.manifest.clone(),
        expected: None,
        origin: Origin::Local,
        by_digest: false,
        require: Require::Site,
    };
    site.registry.put_manifest(put).await.unwrap();
    site.registry.remove_image("a:v1", false).await.unwrap();
    assert!(site.registry.images().await.unwrap().is_empty());
    let client = support::client();
    let catalog = client.get(site.url("_catalog")).send().await;
    assert_eq!(
        catalog.unwrap().text().await.unwrap(),
        r#"{"repositories":[]}"#
    );
    // Nobody from outside reads them, or chooses what a build finds in its cache.
    for path in ["manifests/key", "tags/list"] {
        let url = site.url(&format!("slipway.internal/build-cache/{path}"));
        let answer = client.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 403, "{path}");
    }
    let removed = site
        .registry
        .remove_image("slipway.internal/build-cache:key", false)
        .await
        .unwrap();
    assert!(removed.reclaimed > 0);
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn content_that_somebody_is_about_to_name_stays() {
    let site = Site::start().await;
    let image = TestImage::new("lease", 5000);
    site.push_image("a", "v1", &image).await;
    // A second client was told that the layer is here...
    let lease = site.registry.leases.hold(&image.layer_digest()).await;
    site.registry.remove_image("a:v1", false).await.unwrap();
    assert_eq!(site.blob_bytes(), image.layer.len() as u64);
    // ...and went away without using it.
    drop(lease);
    // What becomes free is told in blocks of the disk.
    let freed = site.registry.sweep().await.unwrap();
    assert!(freed >= image.layer.len() as u64 && freed % 512 == 0);
    assert_eq!(site.blob_bytes(), 0);
}

#[tokio::test]
async fn what_one_repository_waits_for_outlives_the_image_of_another() {
    let site = Site::start().await;
    let image = TestImage::new("both", 1000);
    for blob in [&image.config, &image.layer] {
        site.push_blob("waiting", blob).await;
    }
    site.push_image("other", "v1", &image).await;
    site.registry.remove_image("other:v1", false).await.unwrap();
    site.registry.sweep().await.unwrap();
    let url = site.url("waiting/manifests/v1");
    let put = client()
        .put(url)
        .header("content-type", media_type::OCI_MANIFEST)
        .body(image.manifest.clone());
    assert_eq!(put.send().await.unwrap().status(), 201);
    assert!(site.registry.find_image("waiting:v1", None).await.is_ok());
    site.registry
        .remove_image("waiting:v1", false)
        .await
        .unwrap();
    assert_eq!(site.blob_bytes(), 0);
}

/// Clients that have the same layers in repositories of their own, each deleting what it pushed, with the sweep
/// beside them: none is told that something is here, or stored, which is gone when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pushes_and_deletions_beside_each_other_lose_nothing() {
    let site = Arc::new(Site::start().await);
    let image = Arc::new(TestImage::new("shared", 1000));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..2 {
        let (site, image) = (Arc::clone(&site), Arc::clone(&image));
        clients.spawn(async move {
            let (http, name) = (client(), format!("r{number}"));
            for _ in 0..25 {
                for blob in [&image.config, &image.layer] {
                    let digest = slipway_image::Digest::of(blob);
                    let url = site.url(&format!("{name}/blobs/{digest}"));
                    if http.head(&url).send().await.unwrap().status() != 200 {
                        site.push_blob(&name, blob).await;
                    }
                }
                let url = site.url(&format!("{name}/manifests/{}", image.digest()));
                let put = http
                    .put(&url)
                    .header("content-type", slipway_image::media_type::OCI_MANIFEST)
                    .body(image.manifest.clone());
                let put = put.send().await.unwrap();
                assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
                let layer = site.url(&format!("{name}/blobs/{}", image.layer_digest()));
                let got = http.get(layer).send().await.unwrap().bytes().await.unwrap();
                assert_eq!(got, image.layer);
                let got = http.get(&url).send().await.unwrap().bytes().await.unwrap();
                assert_eq!(got, image.manifest);
                assert_eq!(http.delete(&url).send().await.unwrap().status(), 202);
            }
        });
    }
    while !clients.is_empty() {
        site.registry.sweep().await.unwrap();
        if let Some(ended) = clients.try_join_next() {
            ended.unwrap();
        }
        tokio::task::yield_now().await;
    }
    site.registry.sweep().await.unwrap();
    assert_eq!(site.blob_bytes(), 0);
}

/// An index is pushed whole, each manifest behind what it names, or one image of it, and then who asked is told.
#[tokio::test]
async fn a_push_of_an_index_says_what_of_it_the_remote_was_given() {
    let remote = Site::start().await;
    let platforms = ["amd64", "arm64", "s390x"];
    let images = platforms.map(|name| TestImage::new(name, 3000));
    let mut entries = Vec::new();
    for (architecture, image) in platforms.iter().zip(&images) {
        remote
            .push_image("library/multi", architecture, image)
            .await;
        entries.push(serde_json::json!({
            "mediaType": media_type::OCI_MANIFEST, "digest": image.digest().to_string(),
            "size": image.manifest.len(), "platform": { "os": "linux", "architecture": architecture },
        }));
    }
    let index = |entries: &[serde_json::Value]| {
        serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries,
        })
        .to_string()
    };
    let top = index(&entries);
    // One that names another one.
    let nested = index(&[serde_json::json!({
        "mediaType": media_type::OCI_INDEX, "digest": slipway_image::Digest::of(&top).to_string(),
        "size": top.len(),
    })]);
    for (tag, content) in [("v1", &top), ("nested", &nested)] {
        let put = client().put(remote.url(&format!("library/multi/manifests/{tag}")));
        let put = put.header("content-type", media_type::OCI_INDEX);
        let answer = put.body(content.clone()).send().await.unwrap();
        assert_eq!(answer.status(), 201);
    }
    let top_digest = slipway_image::Digest::of(&top);
    let multi = Repository::new("docker.io", "library/multi").unwrap();
    let here = async |tag: &str, wanted: &[usize]| {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let site = Site::reopen(dir, Some(remote.address), 3600).await;
        let mut paths = vec![format!("manifests/{tag}")];
        if tag == "nested" {
            paths.push(format!("manifests/{top_digest}"));
        }
        for image in wanted.iter().map(|number| &images[*number]) {
            paths.push(format!("manifests/{}", image.digest()));
            paths.push(format!("blobs/{}", image.id()));
            paths.push(format!("blobs/{}", image.layer_digest()));
        }
        for path in paths {
            let got = client()
                .get(site.url(&format!("library/multi/{path}")))
                .send()
                .await;
            let got = got.unwrap();
            assert_eq!(got.status(), 200, "{path}");
            got.bytes().await.unwrap();
        }
        for image in wanted.iter().map(|number| &images[*number]) {
            for digest in [image.id(), image.layer_digest()] {
                // Whoever fetched it waits for no disk.
                while !site.registry.index.is_linked(&multi, &digest).unwrap() {
                    tokio::task::yield_now().await;
                }
            }
        }
        site
    };
    let push = async |site: &Site, target: &str| {
        let (sender, mut events) = tokio::sync::mpsc::channel(1000);
        let request = PushRequest {
            reference: target.to_owned(),
            ..PushRequest::default()
        };
        site.registry.push(request, &sender).await?;
        drop(sender);
        let mut done = None;
        while let Some(event) = events.recv().await {
            if let PushEvent::Done(pushed) = event {
                done = Some(pushed);
            }
        }
        let done = done.unwrap();
        let path = target.replace(':', "/manifests/");
        let got = client().get(remote.url(&path)).send().await.unwrap();
        assert_eq!(got.status(), 200);
        let content = got.bytes().await.unwrap();
        assert_eq!(slipway_image::Digest::of(&content), done.digest);
        Ok::<_, Error>(done)
    };
    // The remote refuses an index before it has what that names.
    let site = here("nested", &[0, 1, 2]).await;
    let [nested, top] = [nested, top].map(|content| slipway_image::Digest::of(&content));
    let [a, b, c] = [0, 1, 2].map(|number| images[number].digest());
    for digest in [&nested, &top, &a, &b, &c] {
        let path = format!("library/multi/manifests/{digest}");
        let gone = client().delete(remote.url(&path)).send().await.unwrap();
        assert_eq!(gone.status(), 202);
    }
    let whole = push(&site, "library/multi:nested").await.unwrap();
    assert_eq!((whole.digest, whole.part), (nested, None));
    for digest in [&top, &a, &b, &c] {
        let path = format!("library/multi/manifests/{digest}");
        let got = client().get(remote.url(&path)).send().await.unwrap();
        assert_eq!(got.status(), 200);
    }
    let put = client().put(remote.url("library/multi/manifests/v1"));
    let put = put.header("content-type", media_type::OCI_INDEX);
    assert_eq!(
        put.body(index(&entries)).send().await.unwrap().status(),
        201
    );

    let other = async |site: &Site, target: &str| {
        let tagged = site.registry.tag_image("library/multi:v1", target).await;
        tagged.unwrap();
        push(site, target).await
    };
    let whole = other(&here("v1", &[0, 1, 2]).await, "other/whole:v1")
        .await
        .unwrap();
    assert_eq!((whole.digest, whole.part), (top.clone(), None));
    let part = other(&here("v1", &[1]).await, "other/part:v1")
        .await
        .unwrap();
    assert_eq!(part.digest, images[1].digest());
    let told = part.part.unwrap();
    assert_eq!(told.index, top);
    assert_eq!(told.platform.to_string(), "linux/arm64");
    assert_eq!(told.missing, ["linux/amd64", "linux/s390x"]);
    // Two that are not this host's: nobody knows which is meant.
    let host = slipway_image::Platform::host().architecture;
    let host = platforms.iter().position(|name| **name == *host).unwrap();
    let others: Vec<usize> = (0..3).filter(|number| *number != host).collect();
    let Err(error) = other(&here("v1", &others).await, "other/two:v1").await else {
        panic!("one of two was pushed");
    };
    assert!(
        error.to_string().contains("say which one is meant"),
        "{error}"
    );
    // Its own beside another one.
    let both = other(&here("v1", &[host, others[0]]).await, "other/both:v1")
        .await
        .unwrap();
    assert_eq!(both.digest, images[host].digest());
    assert_eq!(both.part.unwrap().missing.len(), 1);
}
