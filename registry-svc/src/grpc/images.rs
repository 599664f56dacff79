//! Images: resolve, list, inspect, remove, prune.

use std::{collections::HashSet, sync::Arc};

use slipway_proto::{registry::v1::*, types::v1 as types};
use tonic::Response;

use super::{Answer, convert};
use crate::{
    error::{Error, Result},
    images::{filter::Filters, list::Listed, usage},
    registry::Registry,
};

/// Filters of `docker images`.
const LIST: [&str; 6] = ["dangling", "label", "before", "since", "reference", "until"];

/// Filters of `docker image prune`.
const PRUNE: [&str; 4] = ["dangling", "label", "label!", "until"];

pub async fn resolve(registry: &Arc<Registry>, request: ResolveRequest) -> Answer<ResolvedImage> {
    let platform = convert::platform(request.platform);
    let image = registry
        .find_image(&request.reference, platform.as_ref())
        .await?;
    registry.uses.note(&image.repository, &image.top);
    Ok(Response::new(convert::resolved(&image, false)))
}

pub async fn list(
    registry: &Arc<Registry>,
    request: ListImagesRequest,
) -> Answer<ListImagesResponse> {
    let mut filters = parse(&request.filters, &LIST)?;
    if !request.reference.is_empty() {
        let wanted = own_pattern(registry, &request.reference);
        filters.set_reference(wanted);
    }
    let mut images = registry.images().await?;
    // Newest first, as docker; equal ones in a fixed order, so that pages fit together.
    images.sort_by(|a, b| (b.image.created(), &b.image.id).cmp(&(a.image.created(), &a.image.id)));
    for (names, newer) in [(&filters.before, false), (&filters.since, true)] {
        for name in names {
            let border = registry.find_image(name, None).await?.created();
            images.retain(|i| match newer {
                true => i.image.created() > border,
                false => i.image.created() < border,
            });
        }
    }
    let mut images: Vec<Listed> = images
        .into_iter()
        .filter_map(|mut listed| filters.apply(&mut listed).then_some(listed))
        .collect();
    let page = request.page.unwrap_or_default();
    if !page.token.is_empty() {
        let at = images
            .iter()
            .position(|i| i.image.id.to_string() == page.token)
            .ok_or_else(|| Error::InvalidArgument("the page's token has expired".to_owned()))?;
        images.drain(..=at);
    }
    let size = page_size(page.size);
    let more = images.len() > size;
    images.truncate(size);
    let next_page_token = match images.last() {
        Some(last) if more => last.image.id.to_string(),
        _ => String::new(),
    };
    Ok(Response::new(ListImagesResponse {
        images: images.iter().map(convert::summary).collect(),
        next_page_token,
    }))
}

pub async fn search(registry: &Arc<Registry>, request: SearchRequest) -> Answer<SearchResponse> {
    let found = registry
        .search(&request.term, request.limit as usize, request.official)
        .await?;
    let repositories = found
        .into_iter()
        .map(|found| search_response::Repository {
            name: found.repository.to_string(),
            official: found.is_official(),
            description: found.description,
        })
        .collect();
    Ok(Response::new(SearchResponse { repositories }))
}

pub fn list_tags(registry: &Arc<Registry>, request: ListTagsRequest) -> Answer<ListTagsResponse> {
    let repository = registry.own.from_name(&request.repository)?;
    let page = request.page.unwrap_or_default();
    let size = page_size(page.size);
    let last = Some(page.token.as_str()).filter(|token| !token.is_empty());
    let mut found = registry.index.tags_of(&repository, last, size + 1)?;
    let more = found.len() > size;
    found.truncate(size);
    let next_page_token = match found.last() {
        Some((tag, _)) if more => tag.to_string(),
        _ => String::new(),
    };
    let tags = found
        .into_iter()
        .map(|(tag, record)| list_tags_response::Tag {
            name: tag.to_string(),
            digest: record.digest.to_string(),
            tagged: Some(convert::timestamp_ms(record.tagged)),
        })
        .collect();
    Ok(Response::new(ListTagsResponse {
        tags,
        next_page_token,
    }))
}

