//! Images for tests, put into a site's registry over gRPC.

use slipway_image::{
    Digest, ImageConfig,
    config::{History, RootFs, RunConfig},
    layer::{Entry, Kind, pack::LayerWriter},
    media_type,
};
use slipway_proto::registry::v1::{PutManifestRequest, WriteBlobRequest, write_blob_request};

use crate::Site;

/// Programs that the busybox image has.
const PROGRAMS: [&str; 25] = [
    "sh", "true", "false", "cat", "echo", "sleep", "ls", "id", "hostname", "wget", "httpd", "grep",
    "ping", "seq", "touch", "test", "mkdir", "rm", "env", "pwd", "stty", "nslookup", "usleep",
    "ln", "ip",
];

/// An entry of a layer.
pub fn entry(path: &str, kind: Kind, size: u64) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        size,
        xattrs: Vec::new(),
    }
}

/// Stores an image of one layer with these entries.
pub async fn store(
    site: &Site,
    name: &str,
    run: RunConfig,
    entries: &[(Entry, Vec<u8>)],
) -> Digest {
    let mut layer = LayerWriter::new(Vec::new(), 1);
    for (entry, content) in entries {
        layer.append(entry, &mut &content[..]).unwrap();
    }
    let (blob, packed) = layer.finish().unwrap();
    let config = ImageConfig {
        architecture: slipway_image::Platform::host().architecture,
        os: "linux".into(),
        config: run,
        rootfs: RootFs {
            diff_ids: vec![packed.diff_id],
            ..RootFs::default()
        },
        // BuildKit tells of a layer that has none by the step that it is in its own build.
        history: vec![History {
            created_by: Some("ADD rootfs /".into()),
            ..History::default()
        }],
        ..ImageConfig::default()
    };
    let config = config.to_bytes();
    let repository = format!("docker.io/library/{name}");
    put(site, &repository, &blob).await;
    put(site, &repository, &config).await;
    let id = Digest::of(&config);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{id}","size":{}}},"layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_CONFIG,
        config.len(),
        media_type::OCI_LAYER_GZIP,
        packed.digest,
        blob.len(),
    );
    let request = PutManifestRequest {
        repository,
        tags: vec!["latest".into()],
        media_type: media_type::OCI_MANIFEST.into(),
        content: manifest.into(),
    };
    site.registry().put_manifest(request).await.unwrap();
    id
}

/// Stores an image `busybox`.
pub async fn busybox(site: &Site) -> Digest {
    let run = RunConfig {
        cmd: Some(vec!["sh".into()]),
        ..RunConfig::default()
    };
    store(site, "busybox", run, &busybox_entries()).await
}

/// The files of the image `busybox`.
pub fn busybox_entries() -> Vec<(Entry, Vec<u8>)> {
    let program = std::fs::read("/bin/busybox").unwrap();
    let mut entries = vec![
        (entry("bin", Kind::Folder, 0), vec![]),
        (entry("etc", Kind::Folder, 0), vec![]),
        (entry("tmp", Kind::Folder, 0), vec![]),
        (
            entry("bin/busybox", Kind::File, program.len() as u64),
            program,
        ),
    ];
    for name in PROGRAMS {
        entries.push((
            entry(
                &format!("bin/{name}"),
                Kind::Symlink(b"busybox".to_vec()),
                0,
            ),
            vec![],
        ));
    }
    entries
}

async fn put(site: &Site, repository: &str, content: &[u8]) {
    let header = write_blob_request::Header {
        repository: repository.into(),
        ..Default::default()
    };
    let mut parts = vec![write_blob_request::Part::Header(header)];
    for chunk in content.chunks(slipway_service::CHUNK_SIZE) {
        parts.push(write_blob_request::Part::Data(
            bytes::Bytes::copy_from_slice(chunk),
        ));
    }
    let requests = parts
        .into_iter()
        .map(|part| WriteBlobRequest { part: Some(part) });
    site.registry()
        .write_blob(tokio_stream::iter(requests.collect::<Vec<_>>()))
        .await
        .unwrap();
}
