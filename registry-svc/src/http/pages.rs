//! Keeps web pages out: a browser on this host reaches loopback, too, and does there what any page tells it. No client
//! of a registry says what is looked at here.

use http::{HeaderMap, Response, StatusCode, Uri, header, uri::Authority};

use super::{body::Body, errors};
use crate::names::OwnNames;

/// The answer to a request that some page has made; `None` for all others. Without a policy (`open`) nothing else
/// stands between a page and the images.
pub fn refusal(
    uri: &Uri,
    headers: &HeaderMap,
    own: &OwnNames,
    open: bool,
) -> Option<Response<Body>> {
    let get = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or_default());
    // Fetch Metadata, 2.4: `none` is somebody who wrote the address himself.
    if get("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Some(foreign());
    }
    if !open {
        return None;
    }
    // HTTP/2 has it in the target, HTTP/1.1 in a header.
    let host = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => get(header::HOST.as_str()),
    };
    // A browser always says it.
    let host = host?;
    if !is_ours(host, own) {
        return Some(misdirected(host));
    }
    let origin = get(header::ORIGIN.as_str())?;
    let same = origin
        .split_once("://")
        .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    (!same).then(foreign)
}

/// A name that no page's owner can lead here: an address is looked up nowhere, and `localhost` nowhere else
/// (RFC 6761, 6.3).
fn is_ours(host: &str, own: &OwnNames) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok()
        || own.has_host(name)
}

fn foreign() -> Response<Body> {
    let message = "web pages of others may not use this registry";
    errors::plain(StatusCode::FORBIDDEN, "DENIED", message)
}

fn misdirected(host: &str) -> Response<Body> {
    let message = format!(
        "this registry is not known as {host:?}: add that to names in registry.toml, or use its address"
    );
    errors::plain(StatusCode::MISDIRECTED_REQUEST, "DENIED", &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_page_can_ask_for_is_answered() {
        let names = ["reg.site:5000".into(), "images.site".into()];
        let own = OwnNames::new(&["127.0.0.1:5000".parse().unwrap()], &names);
        for (host, origin, site, open, status) in [
            ("127.0.0.1:5000", "", "", true, None),
            ("[::1]:5000", "", "", true, None),
            ("192.0.2.7", "", "", true, None),
            ("LocalHost:8080", "", "", true, None),
            ("reg.site:5000", "", "", true, None),
            // A proxy in front, or a port that is forwarded.
            ("Reg.Site", "", "", true, None),
            ("images.site:7000", "", "", true, None),
            ("", "", "", true, None),
            ("evil.example:5000", "", "", true, Some(421)),
            ("127.0.0.1.evil.example", "", "", true, Some(421)),
            ("localhost.evil.example", "", "", true, Some(421)),
            ("a b", "", "", true, Some(421)),
            // A policy knows who may do what by whatever name.
            ("evil.example:5000", "", "", false, None),
            ("127.0.0.1:5000", "http://127.0.0.1:5000", "", true, None),
            (
                "127.0.0.1:5000",
                "http://127.0.0.1:3000",
                "",
                true,
                Some(403),
            ),
            (
                "127.0.0.1:5000",
                "https://evil.example",
                "",
                true,
                Some(403),
            ),
            ("localhost:5000", "http://LOCALHOST:5000", "", true, None),
            ("127.0.0.1:5000", "null", "", true, Some(403)),
            ("127.0.0.1:5000", "", "none", true, None),
            ("127.0.0.1:5000", "", "same-origin", true, None),
            ("127.0.0.1:5000", "", "same-site", true, Some(403)),
            ("127.0.0.1:5000", "", "cross-site", true, Some(403)),
            // The browser may send somebody's password.
            ("127.0.0.1:5000", "", "cross-site", false, Some(403)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("host", host), ("origin", origin), ("sec-fetch-site", site)] {
                if !value.is_empty() {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            let answer = refusal(&Uri::from_static("/v2/"), &headers, &own, open);
            let got = answer.map(|answer| answer.status().as_u16());
            assert_eq!(got, status, "{host} {origin} {site} {open}");
        }
        for (name, status) in [("host", 421), ("origin", 403), ("sec-fetch-site", 403)] {
            let mut headers = HeaderMap::new();
            headers.insert("host", "127.0.0.1:5000".parse().unwrap());
            // What is no text is nobody's.
            let value = http::HeaderValue::from_bytes(b"127.0.0.1\xff").unwrap();
            headers.insert(name, value);
            let answer = refusal(&Uri::from_static("/v2/"), &headers, &own, true);
            assert_eq!(answer.unwrap().status(), status, "{name}");
        }
        let uri = Uri::from_static("http://evil.example:5000/v2/");
        let answer = refusal(&uri, &HeaderMap::new(), &own, true).unwrap();
        assert_eq!(answer.status(), 421, "as HTTP/2 says it");
    }
}
