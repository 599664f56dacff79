//! Who may do what, over HTTP as clients see it.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/raw2.rs"]
mod raw2;

mod policy;
mod refused;
mod slow;
mod tls;
mod tokens;
mod turns;

use std::{path::PathBuf, sync::Arc};

use registry_svc::{
    access::{Access, policy::AccessRule},
    http::{Front, Limits},
};
use reqwest::{Method, RequestBuilder, Response};
use serde::Deserialize;
use support::{Site, client};
use tempfile::TempDir;

/// `*` may nothing; alice everything, bob some of it, everybody a little.
const RULES: &str = r#"
[[access]]
prefix = "*"
who = ["alice"]
may = ["pull", "push", "delete"]
[[access]]
prefix = "team"
who = ["alice"]
may = ["pull", "push", "delete"]
[[access]]
prefix = "team"
who = ["bob"]
may = ["pull"]
[[access]]
prefix = "team/bobs"
who = ["alice", "bob"]
may = ["pull", "push"]
[[access]]
prefix = "public"
who = ["anonymous"]
may = ["pull"]
[[access]]
prefix = "public"
who = ["alice"]
may = ["push"]
"#;

#[derive(Deserialize)]
struct File {
    access: Vec<AccessRule>,
}

/// Rules of the form of `registry.toml`.
fn rules(text: &str) -> Vec<AccessRule> {
    toml::from_str::<File>(text).unwrap().access
}

/// A password file in which everybody's password is his own name.
fn users(folder: &TempDir, names: &[&str]) -> PathBuf {
    let line = |name: &&str| format!("{name}:{}\n", bcrypt::hash(*name, 4).unwrap());
    let path = folder.path().join("htpasswd");
    std::fs::write(&path, names.iter().map(line).collect::<String>()).unwrap();
    path
}

/// A registry with a policy.
async fn guarded(rules_text: &str) -> Site {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let file = users(&folder, &["alice", "bob", "carol"]);
    let state = folder.path().to_owned();
    let rules = rules(rules_text);
    Site::behind(folder, None, 0, |own| {
        let access = Access::open(&rules, Some(&file), false, own, &state, None).unwrap();
        Front::new(access, None, Limits::default())
    })
    .await
}

/// A request in somebody's name, whose password is that; `-` for nobody's.
fn ask(site: &Site, who: &str, method: &str, path: &str) -> RequestBuilder {
    let method: Method = method.parse().unwrap();
    let request = client().request(method, site.url(path));
    match who {
        "-" => request,
        who => request.basic_auth(who, Some(who)),
    }
}

async fn send(site: &Site, who: &str, method: &str, path: &str) -> Response {
    ask(site, who, method, path).send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

async fn json(response: Response) -> serde_json::Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}
