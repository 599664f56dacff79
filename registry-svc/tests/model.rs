//! Any sequence of pushes, mounts, deletions, sweeps and crashes, beside a model of what a client may rely on.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reqwest::{Method, RequestBuilder};
use serde_json::json;
use slipway_image::{Digest, media_type};
use support::{Site, client};

const REPOSITORIES: [&str; 3] = ["a", "a/b", "c"];
const BLOBS: usize = 4;
const TAGS: [&str; 3] = ["v1", "V1", "latest"];

/// xorshift64: the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

fn blob(number: usize) -> Vec<u8> {
    format!("blob {number}").into_bytes()
}

fn descriptor(kind: &str, content: &[u8]) -> serde_json::Value {
    json!({"mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len()})
}

/// An image of two blobs.
fn image(config: usize, layer: usize) -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, &blob(config)),
        "layers": [descriptor(media_type::OCI_LAYER, &blob(layer))],
    })
    .to_string()
    .into_bytes()
}

#[derive(Default)]
struct Repository {
    /// By digest: the content, and the digests that it names.
    manifests: BTreeMap<String, (Vec<u8>, Vec<String>)>,
    tags: BTreeMap<String, String>,
    /// Told to be stored here, a moment ago.
    told: BTreeSet<String>,
    /// Found here by HEAD, a moment ago: that is a promise of this process only.
    seen: BTreeSet<String>,
    /// Manifests put by their digest a moment ago: an index that names them is to come.
    loose: BTreeSet<String>,
}

impl Repository {
    fn names(&self, digest: &str) -> bool {
        let mut all = self.manifests.values();
        all.any(|(_, named)| named.iter().any(|n| n == digest))
    }

    /// As docker's registry: with an index goes what only that had.
    fn remove(&mut self, digest: &str) {
        let Some((_, named)) = self.manifests.remove(digest) else {
            return;
        };
        self.tags.retain(|_, named| named != digest);
        self.loose.remove(digest);
        for child in named {
            let is_tagged = self.tags.values().any(|named| *named == child);
            let stays = is_tagged || self.names(&child) || self.loose.contains(&child);
            if self.manifests.contains_key(&child) && !stays {
                self.remove(&child);
            }
        }
    }
}

struct World {
    site: Site,
    http: reqwest::Client,
    dice: Dice,
    model: BTreeMap<&'static str, Repository>,
    done: Vec<String>,
}

