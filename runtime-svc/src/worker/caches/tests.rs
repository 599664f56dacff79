//! Who gets which cache, and what is there after a kill.

use super::*;

fn wanted(id: &str, sharing: Sharing) -> Wanted {
    Wanted {
        id: id.to_owned(),
        base: String::new(),
        sharing,
    }
}

async fn get(caches: &Caches, id: &str, sharing: Sharing) -> Use {
    let got = caches.get(&wanted(id, sharing), |_| Ok(())).await;
    got.unwrap()
}

fn caches(folder: &Path, limit: u64) -> Caches {
    Caches::open(folder.to_owned(), Broom::start().unwrap(), limit).unwrap()
}

#[tokio::test]
async fn sharing_is_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(folder.path(), u64::MAX);
    let (one, two) = (
        get(&caches, "a", Sharing::Shared).await,
        get(&caches, "a", Sharing::Shared).await,
    );
    assert_eq!(one.folder, two.folder);
    let private = get(&caches, "a", Sharing::Private).await;
    assert_ne!(one.folder, private.folder);
    let other = get(&caches, "b", Sharing::Locked).await;
    assert_ne!(other.folder, one.folder);
    let waiting = tokio::spawn({
        let caches = caches.clone();
        async move { get(&caches, "b", Sharing::Locked).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    // Who shares does not wait for who has locked: another one is made.
    let beside = get(&caches, "b", Sharing::Shared).await;
    assert_ne!(beside.folder, other.folder);
    let first = other.folder.clone();
    drop(other);
    let later = waiting.await.unwrap();
    assert_eq!(later.folder, first);
    // One that nobody uses is found again, whoever made it.
    drop((one, two));
    let again = get(&caches, "a", Sharing::Locked).await;
    assert!(again.folder.is_dir());
    assert_eq!(
        caches.list().iter().filter(|t| t.record.id == "a").count(),
        2
    );
}

#[tokio::test]
async fn one_that_is_made_for_nobody_any_more_is_found_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(folder.path(), u64::MAX);
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
    let step = tokio::spawn({
        let caches = caches.clone();
        async move {
            let begin = move |folder: &Path| {
                begun.send(()).unwrap();
                goes_on.recv().unwrap();
                fs::write(folder.join("file"), "x").unwrap();
                Ok(())
            };
            let made = caches.get(&wanted("a", Sharing::Shared), begin).await;
            made.unwrap();
        }
    });
    has_begun.await.unwrap();
    step.abort();
    assert!(step.await.unwrap_err().is_cancelled());
    let next = tokio::spawn({
        let caches = caches.clone();
        async move { get(&caches, "a", Sharing::Shared).await }
    });
    tokio::task::yield_now().await;
    go_on.send(()).unwrap();
    let cache = next.await.unwrap();
    assert_eq!(fs::read(cache.folder.join("file")).unwrap(), b"x");
    assert_eq!(caches.list().len(), 1);
}

#[tokio::test]
async fn caches_outlive_their_service_and_half_of_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let first = caches(folder.path(), u64::MAX);
    let cache = get(&first, "a", Sharing::Shared).await;
    fs::write(cache.folder.join("file"), "x").unwrap();
    // As kill -9: nothing is given back.
    std::mem::forget(cache);
    let failed = first
        .get(&wanted("b", Sharing::Shared), |_| {
            Err(Error::Invalid("no".to_owned()))
        })
        .await;
    assert!(failed.is_err());
    fs::create_dir_all(folder.path().join(format!("{}.new/fs", ids::new_id()))).unwrap();
    let second = caches(folder.path(), u64::MAX);
    let told = second.list();
    assert_eq!(told.len(), 1);
    assert!(!told[0].in_use);
    let cache = get(&second, "a", Sharing::Locked).await;
    assert_eq!(fs::read(cache.folder.join("file")).unwrap(), b"x");
    let name = cache.name.clone();
    assert!(
        second.remove(std::slice::from_ref(&name)).is_empty(),
        "it is in use"
    );
    drop(cache);
    assert_eq!(second.remove(std::slice::from_ref(&name))[0].0, name);
    assert!(second.list().is_empty());
}

#[tokio::test]
async fn a_record_is_whole_at_every_instant_although_several_count() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(folder.path(), u64::MAX);
    let cache = get(&caches, &"a".repeat(LONGEST_ID), Sharing::Shared).await;
    let note = folder.path().join(&cache.name).join("cache.json");
    std::thread::scope(|scope| {
        let count = || (0..500).for_each(|_| caches.settle(&cache.name));
        let counting: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        while counting.iter().any(|thread| !thread.is_finished()) {
            let text = fs::read(&note).unwrap();
            let read = serde_json::from_slice::<Record>(&text);
            assert!(read.is_ok(), "{} bytes of a record", text.len());
        }
    });
}

#[tokio::test]
async fn the_one_used_longest_ago_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let caches = caches(folder.path(), 100_000);
    let mut names = Vec::new();
    for id in ["old", "new"] {
        let cache = get(&caches, id, Sharing::Shared).await;
        fs::write(cache.folder.join("file"), [7; 60_000]).unwrap();
        names.push(cache.name.clone());
        std::mem::forget(cache);
        let mut entries = caches.lock();
        let entry = entries.get_mut(names.last().unwrap()).unwrap();
        entry.users = 0;
        entry.record.last_used = names.len() as u64;
    }
    caches.settle(&names[0]);
    assert_eq!(caches.list().len(), 2);
    caches.settle(&names[1]);
    let left: Vec<String> = caches.list().into_iter().map(|t| t.record.id).collect();
    assert_eq!(left, ["new"]);
}
