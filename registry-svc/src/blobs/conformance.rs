//! What every blob store must do.

use std::path::Path;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use slipway_image::Algorithm;

use super::{BlobStore, READ_SIZE, Range, Staged, staging::digest_of};
use crate::error::Error;

/// Runs all checks against an empty store; `staging` is a folder on its filesystem.
pub async fn run(store: &dyn BlobStore, staging: &Path) {
    nothing_is_there_at_first(store).await;
    adopted_content_is_read_back(store, staging).await;
    wrong_content_never_becomes_visible(store, staging).await;
    ranges_are_cut_to_what_there_is(store, staging).await;
    readers_outlive_a_delete(store, staging).await;
    sha512_is_checked_even_when_it_is_told_last(store, staging).await;
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
