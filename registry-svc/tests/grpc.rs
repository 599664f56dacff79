//! The gRPC edge over a real connection: what ctl, runtime-svc and builder-svc rely on.

mod support;

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use registry_svc::grpc;
use slipway_image::{Digest, media_type};
use slipway_proto::{
    registry::v1::{
        pull_event::Event,
        registry_client::RegistryClient,
        registry_server::RegistryServer,
        write_blob_request::{Header, Part},
        *,
    },
    types::v1 as types,
};
use slipway_service::{CancellationToken, Context, Identity, Paths, error, metrics::Metrics};
use support::{Site, TestImage, Upstream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, transport::Channel};

type Client = RegistryClient<Channel>;

async fn connect(site: &Site) -> Client {
    let state = site.dir.path().to_owned();
    let context = Context {
        identity: Identity {
            name: "registry",
            program: "registry-svc",
            version: "0",
        },
        paths: Paths {
            state: state.clone(),
            run: state.clone(),
            config: state,
        },
        shutdown: CancellationToken::new(),
        closing: Default::default(),
        metrics: Metrics::default(),
        started: SystemTime::now(),
    };
    let service = grpc::Service::new(Arc::clone(&site.registry), context);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(RegistryServer::new(service))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    RegistryClient::connect(format!("http://{address}"))
        .await
        .unwrap()
}

async fn write(
    client: &mut Client,
    digest: &str,
    content: &Bytes,
) -> Result<WriteBlobResponse, tonic::Status> {
    let header = Header {
        repository: "docker.io/library/goals".into(),
        digest: digest.into(),
        size: content.len() as u64,
        ..Header::default()
    };
    let mut parts = vec![Part::Header(header)];
    parts.extend(
        content
            .chunks(100_000)
            .map(|c| Part::Data(Bytes::copy_from_slice(c))),
    );
    let messages = parts
        .into_iter()
        .map(|part| WriteBlobRequest { part: Some(part) });
    let stream = tokio_stream::iter(messages.collect::<Vec<_>>());
    Ok(client.write_blob(stream).await?.into_inner())
}

async fn read(client: &mut Client, repository: &str, digest: &Digest, offset: u64) -> (Bytes, u64) {
    let request = ReadBlobRequest {
        repository: repository.into(),
        digest: digest.to_string(),
        offset,
        length: 0,
    };
    let mut stream = client.read_blob(request).await.unwrap().into_inner();
    let (mut content, mut total) = (Vec::new(), 0);
    while let Some(chunk) = stream.message().await.unwrap() {
        total = total.max(chunk.total);
        content.extend_from_slice(&chunk.data);
    }
    (content.into(), total)
}

async fn put(
    client: &mut Client,
    image: &TestImage,
    tags: &[&str],
) -> Result<String, tonic::Status> {
    let request = PutManifestRequest {
        repository: "docker.io/library/goals".into(),
        tags: tags.iter().map(|t| (*t).to_owned()).collect(),
        media_type: media_type::OCI_MANIFEST.into(),
        content: image.manifest.clone(),
    };
    Ok(client.put_manifest(request).await?.into_inner().digest)
}

