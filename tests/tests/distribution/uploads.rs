//! Ways that a blob comes in: whole, streamed, in chunks, from another repository.

use slipway_image::{Algorithm, Digest, Digester};
use slipway_tests::Answer;

use super::{Registry, refused};

const REPOSITORY: &str = "team/blobs";

/// How a blob is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One POST.
    Post,
    /// POST, then all of it with the PUT.
    PostPut,
    /// POST, one PATCH of a length that nobody told, PUT.
    Stream,
    /// POST, PATCHes, PUT.
    Chunks,
    /// The same, the last of them with the PUT.
    LastWithPut,
}

const WAYS: [Way; 5] = [
    Way::Post,
    Way::PostPut,
    Way::Stream,
    Way::Chunks,
    Way::LastWithPut,
];

fn digest(algorithm: Algorithm, content: &[u8]) -> Digest {
    let mut digester = Digester::new(algorithm);
    digester.update(content);
    digester.finish()
}

impl Registry {
    /// A session's place.
    #[track_caller]
    fn begin(&self) -> String {
        let target = format!("/v2/{REPOSITORY}/blobs/uploads/");
        let answer = self.ask("POST", &target).send().is(202);
        answer.told("location").to_owned()
    }

    fn chunk(&self, method: &str, target: &str, first: usize, content: &[u8]) -> Answer {
        let range = format!("{first}-{}", first + content.len() - 1);
        self.ask(method, target)
            .header("Content-Range", &range)
            .body(content)
            .send()
    }

    /// The last answer.
    fn upload(&self, way: Way, digest: &Digest, content: &[u8]) -> Answer {
        if way == Way::Post {
            let target = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={digest}");
            return self.ask("POST", &target).body(content).send();
        }
        let mut place = self.begin();
        let end = |place: &str| format!("{place}?digest={digest}");
        let size = content.len() / 3 + 1;
        let mut chunks: Vec<_> = content.chunks(size).collect();
        let last = match way {
            Way::LastWithPut => chunks.pop(),
            _ => None,
        };
        match way {
            Way::PostPut => return self.ask("PUT", &end(&place)).body(content).send(),
            Way::Stream => {
                let answer = self.ask("PATCH", &place).stream(content).send().is(202);
                answer.told("location").clone_into(&mut place);
            }
            _ => {
                for (number, chunk) in chunks.iter().enumerate() {
                    let answer = self.chunk("PATCH", &place, number * size, chunk).is(202);
                    let range = format!("0-{}", number * size + chunk.len() - 1);
                    assert_eq!(answer.told("range"), range);
                    answer.told("location").clone_into(&mut place);
                }
            }
        }
        match last {
            Some(last) => self.chunk("PUT", &end(&place), chunks.len() * size, last),
            None => self.ask("PUT", &end(&place)).send(),
        }
    }
}

#[tokio::test]
async fn every_way_of_sending_a_blob_ends_with_the_same_blob() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for way in WAYS {
            for content in [&b"chunks of a blob that was sent"[..], b"{}", b""] {
                if content.is_empty() && way == Way::LastWithPut {
                    continue;
                }
                let digest = digest(algorithm, content);
                let answer = registry.upload(way, &digest, content).is(201);
                assert_eq!(answer.told("docker-content-digest"), digest.to_string());
                let place = answer.told("location").to_owned();
                let got = registry.get(&place).is(200);
                assert_eq!(got.body, content, "{way:?}");
                assert_eq!(got.told("docker-content-digest"), digest.to_string());
                let head = registry.head(&place).is(200);
                assert_eq!(head.told("content-length"), content.len().to_string());
                assert_eq!(head.told("docker-content-digest"), digest.to_string());
                registry.delete(&place).is(202);
                registry.head(&place).is(404);
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_what_its_digest_says_is_refused_whichever_way_it_came() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for way in WAYS {
            let digest = digest(algorithm, b"what was promised");
            let answer = registry.upload(way, &digest, b"what was sent");
            refused(answer, 400, "DIGEST_INVALID");
            registry
                .get(&format!("/v2/{REPOSITORY}/blobs/{digest}"))
                .is(404);
        }
    }
    let place = registry.begin();
    for target in [place.clone(), format!("{place}?digest=sha256:bad")] {
        let answer = registry.ask("PUT", &target).body("x").send();
        refused(answer, 400, "DIGEST_INVALID");
    }
}

