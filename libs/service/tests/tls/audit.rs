//! What the log of who did what has of calls over TLS.

use std::fs;

use slipway_service::{audit::AuditLog, authorize::Audit};
use tonic_health::pb::HealthCheckRequest;

use crate::{
    ask,
    authority::{Authority, Wanted},
    client, eventually, person, serve_with, server,
};

#[tokio::test]
async fn who_did_what_is_written_down_with_how_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("server", &server());
    authority.issue("reader", &person("read", 2));
    authority.issue(
        "nobody",
        &Wanted {
            serial: 0x1f,
            ..Wanted::default()
        },
    );
    let path = folder.path().join("audit.log");
    let log = AuditLog::open(path.clone(), 16 << 20).unwrap();
    let audit = |reads| {
        Some(Audit {
            log: log.clone(),
            reads,
        })
    };
    let (address, _) = serve_with(authority.files("server"), audit(false)).await;
    ask(&mut client(address, &authority.files("reader")))
        .await
        .unwrap();
    ask(&mut client(address, &authority.files("nobody")))
        .await
        .unwrap_err();
    let (address, _) = serve_with(authority.files("server"), audit(true)).await;
    let mut reader = client(address, &authority.files("reader"));
    ask(&mut reader).await.unwrap();
    let missing = HealthCheckRequest {
        service: "missing".into(),
    };
    reader.check(missing).await.unwrap_err();
    // One that is broken off.
    drop(reader.watch(HealthCheckRequest::default()).await.unwrap());
    drop(reader);
    let lines = || -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&path).unwrap();
        // The last one may be half there yet.
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    eventually("all is told", async || lines().len() >= 4).await;
    let told: Vec<_> = lines()
        .iter()
        .map(|line| {
            assert!(
                line["from"].as_str().unwrap().starts_with("127.0.0.1:"),
                "{line}"
            );
            assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
            let get = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            let short = get("method").replace("grpc.health.v1.Health/", "");
            [
                get("who"),
                get("role"),
                get("serial"),
                short,
                get("result"),
                get("reason"),
            ]
            .join(" ")
        })
        .collect();
    let expected = [
        "nobody  1f Check PERMISSION_DENIED ROLE_REQUIRED",
        "reader read 02 Check OK ",
        "reader read 02 Check NOT_FOUND ",
        "reader read 02 Watch CANCELLED ",
    ];
    assert_eq!(told, expected);
}
