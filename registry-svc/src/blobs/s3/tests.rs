//! The store on a real server.

use slipway_image::Algorithm;

use super::*;
use crate::{
    blobs::{Staged, conformance},
    bucket::server::Server,
    ledger::journal::Journal,
};

struct Opened {
    store: Arc<S3Store>,
    bucket: Arc<Bucket>,
    index: Arc<Index>,
}

async fn open(server: &Server, prefix: &str, folder: &Path) -> Opened {
    let config = server.settings(prefix).check().unwrap().unwrap();
    let bucket = Arc::new(Bucket::new(&config).unwrap());
    let id = bucket.claim().await.unwrap();
    std::fs::create_dir_all(folder.join("halves")).unwrap();
    bucket.forget_halves(&folder.join("halves")).await.unwrap();
    let index = Arc::new(Index::open(&folder.join("index")).unwrap());
    index.begin_again(&id).unwrap();
    let journal = Journal::open(Arc::clone(&bucket), Arc::clone(&index), folder.to_owned());
    let ledger: Arc<dyn Ledger> = Arc::new(journal.await.unwrap());
    let store = S3Store::open(
        Arc::clone(&bucket),
        ledger,
        Arc::clone(&index),
        folder,
        false,
    );
    Opened {
        store: Arc::new(store.unwrap()),
        bucket,
        index,
    }
}

async fn objects(bucket: &Bucket) -> Vec<String> {
    let listed: Vec<_> = bucket.list("blobs", None).try_collect().await.unwrap();
    listed.into_iter().map(|object| object.name).collect()
}

#[tokio::test]
async fn the_bucket_is_a_blob_store() {
    let Some(server) = Server::shared() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let opened = open(server, "conformance", &dir.path().join("bucket")).await;
    let staging = dir.path().join("tmp");
    std::fs::create_dir(&staging).unwrap();
    conformance::run(opened.store, &staging, conformance::Parts::AreACache).await;
    assert_eq!(objects(&opened.bucket).await, [""; 0]);
}

/// Between the word that it goes and the removal, another process may be quick.
#[tokio::test]
async fn a_removal_that_is_late_hits_nothing_that_was_stored_since() {
    let Some(server) = Server::shared() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (at, staging) = (|name: &str| dir.path().join(name), dir.path());
    let one = open(server, "late-removal", &at("one")).await;
    let other = open(server, "late-removal", &at("other")).await;
    let put = async |into: &Opened| {
        let staged = Staged::create(staging, Algorithm::Sha256).await.unwrap();
        staged.write(vec!["content".into()]).await.unwrap();
        let verified = staged.finish(None, None).await.unwrap();
        into.store.adopt(verified).await.unwrap()
    };
    assert!(put(&one).await);
    let digest = Digest::of("content");
    let before = objects(&one.bucket).await;
    let named = digest.clone();
    let decide = move |_: &Index| {
        let digest = named.clone();
        Ok((vec![Change::Gone { digest }], ()))
    };
    let scope = Scope::Blob(digest.clone());
    ledger::commit(&*one.store.ledger, scope, decide)
        .await
        .unwrap();
    other.store.ledger.refresh().await.unwrap();
    assert!(put(&other).await);
    one.store.ledger.refresh().await.unwrap();
    assert_eq!(one.store.delete(&digest).await.unwrap(), 7);
    for opened in [&one, &other] {
        opened.store.ledger.refresh().await.unwrap();
        let content = opened.store.read_small(&digest, 10).await.unwrap();
        assert_eq!(content, "content");
    }
    let after = objects(&one.bucket).await;
    assert!(after.len() == 1 && after != before);
}

#[tokio::test]
async fn what_a_crash_left_goes_and_what_is_known_stays() {
    let Some(server) = Server::shared() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("bucket");
    let one = open(server, "strangers", &folder).await;
    let staged = Staged::create(dir.path(), Algorithm::Sha256).await.unwrap();
    // Several pieces.
    for _ in 0..9 {
        staged.write(vec![vec![7; 1 << 20].into()]).await.unwrap();
    }
    let verified = staged.finish(None, None).await.unwrap();
    let digest = verified.digest().clone();
    assert!(one.store.adopt(verified).await.unwrap());
    assert_eq!(one.store.stat(&digest).await.unwrap(), Some(9 << 20));
    let known = objects(&one.bucket).await;
    let stranger = format!("{}x", known[0]);
    assert!(one.bucket.create(&stranger, "left".into()).await.unwrap());
    assert_eq!(one.store.strangers(STRANGE, true).await.unwrap(), [""; 0]);
    assert_eq!(
        one.store.strangers(Duration::ZERO, true).await.unwrap(),
        [stranger]
    );
    assert_eq!(objects(&one.bucket).await, known);
    // Another process, which knows nothing yet, finds it by the journal; so does one that lost its index.
    let other = open(server, "strangers", &dir.path().join("other")).await;
    assert_eq!(other.store.stat(&digest).await.unwrap(), Some(9 << 20));
    other.store.delete(&digest).await.unwrap();
    // The first one did not hear of it, and stores it again: another object.
    assert!(one.index.object(&digest).unwrap().is_some());
    let staged = Staged::create(dir.path(), Algorithm::Sha256).await.unwrap();
    for _ in 0..9 {
        staged.write(vec![vec![7; 1 << 20].into()]).await.unwrap();
    }
    let verified = staged.finish(None, None).await.unwrap();
    assert!(one.store.adopt(verified).await.unwrap());
    let again = objects(&one.bucket).await;
    assert!(again.len() == 1 && again != known);
    let all = one.store.read(&digest, Range::default()).await.unwrap();
    let pieces: Vec<Bytes> = all.stream.try_collect().await.unwrap();
    assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), 9 << 20);
}
