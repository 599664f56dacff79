//! The database as a whole: opened, and put aside when it is damaged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Opens or makes it. sled itself cuts off what a kill left half written at the end of its log.
pub(super) fn open(path: &Path) -> Result<sled::Db, sled::Error> {
    let config = sled::Config::new()
        .path(path)
        // A few records: the default cache would only grow the process.
        .cache_capacity(1 << 20)
        .segment_size(64 << 10)
        .flush_every_ms(None);
    // Of some damage sled says so by a failed assertion.
    catch_unwind(AssertUnwindSafe(|| read(config.open()?))).unwrap_or_else(|_| {
        Err(sled::Error::ReportableBug(
            "it is not a database".to_owned(),
        ))
    })
}

/// All of it: what cannot be read is found now.
fn read(db: sled::Db) -> Result<sled::Db, sled::Error> {
    for name in db.tree_names() {
        for entry in &db.open_tree(name)? {
            entry?;
        }
    }
    Ok(db)
}

/// Whether it is its content that keeps it from being opened, and not the system or another netd.
pub(super) fn is_damaged(error: &sled::Error) -> bool {
    !matches!(error, sled::Error::Io(_))
}
