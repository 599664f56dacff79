//! What clients and upstreams of registry-svc write in lines: read or refused, never a panic, and what was read is
//! within its bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_svc::{
    http::ranges::{ByteRange, content_range},
    ledger::Change,
    mirror::client::{challenge::Challenge, link},
    names::{OwnNames, Pointer, Repository, Tag, parse_digest},
    uploads::is_id,
};

fuzz_target!(|data: (u64, &str)| {
    let (total, text) = data;
    if let Some(range) = ByteRange::parse(text).and_then(|range| range.within(total)) {
        let length = range.length.unwrap();
        assert!(length > 0 && range.offset.checked_add(length).unwrap() <= total);
    }
    if let Some((first, last)) = content_range(text) {
        assert!(first <= last && (last - first).checked_add(1).is_some());
    }
    if let Some(Challenge::Bearer { realm, .. }) = Challenge::parse(text) {
        // But for what was escaped it stands there.
        let plain = |text: &str| text.replace('\\', "");
        assert!(plain(text).contains(&plain(&realm)));
    }
    let page = "https://reg.example/v2/a/tags/list".parse().unwrap();
    if let Some(next) = link::next(text, &page) {
        assert!(!next.as_str().is_empty());
    }
    names(text);
    // An entry of the journal: another process of the same site wrote it, or a disk that fails.
    if let Ok(change) = serde_json::from_str::<Change>(text) {
        let again = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<Change>(&again).unwrap(), change);
    }
});

/// What is a name here is a path that leads nowhere else, and reads as itself.
fn names(text: &str) {
    let own = OwnNames::default();
    let sound = |repository: &Repository| {
        let path = repository.as_str();
        assert!(!path.starts_with('/') && !path.contains('\0'));
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")));
        assert!(path.split('/').all(|part| !part.starts_with('_')));
        let again = Repository::from_key(path).unwrap();
        assert_eq!(again, *repository);
    };
    let (name, ns) = text.split_once('?').unwrap_or((text, ""));
    for ns in [None, Some(ns)] {
        if let Ok(repository) = own.from_http(name, ns) {
            sound(&repository);
        }
    }
    if let Ok(repository) = own.from_name(text) {
        sound(&repository);
    }
    if let Ok(image) = own.parse_image(text) {
        sound(&image.repository);
        let again = own.parse_image(&image.to_string()).unwrap();
        assert_eq!(again, image, "{image}");
    }
    if let Ok(tag) = Tag::parse(text) {
        assert!(!tag.as_str().contains(['/', '\0']) && !tag.as_str().starts_with('.'));
    }
    if let Ok(pointer) = Pointer::parse(text) {
        assert_eq!(pointer.to_string(), text);
    }
    if let Ok(digest) = parse_digest(text) {
        assert_eq!(digest.to_string(), text);
    }
    if is_id(text) {
        assert!(!text.contains(['/', '.', '\0']));
    }
}
