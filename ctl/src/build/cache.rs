//! `--cache-from` and `--cache-to`: what is asked of the builder, and what of it is a folder here.
//!
//! A folder is an OCI layout. Its layers are put into registry-svc, those only that it lacks; the
//! builder is sent config and manifest, which hold the records.

use std::{collections::HashMap, path::Path};

use slipway_image::manifest::ImageManifest;
use slipway_proto::builder::v1::CacheSource;

use super::{
    layout::{Layout, broken},
    output::Place,
};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    spec::mount::fields,
};

/// Repository of the build cache.
const REPOSITORY: &str = "slipway.internal/build-cache";

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
    let layout = Layout::new(folder);
    let index = layout.index()?;
    const NAME: &str = "org.opencontainers.image.ref.name";
    let wanted = index.manifests.iter().find(|d| match (&digest, &tag) {
        (Some(digest), _) => d.digest.to_string() == *digest,
        (None, Some(tag)) => d.annotations.get(NAME) == Some(tag),
        (None, None) => true,
    });
    let wanted = wanted.ok_or_else(|| Failure::new("its index names no such image"))?;
    let manifest_json = layout.text(&wanted.digest)?;
    let manifest: ImageManifest =
        serde_json::from_str(&manifest_json).map_err(|e| broken("its manifest", &e))?;
    let config = layout.text(&manifest.config.digest)?;
    layout
        .send(site, REPOSITORY, manifest.layers.iter())
        .await?;
    Ok(HashMap::from([
        ("config".to_owned(), config),
        ("manifest".to_owned(), manifest_json),
    ]))
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
