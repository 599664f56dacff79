//! What callers may do, and what those who may not learn from it.

use std::sync::Arc;

use registry_svc::{
    access::Access,
    config::RegistryFile,
    http,
    http::{Front, Limits},
    unfinished::UploadLimits,
};
use reqwest::StatusCode;
use serde_json::Value;
use slipway_image::{Digest, media_type};

use crate::{
    RULES, ask, guarded, header, json, rules, send,
    support::{Site, TestImage, client},
    users,
};

/// Pushes an image in somebody's name.
async fn push(site: &Site, who: &str, name: &str, tag: &str, image: &TestImage) {
    for blob in [&image.config, &image.layer] {
        let path = format!("{name}/blobs/uploads/?digest={}", Digest::of(blob));
        let pushed = ask(site, who, "POST", &path)
            .body(blob.clone())
            .send()
            .await;
        assert_eq!(pushed.unwrap().status(), 201);
    }
    let pushed = ask(site, who, "PUT", &format!("{name}/manifests/{tag}"))
        .header("content-type", media_type::OCI_MANIFEST)
        .body(image.manifest.clone());
    assert_eq!(pushed.send().await.unwrap().status(), 201);
}

/// Status, headers and body, without what is another for every answer or names what was asked for.
async fn all_of(response: reqwest::Response) -> String {
    let status = response.status();
    let mut headers: Vec<_> = response
        .headers()
        .iter()
        .filter(|(name, _)| *name != "date" && *name != "www-authenticate")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    format!("{status} {headers:?} {}", response.text().await.unwrap())
}

#[tokio::test]
async fn only_what_is_allowed_is_done() {
    let site = guarded(RULES).await;
    let image = TestImage::new("a", 10);
    let layer = image.layer_digest();
    for name in ["team/app", "team/bobs", "public/app", "secret"] {
        push(&site, "alice", name, "v1", &image).await;
    }
    const NO: u16 = 403;
    for (name, who, pull, start, delete) in [
        ("team/app", "alice", 200, 202, 202),
        ("team/app", "bob", 200, NO, NO),
        ("team/app", "carol", NO, NO, NO),
        ("team/app", "-", 401, 401, 401),
        ("team/bobs", "bob", 200, 202, NO),
        ("team/bobs", "alice", 200, 202, NO),
        ("public/app", "-", 200, 401, 401),
        ("public/app", "carol", 200, NO, NO),
        ("secret", "bob", NO, NO, NO),
        ("secret", "-", 401, 401, 401),
    ] {
        let status = async |method: &str, path: &str| {
            send(&site, who, method, &format!("{name}/{path}"))
                .await
                .status()
                .as_u16()
        };
        for path in [
            "manifests/v1".to_owned(),
            format!("manifests/{}", image.digest()),
            format!("blobs/{layer}"),
            "tags/list".to_owned(),
            format!("referrers/{layer}"),
        ] {
            assert_eq!(status("GET", &path).await, pull, "{who}: {name} {path}");
            assert_eq!(status("HEAD", &path).await, pull, "{who}: {name} {path}");
        }
        assert_eq!(
            status("POST", "blobs/uploads/").await,
            start,
            "{who}: {name}"
        );
        let expected = if start == 202 { 400 } else { start };
        assert_eq!(
            status("PUT", "manifests/new").await,
            expected,
            "{who}: {name}"
        );
        let gone = format!("blobs/{}", Digest::of("nothing"));
        let expected = if delete == 202 { 404 } else { delete };
        assert_eq!(status("DELETE", &gone).await, expected, "{who}: {name}");
        assert_eq!(
            status("DELETE", "manifests/nothing").await,
            expected,
            "{who}: {name}"
        );
        let session = format!("blobs/uploads/{}", "0".repeat(36));
        let expected = if start == 202 { 404 } else { start };
        for method in ["GET", "PATCH", "DELETE"] {
            assert_eq!(
                status(method, &session).await,
                expected,
                "{who}: {name} {method}"
            );
        }
    }
    assert_eq!(
        send(&site, "alice", "DELETE", "team/app/manifests/v1")
            .await
            .status(),
        202
    );
}

