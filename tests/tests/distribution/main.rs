//! The Distribution API, request by request: what the specification's own suite checks
//! (opencontainers/distribution-spec, `conformance/`), and what of the specification 1.1 that leaves out.

mod api;
mod blobs;
mod clients;
mod content;
mod deletes;
mod lists;
mod manifests;
mod referrers;
mod secured;
mod uploads;

use serde_json::Value;
use slipway_image::Digest;
use slipway_tests::{Answer, Ask, Site, ready};

/// registry-svc's default.
const ADDRESS: &str = "127.0.0.1:5000";

/// A site with nothing but a registry on it.
struct Registry {
    site: Site,
}

impl Registry {
    async fn start() -> Option<Self> {
        if !ready() {
            return None;
        }
        let mut site = Site::bare();
        site.start_service("registry").await;
        Some(Self { site })
    }

    /// A request to it.
    fn ask(&self, method: &str, target: &str) -> Ask<'_> {
        self.site.ask(ADDRESS, method, target)
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target).send()
    }

    fn head(&self, target: &str) -> Answer {
        let answer = self.ask("HEAD", target).send();
        assert!(answer.body.is_empty(), "{answer:?}");
        answer
    }

    fn delete(&self, target: &str) -> Answer {
        self.ask("DELETE", target).send()
    }

    /// Pushes a blob.
    #[track_caller]
    fn push(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let target = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        self.ask("POST", &target).body(content).send().is(201);
        digest
    }

    /// Sends a manifest.
    fn put(&self, repository: &str, reference: &str, media_type: &str, content: &[u8]) -> Answer {
        self.ask("PUT", &format!("/v2/{repository}/manifests/{reference}"))
            .header("Content-Type", media_type)
            .body(content)
            .send()
    }
}

/// The codes of an error, each of a form and kind that the specification knows ("Error Codes").
#[track_caller]
fn codes(answer: &Answer) -> Vec<String> {
    const KNOWN: [&str; 14] = [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
        "TOOMANYREQUESTS",
    ];
    assert_eq!(answer.told("content-type"), "application/json");
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    let codes = errors.iter().map(|error: &Value| {
        let code = error["code"].as_str().unwrap().to_owned();
        assert!(KNOWN.contains(&code.as_str()), "{code}");
        assert!(error["message"].is_string(), "{error}");
        code
    });
    codes.collect()
}

/// It must be refused so.
#[track_caller]
fn refused(answer: Answer, status: u16, code: &str) -> Answer {
    let answer = answer.is(status);
    assert_eq!(codes(&answer), [code], "{answer:?}");
    answer
}
