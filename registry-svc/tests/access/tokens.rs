//! Docker's token flow, step by step.

use registry_svc::access::token::Kind;
use serde_json::Value;
use slipway_image::{Digest, media_type};

use crate::{
    RULES, ask, guarded, header, json, send,
    support::{Site, client},
    users,
};

async fn token(site: &Site, who: &str, query: &str) -> (u16, Value) {
    let url = format!("http://{}/token?{query}", site.address);
    let request = client().get(url);
    let request = match who {
        "-" => request,
        who => request.basic_auth(who, Some(who)),
    };
    let response = request.send().await.unwrap();
    assert_eq!(header(&response, "cache-control"), "no-store");
    (response.status().as_u16(), json(response).await)
}

async fn form(site: &Site, pairs: &[(&str, &str)]) -> (u16, Value) {
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish();
    let request = client().post(format!("http://{}/token", site.address));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let response = request.body(body).send().await.unwrap();
    (response.status().as_u16(), json(response).await)
}

async fn with(site: &Site, token: &Value, method: &str, path: &str) -> reqwest::Response {
    let request = ask(site, "-", method, path).bearer_auth(token.as_str().unwrap());
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_challenge_says_where_a_token_is_to_be_had_and_for_what() {
    let site = guarded(RULES).await;
    let start = format!(
        "Bearer realm=\"http://{}/token\",service=\"slipway-registry\"",
        site.address
    );
    for (method, path, scope) in [
        ("GET", "", ""),
        ("GET", "_catalog", ""),
        ("GET", "team/app/tags/list", "docker.io/team/app:pull"),
        (
            "PUT",
            "team/app/manifests/x",
            "docker.io/team/app:pull,push",
        ),
        ("DELETE", "app/manifests/x", "docker.io/library/app:delete"),
        ("GET", "ghcr.io/a/b/manifests/x", "ghcr.io/a/b:pull"),
        (
            "POST",
            "team/app/blobs/uploads/?mount=sha256:a&from=team/b",
            "docker.io/team/app:pull,push repository:docker.io/team/b:pull",
        ),
    ] {
        let response = send(&site, "-", method, path).await;
        assert_eq!(response.status(), 401, "{path}");
        let scope = match scope {
            "" => String::new(),
            scope => format!(",scope=\"repository:{scope}\""),
        };
        let told = header(&response, "www-authenticate").to_owned();
        assert_eq!(told, format!("{start}{scope}"), "{path}");
        let said: Value = json(response).await;
        assert_eq!(said["errors"][0]["code"], "UNAUTHORIZED");
    }
    assert_eq!(send(&site, "bob", "GET", "").await.status(), 200);
}

#[tokio::test]
async fn a_token_is_good_for_what_was_asked_for_and_is_allowed() {
    let site = guarded(RULES).await;
    let scope = "scope=repository:team/app:pull,push&scope=repository:team/bobs:push";
    let (status, answer) = token(&site, "bob", &format!("service=slipway-registry&{scope}")).await;
    assert_eq!(status, 200);
    assert_eq!(answer["expires_in"], 300);
    assert_eq!(answer["token"], answer["access_token"]);
    assert!(answer.get("refresh_token").is_none());
    let bobs = &answer["token"];
    for (method, path, status) in [
        ("GET", "", 200),
        ("GET", "_catalog", 200),
        ("GET", "team/app/tags/list", 404),
        ("GET", "docker.io/team/app/tags/list", 404),
        ("POST", "team/app/blobs/uploads/", 403),
        ("POST", "team/bobs/blobs/uploads/", 202),
        // Allowed, and not asked for.
        ("GET", "team/bobs/tags/list", 401),
        ("GET", "secret/tags/list", 403),
    ] {
        let got = with(&site, bobs, method, path).await;
        assert_eq!(got.status(), status, "{method} {path}");
        let scope = header(&got, "www-authenticate").contains("error=\"insufficient_scope\"");
        assert_eq!(scope, status == 401, "{path}");
    }
    // Neither content nor names of other repositories.
    for name in ["team/app", "team/other"] {
        let blob = Digest::of(name);
        let path = format!("{name}/blobs/uploads/?digest={blob}");
        let pushed = ask(&site, "alice", "POST", &path).body(name.to_owned());
        assert_eq!(pushed.send().await.unwrap().status(), 201);
        let mount = format!("team/bobs/blobs/uploads/?mount={blob}");
        let status = if name == "team/app" { 201 } else { 202 };
        let got = with(&site, bobs, "POST", &mount).await;
        assert_eq!(got.status(), status, "{name}");
        let config = format!("{name}/manifests/v1");
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": [],
            "config": { "mediaType": "text/plain", "digest": blob.to_string(), "size": name.len() },
        });
        let put = ask(&site, "alice", "PUT", &config)
            .header("content-type", media_type::OCI_MANIFEST)
            .body(manifest.to_string());
        assert_eq!(put.send().await.unwrap().status(), 201);
    }
    let (_, all) = token(&site, "bob", "scope=registry:catalog:*").await;
    for (token, names) in [
        (bobs, &["team/app"][..]),
        (&all["token"], &["team/app", "team/other"]),
    ] {
        let listed = json(with(&site, token, "GET", "_catalog").await).await;
        assert_eq!(listed["repositories"], serde_json::json!(names));
    }
    let (_, nobodys) = token(&site, "-", "scope=repository:public/app:pull,push").await;
    let nobodys = &nobodys["token"];
    assert_eq!(with(&site, nobodys, "GET", "").await.status(), 200);
    assert_eq!(
        with(&site, nobodys, "GET", "public/app/tags/list")
            .await
            .status(),
        404
    );
    assert_eq!(
        with(&site, nobodys, "POST", "public/app/blobs/uploads/")
            .await
            .status(),
        401
    );
    // Of another service, with a wrong password, with another token, for too much.
    assert_eq!(token(&site, "bob", "service=other").await.0, 400);
    assert_eq!(token(&site, "bob", &"scope=a&".repeat(40)).await.0, 400);
    let url = format!("http://{}/token", site.address);
    let wrong = client()
        .get(&url)
        .basic_auth("bob", Some("x"))
        .send()
        .await
        .unwrap();
    assert_eq!(wrong.status(), 401);
    assert!(header(&wrong, "www-authenticate").starts_with("Basic realm="));
    let again = client().get(&url).bearer_auth(bobs.as_str().unwrap());
    assert_eq!(
        again.send().await.unwrap().status(),
        401,
        "no token makes tokens for ever"
    );
}

