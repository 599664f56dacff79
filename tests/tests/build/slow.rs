//! Callers that do not send what they have announced.

use slipway_image::Digest;
use slipway_proto::builder::v1::{
    BuildEvent, BuildRequest, BuildStart, ContextEntries, ContextEntry, build_event,
    build_request::Part, context_entry,
};
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::*;

/// Need no worker, need one, and show a worker the file.
const KINDS: [&str; 3] = [
    "FROM scratch\nCOPY file /\n",
    "FROM busybox\nCOPY file /\n",
    "FROM busybox\nRUN --mount=target=/c cat /c/file > /file\n",
];

fn bytes_of(digest: &Digest) -> Vec<u8> {
    let pairs = digest.encoded().as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.map(byte).collect()
}

/// Begins a build with a file of this content that is never sent; returns when it was asked for.
async fn stalled(site: &Site, dockerfile: &str, content: &str) -> Streaming<BuildEvent> {
    let start = BuildStart {
        dockerfile: dockerfile.to_owned().into(),
        dockerfile_name: "Dockerfile".to_owned(),
        tags: vec!["stalled".to_owned()],
        ..BuildStart::default()
    };
    let entry = ContextEntry {
        path: "file".to_owned(),
        r#type: context_entry::Type::File.into(),
        mode: 0o644,
        size: content.len() as u64,
        digest: bytes_of(&Digest::of(content)).into(),
        ..ContextEntry::default()
    };
    let entries = ContextEntries {
        context: String::new(),
        entries: vec![entry],
    };
    let parts = [
        Part::Start(start),
        Part::Entries(entries),
        Part::ManifestEnd(String::new()),
    ];
    let requests = parts.map(|part| BuildRequest { part: Some(part) });
    let requests = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let mut events = site.builder().build(requests).await.unwrap().into_inner();
    loop {
        let event = events.message().await.unwrap().unwrap();
        if matches!(event.event, Some(build_event::Event::Need(_))) {
            return events;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_send_keeps_nobody_else_waiting() {
    if !slipway_tests::ready() {
        return;
    }
    let site = site().await;
    // More of each kind than steps may run at once.
    let many = 2 * std::thread::available_parallelism().map_or(4, |n| n.get().max(4));
    let mut open = Vec::new();
    for number in 0..many {
        for file in KINDS {
            open.push(stalled(&site, file, &number.to_string()).await);
        }
    }
    // A file of its own; and the very steps that others have announced too.
    for content in ["own", "0"] {
        for (tag, file) in ["a", "b", "c"].into_iter().zip(KINDS) {
            let files = [("Dockerfile", file), ("file", content)];
            write(&site.path("context"), &files);
            let said = built(&site, tag, &[]);
            assert!(!said.err.contains("this one waits"), "{}", said.err);
        }
        assert_eq!(shell(&site, "b", "cat /file"), content);
        assert_eq!(shell(&site, "c", "cat /file"), content);
    }
    drop(open);
    nothing_is_left(&site, "of those that did not send").await;
}
