//! A journal that is compacted, and who follows it late.

use std::path::Path;

use futures_util::TryStreamExt as _;

use super::*;
use crate::{bucket::server::Server, ledger};

/// Everything goes as soon as it may, and a checkpoint is written often.
const EAGER: Habits = Habits {
    fresh: Duration::from_secs(60),
    worth: 2_000,
    kept: Duration::ZERO,
};

struct One {
    journal: Journal,
    index: Arc<Index>,
}

struct Place<'a> {
    bucket: Arc<Bucket>,
    server: &'a Server,
    prefix: &'a str,
}

impl<'a> Place<'a> {
    async fn new(server: &'a Server, prefix: &'a str) -> Self {
        let bucket = Arc::new(Self::bucket(server, prefix));
        bucket.claim().await.unwrap();
        Self {
            bucket,
            server,
            prefix,
        }
    }

    fn bucket(server: &Server, prefix: &str) -> Bucket {
        Bucket::new(&server.settings(prefix).check().unwrap().unwrap()).unwrap()
    }

    /// Somebody who follows it, with what he had in a folder.
    async fn open(&self, folder: &Path, habits: Habits) -> Result<One> {
        std::fs::create_dir_all(folder.join("halves")).unwrap();
        // Whoever had it closes it when he is done with it.
        let began = Instant::now();
        let index = loop {
            match Index::open(&folder.join("index")) {
                Ok(index) => break Arc::new(index),
                Err(error) => assert!(began.elapsed() < Duration::from_secs(30), "{error}"),
            }
            tokio::task::yield_now().await;
        };
        let bucket = Arc::new(Self::bucket(self.server, self.prefix));
        let journal = Journal::open_with(habits, bucket, Arc::clone(&index), folder.to_owned());
        let journal = journal.await?;
        Ok(One { journal, index })
    }

    async fn names(&self, folder: &str) -> Vec<String> {
        let listed: Vec<_> = self.bucket.list(folder, None).try_collect().await.unwrap();
        listed.into_iter().map(|l| l.name).collect()
    }

