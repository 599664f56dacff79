use std::{collections::HashMap, io::Write as _};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use slipway_image::{
    Descriptor, Digest, Platform,
    layer::{Entry, Kind, gzip::GzipWriter, limits::Limits, tar_write::TarWriter},
    manifest::ImageManifest,
    media_type,
};

use super::{Image, Shelf, memory::Memory, plan, read, write};
use crate::{
    error::{Error, Result},
    names::{Repository, Tag},
};

fn load(archive: &[u8], platform: Option<&str>) -> Result<Vec<Image>> {
    let platform: Option<Platform> = platform.map(|p| p.parse().unwrap());
    let mut shelf = Memory::default();
    let listing = read(archive, Limits::default(), &mut shelf)?;
    plan(&listing, &mut shelf, platform.as_ref())
}

#[track_caller]
fn refusal(archive: &[u8]) -> String {
    load(archive, None).unwrap_err().to_string()
}

/// An archive that is being made.
#[derive(Clone, Default)]
struct Made(Vec<(Entry, Vec<u8>)>);

impl Made {
    fn with(mut self, path: &str, kind: Kind, content: &[u8]) -> Self {
        let entry = Entry {
            path: path.into(),
            size: content.len() as u64,
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
        };
        self.0.push((entry, content.to_vec()));
        self
    }

    fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.with(path, Kind::File, content.as_ref())
    }

    fn json(self, path: &str, content: &Value) -> Self {
        self.file(path, content.to_string())
    }

    fn blob(self, content: impl AsRef<[u8]>) -> Self {
        let path = format!("blobs/sha256/{}", Digest::of(&content).encoded());
        self.file(&path, content)
    }

    fn tar(&self) -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        for (entry, content) in &self.0 {
            tar.append(entry, &mut &content[..]).unwrap();
        }
        tar.finish().unwrap()
    }
}

const LAYER: &[u8] = b"a layer, as far as anybody looks";

