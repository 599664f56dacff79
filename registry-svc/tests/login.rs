//! Whether a registry takes an account: asked of it with its token server or with name and password.

mod support;

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use registry_svc::{Error, config::UpstreamConfig, mirror::Credentials};
use support::Site;
use tokio::net::TcpListener;

/// What a registry of the test asks for, and what it was asked.
#[derive(Clone)]
struct Remote {
    challenge: String,
    token_queries: Arc<Mutex<Vec<String>>>,
}

async fn root(State(remote): State<Remote>, headers: HeaderMap) -> Response {
    let basic = format!("Basic {}", STANDARD.encode("joe:right"));
    let said = headers.get("authorization").map(|v| v.to_str().unwrap());
    if said == Some(&*basic) || said == Some("Bearer of-joe") {
        return StatusCode::OK.into_response();
    }
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#;
    let challenge = [("www-authenticate", remote.challenge)];
    (StatusCode::UNAUTHORIZED, challenge, body).into_response()
}

async fn token(
    State(remote): State<Remote>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let mut query: Vec<String> = query.iter().map(|(k, v)| format!("{k}={v}")).collect();
    query.sort();
    remote.token_queries.lock().unwrap().push(query.join(" "));
    let basic = format!("Basic {}", STANDARD.encode("joe:right"));
    match headers.get("authorization") {
        Some(said) if *said == *basic => {
            r#"{"token": "of-joe", "access_token": "of-joe", "refresh_token": "keep-me"}"#
                .into_response()
        }
        _ => StatusCode::UNAUTHORIZED.into_response(),
    }
}

/// Starts one; `CHALLENGE` may name its own address as `SELF`.
async fn remote(challenge: &str) -> (String, Remote) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let remote = Remote {
        challenge: challenge.replace("SELF", &address),
        token_queries: Arc::default(),
    };
    let app = Router::new()
        .route("/v2/", get(root))
        .route("/token", get(token))
        .with_state(remote.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, remote)
}

async fn login(address: &str, password: &str) -> Result<Option<String>, Error> {
    let credentials = Credentials::Basic("joe".into(), password.into());
    let url = format!("http://{address}").parse().unwrap();
    let upstream = UpstreamConfig::at("reg.example", url);
    let site = Site::mirroring(Arc::new(tempfile::tempdir().unwrap()), upstream).await;
    let mirror = &site.registry.mirror;
    let client = mirror.client("reg.example", Some(credentials))?;
    client.login().await
}

#[tokio::test]
async fn a_token_server_gives_an_identity_token_for_the_password() {
    let challenge = r#"Bearer realm="http://SELF/token",service="the registry""#;
    let (address, remote) = remote(challenge).await;
    let identity = login(&address, "right").await.unwrap();
    assert_eq!(identity.as_deref(), Some("keep-me"));
    let asked = remote.token_queries.lock().unwrap().clone();
    let query = "account=joe client_id=slipway offline_token=true service=the registry";
    assert_eq!(asked, [query]);
    let refused = login(&address, "wrong").await.unwrap_err();
    assert!(matches!(refused, Error::Unauthorized { .. }), "{refused}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_in_the_registrys_words() {
    let (address, _) = remote("Basic realm=\"x\"").await;
    assert_eq!(login(&address, "right").await.unwrap(), None);
    let refused = login(&address, "wrong").await.unwrap_err().to_string();
    assert!(
        refused.contains("incorrect username or password"),
        "{refused}"
    );
    assert!(!refused.contains("wrong"), "{refused}");
}

#[tokio::test]
async fn a_password_is_sent_to_no_foreign_token_server() {
    let (foreign, asked) = remote("").await;
    let port = foreign.rsplit(':').next().unwrap();
    let challenge = format!("Bearer realm=\"http://localhost:{port}/token\"");
    let (address, _) = remote(&challenge).await;
    let refused = login(&address, "right").await.unwrap_err().to_string();
    assert!(refused.contains("token realm is refused"), "{refused}");
    assert!(asked.token_queries.lock().unwrap().is_empty());
}
