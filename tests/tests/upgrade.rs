//! State that an earlier version has left is understood.

use std::fs;

use serde_json::{Value, json};
use slipway_tests::Site;

/// `life.json` was in the record itself.
#[tokio::test]
async fn who_was_started_or_stopped_is_known_from_the_record() {
    let Some(mut site) = Site::with_busybox().await else {
        return;
    };
    let stopped = site.sleeper("stopped", &["--restart", "unless-stopped"]);
    let runs = site.sleeper("runs", &["--restart", "always"]);
    site.ctl(&["kill", "stopped"]).ok();
    site.ctl(&["wait", "stopped"]).ok();
    site.kill_service("runtime");
    let by_hand = json!({ "stopped_by_hand": true, "restarts": 0 });
    for (id, starting, life) in [(&stopped, false, by_hand), (&runs, true, json!({}))] {
        let folder = site.path(&format!("state/runtime/containers/{id}"));
        fs::remove_file(folder.join("life.json")).unwrap();
        let record = folder.join("config.json");
        let mut value: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        value["starting"] = starting.into();
        value["life"] = life;
        fs::remove_file(&record).unwrap();
        fs::write(&record, value.to_string()).unwrap();
    }
    site.start_service("runtime").await;
    let state = |name: &str| {
        let format = "{{.State.Status}}";
        site.ctl(&["inspect", "-f", format, name]).ok()
    };
    assert_eq!(
        (&*state("stopped"), &*state("runs")),
        ("exited\n", "running\n")
    );
    for id in [&stopped, &runs] {
        let life = site.path(&format!("state/runtime/containers/{id}/life.json"));
        let life = fs::read_to_string(life).unwrap();
        assert_eq!(
            life.contains("\"stopped_by_hand\":true"),
            *id == stopped,
            "{life}"
        );
    }
    site.ctl(&["rm", "-f", "stopped", "runs"]).ok();
}
