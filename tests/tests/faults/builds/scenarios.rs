//! What a builder asks for, and what of it must be there afterwards.

use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
};

use slipway_image::{Digest, layer::Kind};
use slipway_proto::runtime::v1::{
    self as pb, DiskUsageRequest, PruneLayersRequest, containers_client::ContainersClient,
    host_client::HostClient,
};
use slipway_tests::{
    Site,
    image::entry,
    worker::{Build, given, known, tar},
};
use tonic::{Status, transport::Channel};

use super::{
    IMAGE,
    found::{caches, has_built_layer, is_stored, is_whole},
};
use crate::told::Told;

const CACHE: &str = "kept-by-steps";
/// Bytes of zeros that end an archive.
const END_MARK: usize = 1024;
/// Where commits and exports go.
pub const COMMITTED: &str = "docker.io/library/committed";

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Looked<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What an act works with: made before the point is armed.
#[derive(Clone)]
pub struct Ready {
    pub build: Build,
    /// Of the image.
    pub layers: Vec<pb::Layer>,
    /// One that is there all the time, and a file of it.
    pub standing: (String, &'static str),
    /// One that something was written to.
    pub snapshot: String,
    pub host: HostClient<Channel>,
    pub containers: ContainersClient<Channel>,
    /// A cache mount's name, and a layer that one was made.
    pub cache: String,
    pub carried: Option<pb::Layer>,
}

/// What must be there before, besides a snapshot that was written to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum First {
    Nothing,
    /// The image's layers, used by nobody.
    Layers,
    /// A cache mount that a step wrote to.
    Cache,
}

/// Something that comes by points.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub first: First,
    pub act: fn(Ready) -> Work<Result<String, Status>>,
    /// Whether it is done, as far as that outlives a lease; after runtime-svc was started again.
    pub done: for<'a> fn(&'a Site, &'a Ready, &'a Told) -> Looked<'a, Option<bool>>,
}

pub const CREATE: Scenario = Scenario {
    name: "create",
    first: First::Nothing,
    act: |ready| {
        Box::pin(async move {
            let spec = pb::ContainerSpec {
                image: IMAGE.to_owned(),
                name: "one".to_owned(),
                ..Default::default()
            };
            let request = pb::CreateRequest {
                spec: Some(spec),
                ..Default::default()
            };
            let mut events = ready.containers.clone().create(request).await?.into_inner();
            let mut id = String::new();
            while let Some(event) = events.message().await? {
                if let Some(pb::run_event::Event::Created(created)) = event.event {
                    id = created.id;
                }
            }
            Ok(id)
        })
    },
    done: |site, _, _| {
        Box::pin(async {
            let is_there = site.ctl(&["container", "inspect", "one"]).code == 0;
            assert!(
                !is_there || is_whole(site, IMAGE).await,
                "a container without its layers"
            );
            Some(is_there)
        })
    },
};

pub const PREPARE: Scenario = Scenario {
    name: "prepare",
    first: First::Nothing,
    act: |ready| {
        Box::pin(async move {
            let below = ready.build.prepare(&ready.layers).await?;
            ready.build.upon(&below).await
        })
    },
    done: nothing_stays,
};

pub const STEP: Scenario = Scenario {
    name: "step",
    first: First::Nothing,
    act: |ready| {
        Box::pin(async move { step(&ready.build, &ready.snapshot, "echo x > /cache/x").await })
    },
    done: |site, _, _| {
        Box::pin(async {
            // With what the step wrote or without it: a step that was cut off is done again.
            let names = caches(site).await;
            assert!(names.len() <= 1, "{names:?}");
            None
        })
    },
};

pub const APPLY: Scenario = Scenario {
    name: "apply",
    first: First::Nothing,
    act: |ready| {
        Box::pin(async move {
            let more = archive("more");
            let applied = ready.build.apply(&ready.snapshot, "/more", &more);
            applied.await.map(|done| done.entries.to_string())
        })
    },
    done: nothing_stays,
};

pub const DIFF: Scenario = Scenario {
    name: "diff",
    first: First::Nothing,
    act: |ready| Box::pin(async move { Ok(ready.build.diff(&ready.snapshot).await?.join("\n")) }),
    done: nothing_stays,
};

pub const COMMIT: Scenario = Scenario {
    name: "commit",
    first: First::Nothing,
    act: |ready| {
        Box::pin(async move {
            let committed = ready.build.commit(&ready.snapshot).await?;
            let layer = committed.layer.unwrap_or_default();
            Ok(layer.descriptor.unwrap_or_default().digest)
        })
    },
    done: |site, _, told| {
        Box::pin(async move {
            if let Told::Done(digest) = told {
                assert!(is_stored(site, digest).await, "{digest} is not stored");
            }
            Some(has_built_layer(site))
        })
    },
};

pub const IMPORT: Scenario = Scenario {
    name: "import",
    first: First::Nothing,
    act: |ready| {
        Box::pin(async move {
            let file = std::fs::read("/bin/busybox").unwrap();
            let size = file.len() as u64;
            let header = entry("deep/er/known", Kind::File, size);
            let [before, after] = [archive("deep/er/imported"), tar(&[(header, file.clone())])];
            // Behind each archive's files there is its end.
            let before = &before[..before.len() - END_MARK];
            let at = after.windows(64).position(|part| part == &file[..64]);
            let (header, rest) = after.split_at(at.unwrap());
            let (layer, path) = &ready.standing;
            let parts = vec![
                given(before),
                given(header),
                known(layer, path, size),
                given(&rest[file.len()..]),
            ];
            let diff_id = Digest::of([before, &after].concat()).to_string();
            ready.build.import(parts, Some(&diff_id)).await?;
            Ok(diff_id)
        })
    },
    done: |site, _, _| Box::pin(async { Some(has_built_layer(site)) }),
};

