//! What is asked of the registry while it is killed.

use std::time::{Duration, Instant};

use slipway_image::Digest;
use slipway_proto::registry::v1::{
    WriteBlobRequest,
    write_blob_request::{BeginPart, EndPart, Header, Part},
};
use slipway_tests::{
    Answer, Site,
    pusher::{Done, Pusher, image},
};

type Act =
    for<'a> fn(&'a Site, &'a mut Pusher) -> std::pin::Pin<Box<dyn Future<Output = Done> + 'a>>;

/// Something that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    /// What must be there before.
    pub prepare: fn(&Site, &mut Pusher) -> Done,
    /// What is cut off. It can be done again.
    pub act: Act,
}

pub const UPLOAD: Scenario = Scenario {
    name: "an upload in chunks",
    prepare: |_, _| Ok(()),
    act: |site, pusher| Box::pin(async { upload(site, pusher) }),
};

pub const MOUNT: Scenario = Scenario {
    name: "a mount",
    prepare: |_, _| Ok(()),
    act: |site, pusher| {
        Box::pin(async { pusher.mount(site, "app", "beside", &image("beside").layer) })
    },
};

pub const COMPOSE: Scenario = Scenario {
    name: "a blob in parts",
    prepare: |_, _| Ok(()),
    act: |site, pusher| Box::pin(compose(site, pusher)),
};

pub const MANIFEST: Scenario = Scenario {
    name: "a tag that moves to a new image",
    prepare: |site, pusher| {
        pusher.push_image(site, "app", "v1", &image("old"))?;
        pusher.in_doubt("app", "v1");
        Ok(())
    },
    act: |site, pusher| Box::pin(async { pusher.push_image(site, "app", "v1", &image("new")) }),
};

pub const UNTAG: Scenario = Scenario {
    name: "a tag that is taken away",
    prepare: |site, pusher| pusher.push_image(site, "app", "v1", &image("old")),
    act: |site, pusher| Box::pin(async { pusher.delete(site, "app", &["v1"]) }),
};

pub const DELETE: Scenario = Scenario {
    name: "an image that is deleted",
    prepare: |site, pusher| pusher.push_image(site, "app", "v1", &image("old")),
    act: |site, pusher| {
        Box::pin(async {
            let digest = Digest::of(image("old").manifest).to_string();
            pusher.delete(site, "app", &[&digest, "v1"])
        })
    },
};

pub const FETCH: Scenario = Scenario {
    name: "an image of upstream",
    prepare: |_, _| Ok(()),
    act: |site, pusher| Box::pin(async { fetch(site, pusher) }),
};

pub const REPAIR: Scenario = Scenario {
    name: "a repair",
    prepare: rot,
    act: |site, pusher| Box::pin(async { repair(site, pusher) }),
};

fn upload(site: &Site, pusher: &mut Pusher) -> Done {
    let begun = Answer::expect(
        site.registry_http("POST", "/v2/app/blobs/uploads/")
            .try_send(),
        202,
    )?;
    let location = begun.told("location").to_owned();
    let content = image("chunks").layer;
    let (first, second) = content.split_at(70_000);
    pusher.sessions.insert(location.clone(), 0);
    Answer::expect(
        site.registry_http("PATCH", &location)
            .body(first)
            .try_send(),
        202,
    )?;
    pusher.sessions.insert(location.clone(), first.len());
    // Its end is asked for: from then on nobody knows whether it is over.
    pusher.sessions.remove(&location);
    pusher.ending.insert(location.clone());
    let target = format!("{location}?digest={}", Digest::of(&content));
    Answer::expect(
        site.registry_http("PUT", &target).body(second).try_send(),
        201,
    )?;
    pusher.has_blob("app", &content);
    Ok(())
}

async fn compose(site: &Site, pusher: &mut Pusher) -> Done {
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
    let written = site.registry().write_blob(tokio_stream::iter(parts)).await;
    written.map_err(|status| status.message().to_owned())?;
    pusher.has_blob("app", &content);
    Ok(())
}

fn fetch(site: &Site, pusher: &mut Pusher) -> Done {
    let far = image("far");
    let get = site
        .registry_http("GET", "/v2/library/far/manifests/v1")
        .try_send();
    let manifest = Answer::expect(get, 200)?;
    assert_eq!(manifest.body, far.manifest);
    pusher.has_manifest("library/far", "v1", &far.manifest);
    for blob in [&far.layer, &far.config] {
        let target = format!("/v2/library/far/blobs/{}", Digest::of(blob));
        let got = Answer::expect(site.registry_http("GET", &target).try_send(), 200)?;
        assert_eq!(got.body, *blob);
        pusher.has_blob("library/far", blob);
    }
    Ok(())
}

/// The disk loses a byte of a layer that came from upstream.
fn rot(site: &Site, pusher: &mut Pusher) -> Done {
    fetch(site, &mut Pusher::default())?;
    pusher.has_manifest("library/far", "v1", &image("far").manifest);
    let digest = Digest::of(&image("far").layer);
    let hex = digest.encoded();
    let path = site.path(&format!("state/registry/blobs/sha256/{}/{hex}", &hex[..2]));
    // Who asked has it before the disk.
    let patience = Instant::now() + Duration::from_secs(30);
    while !path.exists() && Instant::now() < patience {
        std::thread::yield_now();
    }
    let mut content = std::fs::read(&path).map_err(|e| e.to_string())?;
    content[0] ^= 1;
    std::fs::write(path, content).map_err(|e| e.to_string())
}

fn repair(site: &Site, pusher: &mut Pusher) -> Done {
    let said = site.ctl(&["registry", "fsck", "--repair", "--restart"]);
    if said.code != 0 {
        return Err(said.err);
    }
    // What was broken is kept.
    let aside = site.path("state/registry/blobs/quarantine");
    let layer = image("far").layer;
    let kept: Vec<_> = std::fs::read_dir(&aside).unwrap().collect();
    assert!(!kept.is_empty());
    for file in kept {
        let content = std::fs::read(file.unwrap().path()).unwrap();
        assert_eq!((content.len(), content == layer), (layer.len(), false));
    }
    std::fs::remove_dir_all(aside).unwrap();
    fetch(site, pusher)
}
