//! What every blob store must do.

use std::{collections::HashMap, path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use slipway_image::Algorithm;

use super::{BlobStore, READ_SIZE, Range, Staged, assembly::Assembly, staging::digest_of};
use crate::error::Error;

/// What parts are to a store.
#[derive(Clone, Copy, PartialEq)]
pub enum Parts {
    /// What blobs are made of: several blobs share them.
    AreContent,
    /// What spares a client to send them again.
    AreACache,
}

/// Runs all checks against an empty store; `staging` is a folder on its filesystem.
pub async fn run(shared: Arc<dyn BlobStore>, staging: &Path, parts: Parts) {
    let store = &*shared;
    nothing_is_there_at_first(store).await;
    adopted_content_is_read_back(store, staging).await;
    wrong_content_never_becomes_visible(store, staging).await;
    ranges_are_cut_to_what_there_is(store, staging).await;
    readers_outlive_a_delete(store, staging).await;
    sha512_is_checked_even_when_it_is_told_last(store, staging).await;
    blobs_of_parts_are_blobs(&shared, staging).await;
    parts_stay_as_long_as_somebody_has_them(&shared, staging, parts).await;
    wrong_parts_leave_nothing(&shared, staging).await;
    whole_blobs_are_told_one_by_one_and_stay_where_they_are(&shared, staging).await;
}

async fn whole_blobs_are_told_one_by_one_and_stay_where_they_are(
    store: &Arc<dyn BlobStore>,
    staging: &Path,
) {
    let part = some_content(5000);
    let (composed, _) = compose(store, staging, &[Of::Rest(b"of"), Of::New(&part)]).await;
    let file = put(&**store, staging, b"a file").await;
    let listed = store.list().await.unwrap();
    assert_eq!(listed.len(), 2);
    for blob in listed {
        assert_eq!(
            store.info(&blob.digest).await.unwrap().as_ref(),
            Some(&blob)
        );
        assert!(!store.quarantine(&blob.digest).await.unwrap());
        let size = store.stat(&blob.digest).await.unwrap();
        assert_eq!(size, Some(blob.size));
    }
    for digest in [composed, file] {
        store.delete(&digest).await.unwrap();
        assert_eq!(store.info(&digest).await.unwrap(), None);
        assert!(!store.quarantine(&digest).await.unwrap());
    }
}

async fn put(store: &dyn BlobStore, staging: &Path, content: &[u8]) -> slipway_image::Digest {
    let digest = digest_of(content, None);
    let staged = Staged::create(staging, Algorithm::Sha256).await.unwrap();
    for chunk in content.chunks(100_000) {
        staged
            .write(vec![Bytes::copy_from_slice(chunk)])
            .await
            .unwrap();
    }
    let verified = staged
        .finish(Some(&digest), Some(content.len() as u64))
        .await
        .unwrap();
    store.adopt(verified).await.unwrap();
    digest
}

async fn get(store: &dyn BlobStore, digest: &slipway_image::Digest, range: Range) -> Vec<u8> {
    let reader = store.read(digest, range).await.unwrap();
    let length = reader.length;
    let pieces: Vec<Bytes> = reader.stream.try_collect().await.unwrap();
    assert!(pieces.iter().all(|p| p.len() <= READ_SIZE));
    let content = pieces.concat();
    assert_eq!(content.len() as u64, length);
    content
}

fn some_content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

async fn nothing_is_there_at_first(store: &dyn BlobStore) {
    let digest = digest_of(b"nothing", None);
    assert_eq!(store.stat(&digest).await.unwrap(), None);
    assert!(matches!(
        store.read(&digest, Range::default()).await,
        Err(Error::BlobNotFound(_))
    ));
    assert_eq!(store.delete(&digest).await.unwrap(), 0);
    assert!(store.list().await.unwrap().is_empty());
}

async fn adopted_content_is_read_back(store: &dyn BlobStore, staging: &Path) {
    for size in [0, 1, READ_SIZE, READ_SIZE + 1, 3 * READ_SIZE + 7] {
        let content = some_content(size);
        let digest = put(store, staging, &content).await;
        assert_eq!(store.stat(&digest).await.unwrap(), Some(size as u64));
        assert_eq!(get(store, &digest, Range::default()).await, content);
        // Once more: nothing changes.
        assert_eq!(put(store, staging, &content).await, digest);
        assert!(store.delete(&digest).await.unwrap() >= size as u64);
        assert_eq!(store.stat(&digest).await.unwrap(), None);
    }
    let digest = put(store, staging, b"small").await;
    assert_eq!(store.read_small(&digest, 5).await.unwrap(), "small");
    assert!(matches!(
        store.read_small(&digest, 4).await,
        Err(Error::TooLarge { .. })
    ));
    assert_eq!(store.list().await.unwrap().len(), 1);
    store.delete(&digest).await.unwrap();
}

async fn wrong_content_never_becomes_visible(store: &dyn BlobStore, staging: &Path) {
    let files = || std::fs::read_dir(staging).unwrap().count();
    let before = files();
    let promised = digest_of(b"promised", None);
    let staged = Staged::create(staging, Algorithm::Sha256).await.unwrap();
    staged.write(vec!["delivered".into()]).await.unwrap();
    assert!(matches!(
        staged.finish(Some(&promised), None).await,
        Err(Error::DigestMismatch { .. })
    ));
    let staged = Staged::create(staging, Algorithm::Sha256).await.unwrap();
    staged.write(vec!["promised".into()]).await.unwrap();
    assert!(matches!(
        staged.finish(Some(&promised), Some(9)).await,
        Err(Error::SizeMismatch { .. })
    ));
    assert_eq!(store.stat(&promised).await.unwrap(), None);
    assert_eq!(files(), before, "nothing is left behind");
}

async fn ranges_are_cut_to_what_there_is(store: &dyn BlobStore, staging: &Path) {
    let content = some_content(READ_SIZE * 2 + 5);
    let digest = put(store, staging, &content).await;
    let end = content.len() as u64;
    for (offset, length, expected) in [
        (0, Some(1), &content[..1]),
        (5, Some(READ_SIZE as u64), &content[5..5 + READ_SIZE]),
        (end - 3, None, &content[content.len() - 3..]),
        (end - 3, Some(100), &content[content.len() - 3..]),
        (end, None, &[]),
        (end + 10, Some(3), &[]),
    ] {
        let got = get(store, &digest, Range { offset, length }).await;
        assert_eq!(got, expected, "{offset} {length:?}");
    }
    store.delete(&digest).await.unwrap();
}

async fn readers_outlive_a_delete(store: &dyn BlobStore, staging: &Path) {
    let content = some_content(READ_SIZE * 3);
    let digest = put(store, staging, &content).await;
    let reader = store.read(&digest, Range::default()).await.unwrap();
    store.delete(&digest).await.unwrap();
    let pieces: Vec<Bytes> = reader.stream.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), content);
}

