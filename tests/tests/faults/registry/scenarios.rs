//! What is asked of the registry while it is killed.

use slipway_image::{Digest, media_type};
use slipway_proto::registry::v1::{
    WriteBlobRequest,
    write_blob_request::{BeginPart, EndPart, Header, Part},
};
use slipway_tests::Answer;

use super::{
    Stand,
    facts::{Facts, Image, image},
};

/// What went wrong: nothing came, or a refusal.
pub type Done = Result<(), String>;

type Act =
    for<'a> fn(&'a Stand, &'a mut Facts) -> std::pin::Pin<Box<dyn Future<Output = Done> + 'a>>;

/// Something that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    /// What must be there before.
    pub prepare: fn(&Stand, &mut Facts) -> Done,
    /// What is cut off. It can be done again.
    pub act: Act,
}

pub const UPLOAD: Scenario = Scenario {
    name: "an upload in chunks",
    prepare: |_, _| Ok(()),
    act: |stand, facts| Box::pin(async { upload(stand, facts) }),
};

pub const MOUNT: Scenario = Scenario {
    name: "a mount",
    prepare: |_, _| Ok(()),
    act: |stand, facts| Box::pin(async { mount(stand, facts) }),
};

pub const COMPOSE: Scenario = Scenario {
    name: "a blob in parts",
    prepare: |_, _| Ok(()),
    act: |stand, facts| Box::pin(compose(stand, facts)),
};

pub const MANIFEST: Scenario = Scenario {
    name: "a tag that moves to a new image",
    prepare: |stand, facts| {
        push_image(stand, facts, "v1", &image("old"))?;
        facts.in_doubt("app", "v1");
        Ok(())
    },
    act: |stand, facts| Box::pin(async { push_image(stand, facts, "v1", &image("new")) }),
};

pub const UNTAG: Scenario = Scenario {
    name: "a tag that is taken away",
    prepare: |stand, facts| push_image(stand, facts, "v1", &image("old")),
    act: |stand, facts| Box::pin(async { delete(stand, facts, &["v1"]) }),
};

pub const DELETE: Scenario = Scenario {
    name: "an image that is deleted",
    prepare: |stand, facts| push_image(stand, facts, "v1", &image("old")),
    act: |stand, facts| {
        Box::pin(async {
            let digest = Digest::of(image("old").manifest).to_string();
            delete(stand, facts, &[&digest, "v1"])
        })
    },
};

pub const FETCH: Scenario = Scenario {
    name: "an image of upstream",
    prepare: |_, _| Ok(()),
    act: |stand, facts| Box::pin(async { fetch(stand, facts) }),
};

/// The answer, if it has this status.
fn expect(answer: Result<Answer, String>, status: u16) -> Result<Answer, String> {
    let answer = answer?;
    match answer.status == status {
        true => Ok(answer),
        false => Err(format!(
            "{}: {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        )),
    }
}

/// A blob in one request.
pub fn push(stand: &Stand, facts: &mut Facts, repository: &str, content: &[u8]) -> Done {
    let digest = Digest::of(content);
    let target = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    expect(stand.ask("POST", &target).body(content).try_send(), 201)?;
    facts.has_blob(repository, content);
    Ok(())
}

pub fn put_manifest(
    stand: &Stand,
    facts: &mut Facts,
    repository: &str,
    tag: &str,
    image: &Image,
) -> Done {
    facts.in_doubt(repository, tag);
    let target = format!("/v2/{repository}/manifests/{tag}");
    let put = stand
        .ask("PUT", &target)
        .header("Content-Type", media_type::OCI_MANIFEST)
        .body(&image.manifest);
    expect(put.try_send(), 201)?;
    facts.has_manifest(repository, tag, &image.manifest);
    Ok(())
}

fn push_image(stand: &Stand, facts: &mut Facts, tag: &str, image: &Image) -> Done {
    for blob in [&image.config, &image.layer] {
        push(stand, facts, "app", blob)?;
    }
    put_manifest(stand, facts, "app", tag, image)
}

fn upload(stand: &Stand, facts: &mut Facts) -> Done {
    let begun = expect(stand.ask("POST", "/v2/app/blobs/uploads/").try_send(), 202)?;
    let location = begun.told("location").to_owned();
    let content = image("chunks").layer;
    let (first, second) = content.split_at(70_000);
    facts.sessions.insert(location.clone(), 0);
    expect(stand.ask("PATCH", &location).body(first).try_send(), 202)?;
    facts.sessions.insert(location.clone(), first.len());
    // Its end is asked for: from then on nobody knows whether it is over.
    facts.sessions.remove(&location);
    facts.ending.insert(location.clone());
    let target = format!("{location}?digest={}", Digest::of(&content));
    expect(stand.ask("PUT", &target).body(second).try_send(), 201)?;
    facts.has_blob("app", &content);
    Ok(())
}

fn mount(stand: &Stand, facts: &mut Facts) -> Done {
    let layer = image("beside").layer;
    let target = format!(
        "/v2/app/blobs/uploads/?mount={}&from=beside",
        Digest::of(&layer)
    );
    expect(stand.ask("POST", &target).try_send(), 201)?;
    facts.has_blob("app", &layer);
    Ok(())
}

async fn compose(stand: &Stand, facts: &mut Facts) -> Done {
    let (first, second) = (image("first").layer, image("second").layer);
    let content = [first.clone(), second.clone()].concat();
    let header = Header {
        repository: "app".to_owned(),
        digest: Digest::of(&content).to_string(),
        size: content.len() as u64,
        in_parts: true,
    };
    let mut parts = vec![Part::Header(header)];
    for content in [first, second] {
        parts.push(Part::BeginPart(BeginPart {}));
        parts.push(Part::Data(content.into()));
        parts.push(Part::EndPart(EndPart {}));
    }
    let parts = parts
        .into_iter()
        .map(|part| WriteBlobRequest { part: Some(part) });
    let written = stand
        .site
        .registry()
        .write_blob(tokio_stream::iter(parts))
        .await;
    written.map_err(|status| status.message().to_owned())?;
    facts.has_blob("app", &content);
    Ok(())
}

fn delete(stand: &Stand, facts: &mut Facts, references: &[&str]) -> Done {
    for reference in references {
        facts.in_doubt("app", reference);
    }
    facts.not_needed("app");
    let target = format!("/v2/app/manifests/{}", references[0]);
    // What was cut off may have come to its end.
    let deleted = stand.ask("DELETE", &target).try_send();
    expect(deleted, 202)?;
    for reference in references {
        facts.is_gone("app", reference);
    }
    Ok(())
}

fn fetch(stand: &Stand, facts: &mut Facts) -> Done {
    let far = image("far");
    let get = stand.ask("GET", "/v2/library/far/manifests/v1").try_send();
    let manifest = expect(get, 200)?;
    assert_eq!(manifest.body, far.manifest);
    facts.has_manifest("library/far", "v1", &far.manifest);
    for blob in [&far.layer, &far.config] {
        let target = format!("/v2/library/far/blobs/{}", Digest::of(blob));
        let got = expect(stand.ask("GET", &target).try_send(), 200)?;
        assert_eq!(got.body, *blob);
        facts.has_blob("library/far", blob);
    }
    Ok(())
}
