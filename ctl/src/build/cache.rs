//! `--cache-from` and `--cache-to`: what is asked of the builder, and what of it is a folder here.
//!
//! A folder is an OCI layout. Its layers are put into registry-svc, those only that it lacks; the
//! builder is sent config and manifest, which hold the records.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use slipway_image::{Digest, manifest::ImageIndex, manifest::ImageManifest};
use slipway_proto::{
    builder::v1::CacheSource,
    registry::v1::{StatBlobsRequest, WriteBlobRequest, write_blob_request},
};
use slipway_service::CHUNK_SIZE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::output::Place;
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    spec::mount::fields,
};

/// Repository of the build cache.
const REPOSITORY: &str = "slipway.internal/build-cache";

/// Largest manifest or config that is read: a message has at most 4 MiB.
const LARGEST: u64 = 3 << 20;

/// Reads `user/app:cache` or `type=registry,ref=user/app:cache`.
fn parse(option: &str, word: &str) -> Outcome<CacheSource> {
    let mut source = CacheSource::default();
    let parts = fields(word)?;
    if let [only] = &parts[..]
        && !only.contains('=')
    {
        source.r#type = "registry".to_owned();
        source.attributes.insert("ref".to_owned(), word.to_owned());
        return Ok(source);
    }
    for part in parts {
        let Some((key, value)) = part.split_once('=') else {
            return Err(Failure::new(format!(
                "invalid value {part:?} of {option}: write KEY=VALUE"
            )));
        };
        match &*key.trim().to_lowercase() {
            "type" => value.clone_into(&mut source.r#type),
            other => drop(source.attributes.insert(other.to_owned(), value.to_owned())),
        }
    }
    if source.r#type.is_empty() {
        return Err(Failure::new(format!(
            "type required for {option}: {word:?}"
        )));
    }
    Ok(source)
}

/// Destinations, and the folders that some of them mean.
pub fn destinations(words: &[String]) -> Outcome<Vec<(CacheSource, Option<Place>)>> {
    let one = |word: &String| {
        let mut source = parse("--cache-to", word)?;
        let dest = source.attributes.remove("dest");
        let place = match (&*source.r#type, dest) {
            ("local", Some(dest)) if !dest.is_empty() => Some(Place::Folder(dest.into())),
            ("local", _) => {
                return Err(Failure::new("--cache-to type=local needs dest=FOLDER"));
            }
            (kind, Some(_)) => {
                return Err(Failure::new(format!(
                    "dest is not supported for --cache-to type={kind}"
                )));
            }
            (_, None) => None,
        };
        Ok((source, place))
    };
    words.iter().map(one).collect()
}

/// Sources; the layers of folders among them are in registry-svc afterwards.
pub async fn sources(site: &Site, words: &[String]) -> Outcome<Vec<CacheSource>> {
    let mut out = Vec::new();
    for word in words {
        let mut source = parse("--cache-from", word)?;
        if source.r#type == "local" {
            let Some(folder) = source.attributes.remove("src") else {
                return Err(Failure::new("--cache-from type=local needs src=FOLDER"));
            };
            let tag = source.attributes.remove("tag");
            let digest = source.attributes.remove("digest");
            match load(site, Path::new(&folder), tag, digest).await {
                Ok(found) => source.attributes.extend(found),
                // As buildx: a cache that is not there is no error.
                Err(error) => {
                    let text = error.text;
                    eprintln!("WARNING: the cache of {folder} is not used: {text}");
                    continue;
                }
            }
        }
        out.push(source);
    }
    Ok(out)
}

