use super::{
    super::{Staged, assembly::Assembly},
    *,
};

#[tokio::test]
async fn the_filesystem_store_is_a_blob_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = FsStore::open(dir.path().join("blobs")).unwrap();
    let parts = super::super::conformance::Parts::AreContent;
    super::super::conformance::run(Arc::new(store), dir.path(), parts).await;
}

/// In a process of its own, in which a wait for the disk can be told from none.
#[cfg(debug_assertions)]
#[tokio::test]
async fn what_is_here_already_waits_for_the_disk_as_all_else() {
    let Some(faults) = std::env::var_os(slipway_fault::VARIABLE) else {
        let faults = tempfile::tempdir().unwrap();
        let name = "what_is_here_already_waits_for_the_disk_as_all_else";
        let own = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("blobs::fs::tests::{name}")])
            .env(slipway_fault::VARIABLE, faults.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&own.stdout);
        assert!(own.status.success() && said.contains("1 passed"), "{said}");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let store = FsStore::open(dir.path().join("blobs")).unwrap();
    let store: Arc<dyn BlobStore> = Arc::new(store);
    let adopt = async |content: &'static str| {
        let staged = Staged::create(dir.path(), Algorithm::Sha256).await.unwrap();
        staged.write(vec![content.into()]).await.unwrap();
        store.adopt(staged.finish(None, None).await.unwrap()).await
    };
    let compose = async |content: &'static str| {
        let begun = Assembly::begin(Arc::clone(&store), dir.path()).await;
        let mut blob = begun.unwrap();
        blob.begin_part().await.unwrap();
        blob.write(vec![content.into()]).await.unwrap();
        blob.end_part().await.unwrap();
        store.compose(blob.finish(None, None).await.unwrap()).await
    };
    assert!(adopt("whole").await.unwrap());
    assert!(compose("of parts").await.unwrap());
    for content in ["whole", "of parts"] {
        assert!(!adopt(content).await.unwrap());
        assert!(!compose(content).await.unwrap());
        let fails = |point: &str| {
            let fails = slipway_fault::Action::Fail(28).to_string();
            fs::write(Path::new(&faults).join(point), fails).unwrap();
        };
        fails("registry.store.sync");
        adopt(content).await.unwrap_err();
        fails("registry.store.named");
        adopt(content).await.unwrap_err();
        fails("registry.store.named");
        compose(content).await.unwrap_err();
    }
}

#[tokio::test]
async fn parts_that_a_crash_left_go_and_the_others_are_counted_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("blobs");
    let open = || -> Arc<dyn BlobStore> { Arc::new(FsStore::open(root.clone()).unwrap()) };
    let store = open();
    let staged = |content: &'static str| async {
        let staged = Staged::create(dir.path(), Algorithm::Sha256).await.unwrap();
        staged.write(vec![content.into()]).await.unwrap();
        staged.finish(None, None).await.unwrap()
    };
    let mut blob = Assembly::begin(Arc::clone(&store), dir.path())
        .await
        .unwrap();
    blob.begin_part().await.unwrap();
    blob.write(vec!["kept".into()]).await.unwrap();
    let (kept, _) = blob.end_part().await.unwrap();
    let assembled = blob.finish(None, None).await.unwrap();
    let digest = assembled.digest.clone();
    store.compose(assembled).await.unwrap();
    let left = store.add_part(staged("left").await).await.unwrap();
    let path = left.path();
    // As kill -9 leaves it.
    std::mem::forget(left);
    let store = open();
    let pin = store.pin_part(&kept).await.unwrap().unwrap();
    assert!(pin.path().exists() && !path.exists());
    assert_eq!(store.read_small(&digest, 10).await.unwrap(), "kept");
    // A damaged one gets into no other blob, until it is sent again.
    fs::write(pin.path(), "rust").unwrap();
    let known = async || {
        let mut blob = Assembly::begin(Arc::clone(&store), dir.path())
            .await
            .unwrap();
        blob.known(&kept, 4).await.unwrap()
    };
    assert!(!known().await);
    drop(store.add_part(staged("kept").await).await.unwrap());
    assert!(known().await);
    fs::write(pin.path(), "short").unwrap();
    assert!(!known().await);
    drop(pin);
    // What cannot be put together any more is not here.
    let recipe = root.join("recipes/sha256");
    let recipe = entries(&entries(&recipe).unwrap()[0]).unwrap().remove(0);
    fs::write(recipe, "{").unwrap();
    let store = open();
    assert_eq!(store.stat(&digest).await.unwrap(), None);
    assert!(store.pin_part(&kept).await.unwrap().is_none());
    assert!(store.list().await.unwrap().is_empty());
}