    /// There is a checkpoint, and what was before it is gone.
    async fn is_compacted(&self, before: u64) {
        let began = Instant::now();
        loop {
            let first = self
                .names("journal")
                .await
                .first()
                .and_then(|n| entry::number(n));
            let checkpoints = self.names("checkpoints").await;
            if first.is_some_and(|n| n > before) && checkpoints.len() == 1 {
                return;
            }
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{first:?} {checkpoints:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl One {
    async fn own(&self, name: &str) -> Result<()> {
        let repository = Repository::new("docker.io", name).unwrap();
        let scope = Scope::Repository(repository.clone());
        let decide = move |_: &Index| {
            let repository = repository.clone();
            Ok((vec![Change::Own { repository }], ()))
        };
        ledger::commit(&self.journal, scope, decide).await
    }

    fn owned(&self) -> Vec<String> {
        let mut all = Vec::new();
        let tell = |repository: Repository| {
            all.push(repository.path().to_owned());
            Ok(())
        };
        self.index.each_own(tell).unwrap();
        all
    }
}

fn named(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("team/{n:03}")).collect()
}

#[tokio::test]
async fn who_comes_after_the_journal_was_compacted_has_all_of_it() {
    let Some(server) = Server::shared() else {
        return;
    };
    let (dir, place) = (
        tempfile::tempdir().unwrap(),
        Place::new(server, "compacted").await,
    );
    let at = |name: &str| dir.path().join(name);
    let one = place.open(&at("one"), EAGER).await.unwrap();
    for name in named(0..5) {
        one.own(&name).await.unwrap();
    }
    // Two who know of five: one lives, though it slept, the other one was ended.
    let asleep = Habits {
        fresh: Duration::ZERO,
        ..EAGER
    };
    let alive = place.open(&at("alive"), asleep).await.unwrap();
    let ended = place.open(&at("ended"), EAGER).await.unwrap();
    assert_eq!(ended.owned(), named(0..5));
    ended.journal.close(Box::new(|| Ok(()))).await.unwrap();
    drop(ended);
    for name in named(5..60) {
        one.own(&name).await.unwrap();
    }
    place.is_compacted(6).await;
    alive.journal.refresh().await.unwrap();
    assert_eq!(alive.owned(), named(0..60));
    let ended = place.open(&at("ended"), EAGER).await.unwrap();
    assert_eq!(ended.owned(), named(0..60));
    let new = place.open(&at("new"), EAGER).await.unwrap();
    assert_eq!(new.owned(), named(0..60));
    // All of them go on.
    new.own("team/060").await.unwrap();
    one.own("team/061").await.unwrap();
    ended.journal.refresh().await.unwrap();
    assert_eq!(ended.owned(), named(0..62));
}

/// As made by somebody who slept a day between looking and writing.
#[tokio::test]
async fn an_entry_that_was_made_when_its_place_was_gone_is_none() {
    let Some(server) = Server::shared() else {
        return;
    };
    let (dir, place) = (
        tempfile::tempdir().unwrap(),
        Place::new(server, "stray").await,
    );
    let at = |name: &str| dir.path().join(name);
    let late = place.open(&at("late"), EAGER).await.unwrap();
    late.own("team/000").await.unwrap();
    late.journal.close(Box::new(|| Ok(()))).await.unwrap();
    drop(late);
    let one = place.open(&at("one"), EAGER).await.unwrap();
    for name in named(1..60) {
        one.own(&name).await.unwrap();
    }
    place.is_compacted(2).await;
    let stray = entry::Entry {
        format: entry::FORMAT,
        by: "somebody".to_owned(),
        changes: vec![Change::Own {
            repository: Repository::new("docker.io", "team/stray").unwrap(),
        }],
    };
    let stray = serde_json::to_vec(&stray).unwrap();
    assert!(
        place
            .bucket
            .create(&entry::name(2), stray.into())
            .await
            .unwrap()
    );
    for name in ["late", "new"] {
        let found = place.open(&at(name), EAGER).await.unwrap();
        assert_eq!(found.owned(), named(0..60), "{name}");
    }
}

/// What is written between two restarts counts, though nobody lives long enough to see much of it.
#[tokio::test]
async fn a_journal_of_many_short_lives_is_compacted_too() {
    let Some(server) = Server::shared() else {
        return;
    };
    let (dir, place) = (
        tempfile::tempdir().unwrap(),
        Place::new(server, "short").await,
    );
    for name in named(0..40) {
        let one = place.open(dir.path(), EAGER).await.unwrap();
        one.own(&name).await.unwrap();
        one.journal.close(Box::new(|| Ok(()))).await.unwrap();
        if !place.names("checkpoints").await.is_empty() {
            return;
        }
    }
    panic!("no checkpoint");
}

#[tokio::test]
async fn an_entry_of_a_newer_form_is_told_and_not_followed() {
    let Some(server) = Server::shared() else {
        return;
    };
    let (dir, place) = (
        tempfile::tempdir().unwrap(),
        Place::new(server, "newer").await,
    );
    let newer = r#"{"format":99,"by":"x","changes":[{"do":"fly"}]}"#;
    assert!(
        place
            .bucket
            .create(&entry::name(1), newer.into())
            .await
            .unwrap()
    );
    let error = place
        .open(dir.path(), EAGER)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("a newer registry-svc writes there"),
        "{error}"
    );
}

#[tokio::test]
async fn changes_that_are_large_are_made_one_after_the_other() {
    let Some(server) = Server::shared() else {
        return;
    };
    let (dir, place) = (
        tempfile::tempdir().unwrap(),
        Place::new(server, "large-entries").await,
    );
    let one = place.open(dir.path(), Habits::default()).await.unwrap();
    // Each is a bit more than half of what is made together.
    let long = "x".repeat(60);
    let commits = (0..4).map(|n| {
        let repository = Repository::new("docker.io", &format!("team/{n}")).unwrap();
        let changes: Vec<_> = (0..20_000)
            .map(|m| Change::Own {
                repository: Repository::new("docker.io", &format!("{long}/{n}-{m}")).unwrap(),
            })
            .collect();
        let decide = move |_: &Index| Ok((changes.clone(), ()));
        ledger::commit(&one.journal, Scope::Repository(repository), decide)
    });
    for done in futures_util::future::join_all(commits).await {
        done.unwrap();
    }
    let listed: Vec<_> = place
        .bucket
        .list("journal", None)
        .try_collect()
        .await
        .unwrap();
    let sizes: Vec<_> = listed.iter().map(|l| l.size).collect();
    assert!(
        sizes.iter().all(|size| *size < TOGETHER_BYTES as u64 * 2),
        "{sizes:?}"
    );
    assert_eq!(one.owned().len(), 80_000);
}
