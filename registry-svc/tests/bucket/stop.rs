//! The end of a service whose work in a bucket is under way.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use slipway_image::Digest;

use crate::{
    between::{Act, Between},
    server::Server,
    service::{Service, eventually},
    support::{TestImage, client},
};

/// Longer than a service takes to end, whatever is under way.
const END: Duration = Duration::from_secs(30);

/// Ends it as an operator does, and says how it ended.
async fn end(service: &mut Service) -> std::process::ExitStatus {
    let pid = service.child.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(sent.unwrap().success());
    let began = Instant::now();
    loop {
        if let Some(ended) = service.child.try_wait().unwrap() {
            return ended;
        }
        assert!(began.elapsed() < END, "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A push and a pull are under way, the one stored slowly, the other read slowly; another push never gets through.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_at_the_end_is_finished_or_not_acknowledged() {
    let Some(server) = Server::shared() else {
        return;
    };
    let between = Between::start(server).await;
    let store = between.text(server, "stopped");
    let mut service = Service::with(&format!("[store]\n{store}")).await;
    let kept = TestImage::new("kept", 300_000);
    service.push("team/app", "v1", &kept).await;
    let (slow, stuck) = (vec![1; 50_000], vec![2; 60_000]);
    let place = |content: &[u8]| Digest::of(content).encoded().to_owned();
    let (late, never, read) = (place(&slow), place(&stuck), place(&kept.layer));
    between.rule(move |method, path| match method.as_str() {
        "PUT" if path.contains(&late) => Act::Late(Duration::from_secs(1)),
        "PUT" if path.contains(&never) => Act::Late(Duration::from_secs(120)),
        "GET" if path.contains(&read) => Act::Late(Duration::from_secs(1)),
        _ => Act::Pass,
    });
    let post = |content: &[u8]| {
        let digest = Digest::of(content);
        let url = service.url(&format!("team/app/blobs/uploads/?digest={digest}"));
        tokio::spawn(client().post(url).body(content.to_vec()).send())
    };
    let (slow_push, stuck_push) = (post(&slow), post(&stuck));
    let layer = service.url(&format!("team/app/blobs/{}", kept.layer_digest()));
    let pull = tokio::spawn(async move {
        let answer = client().get(layer).send().await?;
        answer.bytes().await
    });
    eventually("all three are under way", async || {
        between.noted().len() >= 3
    })
    .await;
    let ended = end(&mut service).await;
    assert!(ended.success(), "{ended}");
    // The client was told the truth, if anything.
    assert_eq!(pull.await.unwrap().unwrap(), kept.layer);
    let pushed = slow_push.await.unwrap().unwrap();
    assert_eq!(pushed.status(), StatusCode::CREATED);
    let stuck_told = stuck_push.await.unwrap().map(|answer| answer.status());
    assert!(stuck_told.is_err() || stuck_told.is_ok_and(|s| s.is_server_error()));
    between.rule(|_, _| Act::Pass);
    // The next one has what was acknowledged, and nothing half.
    let next = Service::on(service.folder.clone()).await;
    next.has("team/app", &kept).await;
    let blob = |content: &[u8]| format!("team/app/blobs/{}", Digest::of(content));
    assert_eq!(next.status(&blob(&slow)).await, StatusCode::OK);
    assert_eq!(next.status(&blob(&stuck)).await, StatusCode::NOT_FOUND);
    assert_eq!(
        next.push_blob("team/app", &stuck).await,
        StatusCode::CREATED
    );
}
