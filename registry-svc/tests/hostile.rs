//! The mirror against upstreams that want something else: accounts, addresses inside, memory, time.

mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, http::Response};
use bytes::Bytes;
use futures_util::stream;
use registry_svc::{
    Error,
    config::UpstreamConfig,
    mirror::{Credentials, Freshness, Wanted},
};
use serde_json::json;
use slipway_image::{Digest, media_type};
use support::{Patient, Site, TestImage, client};
use tokio::net::TcpListener;

/// A request as a server saw it.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    authorization: Option<String>,
    body: String,
}

type Play = Arc<dyn Fn(&Seen) -> Response<Body> + Send + Sync>;

/// A server that answers as it likes.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    async fn start(play: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (play, all): (Play, _) = (Arc::new(play), Arc::clone(&seen));
        let app = Router::new().fallback(move |request: Request| {
            let (play, all) = (Arc::clone(&play), Arc::clone(&all));
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                let header = head.headers.get("authorization");
                let one = Seen {
                    path: head.uri.to_string(),
                    authorization: header.map(|value| value.to_str().unwrap().to_owned()),
                    body: String::from_utf8_lossy(&body).into_owned(),
                };
                all.lock().unwrap().push(one.clone());
                play(&one)
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn config(&self) -> UpstreamConfig {
        let url = format!("http://{}", self.address).parse().unwrap();
        UpstreamConfig {
            credentials: Some(("ann".to_owned(), "secret".to_owned())),
            ..UpstreamConfig::at("up.example", url)
        }
    }
}

async fn site(upstream: UpstreamConfig) -> Site {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    Site::mirroring(dir, upstream).await
}

fn plain(status: u16) -> Response<Body> {
    Response::builder()
        .status(status)
        .body(Body::empty())
        .unwrap()
}

fn challenge(header: &str) -> Response<Body> {
    let response = Response::builder().status(401);
    let response = response.header("www-authenticate", header);
    response.body(Body::empty()).unwrap()
}

fn redirect(to: &str) -> Response<Body> {
    let response = Response::builder().status(307).header("location", to);
    response.body(Body::empty()).unwrap()
}

fn manifest(image: &TestImage) -> Response<Body> {
    Response::builder()
        .header("content-type", media_type::OCI_MANIFEST)
        .header("docker-content-digest", image.digest().to_string())
        .body(Body::from(image.manifest.clone()))
        .unwrap()
}

async fn get_manifest(site: &Site, reference: &str) -> (u16, String) {
    let url = site.url(&format!("up.example/team/app/manifests/{reference}"));
    let response = client().get(url).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.text().await.unwrap())
}

async fn get_blob(site: &Site, digest: &Digest) -> (u16, Option<Bytes>) {
    let url = site.url(&format!("up.example/team/app/blobs/{digest}"));
    let response = client().get(url).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.bytes().await.ok())
}

