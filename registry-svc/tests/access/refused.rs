//! Logins that are refused: what an operator sees of them, and what becomes of users whose file is gone.

use std::sync::Arc;

use registry_svc::{
    access::Access,
    http::{Front, Limits},
};
use reqwest::StatusCode;
use slipway_service::metrics::Metrics;

use super::{RULES, ask, json, rules, send, support::Site, users};

#[tokio::test]
async fn refused_logins_are_counted_by_reason() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let file = users(&folder, &["alice"]);
    let (state, metrics) = (folder.path().to_owned(), Metrics::default());
    let site = Site::behind(folder, None, 0, |own| {
        let rules = rules(RULES);
        let access = Access::open(&rules, Some(&file), false, own, &state, None).unwrap();
        access.as_ref().unwrap().refusals().register(&metrics);
        Front::new(access, None, Limits::default())
    })
    .await;
    let count = |reason: &str| -> u64 {
        let line = format!("slipway_registry_logins_refused_total{{reason=\"{reason}\"}} ");
        let shown = metrics.render();
        let found = shown.lines().find_map(|l| l.strip_prefix(&line));
        found.map_or(0, |n| n.parse().unwrap())
    };
    let all = || ["password", "busy", "token"].map(count);
    assert_eq!(send(&site, "alice", "GET", "").await.status(), 200);
    assert_eq!(send(&site, "-", "GET", "").await.status(), 401);
    assert_eq!(all(), [0, 0, 0]);
    let bearer = ask(&site, "-", "GET", "").bearer_auth("a.b").send();
    assert_eq!(bearer.await.unwrap().status(), 401);
    assert_eq!(all(), [0, 0, 1]);
    let mut wrong = 0;
    loop {
        let guess = ask(&site, "-", "GET", "").basic_auth("alice", Some("guess"));
        match guess.send().await.unwrap().status() {
            StatusCode::UNAUTHORIZED => wrong += 1,
            status => break assert_eq!(status, StatusCode::TOO_MANY_REQUESTS),
        }
        assert_eq!(all(), [wrong, 0, 1]);
    }
    assert_eq!(all(), [wrong, 1, 1]);
}

#[tokio::test]
async fn without_the_file_nobody_is_a_user_any_more() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let file = users(&folder, &["alice"]);
    let state = folder.path().to_owned();
    let site = Site::behind(folder, None, 0, |own| {
        let rules = rules(RULES);
        let access = Access::open(&rules, Some(&file), false, own, &state, None).unwrap();
        Front::new(access, None, Limits::default())
    })
    .await;
    let url = site.url("").replace("/v2/", "/token");
    let request = super::support::client().get(url);
    let token = request.basic_auth("alice", Some("alice")).send();
    let token = json(token.await.unwrap()).await["token"].to_string();
    let by_token = async || {
        let request = ask(&site, "-", "GET", "").bearer_auth(token.trim_matches('"'));
        request.send().await.unwrap().status()
    };
    assert_eq!(by_token().await, 200);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(by_token().await, 401);
    assert_eq!(send(&site, "alice", "GET", "").await.status(), 401);
}
