//! What an upstream names and does not have is not read through it, although it is here for others.

mod support;

use std::sync::{Arc, atomic::Ordering};

use registry_svc::{
    config::UpstreamConfig,
    images::pull::{Policy, PullRequest},
};
use reqwest::{Method, StatusCode};
use slipway_image::{Digest, media_type};
use support::{Site, TestImage, Upstream, client};
use tempfile::TempDir;

const HONEST: &str = "honest.example/team/app";
const HOSTILE: &str = "hostile.example/team/app";

/// Two upstreams: one has an image, the other a manifest that names the same layer, and not the layer.
struct Two {
    honest: Upstream,
    hostile: Upstream,
    image: TestImage,
    site: Site,
}

fn configured(honest: &Upstream, hostile: &Upstream) -> Vec<UpstreamConfig> {
    let at = |host: &str, upstream: &Upstream| {
        let url = format!("http://{}", upstream.address).parse().unwrap();
        UpstreamConfig::at(host, url)
    };
    vec![at("honest.example", honest), at("hostile.example", hostile)]
}

impl Two {
    async fn start(size: usize) -> Self {
        let (honest, hostile) = (Upstream::start().await, Upstream::start().await);
        let image = TestImage::new("secret", size);
        honest.add("app:latest", &image);
        hostile.add_manifest("app:latest", image.manifest.clone());
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let site = Site::of_upstreams(folder, configured(&honest, &hostile)).await;
        let two = Self {
            honest,
            hostile,
            image,
            site,
        };
        for name in [HONEST, HOSTILE] {
            let path = format!("{name}/manifests/latest");
            assert_eq!(two.ask(Method::GET, &path).await, StatusCode::OK);
        }
        two
    }

    async fn ask(&self, method: Method, path: &str) -> StatusCode {
        let request = client().request(method, self.site.url(path));
        let response = request.send().await.unwrap();
        let status = response.status();
        response.bytes().await.unwrap();
        status
    }

    async fn ask_for_layer(&self, method: Method, name: &str) -> StatusCode {
        let path = format!("{name}/blobs/{}", self.image.layer_digest());
        self.ask(method, &path).await
    }

    /// How often an upstream was asked for the layer.
    fn asked(&self, upstream: &Upstream) -> usize {
        upstream.requests_of(&self.image.layer_digest()).len()
    }

    /// With the same folder, after a crash.
    async fn crash(self) -> Self {
        let folder: Arc<TempDir> = self.site.crash().await;
        let site = Site::of_upstreams(folder, configured(&self.honest, &self.hostile)).await;
        Self { site, ..self }
    }

