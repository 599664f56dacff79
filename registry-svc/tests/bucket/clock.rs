//! Hosts whose clocks are wrong: all go by that of the server.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use registry_svc::{bucket::settings::StoreFile, config::Config};
use slipway_image::Digest;

use crate::{between::Between, server::Server, support::Site};

const HOUR: i64 = 60 * 60;

#[tokio::test(flavor = "multi_thread")]
async fn what_one_was_promised_another_counts_by_the_clock_of_the_server() {
    let Some(server) = Server::shared() else {
        return;
    };
    for (prefix, hours) in [("clock-behind", -1), ("clock-ahead", 1)] {
        let between = Between::start(server).await;
        between.shift(hours * HOUR);
        let file: StoreFile = toml::from_str(&between.text(server, prefix)).unwrap();
        let site = async || {
            let config = Config {
                bucket: file.clone().check().unwrap(),
                ..Config::default()
            };
            let folder = Arc::new(tempfile::tempdir().unwrap());
            Site::with(config, folder, None, 3600).await
        };
        let (a, b) = (site().await, site().await);
        a.push_blob("team/app", b"content").await;
        // Nobody names it, and b knows of it by the journal alone.
        assert_eq!(b.registry.sweep().await.unwrap(), 0);
        let digest = Digest::of("content");
        assert!(b.registry.index.object(&digest).unwrap().is_some());
        let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let promises = b.registry.index.promises();
        let since: Vec<u64> = promises.map(|promise| promise.unwrap().2).collect();
        assert!(!since.is_empty());
        for since in since {
            let ahead = since as i64 - host.as_millis() as i64 - hours * HOUR * 1000;
            let near = Duration::from_secs(120).as_millis() as u64;
            assert!(ahead.unsigned_abs() < near, "{hours} h: {ahead} ms");
        }
    }
}
