//! Slow senders and readers of what is large: few of that are in memory at once, and they do not keep it.

use std::time::{Duration, Instant};

use registry_svc::http::Limits;
use reqwest::Response;
use slipway_image::{Digest, media_type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    slow::{from, limited},
    support::{Patient, Site, client},
};

/// Less than a slow client may have for a body, and enough for all that are evicted before.
const SOON: Duration = Duration::from_secs(30);

/// What refers to a manifest, with so many bytes of annotations.
fn artifact(number: usize, subject: &Digest, bytes: usize) -> String {
    let (manifest, empty) = (media_type::OCI_MANIFEST, Digest::of("{}"));
    let filler = "x".repeat(bytes);
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{manifest}","artifactType":"x/{number}",
        "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{empty}","size":2}},"layers":[],
        "subject":{{"mediaType":"{manifest}","digest":"{subject}","size":2}},"annotations":{{"x":"{filler}"}}}}"#
    )
}

async fn put(site: &Site, tag: &str, manifest: String) -> Response {
    let request = client().put(site.url(&format!("a/manifests/{tag}")));
    let request = request.header("content-type", media_type::OCI_MANIFEST);
    request.body(manifest).timeout(SOON).send().await.unwrap()
}

async fn get(site: &Site, path: &str) -> usize {
    let got = client().get(site.url(path)).timeout(SOON).send();
    let got = got.await.unwrap().error_for_status().unwrap();
    got.bytes().await.unwrap().len()
}

/// Waits until somebody has each turn.
async fn all_are_taken(site: &Site, list: bool) {
    let begun = Instant::now();
    loop {
        let large = &site.registry.large;
        let nobody = std::sync::Arc::new(Patient);
        let moment = Duration::from_millis(100);
        let is_free = match list {
            true => tokio::time::timeout(moment, large.list(nobody))
                .await
                .is_ok(),
            false => tokio::time::timeout(moment, large.arrive(nobody))
                .await
                .is_ok(),
        };
        if !is_free {
            return;
        }
        assert!(begun.elapsed() < SOON, "they are taken at some time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn slow_senders_and_readers_of_what_is_large_keep_it_from_nobody() {
    let site = limited(Limits::default()).await;
    site.push_blob("a", b"{}").await;
    let subject = Digest::of("subject");
    for number in 0..4 {
        let manifest = artifact(number, &subject, 900_000);
        assert_eq!(
            put(&site, &format!("v{number}"), manifest).await.status(),
            201
        );
    }
    let referrers = format!("a/referrers/{subject}");
    assert!(get(&site, &referrers).await > 3_600_000);
    // From two addresses that the good one does not have.
    let mut slow: Vec<TcpStream> = Vec::new();
    for number in 0..24 {
        let mut stream = from(&site, 2 + number % 2).await;
        let head = format!(
            "PUT /v2/a/manifests/slow{number} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b' '; 100 << 10]).await.unwrap();
        slow.push(stream);
    }
    all_are_taken(&site, false).await;
    let begun = Instant::now();
    let manifest = artifact(9, &Digest::of("another"), 900_000);
    assert_eq!(put(&site, "good", manifest).await.status(), 201);
    assert!(begun.elapsed() < SOON);
    assert!(get(&site, "a/manifests/good").await > 900_000);
    for number in 0..24 {
        let socket = TcpSocket::new_v4().unwrap();
        // Little is on its way in the kernel.
        socket.set_recv_buffer_size(4096).unwrap();
        socket
            .bind(([127, 0, 0, 2 + number % 2], 0).into())
            .unwrap();
        let mut stream = socket.connect(site.address).await.unwrap();
        let get = format!("GET /v2/{referrers} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(get.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    all_are_taken(&site, true).await;
    assert!(get(&site, &referrers).await > 3_600_000);
    assert!(get(&site, "a/manifests/v0").await > 900_000);
    // A sender is told nothing until he is cut off.
    let mut ended = 0;
    for sender in &mut slow[..24] {
        let said = tokio::time::timeout(Duration::from_millis(10), sender.read(&mut [0])).await;
        ended += usize::from(said.is_ok());
    }
    assert!(ended > 0, "whose turn was taken");
}
