//! Between the messages and the domain's types.

use std::collections::HashMap;

use slipway_image::{Descriptor, Platform};
use slipway_proto::{
    registry::v1::{ImageSummary, ResolvedImage},
    types::v1 as types,
};

use crate::{
    images::{
        Image,
        list::Listed,
        pull::{Phase, Progress},
    },
    mirror::Credentials,
    names::Pointer,
};

/// `None` when nothing was asked for.
pub fn platform(message: Option<types::Platform>) -> Option<Platform> {
    let message = message?;
    if message.os.is_empty() && message.architecture.is_empty() && message.variant.is_empty() {
        return None;
    }
    let host = Platform::host();
    let or = |given: String, default: &str| match given.is_empty() {
        true => default.to_owned(),
        false => given,
    };
    let mut platform = Platform::new(
        &or(message.os, &host.os),
        &or(message.architecture, &host.architecture),
        &message.variant,
    );
    platform.os_version = message.os_version;
    Some(platform)
}

/// The account that a caller sent along.
pub fn credentials(message: Option<types::RegistryAuth>) -> Option<Credentials> {
    let auth = message?;
    if !auth.identity_token.is_empty() {
        return Some(Credentials::IdentityToken(auth.identity_token));
    }
    (!auth.username.is_empty()).then_some(Credentials::Basic(auth.username, auth.password))
}

/// A platform as a message.
pub fn platform_message(platform: &Platform) -> types::Platform {
    types::Platform {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
    }
}

/// A descriptor as a message.
pub fn descriptor(descriptor: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: descriptor.size,
        annotations: descriptor.annotations.clone().into_iter().collect(),
        platform: descriptor.platform.as_ref().map(platform_message),
        artifact_type: descriptor.artifact_type.clone().unwrap_or_default(),
    }
}

/// An image as a message.
pub fn resolved(image: &Image, stale: bool) -> ResolvedImage {
    let record = &image.manifest.record;
    let manifest = Descriptor::new(
        record.media_type.clone(),
        image.manifest.digest.clone(),
        record.size,
    );
    let mut manifest = descriptor(&manifest);
    manifest.platform = Some(platform_message(&image.platform()));
    let reference = match &image.name {
        Some(name) if matches!(name.pointer, Pointer::Tag(_)) => name.to_string(),
        _ => String::new(),
    };
    ResolvedImage {
        reference,
        repository: image.repository.to_string(),
        digest: image.top.to_string(),
        manifest: Some(manifest),
        manifest_json: image.manifest.content.clone(),
        config_json: image.config_json.clone(),
        image_id: image.id.to_string(),
        layers: image.parsed.layers.iter().map(descriptor).collect(),
        diff_ids: image.config.rootfs.diff_ids.clone().unwrap_or_default(),
        stale,
    }
}

/// An image and its names as a message.
pub fn summary(listed: &Listed) -> ImageSummary {
    let image = &listed.image;
    let mut repo_tags: Vec<String> = listed
        .tags
        .iter()
        .map(|(repository, tag, _, _)| format!("{repository}:{tag}"))
        .collect();
    repo_tags.sort();
    let mut repo_digests: Vec<String> = listed
        .digests
        .iter()
        .map(|(repository, digest)| format!("{repository}@{digest}"))
        .collect();
    repo_digests.sort();
    repo_digests.dedup();
    ImageSummary {
        id: image.id.to_string(),
        repo_tags,
        repo_digests,
        created: image.created().map(timestamp),
        size: image.size(),
        labels: image.labels().into_iter().collect::<HashMap<_, _>>(),
        platform: Some(platform_message(&image.platform())),
        // Only a runtime that unpacked the layers knows.
        unpacked_size: 0,
        parent_id: String::new(),
    }
}

/// A time as a message.
pub fn timestamp(at: jiff::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }
}

/// Unix milliseconds as a message.
pub fn timestamp_ms(at: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: (at / 1000) as i64,
        nanos: (at % 1000) as i32 * 1_000_000,
    }
}

/// Progress as a message.
pub fn progress(progress: &Progress) -> types::Progress {
    use types::progress::Phase as P;
    types::Progress {
        id: progress.digest.to_string(),
        phase: match progress.phase {
            Phase::Downloading => P::Downloading,
            Phase::Uploading => P::Uploading,
            Phase::Exists => P::Exists,
            Phase::Done => P::Done,
            Phase::Mounted => P::Mounted,
        } as i32,
        current: progress.current,
        total: progress.total,
    }
}