/// How many entries a page has.
fn page_size(asked: u32) -> usize {
    match asked {
        0 => 100,
        size => size.min(1000) as usize,
    }
}

/// `docker images localhost:5000/goals` finds what is listed as `goals`.
fn own_pattern(registry: &Registry, reference: &str) -> String {
    match reference.split_once('/') {
        Some((host, rest)) if registry.own.is_own(host) => rest.to_owned(),
        _ => reference.to_owned(),
    }
}

pub async fn inspect(
    registry: &Arc<Registry>,
    request: InspectImageRequest,
) -> Answer<InspectImageResponse> {
    let platform = convert::platform(request.platform);
    let image = registry
        .find_image(&request.image, platform.as_ref())
        .await?;
    // An image of a platform that is not the first of its index is not listed by its own id.
    let listed = match registry.listed(&image.id).await {
        Ok(listed) => listed,
        Err(Error::ImageNotFound(_)) => Listed {
            image: image.clone(),
            tags: Vec::new(),
            digests: Vec::new(),
            places: Vec::new(),
        },
        Err(e) => return Err(e.into()),
    };
    Ok(Response::new(InspectImageResponse {
        summary: Some(convert::summary(&listed)),
        resolved: Some(convert::resolved(&image, false)),
        last_tagged: listed.last_tagged().map(convert::timestamp_ms),
    }))
}

pub async fn remove(
    registry: &Arc<Registry>,
    request: RemoveImageRequest,
) -> Answer<RemoveImageResponse> {
    // `no_prune` keeps untagged parents in docker; images have no parents here, so it changes nothing.
    let removed = registry.remove_image(&request.image, request.force).await?;
    Ok(Response::new(RemoveImageResponse {
        untagged: removed.untagged,
        deleted: removed.deleted,
        reclaimed: removed.reclaimed,
    }))
}

pub async fn prune(
    registry: &Arc<Registry>,
    request: PruneImagesRequest,
) -> Answer<PruneImagesResponse> {
    let filters = parse(&request.filters, &PRUNE)?;
    let in_use: HashSet<String> = request.in_use.into_iter().collect();
    let removed = registry
        .prune_images(request.all, &filters, &in_use, request.dry_run)
        .await?;
    Ok(Response::new(PruneImagesResponse {
        untagged: removed.untagged,
        deleted: removed.deleted,
        reclaimed: removed.reclaimed,
    }))
}

fn parse(filters: &[types::Filter], allowed: &[&str]) -> Result<Filters> {
    Filters::parse(
        filters.iter().map(|f| (f.key.as_str(), &f.values[..])),
        allowed,
    )
}

pub async fn disk_usage(
    registry: &Arc<Registry>,
    request: DiskUsageRequest,
) -> Answer<DiskUsageResponse> {
    let tags_of = match &*request.tags_of {
        "" => None,
        name => Some(registry.own.from_name(name)?),
    };
    let usage = registry
        .disk_usage(&request.in_use, tags_of.as_ref())
        .await?;
    let image = |image: &usage::ImageUsage| ImageUsage {
        image: Some(convert::summary(&image.listed)),
        size: image.size,
        shared: image.shared,
        unique: image.size - image.shared,
        containers: image.containers,
    };
    let tag = |tag: usage::TagUsage| TagUsage {
        tag: tag.tag.to_string(),
        size: tag.size,
        shared: tag.shared,
    };
    Ok(Response::new(DiskUsageResponse {
        images: usage.images.len() as u64,
        active: usage.images.iter().filter(|i| i.containers > 0).count() as u64,
        size: usage.size,
        reclaimable: usage.reclaimable,
        internal: usage.internal,
        artifacts: usage.artifacts,
        unneeded: usage.unneeded,
        transfers: usage.transfers,
        records: usage.records,
        each: match request.verbose {
            true => usage.images.iter().map(image).collect(),
            false => Vec::new(),
        },
        tags: usage.tags.into_iter().map(tag).collect(),
    }))
}