impl World {
    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.site.url(path))
    }

    async fn status(&mut self, request: RequestBuilder) -> u16 {
        let request = request.build().unwrap();
        let what = format!("{} {}", request.method(), request.url().path());
        let status = self.http.execute(request).await.unwrap().status().as_u16();
        self.done.push(format!("{what}: {status}"));
        status
    }

    fn readable(&self, repository: &str, digest: &str) -> bool {
        let model = &self.model[repository];
        model.told.contains(digest) || model.seen.contains(digest) || model.names(digest)
    }

    async fn step(&mut self) {
        let repository = self.dice.one(&REPOSITORIES);
        let number = self.dice.below(BLOBS);
        let digest = Digest::of(blob(number)).to_string();
        match self.dice.below(16) {
            0..=3 => {
                let path = format!("{repository}/blobs/uploads/?digest={digest}");
                let push = self.ask(Method::POST, &path).body(blob(number));
                assert_eq!(self.status(push).await, 201);
                self.told(repository, digest);
            }
            4 => {
                let from = self.dice.one(&REPOSITORIES);
                let path = format!("{repository}/blobs/uploads/?mount={digest}&from={from}");
                let mount = self.ask(Method::POST, &path);
                match self.status(mount).await {
                    201 => self.told(repository, digest),
                    status => assert!(status == 202 && !self.readable(from, &digest)),
                }
            }
            5 => {
                let head = self.ask(Method::HEAD, &format!("{repository}/blobs/{digest}"));
                match self.status(head).await {
                    200 => {
                        let model = self.model.get_mut(repository).unwrap();
                        model.seen.insert(digest);
                    }
                    status => assert!(status == 404 && !self.readable(repository, &digest)),
                }
            }
            6 => {
                let delete = self.ask(Method::DELETE, &format!("{repository}/blobs/{digest}"));
                let status = self.status(delete).await;
                let model = self.model.get_mut(repository).unwrap();
                assert_eq!(
                    status == 409 || status == 405,
                    model.names(&digest),
                    "{status}"
                );
                model.told.remove(&digest);
                model.seen.remove(&digest);
            }
            7..=10 => {
                let other = self.dice.below(BLOBS);
                let config = Digest::of(blob(other)).to_string();
                let content = image(other, number);
                self.put(repository, content, vec![digest, config]).await;
            }
            11 => self.put_index(repository).await,
            12 => {
                let tag = self.dice.one(&TAGS);
                let delete = self.ask(Method::DELETE, &format!("{repository}/manifests/{tag}"));
                let existed = self.status(delete).await == 202;
                let model = self.model.get_mut(repository).unwrap();
                assert_eq!(model.tags.remove(tag).is_some(), existed);
            }
            13 => {
                let all: Vec<String> = self.model[repository].manifests.keys().cloned().collect();
                if !all.is_empty() {
                    let digest = all[self.dice.below(all.len())].clone();
                    let path = format!("{repository}/manifests/{digest}");
                    let delete = self.ask(Method::DELETE, &path);
                    assert_eq!(self.status(delete).await, 202);
                    self.model.get_mut(repository).unwrap().remove(&digest);
                }
            }
            14 => self.wait().await,
            _ => self.crash().await,
        }
    }

    fn told(&mut self, repository: &str, digest: String) {
        self.model.get_mut(repository).unwrap().told.insert(digest);
    }

    async fn put(&mut self, repository: &str, content: Vec<u8>, named: Vec<String>) {
        let digest = Digest::of(&content).to_string();
        let tag = match self.dice.below(3) {
            0 => None,
            _ => Some(self.dice.one(&TAGS)),
        };
        let path = format!("{repository}/manifests/{}", tag.unwrap_or(&digest));
        let put = self.ask(Method::PUT, &path).body(content.clone());
        let kind = serde_json::from_slice::<serde_json::Value>(&content).unwrap();
        let put = put.header("content-type", kind["mediaType"].as_str().unwrap());
        let status = self.status(put).await;
        let complete = named.iter().all(|d| {
            self.readable(repository, d) || self.model[repository].manifests.contains_key(d)
        });
        // What somebody was told long ago may still be there.
        assert!(status == 201 || !complete, "{status}");
        if status == 201 {
            let model = self.model.get_mut(repository).unwrap();
            // What was promised is kept.
            model.told.retain(|digest| !named.contains(digest));
            model.seen.retain(|digest| !named.contains(digest));
            model.loose.retain(|digest| !named.contains(digest));
            model.manifests.insert(digest.clone(), (content, named));
            match tag {
                Some(tag) => drop(model.tags.insert(tag.to_owned(), digest)),
                None => drop(model.loose.insert(digest)),
            }
        }
    }

    async fn put_index(&mut self, repository: &str) {
        let mut children = Vec::new();
        for (digest, (content, _)) in &self.model[repository].manifests {
            if content.windows(8).any(|w| w == b"\"layers\"") {
                children.push((
                    digest.clone(),
                    descriptor(media_type::OCI_MANIFEST, content),
                ));
            }
        }
        children.truncate(2);
        let index = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_INDEX,
            "manifests": children.iter().map(|(_, d)| d).collect::<Vec<_>>(),
        });
        let named = children.into_iter().map(|(digest, _)| digest).collect();
        self.put(repository, index.to_string().into_bytes(), named)
            .await;
    }

    /// Every grace runs out, nobody goes on with an upload, and the sweep comes by.
    async fn wait(&mut self) {
        self.done.push("time passes".to_owned());
        for session in support::files_below(&self.site.dir.path().join("uploads")) {
            std::fs::remove_file(session).unwrap();
        }
        self.site.registry.leases.forget_graces();
        for repository in self.model.values_mut() {
            repository.told.clear();
            repository.seen.clear();
            repository.loose.clear();
        }
        self.site.registry.sweep().await.unwrap();
    }

    /// The service is killed, and its index is as old as can be.
    async fn crash(&mut self) {
        self.done.push("crash".to_owned());
        for repository in self.model.values_mut() {
            repository.seen.clear();
            repository.loose.clear();
        }
        let copy = Arc::new(tempfile::tempdir().unwrap());
        support::copy_tree(self.site.dir.path(), copy.path());
        std::fs::remove_dir_all(copy.path().join("index")).unwrap();
        self.site = Site::reopen(copy, None, 0).await;
    }

    async fn check(&self) {
        for (repository, model) in &self.model {
            let mut wanted: BTreeSet<&String> = model.told.union(&model.seen).collect();
            for (digest, (content, named)) in &model.manifests {
                let get = self.ask(Method::GET, &format!("{repository}/manifests/{digest}"));
                let got = get.send().await.unwrap();
                assert_eq!(got.status(), 200, "{repository}@{digest}");
                assert_eq!(got.bytes().await.unwrap(), *content);
                wanted.extend(named.iter().filter(|n| !model.manifests.contains_key(*n)));
            }
            for digest in wanted {
                let get = self.ask(Method::GET, &format!("{repository}/blobs/{digest}"));
                let got = get.send().await.unwrap();
                assert_eq!(got.status(), 200, "{repository} {digest}");
                let content = got.bytes().await.unwrap();
                assert_eq!(Digest::of(&content).to_string(), *digest);
            }
            for tag in TAGS {
                let head = self.ask(Method::HEAD, &format!("{repository}/manifests/{tag}"));
                let head = head.send().await.unwrap();
                let told = head.headers().get("docker-content-digest");
                let told = told.map(|d| d.to_str().unwrap());
                assert_eq!(
                    told,
                    model.tags.get(tag).map(String::as_str),
                    "{repository}:{tag}"
                );
            }
        }
    }

    async fn end(mut self) {
        let model = std::mem::take(&mut self.model);
        for (repository, model) in model {
            for digest in model.manifests.keys() {
                let delete = self.ask(Method::DELETE, &format!("{repository}/manifests/{digest}"));
                let status = self.status(delete).await;
                // It went with its index.
                assert!(matches!(status, 202 | 404), "{status}");
            }
        }
        self.wait().await;
        assert_eq!(self.site.blob_bytes(), 0);
        let left = support::files_below(&self.site.dir.path().join("repositories"));
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Says what was done when something is not as it must be.
struct Tell<'a>(&'a World, u64);

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}:\n{}", self.1, self.0.done.join("\n"));
        }
    }
}

#[tokio::test]
async fn what_a_client_may_rely_on_is_there_and_nothing_else_stays() {
    // More of them by hand.
    let seeds = std::env::var("SLIPWAY_SEEDS").unwrap_or("1-8".to_owned());
    let (first, last) = seeds.split_once('-').unwrap();
    for seed in first.parse::<u64>().unwrap()..=last.parse().unwrap() {
        let mut world = World {
            site: Site::start().await,
            dice: Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)),
            http: client(),
            model: REPOSITORIES
                .map(|name| (name, Repository::default()))
                .into(),
            done: Vec::new(),
        };
        for _ in 0..60 {
            world.step().await;
            let tell = Tell(&world, seed);
            world.check().await;
            drop(tell);
        }
        world.end().await;
    }
}
