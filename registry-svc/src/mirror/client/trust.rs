//! Whom a foreign registry may send us to, and who gets its account.
//!
//! Credentials and tokens go to exactly the origin (scheme, host and port) that they belong to: the registry itself,
//! the `realm` that its `[[upstream]]` names, or a pair of [`BUILT_IN`]. A token that needs no account may come from
//! any other realm over https. Wherever a registry sends us, the address is judged after it was resolved.

use std::sync::Arc;

use slipway_egress::Guard;
use url::{Host, Url};

use crate::config::UpstreamConfig;

/// Registries whose tokens are given on another host, which their operators document. ghcr.io, quay.io, gcr.io,
/// *.pkg.dev (`/v2/token`), *.azurecr.io (`/oauth2/token`) and public.ecr.aws have their realm on the registry's own
/// host; *.dkr.ecr.*.amazonaws.com takes basic authentication; registry.k8s.io and mcr.microsoft.com know no accounts.
/// A GitLab, Harbor or Artifactory of one's own with another host for tokens is told by `realm`.
const BUILT_IN: [(&str, &str); 2] = [
    ("registry-1.docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
];

/// Environment variables by which an operator names a proxy (those that reqwest reads).
const PROXIES: [&str; 3] = ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];

/// See the module's page.
#[derive(Debug, Clone)]
pub struct Trust {
    base: Url,
    realm: Option<Url>,
    /// `None`: this upstream may be, and may send us, anywhere.
    guard: Option<Arc<Guard>>,
}

impl Trust {
    /// As it is configured.
    pub fn of(config: &UpstreamConfig) -> Self {
        let plain = config.url.scheme() == "http";
        let named = config.realm.iter().chain(plain.then_some(&config.url));
        let mut hosts: Vec<String> = named.filter_map(name_of).collect();
        hosts.extend(proxies());
        let guard = Guard {
            hosts,
            advice: format!(
                "where {} may not send us: private = true for this upstream in registry.toml could allow it",
                config.host
            ),
            ..Guard::default()
        };
        Self {
            base: config.url.clone(),
            realm: config.realm.clone(),
            guard: (!config.private).then(|| Arc::new(guard)),
        }
    }

    /// Judges the addresses of names; `None` where all are allowed.
    pub fn resolver(&self) -> Option<Arc<Guard>> {
        self.guard.clone()
    }

    /// Whether a request may go there, as far as the URL says. Errors are sentences.
    pub fn check(&self, url: &Url) -> Result<(), String> {
        let configured = self
            .realm
            .iter()
            .any(|realm| realm.origin() == url.origin());
        match (self.base.scheme(), url.scheme()) {
            ("https", "http") if !configured => {
                return Err(format!("{url} is a downgrade from https to http"));
            }
            (_, "http" | "https") => {}
            _ => return Err(format!("{url} is neither http nor https")),
        }
        let own = self.base.scheme() == "http" && url.origin() == self.base.origin();
        match &self.guard {
            Some(guard) if !configured && !own => guard.check(url),
            _ => Ok(()),
        }
    }

    /// Whether a redirect may be followed. Once a way is encrypted it stays so.
    pub fn check_redirect(&self, from: &Url, to: &Url) -> Result<(), String> {
        if from.scheme() == "https" && to.scheme() != "https" {
            return Err("a redirect from https to http is refused".to_owned());
        }
        self.check(to)
            .map_err(|reason| format!("its redirect is refused: {reason}"))
    }

    /// Whether a token realm gets the account of this registry.
    pub fn owns(&self, realm: &Url) -> bool {
        let built_in = || {
            let both = (self.base.host_str(), realm.host_str());
            let plain = |url: &Url| url.scheme() == "https" && url.port().is_none();
            plain(&self.base)
                && plain(realm)
                && BUILT_IN
                    .iter()
                    .any(|(registry, tokens)| both == (Some(registry), Some(tokens)))
        };
        let configured = self.realm.iter().any(|own| own.origin() == realm.origin());
        realm.origin() == self.base.origin() || configured || built_in()
    }
}

