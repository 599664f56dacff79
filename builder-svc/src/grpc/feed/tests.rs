use std::{collections::BTreeMap, time::Duration};

use slipway_proto::builder::v1::{ContextEntries, ManifestOffer};

use super::*;
use crate::events::Events;
use crate::{
    caller::Caller,
    context::{Announced, BuildContext, Fetcher, fetch, git::ssh::Hosts},
};

/// What a caller that sends this is told, and the names in the context that it gives.
async fn fed(
    offered: &Arc<Offered>,
    parts: Vec<Part>,
) -> (Result<(), String>, Vec<Event>, Option<Vec<String>>) {
    let folder = tempfile::tempdir().unwrap();
    let store = ContentStore::open(folder.path().to_owned()).unwrap();
    let limits = fetch::Limits {
        guard: fetch::guard(Vec::new()),
        bytes: 1,
        silence: Duration::from_secs(1),
    };
    let hosts = Hosts::met(folder.path().join("hosts"));
    let fetcher = Arc::new(Fetcher::new(Arc::new(store), limits, hosts).unwrap());
    let (tell, mut told) = mpsc::channel(8);
    let events = Events::new(tell);
    let caller = Arc::new(Caller::new([], [], events.clone()));
    let (context, feed) = BuildContext::new(
        fetcher.clone(),
        (events.clone(), caller.clone()),
        &Announced {
            sent: &[String::new()],
            remote: &BTreeMap::new(),
            keep_git_dir: false,
        },
    );
    let offers = Offers {
        offered: offered.clone(),
        events: events.downgrade(),
    };
    let parts = parts
        .into_iter()
        .map(|part| Ok(BuildRequest { part: Some(part) }));
    let done = super::feed(
        tokio_stream::iter(parts),
        feed,
        fetcher.store().clone(),
        caller.asked.clone(),
        offers,
    )
    .await;
    let manifest = context.manifest("").await.ok();
    let names = manifest.map(|m| m.below("").map(|(path, _)| path.to_owned()).collect());
    drop((context, caller));
    let mut events = Vec::new();
    while let Ok(event) = told.try_recv() {
        events.push(event);
    }
    (done.map_err(|e| e.message().to_owned()), events, names)
}

fn folders(names: &[&str]) -> Vec<ContextEntry> {
    let folder = |name: &&str| ContextEntry {
        path: (*name).to_owned(),
        r#type: Type::Directory.into(),
        mode: 0o755,
        mtime: 7,
        ..ContextEntry::default()
    };
    names.iter().map(folder).collect()
}

fn offer(entries: &[ContextEntry]) -> Part {
    let all = entries
        .iter()
        .flat_map(ContextEntry::encode_length_delimited_to_vec);
    Part::ManifestOffer(ManifestOffer {
        context: String::new(),
        digest: Sha256::digest(all.collect::<Vec<_>>()).to_vec().into(),
    })
}

/// In two messages.
fn sent(entries: Vec<ContextEntry>) -> Vec<Part> {
    let message = |entry| {
        Part::Entries(ContextEntries {
            context: String::new(),
            entries: vec![entry],
        })
    };
    let end = Part::ManifestEnd(String::new());
    entries.into_iter().map(message).chain([end]).collect()
}

#[tokio::test]
async fn a_manifest_is_asked_for_once() {
    let offered = Arc::new(Offered::default());
    let (a, b) = (folders(&["a", "b"]), folders(&["x", "y"]));
    let asks = || vec![Event::NeedManifest(String::new())];
    let names = |names: [&str; 2]| Some(names.map(str::to_owned).to_vec());
    // Who says that these are others changes nothing for who has those.
    let lie = [vec![offer(&b)], sent(a.clone())].concat();
    assert_eq!(
        fed(&offered, lie).await,
        (Ok(()), asks(), names(["a", "b"]))
    );
    let honest = [vec![offer(&b)], sent(b.clone())].concat();
    assert_eq!(
        fed(&offered, honest).await,
        (Ok(()), asks(), names(["x", "y"]))
    );
    for (entries, expected) in [(&a, ["a", "b"]), (&b, ["x", "y"])] {
        let again = fed(&offered, vec![offer(entries)]).await;
        assert_eq!(again, (Ok(()), Vec::new(), names(expected)));
    }
    // Without an offer nothing is kept.
    let c = folders(&["m", "n"]);
    let plain = fed(&offered, sent(c.clone())).await;
    assert_eq!(plain, (Ok(()), Vec::new(), names(["m", "n"])));
    let (done, told, context) = fed(&offered, vec![offer(&c)]).await;
    assert_eq!((done, told, context), (Ok(()), asks(), None));
}

#[tokio::test]
async fn an_offer_comes_first_and_once() {
    let offered = Arc::new(Offered::default());
    let entries = folders(&["a"]);
    let first = sent(entries.clone());
    for parts in [
        [vec![offer(&entries), offer(&entries)], first.clone()].concat(),
        [&first[..1], &[offer(&entries)]].concat(),
        [&first[..], &[offer(&entries)]].concat(),
    ] {
        let (done, ..) = fed(&offered, parts).await;
        let sentence =
            "the caller sent an offer of a context that was not announced, or has begun to come";
        assert_eq!(done, Err(sentence.to_owned()));
    }
    let short = Part::ManifestOffer(ManifestOffer {
        context: String::new(),
        digest: vec![1; 31].into(),
    });
    let (done, ..) = fed(&offered, vec![short]).await;
    assert_eq!(
        done.unwrap_err(),
        "a digest of the context has not 32 bytes"
    );
}

/// The same entry and digest stand in ctl's tests.
#[tokio::test]
async fn a_manifest_is_known_by_all_that_is_in_it() {
    let offered = Arc::new(Offered::default());
    let entry = || folders(&["folder"]).remove(0);
    let digest = "147580241d8a5464ff843fdd2a7a414a75eded6d75714a80267f19db0d7e176f";
    let offer = Part::ManifestOffer(ManifestOffer {
        context: String::new(),
        digest: hex::decode(digest).unwrap().into(),
    });
    let parts = [vec![offer.clone()], sent(vec![entry(), entry()])].concat();
    fed(&offered, parts).await.0.unwrap();
    let (_, told, names) = fed(&offered, vec![offer]).await;
    assert_eq!((told, names), (Vec::new(), Some(vec!["folder".to_owned()])));
}