fn config(architecture: &str, diff_ids: &[&[u8]]) -> String {
    let diff_ids: Vec<_> = diff_ids.iter().map(|d| Digest::of(d).to_string()).collect();
    json!({"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
}

fn descriptor(kind: &str, content: &str) -> Value {
    json!({"mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len()})
}

fn manifest(config: &str, layers: &[&[u8]]) -> String {
    let layers: Vec<_> = layers
        .iter()
        .map(|l| {
            json!({"mediaType": media_type::OCI_LAYER, "digest": Digest::of(l).to_string(), "size": l.len()})
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, config),
        "layers": layers,
    })
    .to_string()
}

fn index(manifests: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests})
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({"io.containerd.image.name": name});
    descriptor
}

/// A layout with these descriptors, and an image that they may name.
fn layout(manifests: &[Value]) -> Made {
    let config = config("amd64", &[LAYER]);
    Made::default()
        .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
        .json("index.json", &index(manifests))
        .blob(LAYER)
        .blob(manifest(&config, &[LAYER]))
        .blob(config)
}

fn image() -> Value {
    let config = config("amd64", &[LAYER]);
    descriptor(media_type::OCI_MANIFEST, &manifest(&config, &[LAYER]))
}

/// As docker before 25 wrote it.
fn docker(layers: &[&str]) -> Made {
    let diff_ids = vec![LAYER; layers.len()];
    let config = config("amd64", &diff_ids);
    let list =
        json!([{"Config": "c.json", "RepoTags": ["goals:v1", "goals:v2"], "Layers": layers}]);
    Made::default()
        .with("one", Kind::Folder, b"")
        .file("one/VERSION", "1.0")
        .file("one/layer.tar", LAYER)
        .file("c.json", config)
        .json("manifest.json", &list)
}

fn names(images: &[Image]) -> Vec<Vec<String>> {
    let of = |image: &Image| image.names.iter().map(ToString::to_string).collect();
    images.iter().map(of).collect()
}

#[test]
fn what_is_written_is_read() {
    let image: ImageManifest =
        serde_json::from_str(&manifest(&config("amd64", &[LAYER]), &[LAYER])).unwrap();
    let content = manifest(&config("amd64", &[LAYER]), &[LAYER]);
    let blobs = [
        content.as_bytes(),
        LAYER,
        config("amd64", &[LAYER]).as_bytes(),
    ]
    .map(|blob| (Digest::of(blob), Bytes::copy_from_slice(blob)));
    let saved = |tag: &str| write::Saved {
        name: Some((
            Repository::new("docker.io", "goals").unwrap(),
            Tag::parse(tag).unwrap(),
        )),
        top: Descriptor::new(
            media_type::OCI_MANIFEST,
            Digest::of(&content),
            content.len() as u64,
        ),
        image: image.clone(),
    };
    let sizes = blobs.iter().map(|(d, b)| (d.clone(), b.len() as u64));
    let contents = write::Contents::with_lists(sizes.collect(), &[saved("v1"), saved("v2")]);
    let blobs: HashMap<_, _> = blobs.into_iter().collect();
    let write = || {
        contents
            .write(Vec::new(), |digest, out| {
                out.extend(&blobs[digest]);
                Ok(blobs[digest].len() as u64)
            })
            .unwrap()
    };
    assert_eq!(write(), write());
    let both = ["docker.io/library/goals:v1", "docker.io/library/goals:v2"];
    let images = load(&write(), None).unwrap();
    assert_eq!(names(&images), [both]);
    assert_eq!(images[0].top.digest, Digest::of(&content));
    assert_eq!(images[0].id, image.config.digest);
    // Who knows docker's list only finds the same image.
    let list = contents
        .lists
        .iter()
        .find(|(name, _)| *name == "manifest.json");
    let list: Value = serde_json::from_slice(&list.unwrap().1).unwrap();
    assert_eq!(list[0]["RepoTags"], json!(["goals:v1", "goals:v2"]));
    assert_eq!(list.as_array().unwrap().len(), 1);
}

#[test]
fn archives_of_older_dockers_have_layers_in_folders_and_links() {
    let made = docker(&["one/layer.tar", "two/layer.tar"]).with(
        "two/layer.tar",
        Kind::Symlink(b"../one/layer.tar".to_vec()),
        b"",
    );
    let images = load(&made.tar(), None).unwrap();
    let both = ["docker.io/library/goals:v1", "docker.io/library/goals:v2"];
    assert_eq!(names(&images), [both]);
    let manifest: Value = serde_json::from_slice(&images[0].top.content).unwrap();
    assert_eq!(manifest["layers"][0]["mediaType"], media_type::OCI_LAYER);
    assert_eq!(manifest["layers"][0], manifest["layers"][1]);
}

#[test]
fn a_tag_without_a_repository_is_no_name() {
    let with = |key: &str, name: &str| {
        let mut descriptor = image();
        descriptor["annotations"] = json!({ key: name });
        names(&load(&layout(&[descriptor]).tar(), None).unwrap()).concat()
    };
    let none: [&str; 0] = [];
    let ref_name = "org.opencontainers.image.ref.name";
    assert_eq!(with(ref_name, "latest"), none);
    assert_eq!(with(ref_name, "goals:v1"), ["docker.io/library/goals:v1"]);
    let whole = "quay.io/a/b:v1";
    assert_eq!(with("io.containerd.image.name", whole), [whole]);
}

#[test]
fn of_several_platforms_those_that_are_there_are_taken() {
    let arm = config("arm64", &[LAYER]);
    let arm_manifest = manifest(&arm, &[LAYER]);
    let arm_image = descriptor(media_type::OCI_MANIFEST, &arm_manifest);
    let both = index(&[image(), arm_image]).to_string();
    let top = named(descriptor(media_type::OCI_INDEX, &both), "docker.io/a/b:c");
    let half = layout(&[top]).blob(&both);
    let whole = half.clone().blob(&arm).blob(&arm_manifest);

    let images = load(&whole.tar(), None).unwrap();
    assert_eq!((images[0].children.len(), images[0].is_whole), (2, true));
    let images = load(&whole.tar(), Some("linux/arm64")).unwrap();
    assert_eq!((images[0].children.len(), images[0].is_whole), (1, false));
    assert_eq!(images[0].id, Digest::of(&arm));
    let images = load(&half.tar(), None).unwrap();
    assert_eq!((images[0].children.len(), images[0].is_whole), (1, false));
    for (archive, platform) in [(&half, "linux/arm64"), (&whole, "linux/s390x")] {
        let error = load(&archive.tar(), Some(platform)).unwrap_err();
        assert!(matches!(error, Error::PlatformNotFound { .. }), "{error}");
    }
    let error = load(&layout(&[image()]).tar(), Some("linux/arm64")).unwrap_err();
    assert!(matches!(error, Error::PlatformNotFound { .. }), "{error}");
}

#[test]
fn hostile_archives_are_refused_with_a_sentence() {
    let sound = layout(&[image()]);
    assert!(load(&sound.tar(), None).is_ok());
    let link = |kind: fn(Vec<u8>) -> Kind, target: &str| {
        sound.clone().with("x/l", kind(target.into()), b"")
    };
    let mut lying = image();
    lying["size"] = 3.into();
    let without = |path: &str| {
        let mut made = sound.clone();
        made.0
            .retain(|(entry, _)| !entry.path.starts_with(path.as_bytes()));
        made
    };
    let layer = format!("blobs/sha256/{}", Digest::of(LAYER).encoded());
    let inner = index(&[]).to_string();
    let nested = index(&[descriptor(media_type::OCI_INDEX, &inner)]).to_string();
    let other = manifest(&config("amd64", &[b"other"]), &[LAYER]);
    let more = manifest(&config("amd64", &[LAYER, LAYER]), &[LAYER]);
    let of = |content: &str| layout(&[descriptor(media_type::OCI_MANIFEST, content)]).blob(content);
    let deep = format!("{{\"x\":{}", "[".repeat(100_000));
    let cases = [
        (sound.clone().file("../x", ""), "leads out of it"),
        (sound.clone().file("a/../../x", ""), "leads out of it"),
        (sound.clone().file("/etc/passwd", ""), "leads out of it"),
        (
            sound.clone().file("index.json", "{}"),
            "it has index.json twice",
        ),
        (
            sound.clone().file("./index.json", "{}"),
            "it has index.json twice",
        ),
        (
            sound.clone().with("x", Kind::Fifo, b""),
            "neither a file nor a folder",
        ),
        (
            link(Kind::Symlink, "../../etc/shadow"),
            "out of the archive",
        ),
        (link(Kind::Symlink, "/etc/shadow"), "out of the archive"),
        (link(Kind::HardLink, "../x"), "out of the archive"),
        (without(&layer), "is named, and is not in it"),
        (
            without(&layer).file(&layer, "other"),
            "does not match its digest",
        ),
        (
            sound.clone().file("blobs/sha256/xyz", ""),
            "is not the name of a blob",
        ),
        (layout(&[lying]), "bytes and not 3"),
        (
            of(&other).blob(config("amd64", &[b"other"])),
            "holds sha256:",
        ),
        (
            of(&more).blob(config("amd64", &[LAYER, LAYER])),
            "speaks of 2 layers",
        ),
        (
            layout(&[descriptor(media_type::OCI_INDEX, &nested)])
                .blob(&nested)
                .blob(&inner),
            "an index within an index",
        ),
        (layout(&[named(image(), "docker.io/a@b")]), "invalid tag"),
        (
            layout(&[named(image(), "docker.io/a")]),
            "a name and a tag are wanted",
        ),
        (layout(&[]), "it holds no images"),
        (without("index.json"), "index.json is not in it"),
        (without("oci-layout"), "no archive of images"),
        (
            without("index.json").file("index.json", &deep),
            "index.json: ",
        ),
        (
            without("index.json").file("index.json", vec![b' '; 5 << 20]),
            "larger than",
        ),
        (
            without("oci-layout").file("oci-layout", r#"{"imageLayoutVersion":"2"}"#),
            "layout of version",
        ),
        (
            Made::default().file("repositories", "{}"),
            "older than 1.10",
        ),
        (docker(&["two/layer.tar"]), "two/layer.tar is named"),
        (docker(&["../one/layer.tar"]), "is named, and is not in it"),
        (Made::default(), "it is empty"),
    ];
    for (made, why) in cases {
        let error = refusal(&made.tar());
        assert!(error.contains(why), "{why}: {error}");
    }
    let mut turning = docker(&["one/layer.tar"]);
    turning
        .0
        .retain(|(entry, _)| entry.path != b"one/layer.tar");
    let turning = turning
        .with("one/layer.tar", Kind::Symlink(b"two".to_vec()), b"")
        .with("one/two", Kind::Symlink(b"layer.tar".to_vec()), b"");
    assert!(refusal(&turning.tar()).contains("is named, and is not in it"));
    assert!(refusal(b"no tar at all").contains("invalid archive"));
}

#[test]
fn what_is_cut_off_is_refused() {
    let whole = layout(&[image()]).tar();
    // Its last file has less than a block.
    for end in (0..whole.len() - 1024 - 512).step_by(100) {
        assert!(
            load(&whole[..end], None).is_err(),
            "{end} of {}",
            whole.len()
        );
    }
}

#[test]
fn holes_fill_no_disk() {
    // A PAX header that says a file of a terabyte has no content at all.
    let record = |key: &str, value: &str| {
        let rest = key.len() + value.len() + 3;
        format!("{} {key}={value}\n", rest + (rest + 2).to_string().len())
    };
    let pax = [
        record("GNU.sparse.major", "0"),
        record("GNU.sparse.minor", "1"),
        record("GNU.sparse.size", "1099511627776"),
        record("GNU.sparse.map", "1099511627776,0"),
        record("GNU.sparse.name", "hole"),
    ]
    .concat();
    let mut tar = Made::default().file("x", &pax).file("hole", "").tar();
    tar[156] = b'x';
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|b| u32::from(*b)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = refusal(&tar);
    assert!(error.contains("sparse"), "{error}");
}

proptest! {
    /// Whatever becomes of a sound archive: it is refused, or all that it names is there.
    #[test]
    fn bytes_that_change_are_refused_or_harmless(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        old in any::<bool>(),
    ) {
        let mut tar = match old {
            true => docker(&["one/layer.tar"]).tar(),
            false => layout(&[named(image(), "docker.io/a/b:c")]).tar(),
        };
        for (at, byte) in changes {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        let mut shelf = Memory::default();
        if let Ok(images) = read(&tar[..], Limits::default(), &mut shelf)
            .and_then(|listing| plan(&listing, &mut shelf, None))
        {
            for image in images {
                prop_assert_eq!(&Digest::of(&image.top.content), &image.top.digest);
                let parsed = crate::manifests::parse(&image.top.media_type, &image.top.content).unwrap();
                for named in parsed.references() {
                    prop_assert_eq!(shelf.small(&named.digest).unwrap().len() as u64, named.size);
                }
            }
        }
    }
}

/// A shelf that counts how often a layer is inflated.
#[derive(Default)]
struct Counting {
    memory: Memory,
    inflated: usize,
}

impl Shelf for Counting {
    fn put(
        &mut self,
        promised: Option<&Digest>,
        size: u64,
        content: &mut dyn std::io::Read,
    ) -> Result<Digest> {
        self.memory.put(promised, size, content)
    }

    fn small(&mut self, digest: &Digest) -> Result<Bytes> {
        self.memory.small(digest)
    }

    fn plain_digest(&mut self, layer: &Digest, like: &Digest) -> Result<Digest> {
        self.inflated += 1;
        self.memory.plain_digest(layer, like)
    }

    fn start(&mut self, digest: &Digest) -> Result<Bytes> {
        self.memory.start(digest)
    }
}

#[test]
fn a_layer_that_images_share_is_inflated_once() {
    let mut layer = GzipWriter::new(Vec::new(), 1);
    layer.write_all(LAYER).unwrap();
    let layer = layer.finish().unwrap();
    let item = |n: usize| json!({"Config": format!("{n}.json"), "RepoTags": [format!("a:{n}")], "Layers": ["l"]});
    let made = Made::default()
        .file("l", &layer)
        .file("0.json", config("amd64", &[LAYER]))
        .file("1.json", config("arm64", &[LAYER]))
        .json("manifest.json", &json!([item(0), item(1)]))
        .tar();
    let mut shelf = Counting::default();
    let listing = read(&made[..], Limits::default(), &mut shelf).unwrap();
    let images = plan(&listing, &mut shelf, None).unwrap();
    assert_eq!((images.len(), shelf.inflated), (2, 1));
}