fn name_of(url: &Url) -> Option<String> {
    match url.host()? {
        Host::Domain(name) => Some(name.to_owned()),
        _ => None,
    }
}

/// A proxy that the operator named is usually on a private network.
fn proxies() -> impl Iterator<Item = String> {
    let lower = PROXIES.iter().map(|name| name.to_lowercase());
    let both = lower.chain(PROXIES.iter().map(|name| (*name).to_owned()));
    both.filter_map(|name| std::env::var(name).ok())
        .filter_map(|proxy| name_of(&proxy.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(url: &str) -> Trust {
        let config = UpstreamConfig::at("reg.example", url.parse().unwrap());
        Trust::of(&config)
    }

    #[test]
    fn accounts_stay_with_their_owner() {
        let owns = |base: &str, realm: &str| trust(base).owns(&realm.parse().unwrap());
        for (base, realm) in [
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io/token",
            ),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
            ("https://ghcr.io", "https://ghcr.io/token"),
            ("https://reg.example:5000", "https://reg.example:5000/token"),
        ] {
            assert!(owns(base, realm), "{base} {realm}");
        }
        for (base, realm) in [
            ("https://a.co.uk", "https://b.co.uk/token"),
            ("https://reg.example", "https://auth.reg.example/token"),
            (
                "https://auth.docker.io",
                "https://registry-1.docker.io/token",
            ),
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io:444/token",
            ),
            (
                "https://registry-1.docker.io",
                "http://auth.docker.io/token",
            ),
            ("https://reg.example", "https://reg.example:5001/token"),
            ("https://reg.example", "http://reg.example/token"),
            ("https://ghcr.io", "https://evil.example/token"),
            ("https://10.0.0.1", "https://10.0.0.2"),
        ] {
            assert!(!owns(base, realm), "{base} {realm}");
        }
        let mut config = UpstreamConfig::at("reg.example", "https://reg.example".parse().unwrap());
        config.realm = Some("https://auth.example".parse().unwrap());
        let trust = Trust::of(&config);
        assert!(trust.owns(&"https://auth.example/any/token".parse().unwrap()));
        assert!(!trust.owns(&"https://auth.example:1/token".parse().unwrap()));
    }

    #[test]
    fn nobody_is_sent_inside_or_back_to_http() {
        let goes = |base: &str, to: &str| {
            let (trust, to) = (trust(base), to.parse().unwrap());
            trust.check(&to).is_ok()
        };
        assert!(goes("https://reg.example", "https://cdn.example/blob"));
        assert!(goes("http://10.0.0.1:5000", "http://10.0.0.1:5000/v2/"));
        assert!(goes("http://10.0.0.1:5000", "http://cdn.example/blob"));
        for (base, to) in [
            ("https://reg.example", "http://reg.example/blob"),
            ("https://reg.example", "https://127.0.0.1/"),
            ("https://reg.example", "https://169.254.169.254/latest"),
            ("https://reg.example", "https://[::ffff:10.0.0.1]/"),
            ("https://10.0.0.1", "https://10.0.0.1/v2/"),
            ("http://10.0.0.1:5000", "http://10.0.0.1:5001/"),
            ("http://10.0.0.1:5000", "http://10.0.0.2:5000/"),
            ("http://reg.example", "file:///etc/passwd"),
        ] {
            assert!(!goes(base, to), "{base} {to}");
        }
        let mut config = UpstreamConfig::at("10.0.0.1", "https://10.0.0.1".parse().unwrap());
        config.private = true;
        let trust = Trust::of(&config);
        assert!(trust.check(&"https://10.0.0.2/".parse().unwrap()).is_ok());
        assert!(trust.check(&"http://10.0.0.1/".parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn names_are_judged_when_they_are_resolved() {
        let guard = |url: &str| trust(url).resolver().unwrap();
        let own = guard("http://localhost:5001").resolve("localhost", 1).await;
        assert!(!own.unwrap().is_empty());
        for base in ["https://localhost", "http://reg.example"] {
            let refused = guard(base).resolve("localhost", 1).await.unwrap_err();
            assert!(refused.to_string().contains("private = true"), "{refused}");
        }
    }
}
