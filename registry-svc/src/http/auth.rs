//! Who a request is from (`Authorization`, client certificate), and what is said to who may not.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, Response, StatusCode, Uri, header};

use super::{body::Body, errors, needs::Needs, set};
use crate::access::{
    Access, Caller, Denied, Permit, htpasswd::Refused, policy::Action, token::Kind,
};

/// The service that tokens are for.
pub const SERVICE: &str = "slipway-registry";

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where from.
    pub address: SocketAddr,
    /// The common name of his certificate.
    pub certificate: Option<String>,
    /// By TLS.
    pub secure: bool,
}

/// What an `Authorization` header says.
#[derive(Debug, PartialEq, Eq)]
enum Credentials {
    Password(String, String),
    Token(String),
    /// Something that is not understood.
    Other,
}

impl Credentials {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::AUTHORIZATION)?;
        Some(Self::parse(value.to_str().unwrap_or_default()).unwrap_or(Self::Other))
    }

    fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Token(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
        let (name, password) = decoded.split_once(':')?;
        Some(Self::Password(name.to_owned(), password.to_owned()))
    }
}

/// Why somebody is not let in.
#[derive(Debug, PartialEq, Eq)]
pub enum NotIn {
    /// The password or token is wrong.
    Wrong,
    /// Not now.
    Busy(Duration),
}

impl From<Refused> for NotIn {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Wrong => Self::Wrong,
            Refused::Busy(wait) => Self::Busy(wait),
        }
    }
}

/// Who asks, for a token or without one. What he says in the request goes before what his certificate says.
pub async fn identify(
    access: &Arc<Access>,
    peer: &Peer,
    headers: &HeaderMap,
) -> Result<Permit, NotIn> {
    let permit = |caller, grants| Permit::new(Arc::clone(access), caller, grants);
    match Credentials::of(headers) {
        None => Ok(match &peer.certificate {
            Some(name) => permit(Caller::Certificate(name.clone()), None),
            None => permit(Caller::Anonymous, None),
        }),
        Some(Credentials::Password(name, password)) => {
            let caller = access
                .by_password(&name, &password, peer.address.ip())
                .await?;
            Ok(permit(caller, None))
        }
        Some(Credentials::Token(token)) => {
            let (caller, grants) = access.by_token(Kind::Access, &token).ok_or(NotIn::Wrong)?;
            Ok(permit(caller, Some(grants)))
        }
        Some(Credentials::Other) => Err(NotIn::Wrong),
    }
}

/// The answer to who may not; `None` for who may.
pub fn refusal(permit: &Permit, needs: &Needs, url: &str) -> Option<Response<Body>> {
    let (action, repository) = match needs {
        Needs::Nothing => return None,
        Needs::Identity if permit.is_identified() => return None,
        Needs::Identity => return Some(challenge(needs, url, None)),
        Needs::To(action, repository) => (*action, repository),
        Needs::Mount(target, _) => (Action::Push, target),
    };
    match permit.check(repository, action).err()? {
        Denied::Unknown => Some(challenge(needs, url, None)),
        Denied::NotInToken => Some(challenge(needs, url, Some("insufficient_scope"))),
        Denied::Forbidden => Some(errors::plain(
            StatusCode::FORBIDDEN,
            "DENIED",
            "requested access to the resource is denied",
        )),
    }
}

/// The answer to a wrong password or token.
pub fn not_in(why: &NotIn, needs: &Needs, url: &str) -> Response<Body> {
    match why {
        NotIn::Wrong => challenge(needs, url, Some("invalid_token")),
        NotIn::Busy(wait) => busy(*wait),
    }
}

/// 429, with the seconds after which it makes sense to ask again.
pub fn busy(wait: Duration) -> Response<Body> {
    let message = "too many passwords are being tried: ask again later";
    let mut response = errors::plain(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message);
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    set(&mut response, "retry-after", seconds.to_string());
    response
}

/// 401, and where a token is to be had for what (distribution's "Token Authentication Specification").
fn challenge(needs: &Needs, url: &str, error: Option<&str>) -> Response<Body> {
    let status = StatusCode::UNAUTHORIZED;
    let mut response = errors::plain(status, "UNAUTHORIZED", "authentication required");
    let mut value = format!("Bearer realm=\"{url}/token\",service=\"{SERVICE}\"");
    if let Some(scope) = scope_of(needs) {
        value += &format!(",scope=\"{scope}\"");
    }
    if let Some(error) = error {
        value += &format!(",error=\"{error}\"");
    }
    set(&mut response, "www-authenticate", value);
    response
}

fn scope_of(needs: &Needs) -> Option<String> {
    let (repository, actions) = match needs {
        Needs::Nothing | Needs::Identity => return None,
        Needs::To(Action::Pull, repository) => (repository, "pull"),
        Needs::To(Action::Delete, repository) => (repository, "delete"),
        // Who pushes looks first at what is there.
        Needs::To(Action::Push, repository) => (repository, "pull,push"),
        Needs::Mount(target, from) => {
            return Some(format!(
                "repository:{target}:pull,push repository:{from}:pull"
            ));
        }
    };
    Some(format!("repository:{repository}:{actions}"))
}

/// What the client has before the path: where it is to get its tokens. A header that says by which name it came
/// changes what it is told itself, and nothing else.
pub fn url_of(peer: &Peer, uri: &Uri, headers: &HeaderMap) -> String {
    let plain = |host: &&str| {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-' | b'[' | b']');
        !host.is_empty() && host.len() < 256 && host.bytes().all(ok)
    };
    let told = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = uri
        .authority()
        .map(|a| a.as_str())
        .or_else(|| told("host"))
        .filter(plain);
    // Of a proxy in front that does TLS in our place.
    let secure = peer.secure || told("x-forwarded-proto") == Some("https");
    let scheme = if secure { "https" } else { "http" };
    format!("{scheme}://{}", host.unwrap_or("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read() {
        let password = |name: &str, word: &str| Credentials::Password(name.into(), word.into());
        for (header, expected) in [
            ("Basic YWxpY2U6c2VjcmV0", password("alice", "secret")),
            ("basic  YWxpY2U6YTpi", password("alice", "a:b")),
            ("Bearer abc.def", Credentials::Token("abc.def".into())),
            ("Basic !", Credentials::Other),
            ("Basic YWxpY2U=", Credentials::Other),
            ("Digest x", Credentials::Other),
            ("x", Credentials::Other),
        ] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, header.parse().unwrap())]);
            assert_eq!(Credentials::of(&headers), Some(expected), "{header}");
        }
        assert_eq!(Credentials::of(&HeaderMap::new()), None);
    }

    #[test]
    fn the_realm_is_where_the_client_is() {
        let peer = |secure| Peer {
            address: "127.0.0.1:1".parse().unwrap(),
            certificate: None,
            secure,
        };
        let url = |secure, uri: &str, pairs: &[(&'static str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
            let headers: HeaderMap = pairs.collect();
            url_of(&peer(secure), &uri.parse().unwrap(), &headers)
        };
        assert_eq!(
            url(true, "/v2/", &[("host", "reg.site:5000")]),
            "https://reg.site:5000"
        );
        assert_eq!(
            url(true, "https://[::1]:5000/v2/", &[]),
            "https://[::1]:5000"
        );
        assert_eq!(url(false, "/v2/", &[("host", "a")]), "http://a");
        let proxied = [("host", "a"), ("x-forwarded-proto", "https")];
        assert_eq!(url(false, "/v2/", &proxied), "https://a");
        assert_eq!(
            url(false, "/v2/", &[("host", "a\",service=\"b")]),
            "http://localhost"
        );
    }
}
