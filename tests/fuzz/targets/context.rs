//! What a caller sends as its context, to the receiver itself: manifests, content, tar streams, in any order and
//! never complete; and what is found in it afterwards.
//!
//! The bytes are a little program: an operation and its operands, again and again.

#![no_main]

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use builder_svc::{
    caller::Caller,
    context::{
        Announced, BuildContext, ContentStore, Fetcher, Offered, fetch::Limits, git::ssh::Hosts,
    },
    events::Events,
    grpc::feed,
};
use libfuzzer_sys::fuzz_target;
use slipway_proto::builder::v1::{
    BuildRequest, ContentChunks, ContextEntries, ContextEntry, ContextStream, ManifestOffer,
    Secret, build_request::Part, content_chunks::Chunk,
};

/// Operands, taken from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn some(&mut self, most: usize) -> &'a [u8] {
        let length = usize::from(self.byte()) | usize::from(self.byte()) << 8;
        let (taken, rest) = self.0.split_at(length.min(most).min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.some(300)).into_owned()
    }

    /// One of the contexts, or one that is none.
    fn name(&mut self) -> String {
        ["", "named", "unknown"][usize::from(self.byte() % 3)].to_owned()
    }

    fn digest(&mut self) -> bytes::Bytes {
        match self.byte() % 4 {
            0 => bytes::Bytes::copy_from_slice(self.some(40)),
            n => vec![n; 32].into(),
        }
    }

    fn part(&mut self) -> Option<Part> {
        Some(match self.byte() {
            0 => Part::Entries(ContextEntries {
                context: self.name(),
                entries: (0..self.byte() % 8).map(|_| self.entry()).collect(),
            }),
            1 => Part::ManifestEnd(self.name()),
            2 => Part::Stream(ContextStream {
                context: self.name(),
                data: bytes::Bytes::copy_from_slice(self.some(8192)),
            }),
            3 => Part::Content(ContentChunks {
                chunks: (0..self.byte() % 4).map(|_| self.chunk()).collect(),
            }),
            4 => Part::Secret(Secret {
                id: self.text(),
                ..Secret::default()
            }),
            5 => Part::ManifestOffer(ManifestOffer {
                context: self.name(),
                digest: self.digest(),
            }),
            _ => return None,
        })
    }

    fn entry(&mut self) -> ContextEntry {
        ContextEntry {
            path: self.text(),
            r#type: i32::from(self.byte() % 5),
            mode: u32::from(self.byte()) << 4,
            size: u64::from(self.byte()),
            digest: self.digest(),
            link_target: self.text(),
            mtime: i64::from_le_bytes([self.byte(); 8]),
            same_file: u64::from(self.byte() % 3),
        }
    }

    fn chunk(&mut self) -> Chunk {
        Chunk {
            digest: self.digest(),
            offset: u64::from(self.byte()),
            data: bytes::Bytes::copy_from_slice(self.some(2000)),
            last: self.byte() % 2 == 1,
            error: match self.byte() {
                1 => "no".to_owned(),
                _ => String::new(),
            },
        }
    }
}

/// One for all inputs: what makes a client of it takes far longer than an input. Content that an earlier input
/// left is there, as in a service.
fn fetcher() -> Arc<Fetcher> {
    static FETCHER: OnceLock<(tempfile::TempDir, Arc<Fetcher>)> = OnceLock::new();
    let (_, fetcher) = FETCHER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(folder.path().to_owned()).unwrap();
        let limits = Limits {
            guard: slipway_egress::Guard::default(),
            bytes: 1 << 20,
            silence: Duration::from_secs(1),
        };
        let hosts = Hosts::met(folder.path().join("hosts"));
        (
            folder,
            Arc::new(Fetcher::new(Arc::new(store), limits, hosts).unwrap()),
        )
    });
    fetcher.clone()
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let source = bytes.text();
    let mut parts = Vec::new();
    while !bytes.0.is_empty() && parts.len() < 64 {
        parts.extend(
            bytes
                .part()
                .map(|part| Ok(BuildRequest { part: Some(part) })),
        );
    }
    let fetcher = fetcher();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (tell, _told) = tokio::sync::mpsc::channel(64);
        let events = Events::new(tell);
        let caller = Arc::new(Caller::new([], [], events.clone()));
        let sent = [String::new(), "named".to_owned()];
        let (context, feed) = BuildContext::new(
            fetcher.clone(),
            (events.clone(), caller.clone()),
            &Announced {
                sent: &sent,
                remote: &BTreeMap::new(),
                keep_git_dir: false,
            },
        );
        let store = fetcher.store().clone();
        let offers = feed::Offers {
            offered: Arc::new(Offered::default()),
            events: events.downgrade(),
        };
        let asked = caller.asked.clone();
        let taken = feed::feed(tokio_stream::iter(parts), feed, store, asked, offers);
        let _ = taken.await;
        for name in &sent {
            let Ok(manifest) = context.manifest(name).await else {
                continue;
            };
            for found in manifest.find(&source) {
                assert!(found.path.split('/').all(|part| part != ".."), "{found:?}");
                assert!(found.path.is_empty() || manifest.get(&found.path).is_some());
            }
            let top: Vec<_> = manifest.below("").collect();
            assert_eq!(top.len(), manifest.len());
            for (path, _) in top {
                assert!(
                    !path.starts_with('/') && path.split('/').all(|p| p != ".." && !p.is_empty())
                );
            }
        }
    });
});
