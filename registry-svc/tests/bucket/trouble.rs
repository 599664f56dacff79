//! A bucket that is large, slow, out of reach, or asks to be left in peace.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use slipway_image::Digest;

use crate::{
    between::{Act, Between},
    server::Server,
    service::{Service, eventually},
    support::{TestImage, client},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_takes_little_memory() {
    let Some(server) = Server::shared() else {
        return;
    };
    let a = Service::start(server, "large", "").await;
    let memory = |what: &str| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", a.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = memory("VmHWM");
    let size = std::env::var("SLIPWAY_LARGE_BLOB").map_or(256, |n| n.parse().unwrap());
    let mut digest = slipway_image::Digester::default();
    let piece: bytes::Bytes = vec![42; 1 << 20].into();
    (0..size).for_each(|_| digest.update(&piece));
    let digest = digest.finish();
    let pieces = (0..size).map(move |_| Ok::<_, std::io::Error>(piece.clone()));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let url = a.url(&format!("team/app/blobs/uploads/?digest={digest}"));
    let began = Instant::now();
    let sent = client().post(url).body(body).send().await.unwrap();
    assert_eq!(sent.status(), StatusCode::CREATED);
    let pushed = began.elapsed();
    let mut answer = a.get(&format!("team/app/blobs/{digest}")).await;
    let mut read = slipway_image::Digester::default();
    while let Some(piece) = answer.chunk().await.unwrap() {
        read.update(&piece);
    }
    assert_eq!(read.finish(), digest);
    let most = memory("VmHWM");
    println!("{size} MiB: pushed in {pushed:?}, {most} kB of memory at most, {before} at first");
    assert!(most < 64 << 10, "{most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_server_there_is_an_error_and_then_all_goes_on() {
    // Its own: the others share one.
    let Some(server) = Server::start() else {
        return;
    };
    let a = Service::start(&server, "away", "").await;
    let image = TestImage::new("away", 100);
    a.push("team/app", "now", &image).await;
    server.stop();
    let answer = a.get("team/app/manifests/now").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    let told = answer.text().await.unwrap();
    assert!(told.contains("the bucket cannot be used now"), "{told}");
    let refused = a.push_blob("team/app", b"new").await;
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    server.go_on();
    let answers = async || a.status("team/app/manifests/now").await == StatusCode::OK;
    eventually("it goes on", answers).await;
    a.has("team/app", &image).await;
    assert_eq!(a.push_blob("team/app", b"new").await, StatusCode::CREATED);
}

/// `SlowDown`, of all who write.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_wants_to_be_left_in_peace_is_and_reads_go_on() {
    let Some(server) = Server::shared() else {
        return;
    };
    let between = Between::start(server).await;
    let settings = format!("[store]\n{}", between.text(server, "slow-down"));
    let a = Service::with(&settings).await;
    let image = TestImage::new("slow-down", 100);
    a.push("team/app", "now", &image).await;
    between.rule(|method, _| match method.as_str() {
        "PUT" | "POST" => Act::Refuse(503, "SlowDown"),
        _ => Act::Pass,
    });
    let began = Instant::now();
    let url = a.url(&format!(
        "team/app/blobs/uploads/?digest={}",
        Digest::of("new")
    ));
    let push = tokio::spawn(client().post(url).body("new").send());
    // Whoever reads meanwhile.
    let mut reads = 0;
    while !push.is_finished() {
        a.has("team/app", &image).await;
        reads += 1;
    }
    assert!(reads > 1, "readers waited for the writer: {reads}");
    let refused = push.await.unwrap().unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    let told = refused.text().await.unwrap();
    assert!(
        told.contains("the bucket cannot be used now: try again"),
        "{told}"
    );
    // It was asked again, and not for ever.
    let asked = between.noted().len();
    assert!((2..=10).contains(&asked), "{asked}");
    println!(
        "{reads} reads, asked {asked} times in {:?}",
        began.elapsed()
    );
    between.rule(|_, _| Act::Pass);
    assert_eq!(a.push_blob("team/app", b"new").await, StatusCode::CREATED);
    // One that says so now and then holds nobody up for long.
    let every = std::sync::atomic::AtomicU32::new(0);
    between.rule(
        move |_, _| match every.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 2 {
            0 => Act::Refuse(503, "SlowDown"),
            _ => Act::Pass,
        },
    );
    let other = TestImage::new("now-and-then", 9 << 20);
    a.push("team/app", "then", &other).await;
    a.has("team/app", &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_wait_for_a_bucket_that_is_slow_to_write() {
    let Some(server) = Server::shared() else {
        return;
    };
    let between = Between::start(server).await;
    let settings = format!("[store]\n{}", between.text(server, "slow"));
    let a = Service::with(&settings).await;
    let image = TestImage::new("slow", 100);
    a.push("team/app", "now", &image).await;
    between.rule(
        |method, path| match method == "PUT" && path.contains("/journal/") {
            true => Act::Late(Duration::from_secs(4)),
            false => Act::Pass,
        },
    );
    let put = client()
        .put(a.url("team/app/manifests/again"))
        .header("content-type", slipway_image::media_type::OCI_MANIFEST)
        .body(image.manifest.clone());
    let put = tokio::spawn(put.send());
    let mut reads = 0;
    while !put.is_finished() {
        a.has("team/app", &image).await;
        reads += 1;
    }
    assert_eq!(put.await.unwrap().unwrap().status(), StatusCode::CREATED);
    // The first one would have waited until the tag was written.
    assert!(reads > 1, "{reads}");
    // What was told is there at once.
    assert_eq!(
        a.tag("team/app", "again").await,
        Some(image.digest().to_string())
    );
}