#[tokio::test]
async fn a_realm_on_another_host_gets_the_account_only_where_it_is_configured() {
    let image = TestImage::new("realm", 10);
    let tokens = Server::start(|_| Response::new(r#"{"token":"t0k"}"#.into())).await;
    let realm = format!("http://{}", tokens.address);
    let bearer = format!(r#"Bearer realm="{realm}/token",service="reg""#);
    let registry = Server::start(move |seen| match seen.authorization.as_deref() {
        Some("Bearer t0k") => manifest(&image),
        Some(other) => panic!("the registry got {other}"),
        None => challenge(&bearer),
    })
    .await;
    let mut config = registry.config();
    config.private = true;
    let stranger = site(config.clone()).await;
    assert_eq!(get_manifest(&stranger, "latest").await.0, 200);
    // Nor is an identity token of a caller given away.
    let name = stranger
        .registry
        .own
        .parse_image("up.example/team/app")
        .unwrap();
    let identity = Credentials::IdentityToken("refresh".to_owned());
    let ask = Freshness::Ask;
    let found = stranger.registry.find_manifest(&name, ask, Some(&identity));
    found.await.unwrap();
    let seen = tokens.seen();
    assert_eq!(seen.len(), 2);
    for request in seen {
        assert_eq!((request.authorization, request.body.as_str()), (None, ""));
        assert!(
            request
                .path
                .contains("scope=repository%3Ateam%2Fapp%3Apull")
        );
    }
    config.realm = Some(realm.parse().unwrap());
    let configured = site(config).await;
    assert_eq!(get_manifest(&configured, "latest").await.0, 200);
    let last = tokens.seen().pop().unwrap();
    assert_eq!(
        last.authorization.as_deref(),
        Some("Basic YW5uOnNlY3JldA==")
    );
}

#[tokio::test]
async fn an_account_that_was_not_given_to_its_realm_is_explained() {
    let tokens = Server::start(|_| Response::new(r#"{"token":"anonymous"}"#.into())).await;
    let bearer = format!(r#"Bearer realm="http://{}/token""#, tokens.address);
    let registry = Server::start(move |_| challenge(&bearer)).await;
    let mut config = registry.config();
    config.private = true;
    let site = site(config).await;
    let (status, text) = get_manifest(&site, "latest").await;
    assert_eq!(status, 403);
    let said = format!("realm = \\\"http://{}\\\"", tokens.address);
    assert!(text.contains(&said), "{text}");
}

#[tokio::test]
async fn a_redirect_takes_no_authorization_along() {
    let image = TestImage::new("storage", 1000);
    let (digest, layer) = (image.layer_digest(), image.layer.clone());
    let storage = Server::start(move |_| Response::new(layer.clone().into())).await;
    let to = format!("http://{}/bucket", storage.address);
    let registry = Server::start(move |seen| match &seen.authorization {
        None => challenge("Basic realm=\"x\""),
        Some(_) if seen.path.contains("/blobs/") => redirect(&to),
        Some(_) => manifest(&image),
    })
    .await;
    let mut config = registry.config();
    config.private = true;
    let site = site(config).await;
    assert_eq!(get_manifest(&site, "latest").await.0, 200);
    assert_eq!(get_blob(&site, &digest).await.0, 200);
    assert!(
        registry
            .seen()
            .iter()
            .any(|seen| seen.authorization.is_some())
    );
    let seen = storage.seen();
    assert_eq!((seen.len(), seen[0].authorization.clone()), (1, None));
}

#[tokio::test]
async fn whoever_we_are_sent_to_can_ask_for_nothing() {
    let image = TestImage::new("asks", 10);
    let digest = image.layer_digest();
    let thief = Server::start(|seen| match seen.authorization {
        None => challenge("Basic realm=\"give\""),
        Some(_) => plain(200),
    })
    .await;
    let to = format!("http://{}/", thief.address);
    let registry = Server::start(move |seen| match seen.path.contains("/blobs/") {
        true => redirect(&to),
        false => manifest(&image),
    })
    .await;
    let mut config = registry.config();
    config.private = true;
    let site = site(config).await;
    assert_eq!(get_manifest(&site, "latest").await.0, 200);
    assert_ne!(get_blob(&site, &digest).await.0, 200);
    let seen = [thief.seen(), registry.seen()].concat();
    assert!(
        seen.iter().all(|seen| seen.authorization.is_none()),
        "{seen:?}"
    );
}

#[tokio::test]
async fn nobody_is_sent_to_addresses_inside() {
    let image = TestImage::new("inside", 10);
    let digest = image.layer_digest();
    let victim = Server::start(|_| Response::new(r#"{"token":"t"}"#.into())).await;
    let port = victim.address.port();
    for to in [
        format!("http://127.0.0.1:{port}/x"),
        format!("http://localhost:{port}/x"),
        format!("http://[::ffff:127.0.0.1]:{port}/x"),
        format!("http://2130706433:{port}/x"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://10.0.0.1/x".to_owned(),
        "http://[fd00::1]/x".to_owned(),
    ] {
        // By the redirect of a blob or a manifest, and by the realm of a token.
        let (image, said) = (image.clone(), to.clone());
        let registry = Server::start(move |seen| match seen.path.as_str() {
            path if path.contains("/blobs/") => redirect(&said),
            path if path.ends_with("/away") => redirect(&said),
            path if path.ends_with("/realm") => challenge(&format!("Bearer realm=\"{said}\"")),
            _ => manifest(&image),
        })
        .await;
        let site = site(registry.config()).await;
        assert_eq!(get_manifest(&site, "latest").await.0, 200, "{to}");
        assert_eq!(get_blob(&site, &digest).await.0, 502, "{to}");
        // What is refused stays so, and says nothing of the registry itself.
        let asked = registry.seen().into_iter();
        let asked = asked.filter(|seen| seen.path.contains("/blobs/")).count();
        assert_eq!(asked, 1, "{to}");
        let (status, _) = get_manifest(&site, "other").await;
        assert_eq!(status, 200, "{to}");
        for reference in ["away", "realm"] {
            // A moment later it would be put off.
            let name = format!("up.example/team/app:{reference}");
            let name = site.registry.own.parse_image(&name).unwrap();
            let found = site
                .registry
                .find_manifest(&name, Freshness::Ask, None)
                .await;
            let error = found.unwrap_err().to_string();
            assert!(error.contains("inside of this host"), "{to}: {error}");
        }
    }
    assert!(victim.seen().is_empty(), "{:?}", victim.seen());
}

#[tokio::test]
async fn urls_of_foreign_layers_are_not_followed() {
    let victim = Server::start(|_| plain(200)).await;
    let image = TestImage::new("foreign", 10);
    let foreign = Digest::of("windows");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": {
            "mediaType": media_type::OCI_CONFIG, "digest": image.id(), "size": image.config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "digest": foreign, "size": 7, "urls": [format!("http://{}/layer", victim.address)],
        }],
    });
    let manifest = Bytes::from(manifest.to_string());
    let registry = Server::start(move |seen| match seen.path.contains("/manifests/") {
        true => Response::builder()
            .header("content-type", media_type::OCI_MANIFEST)
            .header("docker-content-digest", Digest::of(&manifest).to_string())
            .body(Body::from(manifest.clone()))
            .unwrap(),
        false => plain(404),
    })
    .await;
    let mut config = registry.config();
    config.private = true;
    let site = site(config).await;
    assert_eq!(get_manifest(&site, "latest").await.0, 200);
    assert_eq!(get_blob(&site, &foreign).await.0, 404);
    assert!(victim.seen().is_empty());
    assert!(
        registry
            .seen()
            .iter()
            .all(|seen| !seen.path.contains("/blobs/"))
    );
}

fn endless() -> Body {
    let piece = Bytes::from(vec![b' '; 64 << 10]);
    Body::from_stream(stream::repeat_with(move || {
        Ok::<_, std::io::Error>(piece.clone())
    }))
}

fn trickle() -> Body {
    let pieces = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
    });
    Body::from_stream(pieces)
}

#[tokio::test]
async fn a_blob_that_is_not_what_was_promised_is_a_bad_gateway_and_leaves_nothing() {
    let image = TestImage::new("promise", 100_000);
    let (digest, layer) = (image.layer_digest(), image.layer.clone());
    type Answer = fn(&Bytes) -> Body;
    let bodies: Vec<(&str, Answer)> = vec![
        ("short", |layer| layer.slice(..50_000).into()),
        ("long", |layer| {
            [layer.clone(), layer.clone()].concat().into()
        }),
        ("endless", |_| endless()),
        ("other", |layer| {
            layer.iter().rev().copied().collect::<Vec<u8>>().into()
        }),
    ];
    for (kind, body) in bodies {
        let (image, content) = (image.clone(), layer.clone());
        let registry = Server::start(move |seen| match seen.path.contains("/blobs/") {
            true => Response::new(body(&content)),
            false => manifest(&image),
        })
        .await;
        let site = site(registry.config()).await;
        assert_eq!(get_manifest(&site, "latest").await.0, 200);
        let (status, content) = get_blob(&site, &digest).await;
        // Where bytes came before it was known, the body breaks off.
        assert!(status == 502 || content.is_none(), "{kind}: {status}");
        assert_eq!(site.registry.blobs.stat(&digest).await.unwrap(), None);
        let partial = site.dir.path().join("partial");
        let left: u64 = support::files_below(&partial)
            .iter()
            .map(|file| file.metadata().unwrap().len())
            .sum();
        assert!(left <= layer.len() as u64, "{kind}: {left}");
    }
}

#[tokio::test]
async fn answers_that_do_not_end_are_cut_off() {
    let image = TestImage::new("patience", 100_000);
    for body in [endless as fn() -> Body, trickle] {
        let image = image.clone();
        let tokens = Server::start(move |_| Response::new(body())).await;
        let bearer = format!("Bearer realm=\"http://{}/token\"", tokens.address);
        let other = Digest::of("other").to_string();
        let registry = Server::start(move |seen| match seen.path.rsplit('/').next() {
            Some("realm") => challenge(&bearer),
            Some("endless") => Response::builder()
                .header("docker-content-digest", &other)
                .body(Body::empty())
                .unwrap(),
            Some("latest") => manifest(&image),
            Some(last) if last == image.digest().to_string() && seen.path.contains("manif") => {
                manifest(&image)
            }
            _ => Response::new(body()),
        })
        .await;
        let mut config = registry.config();
        config.private = true;
        config.timeout = Duration::from_millis(200);
        let site = site(config).await;
        let name = |reference| {
            let text = format!("up.example/team/app:{reference}");
            site.registry.own.parse_image(&text).unwrap()
        };
        assert_eq!(get_manifest(&site, "latest").await.0, 200);
        for reference in ["endless", "realm"] {
            let name = name(reference);
            let asked = site.registry.find_manifest(&name, Freshness::Ask, None);
            let error = asked.await.unwrap_err();
            assert!(error.is_upstream_down(), "{reference}: {error}");
        }
        let client = site.registry.mirror.client("up.example", None).unwrap();
        assert!(client.tags("team/app").await.is_err());
        let wanted = Wanted {
            after: None,
            kind: None,
            most: 1 << 20,
        };
        let (repository, subject) = (name("latest").repository, image_digest(&site).await);
        let page = site
            .registry
            .referrers(&repository, &subject, wanted, Arc::new(Patient));
        let page = page.await.unwrap();
        assert!(page.descriptors.is_empty() && page.trouble.is_some());
    }
}

#[tokio::test]
async fn a_list_of_tags_has_an_end() {
    // Each page is as large as one may be, nearly; all of them together are more than anybody has.
    for (pages, fits) in [(3, true), (5, false)] {
        let tags = vec!["x".repeat(128); 31_000];
        let page = Bytes::from(json!({"name": "team/app", "tags": tags}).to_string());
        let registry = Server::start(move |seen| {
            let number: usize = match seen.path.split_once("page=") {
                Some((_, number)) => number.parse().unwrap(),
                None => 1,
            };
            let mut response = Response::builder();
            if number < pages {
                let next = number + 1;
                let link = format!("</v2/team/app/tags/list?page={next}>; rel=\"next\"");
                response = response.header("link", link);
            }
            response.body(Body::from(page.clone())).unwrap()
        })
        .await;
        let mut config = registry.config();
        config.timeout = Duration::from_secs(60);
        let site = site(config).await;
        let client = site.registry.mirror.client("up.example", None).unwrap();
        match (client.tags("team/app").await, fits) {
            (Ok(tags), true) => assert_eq!(tags.len(), 31_000 * pages),
            (Err(error), false) => assert!(matches!(error, Error::TooLarge { .. }), "{error}"),
            (told, _) => panic!("{pages} pages: {:?}", told.map(|tags| tags.len())),
        }
    }
}

#[tokio::test]
async fn a_token_that_is_none_is_not_sent_back() {
    let longest = "t".repeat(64 << 10);
    for (token, is_one) in [
        (longest.clone(), true),
        (longest + "t", false),
        ("two words".to_owned(), false),
        ("line\r\nhost: elsewhere".to_owned(), false),
        ("t\u{f6}ken".to_owned(), false),
    ] {
        let image = TestImage::new("token", 10);
        let told = token.clone();
        let tokens =
            Server::start(move |_| Response::new(Body::from(json!({"token": told}).to_string())))
                .await;
        let bearer = format!("Bearer realm=\"http://{}/token\"", tokens.address);
        let registry = Server::start(move |seen| match seen.authorization {
            Some(_) => manifest(&image),
            None => challenge(&bearer),
        })
        .await;
        let mut config = registry.config();
        config.private = true;
        config.credentials = None;
        let site = site(config).await;
        let (status, _) = get_manifest(&site, "latest").await;
        let sent = registry
            .seen()
            .iter()
            .any(|seen| seen.authorization.is_some());
        let length = token.len();
        assert_eq!(
            (status == 200, sent),
            (is_one, is_one),
            "{length}: {status}"
        );
    }
}

async fn image_digest(site: &Site) -> Digest {
    let name = site
        .registry
        .own
        .parse_image("up.example/team/app")
        .unwrap();
    site.registry.stored(&name).await.unwrap().unwrap().digest
}

#[tokio::test]
async fn an_upstream_that_falls_silent_is_given_up() {
    let image = TestImage::new("silence", 100_000);
    let (digest, first) = (image.layer_digest(), image.layer.slice(..10));
    let registry = Server::start(move |seen| match seen.path.contains("/blobs/") {
        true => {
            let silence = stream::once(std::future::pending::<Result<Bytes, std::io::Error>>());
            let first = first.clone();
            let body = stream::iter([Ok(first)]);
            use futures_util::StreamExt as _;
            Response::new(Body::from_stream(body.chain(silence)))
        }
        false => manifest(&image),
    })
    .await;
    let mut config = registry.config();
    config.timeout = Duration::from_millis(100);
    let site = site(config).await;
    assert_eq!(get_manifest(&site, "latest").await.0, 200);
    let (status, content) = get_blob(&site, &digest).await;
    assert!(status == 502 || content.is_none());
}

#[tokio::test]
async fn what_one_repository_is_told_slowly_or_wrongly_the_others_are_not() {
    let image = TestImage::new("shared", 300_000);
    let (digest, layer) = (image.layer_digest(), image.layer.clone());
    let registry = Server::start(move |seen| {
        let garbage = || Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 280_000]));
        match seen.path.contains("/blobs/") {
            true if seen.path.contains("/evil/") => {
                let body =
                    futures_util::StreamExt::chain(stream::iter([garbage()]), stream::pending());
                let response = Response::builder().header("content-length", layer.len());
                response.body(Body::from_stream(body)).unwrap()
            }
            true => Response::new(layer.clone().into()),
            false => manifest(&image),
        }
    })
    .await;
    let site = site(registry.config()).await;
    let get = |path: String| {
        let url = site.url(&format!("up.example/{path}"));
        client().get(url).timeout(Duration::from_secs(60)).send()
    };
    for name in ["evil/app", "team/app"] {
        let got = get(format!("{name}/manifests/latest")).await.unwrap();
        assert_eq!(got.status(), 200);
    }
    let evil = get(format!("evil/app/blobs/{digest}"));
    let mut evil = evil.await.unwrap();
    assert!(evil.chunk().await.unwrap().unwrap().starts_with(b"x"));
    let got = get(format!("team/app/blobs/{digest}")).await.unwrap();
    assert_eq!(Digest::of(got.bytes().await.unwrap()), digest);
    // What it left is nobody's beginning either.
    drop(evil);
    assert_eq!(get_blob(&site, &digest).await.0, 200);
}