#[tokio::test]
async fn a_login_lasts_until_the_password_is_another() {
    let site = guarded(RULES).await;
    let (_, got) = token(&site, "bob", "offline_token=true").await;
    let stays = got["refresh_token"].as_str().unwrap().to_owned();
    let (_, nobodys) = token(&site, "-", "offline_token=true").await;
    assert!(nobodys.get("refresh_token").is_none());
    let ask_again = [
        ("grant_type", "refresh_token"),
        ("service", "slipway-registry"),
        ("client_id", "docker"),
        ("scope", "repository:team/app:pull"),
        ("refresh_token", &stays),
    ];
    let (status, got) = form(&site, &ask_again).await;
    assert_eq!(
        (status, &got["refresh_token"]),
        (200, &stays.clone().into())
    );
    let access = &got["access_token"];
    assert_eq!(
        with(&site, access, "GET", "team/app/tags/list")
            .await
            .status(),
        404
    );
    // A refresh token opens nothing, an access token refreshes nothing.
    assert_eq!(
        with(&site, &stays.clone().into(), "GET", "").await.status(),
        401
    );
    let mut wrong = ask_again;
    wrong[4].1 = access.as_str().unwrap();
    assert_eq!(form(&site, &wrong).await.0, 401);
    let password = [
        ("grant_type", "password"),
        ("username", "bob"),
        ("password", "bob"),
        ("access_type", "offline"),
    ];
    let (status, got_too) = form(&site, &password).await;
    assert_eq!(status, 200);
    assert!(got_too["refresh_token"].is_string());
    assert!(got_too.get("token").is_none());
    let mut wrong = password;
    wrong[2].1 = "x";
    assert_eq!(form(&site, &wrong).await.0, 401);
    assert_eq!(form(&site, &[("grant_type", "code")]).await.0, 400);
    assert_eq!(form(&site, &[]).await.0, 400);
    let long = "x".repeat(20_000);
    assert_eq!(form(&site, &[("grant_type", &long)]).await.0, 413);
    // bob has another hash now, though of the same password.
    users(&site.dir, &["alice", "bob"]);
    assert_eq!(form(&site, &ask_again).await.0, 401);
    assert_eq!(with(&site, access, "GET", "").await.status(), 401);
    assert_eq!(Kind::Refresh.life().as_secs(), 90 * 24 * 3600);
}

#[tokio::test]
async fn without_a_policy_there_are_no_tokens() {
    let site = Site::start().await;
    let url = format!("http://{}/token", site.address);
    assert_eq!(client().get(url).send().await.unwrap().status(), 404);
    assert_eq!(send(&site, "-", "GET", "").await.status(), 200);
    assert_eq!(
        send(&site, "-", "POST", "a/blobs/uploads/").await.status(),
        202
    );
}