    async fn nobody_reads_it_through_the_hostile_one(&self) {
        for method in [Method::GET, Method::HEAD] {
            let status = self.ask_for_layer(method, HOSTILE).await;
            assert_eq!(status, StatusCode::NOT_FOUND);
        }
        // And nobody takes it from there.
        let layer = self.image.layer_digest();
        let mount = format!("mine/blobs/uploads/?mount={layer}&from={HOSTILE}");
        assert_eq!(self.ask(Method::POST, &mount).await, StatusCode::ACCEPTED);
        let mine = self.ask_for_layer(Method::GET, "mine").await;
        assert_eq!(mine, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn what_came_for_one_repository_is_not_read_through_another_that_names_it() {
    for size in [1_000, 3_000_000] {
        let two = Two::start(size).await;
        let got = two.ask_for_layer(Method::GET, HONEST).await;
        assert_eq!(got, StatusCode::OK);
        two.nobody_reads_it_through_the_hostile_one().await;
        // It says that it has it, and has something else.
        let other = TestImage::new("other", size + 1);
        let lie = |content| {
            let mut blobs = two.hostile.state.blobs.lock().unwrap();
            blobs.insert(two.image.layer_digest().to_string(), content);
        };
        lie(other.layer.clone());
        two.nobody_reads_it_through_the_hostile_one().await;
        // By hand it is the same, and the name of the image does not help.
        let (sender, mut events) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let pull = PullRequest {
            reference: format!("{HOSTILE}:latest"),
            policy: Policy::Always,
            ..PullRequest::default()
        };
        assert!(two.site.registry.pull(pull, &sender).await.is_err());
        two.nobody_reads_it_through_the_hostile_one().await;
        // Nor after the index was made anew.
        let two = two.crash().await;
        two.nobody_reads_it_through_the_hostile_one().await;
        assert_eq!(two.asked(&two.honest), 1);
        let got = two.ask_for_layer(Method::GET, HONEST).await;
        assert_eq!((got, two.asked(&two.honest)), (StatusCode::OK, 1));
    }
}

#[tokio::test]
async fn what_somebody_pushed_is_not_read_through_a_mirrored_repository() {
    let two = Two::start(200_000).await;
    two.site.push_blob("private", &two.image.layer).await;
    two.nobody_reads_it_through_the_hostile_one().await;
}

#[tokio::test]
async fn who_has_it_shows_pieces_of_it_once_and_nothing_is_fetched_again() {
    let two = Two::start(3_000_000).await;
    two.ask_for_layer(Method::GET, HONEST).await;
    two.hostile.add("app:latest", &two.image);
    let reads = (0..8).map(|_| two.ask_for_layer(Method::GET, HOSTILE));
    let read = futures_util::future::join_all(reads).await;
    assert_eq!(read, [StatusCode::OK; 8]);
    let asked = two.hostile.requests_of(&two.image.layer_digest());
    let pieces = asked.iter().flatten().filter(|range| !range.ends_with('-'));
    assert_eq!((pieces.count(), asked.len()), (4, 4), "{asked:?}");
    // It is known from then on: without a network, and after the index was made anew.
    two.hostile.state.answer.store(503, Ordering::SeqCst);
    let got = two.ask_for_layer(Method::GET, HOSTILE).await;
    assert_eq!(got, StatusCode::OK);
    let two = two.crash().await;
    let got = two.ask_for_layer(Method::HEAD, HOSTILE).await;
    assert_eq!((got, two.asked(&two.hostile)), (StatusCode::OK, 4));
}

#[tokio::test]
async fn what_anybody_could_guess_is_compared_as_a_whole() {
    let (honest, hostile) = (Upstream::start().await, Upstream::start().await);
    let mut image = TestImage::new("zeros", 0);
    let mut layer = vec![0; 1_000_000];
    layer.extend_from_slice(b"the secret");
    let manifest = String::from_utf8(image.manifest.to_vec()).unwrap();
    let manifest = manifest
        .replace(
            &image.layer_digest().to_string(),
            &Digest::of(&layer).to_string(),
        )
        .replace(
            &format!("\"size\":{}", image.layer.len()),
            &format!("\"size\":{}", layer.len()),
        );
    (image.manifest, image.layer) = (manifest.into(), layer.into());
    honest.add("app:latest", &image);
    hostile.add_manifest("app:latest", image.manifest.clone());
    let guess = bytes::Bytes::from(vec![0; image.layer.len()]);
    let name = image.layer_digest().to_string();
    hostile.state.blobs.lock().unwrap().insert(name, guess);
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let site = Site::of_upstreams(folder, configured(&honest, &hostile)).await;
    let ask = async |name: &str| {
        let get = |path: String| client().get(site.url(&path)).send();
        get(format!("{name}/manifests/latest")).await.unwrap();
        let blob = format!("{name}/blobs/{}", image.layer_digest());
        let response = get(blob).await.unwrap();
        let status = response.status();
        response.bytes().await.unwrap();
        status
    };
    assert_eq!(ask(HONEST).await, StatusCode::OK);
    assert_eq!(ask(HOSTILE).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nobody_reads_along_with_the_transfer_of_another_repository() {
    let two = Two::start(3_000_000).await;
    two.honest.state.hold.store(true, Ordering::SeqCst);
    let url = |name: &str| {
        let path = format!("{name}/blobs/{}", two.image.layer_digest());
        two.site.url(&path)
    };
    let honest = async {
        let response = client().get(url(HONEST)).send().await.unwrap();
        response.bytes().await.unwrap()
    };
    let hostile = async {
        while two.asked(&two.honest) == 0 {
            tokio::task::yield_now().await;
        }
        // Its own upstream is asked, and nobody else is waited for.
        let status = client().get(url(HOSTILE)).send().await.unwrap().status();
        two.honest.release();
        status
    };
    let (honest, hostile) = tokio::join!(honest, hostile);
    assert_eq!(honest, two.image.layer);
    assert_eq!(hostile, StatusCode::NOT_FOUND);
    assert_eq!(two.asked(&two.hostile), 1);
}

#[tokio::test]
async fn a_manifest_of_ones_own_makes_what_it_names_readable() {
    let two = Two::start(1_000).await;
    let image = TestImage::new("mine", 10);
    two.site.push_image("mine", "v1", &image).await;
    let path = format!("mine/blobs/{}", image.layer_digest());
    assert_eq!(two.ask(Method::GET, &path).await, StatusCode::OK);
    // It must be there: naming somebody else's content is refused.
    let put = client()
        .put(two.site.url("others/manifests/v1"))
        .header("content-type", media_type::OCI_MANIFEST)
        .body(image.manifest.clone());
    assert_eq!(put.send().await.unwrap().status(), StatusCode::BAD_REQUEST);
}