async fn sha512_is_checked_even_when_it_is_told_last(store: &dyn BlobStore, staging: &Path) {
    let zero: slipway_image::Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
    let digest = digest_of(b"content", Some(&zero));
    let staged = Staged::create(staging, Algorithm::Sha256).await.unwrap();
    staged.write(vec!["content".into()]).await.unwrap();
    store
        .adopt(staged.finish(Some(&digest), None).await.unwrap())
        .await
        .unwrap();
    assert_eq!(store.stat(&digest).await.unwrap(), Some(7));
    store.delete(&digest).await.unwrap();
}

/// What a blob is made of.
enum Of<'a> {
    Rest(&'a [u8]),
    New(&'a [u8]),
    Known(&'a [u8]),
}

async fn assemble(store: &Arc<dyn BlobStore>, staging: &Path, pieces: &[Of<'_>]) -> Assembly {
    let mut blob = Assembly::begin(Arc::clone(store), staging).await.unwrap();
    for piece in pieces {
        match piece {
            Of::Rest(content) => {
                for chunk in content.chunks(100_000) {
                    let chunk = vec![Bytes::copy_from_slice(chunk)];
                    blob.write(chunk).await.unwrap();
                }
            }
            Of::New(content) => {
                blob.begin_part().await.unwrap();
                blob.write(vec![Bytes::copy_from_slice(content)])
                    .await
                    .unwrap();
                let part = blob.end_part().await.unwrap();
                assert_eq!(part, (digest_of(content, None), content.len() as u64));
            }
            Of::Known(content) => {
                let part = digest_of(content, None);
                assert!(blob.known(&part, content.len() as u64).await.unwrap());
            }
        }
    }
    blob
}

async fn compose(
    store: &Arc<dyn BlobStore>,
    staging: &Path,
    pieces: &[Of<'_>],
) -> (slipway_image::Digest, Vec<u8>) {
    let all = pieces.iter().map(|piece| match piece {
        Of::Rest(content) | Of::New(content) | Of::Known(content) => *content,
    });
    let content = all.collect::<Vec<_>>().concat();
    let digest = digest_of(&content, None);
    let blob = assemble(store, staging, pieces).await;
    let size = Some(content.len() as u64);
    let assembled = blob.finish(Some(&digest), size).await.unwrap();
    store.compose(assembled).await.unwrap();
    (digest, content)
}

async fn blobs_of_parts_are_blobs(store: &Arc<dyn BlobStore>, staging: &Path) {
    let (one, two) = (some_content(READ_SIZE + 3), some_content(1000));
    let pieces = [
        Of::Rest(b"begin"),
        Of::New(&one),
        Of::New(&two),
        Of::Rest(b"middle"),
        Of::New(&one),
        Of::Rest(b"end"),
    ];
    let (digest, content) = compose(store, staging, &pieces).await;
    let end = content.len() as u64;
    assert_eq!(store.stat(&digest).await.unwrap(), Some(end));
    for (offset, length) in [
        (0, None),
        (0, Some(7)),
        (3, Some(READ_SIZE as u64)),
        (READ_SIZE as u64 + 1, Some(1100)),
        (end - 4, None),
        (end, None),
    ] {
        let got = get(&**store, &digest, Range { offset, length }).await;
        let to = length.map_or(end, |length| (offset + length).min(end));
        let expected = &content[offset as usize..to as usize];
        assert_eq!(got, expected, "{offset} {length:?}");
    }
    let all = store.read_small(&digest, end).await.unwrap();
    assert_eq!(all, content);
    assert!(matches!(
        store.read_small(&digest, end - 1).await,
        Err(Error::TooLarge { .. })
    ));
    // The same in one piece changes nothing.
    assert_eq!(put(&**store, staging, &content).await, digest);
    let listed = store.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].digest, listed[0].size), (&digest, end));
    // Everything that it takes goes.
    assert_eq!(store.delete(&digest).await.unwrap(), on_disk(&listed));
    compose(store, staging, &pieces).await;
    // A reader reads on: what he has not opened yet goes when he is done.
    let reader = store.read(&digest, Range::default()).await.unwrap();
    store.delete(&digest).await.unwrap();
    assert_eq!(store.stat(&digest).await.unwrap(), None);
    let pieces: Vec<Bytes> = reader.stream.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), content);
    let part = digest_of(&one, None);
    assert!(store.pin_part(&part).await.unwrap().is_none());
}

