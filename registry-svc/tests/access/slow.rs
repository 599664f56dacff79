//! Clients that take their time, and that take all there is: others do not notice.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use registry_svc::http::{Front, Limits};
use slipway_image::Digest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{raw2, support::Site};

pub async fn limited(limits: Limits) -> Site {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    Site::behind(folder, None, 0, |_| Front::new(None, None, limits)).await
}

/// A connection from 127.0.0.`last`.
pub async fn from(site: &Site, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind((Ipv4Addr::new(127, 0, 0, last), 0).into())
        .unwrap();
    socket.connect(site.address).await.unwrap()
}

/// Waits for the service to end a connection; what it said before.
async fn ended(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    // Reset is an end, too.
    let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut said))
        .await
        .expect("the service ends it");
    String::from_utf8_lossy(&said).into_owned()
}

fn quick() -> Limits {
    Limits {
        idle: Duration::from_millis(600),
        head: Duration::from_millis(600),
        window: Duration::from_millis(900),
        window_bytes: 64 * 1024,
        ..Limits::default()
    }
}

#[tokio::test]
async fn who_sends_nothing_is_let_go() {
    let site = limited(quick()).await;
    for begun in [
        "",
        "GET /v2/ HT",
        "PRI * HTTP/2.0\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n",
    ] {
        let mut stream = from(&site, 1).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        ended(stream).await;
    }
    // Also after a request.
    let mut stream = from(&site, 1).await;
    stream
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(ended(stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn who_sends_a_body_byte_by_byte_is_let_go() {
    let site = limited(quick()).await;
    let mut stream = from(&site, 1).await;
    let head = "POST /v2/a/blobs/uploads/?digest=sha256:";
    let digest = "a".repeat(64);
    let head =
        format!("{head}{digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sends = tokio::spawn(async move {
        let mut sent = 0;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) && write.write_all(b"x").await.is_ok() {
            sent += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sent
    });
    let mut said = Vec::new();
    let _ = read.read_to_end(&mut said).await;
    let sent = sends.await.unwrap();
    assert!((10..1000).contains(&sent), "{sent}");
}

#[tokio::test]
async fn who_reads_next_to_nothing_is_let_go_and_who_reads_is_not() {
    let site = limited(quick()).await;
    let content = vec![7; 32 << 20];
    let digest = site.push_blob("a", &content).await;
    let get = format!(
        "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    );
    let mut slow = from(&site, 1).await;
    slow.write_all(get.as_bytes()).await.unwrap();
    // Slowly, and longer than the window all the same: some 10 MB a second.
    let begun = Instant::now();
    let mut fair = from(&site, 1).await;
    fair.write_all(get.as_bytes()).await.unwrap();
    let (mut got, mut buffer) = (0, vec![0; 200 << 10]);
    loop {
        match fair.read(&mut buffer).await.unwrap() {
            0 => break,
            read => got += read,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(got > content.len(), "{got}");
    assert!(begun.elapsed() > 2 * quick().window);
    let mut taken = 0;
    while let Ok(read) = slow.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        taken += read;
    }
    assert!(
        taken < content.len(),
        "{taken}: cut, with what was on its way"
    );
}

#[tokio::test]
async fn hundreds_of_slow_clients_do_not_hold_the_service() {
    let limits = Limits {
        connections: 200,
        connections_per_client: 100,
        ..Limits::default()
    };
    let site = limited(limits).await;
    let digest = Digest::of("content");
    site.push_blob("a", b"content").await;
    // Connected, and nothing more; a head without an end; a body without one.
    let post = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\nc"
    );
    let begun = ["", "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n", &post];
    let mut slow = Vec::new();
    for number in 0..600 {
        let mut stream = from(&site, 2 + (number % 3) as u8).await;
        // One that is refused may be closed already.
        let _ = stream.write_all(begun[number / 3 % 3].as_bytes()).await;
        slow.push(stream);
        if number % 50 == 0 {
            let url = site.url(&format!("a/blobs/{digest}"));
            // A connection each.
            let got = crate::support::client()
                .get(url)
                .timeout(Duration::from_secs(10));
            let got = got.send().await.unwrap();
            assert_eq!(got.bytes().await.unwrap(), "content");
        }
    }
    let url = site.url(&format!("a/blobs/{digest}"));
    let got = crate::support::client()
        .get(url)
        .timeout(Duration::from_secs(10));
    assert_eq!(got.send().await.unwrap().bytes().await.unwrap(), "content");
}

#[tokio::test]
async fn a_connection_that_is_old_finishes_what_it_has_and_takes_no_more() {
    let limits = Limits {
        age: Duration::from_millis(500),
        ..Limits::default()
    };
    let site = limited(limits).await;
    let digest = Digest::of("content");
    let mut busy = from(&site, 1).await;
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\ncon"
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    // It is younger, and has had an answer, so the other one is old and has its request by then.
    let mut idle = from(&site, 1).await;
    let get = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    idle.write_all(get).await.unwrap();
    let begun = Instant::now();
    assert!(ended(idle).await.starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Limits::default().head / 2, "not as idle");
    busy.write_all(b"tent").await.unwrap();
    busy.write_all(get).await.unwrap();
    let said = ended(busy).await;
    assert!(said.starts_with("HTTP/1.1 201"), "{said}");
    assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
}

#[tokio::test]
async fn heads_have_an_end() {
    let site = limited(Limits::default()).await;
    let long = "x".repeat(10_000);
    for (head, status) in [
        (
            format!("GET /v2/{long}/tags/list HTTP/1.1\r\nHost: localhost\r\n"),
            "414",
        ),
        (
            format!("GET /v2/_catalog?last={long} HTTP/1.1\r\nHost: localhost\r\n"),
            "414",
        ),
        (
            format!(
                "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n",
                "x".repeat(200_000)
            ),
            "431",
        ),
        (
            format!(
                "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n{}",
                "X: y\r\n".repeat(200)
            ),
            "431",
        ),
    ] {
        let mut stream = from(&site, 1).await;
        let head = format!("{head}Connection: close\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let said = ended(stream).await;
        assert!(
            said.starts_with(&format!("HTTP/1.1 {status}")),
            "{status}: {said:.200}"
        );
    }
}

#[tokio::test]
async fn requests_that_are_taken_back_by_the_thousand_end_their_connection() {
    let site = limited(Limits::default()).await;
    let digest = site.push_blob("a", b"content").await;
    let path = format!("/v2/a/blobs/{digest}");
    let mut flood = raw2::greeting();
    for number in 0..10_000 {
        let stream = 2 * number + 1;
        flood.extend(raw2::get(stream, &path));
        flood.extend(raw2::reset(stream));
    }
    let (mut read, mut write) = from(&site, 1).await.into_split();
    // It may be cut off in the middle.
    let sends = tokio::spawn(async move { write.write_all(&flood).await.is_ok() });
    let mut said = Vec::new();
    let ended = read.read_to_end(&mut said);
    // Reset is an end, too.
    let _ = tokio::time::timeout(Duration::from_secs(60), ended)
        .await
        .expect("the service ends it");
    sends.abort();
    let url = site.url(&format!("a/blobs/{digest}"));
    let got = crate::support::client().get(url).send().await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), "content");
}

#[tokio::test]
async fn a_client_is_told_what_it_may_ask_for_at_once_and_is_held_to_it() {
    let site = limited(Limits::default()).await;
    let mut stream = from(&site, 1).await;
    stream.write_all(&raw2::greeting()).await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "SETTINGS come first");
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let told = |which: u8| {
        let one = settings.chunks(6).find(|one| one[1] == which);
        one.map(|one| u32::from_be_bytes(one[2..].try_into().unwrap()))
    };
    // RFC 9113, 6.5.2: streams at once, the window of each, headers.
    assert_eq!(told(3), Some(64));
    assert_eq!(told(4), Some(1 << 20));
    assert_eq!(told(6), Some(32 << 10));
    let client = reqwest::Client::builder().http2_prior_knowledge();
    let client = client.build().unwrap();
    for (bytes, status) in [(16 << 10, 200), (40 << 10, 431)] {
        let request = client.get(site.url("")).header("x", "y".repeat(bytes));
        assert_eq!(request.send().await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn who_reads_nothing_of_many_streams_is_let_go() {
    let site = limited(quick()).await;
    let digest = site.push_blob("a", &vec![7; 32 << 20]).await;
    let mut asks = raw2::greeting();
    for number in 0..64 {
        asks.extend(raw2::get(2 * number + 1, &format!("/v2/a/blobs/{digest}")));
    }
    let mut stream = from(&site, 1).await;
    stream.write_all(&asks).await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < 3 * quick().window {
        let url = site.url(&format!("a/blobs/{digest}"));
        let others = crate::support::client().head(url).send().await.unwrap();
        assert_eq!(others.status(), 200);
    }
    // What was on its way comes, and then the end.
    let (mut taken, mut buffer) = (0, vec![0; 1 << 20]);
    while let Ok(read) = stream.read(&mut buffer).await {
        taken += read;
        if read == 0 || taken > 128 << 20 {
            break;
        }
    }
    assert!(
        taken < 64 << 20,
        "{taken}: cut, and not all of two gigabytes"
    );
}

#[tokio::test]
async fn one_connection_has_no_more_requests_than_many() {
    let limits = Limits {
        connections_per_client: 8,
        ..Limits::default()
    };
    let site = limited(limits).await;
    let digest = site.push_blob("a", &vec![7; 8 << 20]).await;
    let mut asks = raw2::greeting();
    for number in 0..64 {
        asks.extend(raw2::get(2 * number + 1, &format!("/v2/a/blobs/{digest}")));
    }
    let mut stream = from(&site, 1).await;
    stream.write_all(&asks).await.unwrap();
    // Those that are too many are told so at once; the words stand in the clear.
    let (mut said, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    let told = |said: &[u8]| {
        said.windows(15)
            .filter(|w| *w == b"TOOMANYREQUESTS")
            .count()
    };
    while told(&said) < 56 {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "{}", told(&said));
        // What comes of the blob is all sevens.
        said.extend(buffer[..read].iter().filter(|byte| **byte != 7));
    }
    // Others are served meanwhile.
    let mut other = from(&site, 2).await;
    let get = "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    other.write_all(get.as_bytes()).await.unwrap();
    assert!(ended(other).await.starts_with("HTTP/1.1 200"));
}