#[tokio::test]
async fn a_chunk_out_of_order_is_refused_and_the_upload_goes_on_where_it_stood() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let content = b"0123456789";
    let digest = Digest::of(content);
    let place = registry.begin();
    let end = format!("{place}?digest={digest}");
    // At its beginning, in its middle, with the PUT: too far, and again what is there.
    refused(
        registry.chunk("PATCH", &place, 4, &content[4..]),
        416,
        "BLOB_UPLOAD_INVALID",
    );
    registry.chunk("PATCH", &place, 0, &content[..4]).is(202);
    for (method, target) in [("PATCH", &place), ("PUT", &end)] {
        for first in [0, 3, 5] {
            let answer = registry.chunk(method, target, first, &content[first..]);
            let answer = refused(answer, 416, "BLOB_UPLOAD_INVALID");
            assert_eq!(answer.told("range"), "0-3");
            assert_eq!(answer.told("location"), place);
            let answer = registry.get(&place).is(204);
            assert_eq!(answer.told("range"), "0-3");
            assert_eq!(answer.told("location"), place);
        }
    }
    // One with nothing in it is looked at as well.
    for range in ["0-3", "5-5"] {
        let ask = registry.ask("PATCH", &place).header("Content-Range", range);
        let answer = refused(ask.body("").send(), 416, "BLOB_UPLOAD_INVALID");
        assert_eq!(answer.told("range"), "0-3");
    }
    registry.chunk("PUT", &end, 4, &content[4..]).is(201);
    // Its session is over.
    refused(registry.get(&place), 404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_chunk_that_is_not_as_long_as_it_says_is_refused() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let place = registry.begin();
    for range in ["", "a-b", "4", "3-1", "-3", "0-18446744073709551615"] {
        let ask = registry.ask("PATCH", &place).header("Content-Range", range);
        refused(ask.body("0123").send(), 416, "BLOB_UPLOAD_INVALID");
    }
    for range in ["0-2", "0-4"] {
        let ask = || registry.ask("PATCH", &place).header("Content-Range", range);
        refused(ask().body("0123").send(), 400, "SIZE_INVALID");
    }
    let ask = registry.ask("PATCH", &place).header("Content-Range", "0-2");
    refused(ask.stream("0123").send(), 400, "SIZE_INVALID");
    // Nothing of that came in.
    let digest = Digest::of("0123");
    let end = format!("{place}?digest={digest}");
    registry.chunk("PUT", &end, 0, b"0123").is(201);
}

#[tokio::test]
async fn an_upload_has_a_name_of_its_own_and_one_repository() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let (one, two) = (registry.begin(), registry.begin());
    assert_ne!(one, two);
    // RFC 9562, 4: 8-4-4-4-12, version 4, variant 10.
    let id = one.rsplit('/').next().unwrap();
    let groups: Vec<_> = id.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
    assert_eq!(&id[14..15], "4", "{id}");
    assert!("89ab".contains(&id[19..20]), "{id}");
    let elsewhere = one.replace(REPOSITORY, "team/other");
    refused(registry.get(&elsewhere), 404, "BLOB_UPLOAD_UNKNOWN");
    let nowhere = one.replace(id, "..%2f..");
    registry.get(&nowhere).is(404);
    // Given up.
    registry.ask("PATCH", &one).body("some").send().is(202);
    registry.delete(&one).is(204);
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        let target = format!("{one}?digest={}", Digest::of("some"));
        let answer = registry.ask(method, &target).send();
        refused(answer, 404, "BLOB_UPLOAD_UNKNOWN");
    }
    registry.get(&two).is(204);
}

#[tokio::test]
async fn an_upload_goes_on_after_the_registry_was_killed() {
    let Some(mut registry) = Registry::start().await else {
        return;
    };
    let place = registry.begin();
    for (number, piece) in ["first,", "second", ",third"].iter().enumerate() {
        registry
            .chunk("PATCH", &place, number * 6, piece.as_bytes())
            .is(202);
        registry.site.kill_and_restart("registry").await;
        let answer = registry.get(&place).is(204);
        assert_eq!(answer.told("range"), format!("0-{}", number * 6 + 5));
    }
    let end = format!("{place}?digest={}", Digest::of("first,second,third"));
    registry.ask("PUT", &end).send().is(201);
    let left = registry.site.path("state/registry/uploads");
    assert_eq!(std::fs::read_dir(left).unwrap().count(), 0);
}

#[tokio::test]
async fn a_blob_is_mounted_from_where_it_may_be_read() {
    let Some(registry) = Registry::start().await else {
        return;
    };
    let digest = registry.push("source/of", b"content");
    let mount = |repository: &str, query: &str| {
        let target = format!("/v2/{repository}/blobs/uploads/?{query}");
        registry.ask("POST", &target).send()
    };
    for (repository, query) in [
        ("with/from", format!("mount={digest}&from=source/of")),
        ("without/from", format!("mount={digest}")),
    ] {
        let answer = mount(repository, &query).is(201);
        let place = answer.told("location").to_owned();
        assert_eq!(place, format!("/v2/{repository}/blobs/{digest}"));
        assert_eq!(registry.get(&place).is(200).body, b"content");
    }
    // What cannot be mounted is an upload like any other.
    let missing = Digest::of("missing");
    for query in [
        format!("mount={missing}&from=source/of"),
        format!("mount={missing}"),
        format!("mount={digest}&from=no/such"),
        format!("mount={digest}&from=NO..NAME"),
        format!("mount={digest}&from=slipway.internal/build-cache"),
        "mount=sha256:bad&from=source/of".to_owned(),
    ] {
        let answer = mount("target", &query).is(202);
        let end = format!("{}?digest={missing}", answer.told("location"));
        registry.ask("PUT", &end).body("missing").send().is(201);
        let place = format!("/v2/target/blobs/{missing}");
        registry.delete(&place).is(202);
    }
    // It is one blob, and goes with the last who has it.
    for repository in ["source/of", "with/from", "without/from"] {
        let place = format!("/v2/{repository}/blobs/{digest}");
        registry.get(&place).is(200);
        registry.delete(&place).is(202);
    }
    mount("target", &format!("mount={digest}")).is(202);
}
