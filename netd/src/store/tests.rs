use std::time::Instant;
use std::{fs, slice};

use super::*;
use crate::network::Request;

fn network(name: &str) -> Network {
    let request = Request {
        name: name.to_owned(),
        ..Request::default()
    };
    let subnet = "10.0.0.0/24".parse().unwrap();
    request.plan(subnet, None, 1500).unwrap()
}

/// Opens it; tasks of sled's own hold the lock of one that was closed for a moment longer.
fn open(state: &Path, run: &Path) -> Store {
    let begun = Instant::now();
    loop {
        match Store::open(state, run) {
            Err(Error::Store(sled::Error::Io(error))) if begun.elapsed().as_secs() < 10 => {
                assert!(error.to_string().contains("lock"), "{error}");
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

/// Files of the database.
fn files(state: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(state.join("db")).unwrap();
    let all = all.map(|entry| entry.unwrap().path());
    all.filter(|path| path.is_file()).collect()
}

#[test]
fn a_network_survives_whatever_becomes_of_the_database() {
    let (state, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = || open(state.path(), run.path());
    let one = network("one");
    let store = open();
    store.put_network(&one).unwrap();
    store.remember_sysctl("ipv4/ip_forward", "0").unwrap();
    drop(store);
    let before = || vec![("ipv4/ip_forward".to_owned(), "0".to_owned())];
    let count = files(state.path()).len();
    assert!(count > 0);
    let damages: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |_| Vec::new(),
        |bytes| vec![0xa5; bytes.len()],
        |bytes| vec![0; bytes.len()],
        |bytes| bytes[..bytes.len() / 2].to_vec(),
    ];
    for number in 0..count {
        for damage in damages {
            let Some(file) = files(state.path()).get(number).cloned() else {
                continue;
            };
            fs::write(&file, damage(fs::read(&file).unwrap())).unwrap();
            let store = open();
            assert_eq!(store.networks().unwrap(), slice::from_ref(&one), "{file:?}");
            // It is on by now, and that is not what it was.
            store.remember_sysctl("ipv4/ip_forward", "1").unwrap();
            assert_eq!(store.sysctls(), before(), "{file:?}");
            store.ula_prefix().unwrap();
        }
    }
    // Nothing took the place of what was put aside before.
    let told = open().warnings();
    for aside in ["db.damaged ", "db.damaged.2 "] {
        assert!(told.iter().any(|told| told.contains(aside)), "{told:?}");
    }
}

#[test]
fn a_log_that_was_torn_at_its_end_is_read_up_to_there() {
    let (state, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = || open(state.path(), run.path());
    let prefix = open().ula_prefix().unwrap();
    let log = state.path().join("db/db");
    let whole = fs::read(&log).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for torn in [0, 1, 7] {
        let mut bytes = whole.clone();
        bytes.truncate(end + 1);
        bytes.extend(vec![0x5a; torn]);
        fs::write(&log, bytes).unwrap();
        let store = open();
        assert_eq!(store.ula_prefix().unwrap(), prefix, "{torn}");
        assert!(store.warnings().is_empty());
        drop(store);
        fs::write(&log, &whole).unwrap();
    }
}

#[test]
fn a_damaged_record_is_put_aside_and_told_and_keeps_no_other() {
    let (state, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(state.path(), run.path());
    let (one, two) = (network("one"), network("two"));
    for network in [&one, &two] {
        store.put_network(network).unwrap();
    }
    let folder = state.path().join("networks");
    let file = folder.join(format!("{}.json", one.id));
    fs::write(&file, "{").unwrap();
    // Of somebody who was killed while he wrote.
    fs::write(folder.join("half.new"), "{").unwrap();
    assert_eq!(store.networks().unwrap(), slice::from_ref(&two));
    let aside = folder.join(format!("{}.json.damaged", one.id));
    assert!(aside.exists() && !file.exists() && !folder.join("half.new").exists());
    let told = store.warnings();
    assert!(told[0].contains(&*aside.to_string_lossy()), "{told:?}");
    fs::remove_file(aside).unwrap();
    assert!(store.warnings().is_empty());
}

#[test]
fn networks_of_earlier_versions_are_taken_over_once() {
    let (state, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = network("one");
    let db = database::open(&state.path().join("db")).unwrap();
    let tree = db.open_tree("networks").unwrap();
    tree.insert(one.id.as_str(), encode(&one, "one").unwrap())
        .unwrap();
    db.flush().unwrap();
    drop((tree, db));
    let store = open(state.path(), run.path());
    assert_eq!(store.networks().unwrap(), slice::from_ref(&one));
    store.remove_network(&one.id).unwrap();
    drop(store);
    let store = open(state.path(), run.path());
    assert!(store.networks().unwrap().is_empty());
}

#[test]
fn sysctls_are_remembered_until_the_next_boot_wherever_they_were_kept() {
    let (state, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = || open(state.path(), run.path());
    let db = database::open(&state.path().join("db")).unwrap();
    db.insert("boot", "first").unwrap();
    let tree = db.open_tree("sysctls").unwrap();
    tree.insert("ipv4/ip_forward", "0").unwrap();
    db.flush().unwrap();
    drop((tree, db));
    let before = [("ipv4/ip_forward".to_owned(), "0".to_owned())];
    for _ in 0..2 {
        let store = open();
        store.begin_boot("first").unwrap();
        assert_eq!(store.sysctls(), before);
    }
    open().begin_boot("second").unwrap();
    assert!(open().sysctls().is_empty());
    open().remember_sysctl("ipv4/ip_forward", "0").unwrap();
    assert_eq!(open().sysctls(), before);
    open().forget_sysctls().unwrap();
    assert!(open().sysctls().is_empty());
}
