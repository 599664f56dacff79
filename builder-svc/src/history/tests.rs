use std::time::{Duration, SystemTime};

use super::*;

fn entry(id: &str, second: u64) -> Entry {
    Entry {
        id: id.to_owned(),
        name: "n".to_owned(),
        tags: Vec::new(),
        target: String::new(),
        platforms: Vec::new(),
        dockerfile: String::new(),
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
        took: None,
        status: Status::Running,
        error: String::new(),
        image: String::new(),
        steps: 0,
        cached: 0,
    }
}

#[tokio::test]
async fn builds_are_remembered_and_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        builds: 2,
        bytes: 1 << 20,
    };
    let open = || Arc::new(History::open(folder.path().to_owned(), limits).unwrap());
    let history = open();
    for (id, second) in [("a", 1), ("b", 2), ("c", 3)] {
        let mut recording = history.begin(entry(id, second));
        let mut log = history.log(id);
        log.add(b"one");
        log.add(b"two");
        recording.end(Ok((String::new(), 3, 1)));
        history.settle(log).await;
    }
    drop(history.begin(entry("d", 4)));
    fs::write(folder.path().join("d.new"), "{").unwrap();
    let _running = std::mem::ManuallyDrop::new(history.begin(entry("e", 5)));
    // What a power cut leaves.
    fs::write(folder.path().join("f.json"), "").unwrap();
    fs::write(folder.path().join("f.log"), "x").unwrap();
    let again = open();
    let seen: Vec<_> = again.list().into_iter().map(|e| (e.id, e.status)).collect();
    let expected = [
        ("e".to_owned(), Status::Error),
        ("d".to_owned(), Status::Canceled),
        ("c".to_owned(), Status::Completed),
    ];
    assert_eq!(seen, expected);
    let mut log = Vec::new();
    again
        .read("c", |message| {
            log.push(message);
            true
        })
        .unwrap();
    assert_eq!(log, [b"one", b"two"]);
    again.remove(None).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_log_that_was_cut_off_is_read_as_far_as_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits {
        builds: 2,
        bytes: 1 << 20,
    };
    let history = History::open(folder.path().to_owned(), limits).unwrap();
    fs::write(folder.path().join("x.log"), b"\x01\0\0\0a\x09\0\0\0b").unwrap();
    let mut count = 0;
    history
        .read("x", |_| {
            count += 1;
            true
        })
        .unwrap();
    assert_eq!(count, 1);
}