async fn load(
    site: &Site,
    folder: &Path,
    tag: Option<String>,
    digest: Option<String>,
) -> Outcome<HashMap<String, String>> {
    let broken = |what: &str, e: String| Failure::new(format!("{what} cannot be read: {e}"));
    let index = read(&folder.join("index.json"))?;
    let index: ImageIndex =
        serde_json::from_str(&index).map_err(|e| broken("index.json", e.to_string()))?;
    const NAME: &str = "org.opencontainers.image.ref.name";
    let wanted = index.manifests.iter().find(|d| match (&digest, &tag) {
        (Some(digest), _) => d.digest.to_string() == *digest,
        (None, Some(tag)) => d.annotations.get(NAME) == Some(tag),
        (None, None) => true,
    });
    let wanted = wanted.ok_or_else(|| Failure::new("its index names no such image"))?;
    let manifest_json = read(&blob(folder, &wanted.digest))?;
    let manifest: ImageManifest =
        serde_json::from_str(&manifest_json).map_err(|e| broken("its manifest", e.to_string()))?;
    let config = read(&blob(folder, &manifest.config.digest))?;
    let digests = manifest.layers.iter().map(|l| l.digest.to_string());
    let request = StatBlobsRequest {
        repository: REPOSITORY.to_owned(),
        digests: digests.collect(),
    };
    let here = site
        .registry()
        .stat_blobs(request)
        .await?
        .into_inner()
        .present;
    for layer in &manifest.layers {
        let name = layer.digest.to_string();
        if !here.iter().any(|p| p.digest == name) {
            send(site, &blob(folder, &layer.digest), &name, layer.size).await?;
        }
    }
    Ok(HashMap::from([
        ("config".to_owned(), config),
        ("manifest".to_owned(), manifest_json),
    ]))
}

fn blob(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("blobs/sha256").join(digest.encoded())
}

fn read(path: &Path) -> Outcome<String> {
    let failed = |e: io::Error| Failure::new(format!("cannot read {}: {e}", path.display()));
    if fs::metadata(path).map_err(failed)?.len() > LARGEST {
        return Err(Failure::new(format!("{} is too large", path.display())));
    }
    fs::read_to_string(path).map_err(failed)
}

async fn send(site: &Site, path: &Path, digest: &str, size: u64) -> Outcome<()> {
    let failed = |e: io::Error| Failure::new(format!("cannot read {}: {e}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let (sender, receiver) = mpsc::channel(8);
    let header = write_blob_request::Header {
        repository: REPOSITORY.to_owned(),
        digest: digest.to_owned(),
        size,
    };
    let part = |part| WriteBlobRequest { part: Some(part) };
    let reading = tokio::task::spawn_blocking(move || {
        let mut next = Some(part(write_blob_request::Part::Header(header)));
        while let Some(message) = next.take() {
            // Who takes it has ended, and says why.
            if sender.blocking_send(message).is_err() {
                break;
            }
            let mut data = Vec::new();
            file.by_ref()
                .take(CHUNK_SIZE as u64)
                .read_to_end(&mut data)?;
            if !data.is_empty() {
                next = Some(part(write_blob_request::Part::Data(data.into())));
            }
        }
        Ok(())
    });
    let mut registry = site.registry();
    let stored = registry.write_blob(ReceiverStream::new(receiver)).await;
    let read = reading.await.map_err(io::Error::other).and_then(|r| r);
    read.map_err(failed)?;
    stored?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buildx_grammar() {
        let of = |word: &str| parse("--cache-from", word).ok().unwrap();
        assert_eq!(of("user/app:c").r#type, "registry");
        assert_eq!(of("user/app:c").attributes["ref"], "user/app:c");
        assert_eq!(of("type=local,src=a").attributes["src"], "a");
        assert!(parse("--cache-from", "ref=x").is_err());
        assert!(parse("--cache-from", "type=local,x").is_err());
        let words = |w: &str| destinations(&[w.to_owned()]);
        assert!(words("type=local").is_err() && words("type=inline,dest=x").is_err());
        let made = words("type=local,dest=x,mode=max").ok().unwrap();
        assert_eq!(made[0].1, Some(Place::Folder("x".into())));
        assert!(!made[0].0.attributes.contains_key("dest"));
    }
}
