//! Conditions of requests (RFC 9110, section 13). The entity tag of content is its digest, in quotes, and strong.

use http::{HeaderMap, Response, StatusCode, header};
use slipway_image::Digest;

use super::{bare, body::Body, set};

/// `ETag` of content.
pub fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// 304, when the client says that it has this content (`If-None-Match`).
pub fn not_modified(headers: &HeaderMap, digest: &Digest) -> Option<Response<Body>> {
    let own = etag(digest);
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        // No digest has a comma.
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own);
    known.then(|| {
        let mut response = bare(StatusCode::NOT_MODIFIED);
        set(&mut response, "etag", own);
        set(&mut response, "docker-content-digest", digest.to_string());
        response
    })
}

/// The range that is wanted, unless it is one of something else (`If-Range`).
pub fn wanted_range<'a>(headers: &'a HeaderMap, digest: &Digest) -> Option<&'a str> {
    if let Some(only) = headers.get(header::IF_RANGE)
        && only.as_bytes() != etag(digest).as_bytes()
    {
        return None;
    }
    headers.get(header::RANGE)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_as_rfc_9110_says() {
        let digest = Digest::of("content");
        let own = etag(&digest);
        for (value, known) in [
            (own.clone(), true),
            (format!("W/{own}"), true),
            (format!("\"other\", {own}"), true),
            ("*".to_owned(), true),
            ("\"other\"".to_owned(), false),
            (digest.to_string(), false),
        ] {
            let headers = [(header::IF_NONE_MATCH, value.parse().unwrap())];
            let answer = not_modified(&headers.into_iter().collect(), &digest);
            assert_eq!(answer.is_some(), known, "{value}");
        }
        for (value, ranged) in [
            (own.clone(), true),
            (format!("W/{own}"), false),
            ("Wed, 21 Oct 2015 07:28:00 GMT".to_owned(), false),
        ] {
            let headers = [
                (header::IF_RANGE, value.parse().unwrap()),
                (header::RANGE, "bytes=1-".parse().unwrap()),
            ];
            let headers = headers.into_iter().collect();
            assert_eq!(wanted_range(&headers, &digest).is_some(), ranged, "{value}");
        }
    }
}
