//! Who asks a git server: the secrets `GIT_AUTH_TOKEN` and `GIT_AUTH_HEADER` of the caller, also of one host
//! alone (`GIT_AUTH_TOKEN.example.com`), as BuildKit has them (source/git/source.go).

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::header::HeaderValue;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    caller::{Caller, Secret},
    error::{Error, Result},
};

/// The value of an `Authorization` header for a repository, if the caller offers one.
pub async fn header(caller: &Caller, remote: &str) -> Result<Option<HeaderValue>> {
    let host = Url::parse(remote).ok();
    let host = host.and_then(|url| url.host_str().map(str::to_owned));
    // What is for this host alone comes first.
    for scope in [host.map(|host| format!(".{host}")), Some(String::new())] {
        let Some(scope) = scope else { continue };
        for (name, is_token) in [("GIT_AUTH_HEADER", false), ("GIT_AUTH_TOKEN", true)] {
            let name = format!("{name}{scope}");
            if let Some(secret) = caller.secret(&name).await? {
                return value(&name, &secret, is_token).map(Some);
            }
        }
    }
    Ok(None)
}

fn value(name: &str, secret: &Secret, is_token: bool) -> Result<HeaderValue> {
    let secret = secret.bytes().trim_ascii();
    let bytes = match is_token {
        true => {
            let pair = Zeroizing::new([b"x-access-token:", secret].concat());
            Zeroizing::new(format!("basic {}", BASE64_STANDARD.encode(&*pair)).into_bytes())
        }
        false => Zeroizing::new(secret.to_vec()),
    };
    let mut value = HeaderValue::from_bytes(&bytes).map_err(|_| {
        Error::Context(format!("secret {name}: it cannot be the value of a header"))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_become_headers() {
        let token = value("t", &Secret::new(b"abc\n"), true).unwrap();
        assert_eq!(token, "basic eC1hY2Nlc3MtdG9rZW46YWJj");
        assert!(!format!("{token:?}").contains("basic"));
        let header = value("h", &Secret::new(b"Bearer x"), false).unwrap();
        assert_eq!(header, "Bearer x");
        assert!(value("h", &Secret::new(b"a\nb"), false).is_err());
    }
}