#[tokio::test]
async fn a_build_ends_in_the_registry_and_is_found_by_every_name() {
    let site = Site::start().await;
    let mut client = connect(&site).await;
    let image = TestImage::new("build", 700_000);
    let refused = put(&mut client, &image, &["latest"]).await.unwrap_err();
    assert_eq!(
        (refused.code(), error::reason(&refused).as_str()),
        (Code::FailedPrecondition, "BLOB_NOT_FOUND")
    );
    let wrong = write(&mut client, &image.id().to_string(), &image.layer)
        .await
        .unwrap_err();
    assert_eq!(
        (wrong.code(), error::reason(&wrong).as_str()),
        (Code::DataLoss, "DIGEST_MISMATCH")
    );
    let written = write(&mut client, "", &image.layer).await.unwrap();
    assert_eq!(
        (written.digest, written.existed),
        (image.layer_digest().to_string(), false)
    );
    assert!(
        write(&mut client, &image.layer_digest().to_string(), &image.layer)
            .await
            .unwrap()
            .existed
    );
    write(&mut client, &image.id().to_string(), &image.config)
        .await
        .unwrap();
    let stat = StatBlobsRequest {
        repository: "goals".into(),
        digests: vec![
            image.layer_digest().to_string(),
            Digest::of("no").to_string(),
        ],
    };
    assert_eq!(
        client
            .stat_blobs(stat)
            .await
            .unwrap()
            .into_inner()
            .present
            .len(),
        1
    );
    put(&mut client, &image, &["latest", "v1"]).await.unwrap();

    let own = format!("{}/goals:v1", site.address);
    let short = image.id().short().to_owned();
    for name in [
        "goals",
        "docker.io/library/goals:v1",
        &own,
        &short,
        &image.id().to_string(),
    ] {
        let request = ResolveRequest {
            reference: name.into(),
            platform: None,
        };
        let found = client.resolve(request).await.unwrap().into_inner();
        assert_eq!(found.image_id, image.id().to_string(), "{name}");
        assert_eq!(found.repository, "docker.io/library/goals");
        assert_eq!(found.manifest_json, image.manifest);
        assert_eq!(found.diff_ids.len(), 1);
    }
    let (content, total) = read(&mut client, "goals", &image.layer_digest(), 500_000).await;
    assert_eq!(
        (content, total),
        (image.layer.slice(500_000..), image.layer.len() as u64)
    );

    let listed = client
        .list_images(ListImagesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        listed.images[0].repo_tags,
        [
            "docker.io/library/goals:latest",
            "docker.io/library/goals:v1"
        ]
    );
    let by_name = ListImagesRequest {
        reference: "goals:v1".into(),
        ..Default::default()
    };
    let listed = client.list_images(by_name).await.unwrap().into_inner();
    assert_eq!(listed.images[0].repo_tags, ["docker.io/library/goals:v1"]);
    let filters = vec![types::Filter {
        key: "colour".into(),
        values: vec!["red".into()],
    }];
    let refused = client
        .list_images(ListImagesRequest {
            filters,
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let mut events = client
        .events(EventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let tag = TagImageRequest {
        source: short.clone(),
        target: "other:x".into(),
    };
    client.tag_image(tag).await.unwrap();
    let event = events.message().await.unwrap().unwrap();
    assert_eq!(
        (event.action.as_str(), event.attributes["name"].as_str()),
        ("tag", "other:x")
    );

    let inspect = InspectImageRequest {
        image: short.clone(),
        platform: None,
    };
    let inspect = client.inspect_image(inspect).await.unwrap().into_inner();
    assert_eq!(inspect.summary.unwrap().repo_tags.len(), 3);
    assert!(inspect.last_tagged.is_some());
    let remove = |force| RemoveImageRequest {
        image: short.clone(),
        force,
        no_prune: false,
    };
    let conflict = client.remove_image(remove(false)).await.unwrap_err();
    assert_eq!(error::reason(&conflict), "CONFLICT");
    let removed = client
        .remove_image(remove(true))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(removed.deleted, [image.id().to_string()]);
    let usage = client
        .disk_usage(DiskUsageRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!((usage.images, usage.size), (0, 0));
    let request = ResolveRequest {
        reference: "goals".into(),
        platform: None,
    };
    let gone = client.resolve(request).await.unwrap_err();
    assert_eq!(
        (gone.code(), error::reason(&gone).as_str()),
        (Code::NotFound, "IMAGE_NOT_FOUND")
    );
    assert_eq!(gone.message(), "No such image: goals");
    let info = client.info(InfoRequest {}).await.unwrap().into_inner();
    assert!(info.facts.contains_key("upstream docker.io"));
}

#[tokio::test]
async fn a_pull_resolves_first_and_layers_can_be_read_while_they_arrive() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("pull", 2_000_000);
    upstream.add("app:latest", &image);
    let site = Site::with_upstream(Some(&upstream), 300).await;
    let mut client = connect(&site).await;
    let request = PullRequest {
        reference: "app".into(),
        manifest_only: true,
        ..Default::default()
    };
    let mut stream = client.pull(request).await.unwrap().into_inner();
    let mut kinds = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        kinds.push(match event.event.unwrap() {
            Event::Status(_) => "status",
            Event::Progress(_) => "progress",
            Event::Resolved(_) => "resolved",
            Event::Done(_) => "done",
            Event::Warning(_) => "warning",
        });
    }
    assert_eq!(kinds.iter().filter(|k| **k == "resolved").count(), 1);
    assert_eq!(kinds.last(), Some(&"done"));
    assert!(upstream.requests_of(&image.layer_digest()).is_empty());
    let (mut a, mut b) = (client.clone(), client.clone());
    let digest = image.layer_digest();
    let (one, two) = tokio::join!(
        read(&mut a, "docker.io/library/app", &digest, 0),
        read(&mut b, "docker.io/library/app", &digest, 1_000_000),
    );
    assert_eq!(one.0, image.layer);
    assert_eq!(two.0, image.layer.slice(1_000_000..));
    assert_eq!(upstream.requests_of(&digest).len(), 1);

    let wrong_platform = PullRequest {
        reference: "app".into(),
        platform: Some(types::Platform {
            os: "linux".into(),
            architecture: "s390x".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut stream = client.pull(wrong_platform).await.unwrap().into_inner();
    let failed = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an end without an error"),
            Err(status) => break status,
        }
    };
    assert_eq!(error::reason(&failed), "PLATFORM_NOT_FOUND");
}

#[tokio::test]
async fn an_image_built_upon_layers_that_are_still_upstream_fetches_them() {
    let upstream = Upstream::start().await;
    let base = TestImage::new("base", 300_000);
    upstream.add("base:latest", &base);
    let site = Site::with_upstream(Some(&upstream), 300).await;
    let mut client = connect(&site).await;
    let request = PullRequest {
        reference: "base".into(),
        manifest_only: true,
        ..Default::default()
    };
    let mut stream = client.pull(request).await.unwrap().into_inner();
    while stream.message().await.unwrap().is_some() {}
    put(&mut client, &base, &["derived"]).await.unwrap();
    assert_eq!(upstream.requests_of(&base.layer_digest()).len(), 1);
}

#[tokio::test]
async fn a_blob_that_only_a_mirrored_manifest_names_is_not_read_unproven() {
    let upstream = Upstream::start().await;
    let image = TestImage::new("secret", 1_000);
    upstream.add_manifest("app:latest", image.manifest.clone());
    let site = Site::with_upstream(Some(&upstream), 60).await;
    site.push_image("private", "v1", &image).await;
    let mut client = connect(&site).await;
    let manifest = GetManifestRequest {
        repository: "docker.io/library/app".into(),
        reference: "latest".into(),
    };
    client.get_manifest(manifest).await.unwrap();
    for (number, digest) in [image.layer_digest(), image.id()].iter().enumerate() {
        let request = ReadBlobRequest {
            repository: "docker.io/library/app".into(),
            digest: digest.to_string(),
            ..ReadBlobRequest::default()
        };
        let status = client.read_blob(request).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{number}: {status}");
        // Whoever has it in his own repository reads it, and so does who says nothing of where it is.
        for repository in ["docker.io/library/private", "docker.io/library/gone"] {
            let (content, _) = read(&mut client, repository, digest, 0).await;
            assert_eq!(Digest::of(&content), *digest);
        }
    }
}