pub const RELEASE: Scenario = Scenario {
    name: "release",
    first: First::Nothing,
    act: |ready| {
        Box::pin(async move {
            let request = pb::ReleaseRequest {
                snapshot_id: ready.snapshot.clone(),
            };
            ready.build.client.clone().release(request).await?;
            Ok(String::new())
        })
    },
    done: nothing_stays,
};

pub const END: Scenario = Scenario {
    name: "end of a lease",
    first: First::Nothing,
    act: |ready| {
        Box::pin(async move {
            let request = pb::EndLeaseRequest {
                lease_id: ready.build.lease.clone(),
            };
            ready.build.client.clone().end_lease(request).await?;
            Ok(String::new())
        })
    },
    done: nothing_stays,
};

pub const MEASURE: Scenario = Scenario {
    name: "system df",
    first: First::Nothing,
    act: |ready| {
        Box::pin(async move {
            // Layers that nobody has measured yet.
            ready.build.prepare(&ready.layers).await?;
            let request = DiskUsageRequest { verbose: false };
            ready.host.clone().disk_usage(request).await?;
            Ok(String::new())
        })
    },
    done: nothing_stays,
};

pub const COLLECT: Scenario = Scenario {
    name: "collect",
    first: First::Layers,
    act: |ready| {
        Box::pin(async move {
            let request = PruneLayersRequest { all: true };
            let pruned = ready.host.clone().prune_layers(request).await?.into_inner();
            Ok(pruned.removed.to_string())
        })
    },
    done: |site, _, _| Box::pin(async { Some(!is_whole(site, IMAGE).await) }),
};

pub const UNCACHE: Scenario = Scenario {
    name: "removal of a cache mount",
    first: First::Cache,
    act: |ready| {
        Box::pin(async move {
            let request = pb::RemoveCachesRequest {
                names: vec![ready.cache.clone()],
            };
            let removed = ready.build.client.clone().remove_caches(request).await?;
            assert_eq!(removed.into_inner().removed.len(), 1);
            Ok(String::new())
        })
    },
    done: |site, _, _| Box::pin(async { Some(caches(site).await.is_empty()) }),
};

pub const EXPORT_CACHE: Scenario = Scenario {
    name: "export of a cache mount",
    first: First::Cache,
    act: |ready| {
        Box::pin(async move {
            let layer = export(&ready).await?;
            Ok(layer.descriptor.unwrap_or_default().digest)
        })
    },
    done: |site, ready, _| {
        Box::pin(async {
            assert_eq!(caches(site).await, std::slice::from_ref(&ready.cache));
            None
        })
    },
};

pub const IMPORT_CACHE: Scenario = Scenario {
    name: "import of a cache mount",
    first: First::Cache,
    act: |ready| {
        Box::pin(async move {
            let request = pb::ImportCacheRequest {
                id: CACHE.to_owned(),
                layer: ready.carried.clone(),
                replace: true,
                ..Default::default()
            };
            let imported = ready.build.client.clone().import_cache(request).await?;
            assert!(imported.into_inner().imported);
            Ok(String::new())
        })
    },
    done: |site, ready, _| {
        Box::pin(async {
            // The old one, the new one, or both: each is whole.
            let names = caches(site).await;
            assert!((1..=2).contains(&names.len()), "{names:?}");
            Some(names.len() == 1 && names != [ready.cache.clone()])
        })
    },
};

/// With the lease goes all of it.
pub fn nothing_stays<'a>(_: &'a Site, _: &'a Ready, _: &'a Told) -> Looked<'a, Option<bool>> {
    Box::pin(async { None })
}

/// With a file that was never there before: what is there already need not be done again.
pub fn archive(path: &str) -> Vec<u8> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let content = number.to_be_bytes().repeat(2500);
    tar(&[(entry(path, Kind::File, 20_000), content)])
}

pub async fn step(build: &Build, snapshot: &str, script: &str) -> Result<String, Status> {
    let cache = pb::StepMount {
        r#type: "cache".to_owned(),
        target: "/cache".to_owned(),
        cache_id: CACHE.to_owned(),
        ..Default::default()
    };
    let secret = pb::StepMount {
        r#type: "secret".to_owned(),
        target: "/run/secrets/word".to_owned(),
        secret: bytes::Bytes::from_static(b"hush"),
        ..Default::default()
    };
    let request = pb::RunStepRequest {
        snapshot_id: snapshot.to_owned(),
        args: ["/bin/busybox", "sh", "-c", script]
            .map(str::to_owned)
            .to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        mounts: vec![cache, secret],
        ..Default::default()
    };
    let mut events = build.client.clone().run_step(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        if let Some(pb::run_step_event::Event::Exited(exited)) = event.event {
            return Ok(exited.exit_code.to_string());
        }
    }
    Err(Status::unknown("the step has no end"))
}

pub async fn export(ready: &Ready) -> Result<pb::Layer, Status> {
    let request = pb::ExportCacheRequest {
        name: ready.cache.clone(),
        repository: COMMITTED.to_owned(),
    };
    let answer = ready.build.client.clone().export_cache(request).await?;
    Ok(answer.into_inner().layer.unwrap())
}