#[tokio::test]
async fn no_alias_gets_round_the_policy() {
    let site = guarded(RULES).await;
    let image = TestImage::new("a", 10);
    push(&site, "alice", "secret", "v1", &image).await;
    let port = site.address.port();
    for (name, ns) in [
        ("secret", ""),
        ("library/secret", ""),
        ("docker.io/secret", ""),
        ("docker.io/library/secret", ""),
        ("index.docker.io/library/secret", ""),
        ("DOCKER.io/library/secret", ""),
        (&*format!("localhost:{port}/secret"), ""),
        (&*format!("127.0.0.1:{port}/library/secret"), ""),
        ("secret", "?ns=docker.io"),
        ("library/secret", "?ns=registry-1.docker.io"),
        ("library%2fsecret", ""),
        ("secret", "?ns=public"),
    ] {
        let path = format!("{name}/manifests/v1{ns}");
        let status = send(&site, "bob", "GET", &path).await.status();
        assert_eq!(status, 403, "{path}");
        if ns != "?ns=public" {
            assert_eq!(
                send(&site, "alice", "GET", &path).await.status(),
                200,
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn who_may_not_pull_learns_nothing() {
    let site = guarded(RULES).await;
    let image = TestImage::new("a", 10);
    push(&site, "alice", "secret/app", "v1", &image).await;
    let layer = image.layer_digest();
    let nothing = Digest::of("nothing");
    for who in ["-", "bob", "carol"] {
        for (method, there, not_there) in [
            (
                "GET",
                "secret/app/manifests/v1".to_owned(),
                "secret/app/manifests/v2".to_owned(),
            ),
            (
                "GET",
                "secret/app/manifests/v1".to_owned(),
                "secret/none/manifests/v1".to_owned(),
            ),
            (
                "HEAD",
                format!("secret/app/blobs/{layer}"),
                format!("secret/app/blobs/{nothing}"),
            ),
            (
                "GET",
                "secret/app/tags/list".to_owned(),
                "secret/none/tags/list".to_owned(),
            ),
            (
                "DELETE",
                format!("secret/app/blobs/{layer}"),
                format!("secret/none/blobs/{layer}"),
            ),
            (
                "GET",
                format!("secret/app/referrers/{layer}"),
                format!("secret/none/referrers/{layer}"),
            ),
        ] {
            let one = all_of(send(&site, who, method, &there).await).await;
            let other = all_of(send(&site, who, method, &not_there).await).await;
            assert_eq!(one, other, "{who} {method}");
        }
    }
    // What he may read says nothing of it either.
    for digest in [&layer, &nothing] {
        let path = format!("team/bobs/blobs/{digest}");
        assert_eq!(send(&site, "bob", "HEAD", &path).await.status(), 404);
        for from in [
            "&from=secret/app",
            "&from=secret/none",
            "&from=docker.io/secret/app",
            "",
        ] {
            let path = format!("team/bobs/blobs/uploads/?mount={digest}{from}");
            let mounted = send(&site, "bob", "POST", &path).await;
            assert_eq!(mounted.status(), 202, "{path}");
        }
    }
    // Nor does a manifest that names it, of its size.
    for size in [image.layer.len(), image.layer.len() + 1] {
        let manifest = String::from_utf8(image.manifest.to_vec()).unwrap();
        let (ours, theirs) = (
            format!("\"size\":{size}"),
            format!("\"size\":{}", image.layer.len()),
        );
        let put = ask(&site, "bob", "PUT", "team/bobs/manifests/v1")
            .header("content-type", media_type::OCI_MANIFEST)
            .body(manifest.replace(&theirs, &ours));
        let said: Value = json(put.send().await.unwrap()).await;
        assert_eq!(said["errors"][0]["code"], "MANIFEST_BLOB_UNKNOWN", "{said}");
    }
    // With the right to pull, mounts work.
    push(&site, "alice", "team/app", "v1", &image).await;
    for from in ["&from=team/app", ""] {
        let path = format!("team/bobs/blobs/uploads/?mount={layer}{from}");
        assert_eq!(
            send(&site, "bob", "POST", &path).await.status(),
            201,
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_catalog_is_of_what_one_may_pull() {
    let site = guarded(RULES).await;
    let image = TestImage::new("a", 10);
    for name in ["public/app", "secret/app", "team/app", "team/bobs", "zoo"] {
        push(&site, "alice", name, "v1", &image).await;
    }
    let listed = async |who: &str, path: &str| {
        let response = send(&site, who, "GET", path).await;
        let link = header(&response, "link").to_owned();
        let body: Value = json(response).await;
        let names = body["repositories"].as_array().unwrap().clone();
        let names: Vec<_> = names
            .iter()
            .map(|n| n.as_str().unwrap().to_owned())
            .collect();
        (names, link)
    };
    let all = ["public/app", "secret/app", "team/app", "team/bobs", "zoo"];
    let mut alices = listed("alice", "_catalog").await.0;
    alices.sort();
    assert_eq!(alices, all);
    assert_eq!(
        listed("bob", "_catalog").await.0,
        ["public/app", "team/app", "team/bobs"]
    );
    assert_eq!(listed("carol", "_catalog").await.0, ["public/app"]);
    // Pages are of what is shown, and name nothing else.
    let (page, link) = listed("bob", "_catalog?n=1").await;
    assert_eq!(
        (page, link),
        (
            vec!["public/app".to_owned()],
            "</v2/_catalog?n=1&last=public%2Fapp>; rel=\"next\"".to_owned()
        )
    );
    let (page, link) = listed("bob", "_catalog?n=2&last=public/app").await;
    assert_eq!(
        (page.join(" "), &*link),
        ("team/app team/bobs".to_owned(), "")
    );
    assert_eq!(send(&site, "-", "GET", "_catalog").await.status(), 401);
}

#[tokio::test]
async fn an_upload_is_its_owners() {
    let site = guarded(RULES).await;
    let started = send(&site, "alice", "POST", "team/bobs/blobs/uploads/").await;
    let place = header(&started, "location")
        .trim_start_matches("/v2/")
        .to_owned();
    for method in ["GET", "PATCH", "DELETE"] {
        assert_eq!(
            send(&site, "bob", method, &place).await.status(),
            404,
            "{method}"
        );
    }
    assert_eq!(send(&site, "alice", "GET", &place).await.status(), 204);
}

#[tokio::test]
async fn a_wrong_password_is_not_taken_for_none() {
    let site = guarded(RULES).await;
    push(&site, "alice", "public/app", "v1", &TestImage::new("a", 1)).await;
    let path = "public/app/manifests/v1";
    assert_eq!(send(&site, "-", "GET", path).await.status(), 200);
    let wrong = ask(&site, "-", "GET", path).basic_auth("bob", Some("x"));
    assert_eq!(wrong.send().await.unwrap().status(), 401);
    for value in ["Bearer x.y", "Bearer", "Digest a", "Basic !"] {
        let wrong = ask(&site, "-", "GET", path).header("authorization", value);
        assert_eq!(wrong.send().await.unwrap().status(), 401, "{value}");
    }
    // Too many of them.
    let mut status = StatusCode::UNAUTHORIZED;
    let mut wait = String::new();
    for guess in 0..50 {
        let wrong = ask(&site, "-", "GET", path).basic_auth("bob", Some(guess));
        let answer = wrong.send().await.unwrap();
        (status, wait) = (answer.status(), header(&answer, "retry-after").to_owned());
        if status != 401 {
            break;
        }
    }
    assert_eq!(status, 429);
    assert!((1..=60).contains(&wait.parse::<u32>().unwrap()), "{wait}");
}

#[tokio::test]
async fn a_stranger_behind_a_proxy_shuts_out_himself_only() {
    for (trusted, others) in [("'127.0.0.1'", 200), ("", 429)] {
        let file: RegistryFile = toml::from_str(&format!("trusted_proxies = [{trusted}]")).unwrap();
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let (users, state) = (users(&folder, &["alice"]), folder.path().to_owned());
        let rules = rules("[[access]]\nprefix = \"*\"\nwho = [\"alice\"]\nmay = [\"pull\"]\n");
        let site = Site::behind(folder, None, 0, |own| {
            let access = Access::open(&rules, Some(&users), false, own, &state, None).unwrap();
            let front = Front::new(access, None, Limits::default());
            front.trusting(file.trusted_proxies)
        })
        .await;
        let from = async |address: &str, password: &str| {
            let request = client().get(site.url(""));
            let request = request.header("x-forwarded-for", address);
            let got = request.basic_auth("alice", Some(password)).send().await;
            got.unwrap().status().as_u16()
        };
        let mut answers = Vec::new();
        for _ in 0..11 {
            answers.push(from("192.0.2.1", "wrong").await);
        }
        assert_eq!((answers[0], answers[10]), (401, 429));
        // What he says of himself is not what the proxy says of him.
        assert_eq!(from("192.0.2.2, 192.0.2.1", "wrong").await, 429);
        assert_eq!(from("192.0.2.2", "alice").await, others, "{trusted}");
    }
}

#[tokio::test]
async fn nothing_but_loopback_is_served_without_tls_and_policy() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let refused = http::bind(everywhere, false, false)
        .await
        .unwrap_err()
        .to_string();
    for word in ["[http_tls]", "[[access]]", "--allow-plain-http"] {
        assert!(refused.contains(word), "{refused}");
    }
    http::bind(everywhere, true, false).await.unwrap();
    http::bind(everywhere, false, true).await.unwrap();
    http::bind("[::1]:0".parse().unwrap(), false, false)
        .await
        .unwrap();
}

#[tokio::test]
async fn one_caller_does_not_fill_the_disk_with_what_he_never_ends() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let (file, state) = (users(&folder, &["alice", "bob"]), folder.path().to_owned());
    let limits = UploadLimits {
        count: 3,
        bytes: 1000,
    };
    let site = Site::limited(folder, limits, |own| {
        let access = Access::open(&rules(RULES), Some(&file), false, own, &state, None).unwrap();
        Front::new(access, None, Limits::default())
    })
    .await;
    let start = async |who: &str| {
        let started = send(&site, who, "POST", "team/bobs/blobs/uploads/").await;
        let place = header(&started, "location").trim_start_matches("/v2/");
        (started.status().as_u16(), place.to_owned())
    };
    let fill = async |who: &str, method: &str, path: &str, size: usize| {
        let sent = ask(&site, who, method, path).body(vec![0; size]).send();
        sent.await.unwrap().status().as_u16()
    };
    let (_, one) = start("alice").await;
    assert_eq!(fill("alice", "PATCH", &one, 900).await, 202);
    assert_eq!(fill("alice", "PATCH", &one, 200).await, 429);
    // Nor in one request.
    let digest = Digest::of(vec![0; 200]);
    let whole = format!("team/bobs/blobs/uploads/?digest={digest}");
    assert_eq!(fill("alice", "POST", &whole, 200).await, 429);
    assert_eq!(fill("bob", "POST", &whole, 200).await, 201);
    let (_, two) = start("alice").await;
    assert_eq!(start("alice").await.0, 202);
    assert_eq!(start("alice").await.0, 429);
    assert_eq!(start("bob").await.0, 202);
    // What ends makes room.
    assert_eq!(send(&site, "alice", "DELETE", &one).await.status(), 204);
    assert_eq!(fill("alice", "PATCH", &two, 200).await, 202);
    let end = format!("{two}?digest={digest}");
    assert_eq!(send(&site, "alice", "PUT", &end).await.status(), 201);
    assert_eq!(start("alice").await.0, 202);
    assert_eq!(fill("alice", "POST", &whole, 200).await, 201);
}