/// What blobs take, parts that several have once.
fn on_disk(listed: &[super::BlobInfo]) -> u64 {
    let parts: HashMap<_, _> = listed
        .iter()
        .flat_map(|b| b.parts.iter().cloned())
        .collect();
    let own: u64 = listed.iter().map(|blob| blob.disk).sum();
    own + parts.values().sum::<u64>()
}

async fn parts_stay_as_long_as_somebody_has_them(
    store: &Arc<dyn BlobStore>,
    staging: &Path,
    parts: Parts,
) {
    let part = some_content(50_000);
    let name = digest_of(&part, None);
    let first = [Of::Rest(b"first"), Of::New(&part)];
    let (first, _) = compose(store, staging, &first).await;
    let second = [Of::Known(&part), Of::Rest(b"second"), Of::Known(&part)];
    let (second, content) = compose(store, staging, &second).await;
    let listed = store.list().await.unwrap();
    for blob in listed.iter().filter(|_| parts == Parts::AreContent) {
        let it = blob.parts.iter().filter(|(digest, _)| *digest == name);
        let disk = it.map(|(_, disk)| *disk).collect::<Vec<_>>();
        assert!(disk.len() == 1 && disk[0] >= part.len() as u64, "{blob:?}");
    }
    let freed = store.delete(&first).await.unwrap();
    assert_eq!(freed < part.len() as u64, parts == Parts::AreContent);
    let left = store.list().await.unwrap();
    assert_eq!((listed.len(), left.len()), (2, 1));
    assert_eq!(on_disk(&left), on_disk(&listed) - freed);
    let got = get(&**store, &second, Range::default()).await;
    assert_eq!(got, content);
    let held = store.pin_part(&name).await.unwrap();
    let freed = store.delete(&second).await.unwrap();
    assert_eq!(freed < part.len() as u64, parts == Parts::AreContent);
    assert!(held.unwrap().path().exists());
    assert!(store.pin_part(&name).await.unwrap().is_none());
    assert!(store.list().await.unwrap().is_empty());
}

async fn wrong_parts_leave_nothing(store: &Arc<dyn BlobStore>, staging: &Path) {
    let files = || std::fs::read_dir(staging).unwrap().count();
    let (before, part) = (files(), some_content(50_000));
    let name = digest_of(&part, None);
    let blob = assemble(store, staging, &[Of::Rest(b"x"), Of::New(&part)]).await;
    let promised = digest_of(b"promised", None);
    assert!(matches!(
        blob.finish(Some(&promised), None).await,
        Err(Error::DigestMismatch { .. })
    ));
    let mut blob = assemble(store, staging, &[Of::New(&part)]).await;
    let gone = digest_of(b"gone", None);
    assert!(!blob.known(&gone, 4).await.unwrap());
    // Of another size, or not on the disk yet.
    assert!(!matches!(blob.known(&name, 4).await, Ok(true)));
    // As a client may say.
    assert!(!matches!(blob.known(&name, u64::MAX).await, Ok(true)));
    blob.begin_part().await.unwrap();
    assert!(blob.begin_part().await.is_err());
    assert!(blob.finish(None, None).await.is_err());
    // What was on its way to the disk goes when it is there.
    while store.pin_part(&name).await.unwrap().is_some() || files() != before {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.stat(&promised).await.unwrap(), None);
}
