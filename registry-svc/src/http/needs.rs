//! What a request needs to be allowed. Asked for every request before any handler sees it, so none can forget.

use http::Method;

use super::route::{Query, Route};
use crate::{
    access::policy::Action,
    error::Result,
    names::{OwnNames, Repository},
};

/// What must be allowed.
#[derive(Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: whoever asks is told what he may.
    Nothing,
    /// To say who one is. What is told then is told by what he may see.
    Identity,
    /// This, in that repository.
    To(Action, Repository),
    /// To push to the first. The other is to be read from, and if that is not allowed, it counts as one that has
    /// nothing: a mount becomes an upload (distribution-spec, "Mounting a blob from another repository").
    Mount(Repository, Repository),
}

/// See the module's page.
pub fn required(route: &Route, method: &Method, query: &Query, own: &OwnNames) -> Result<Needs> {
    let ns = query.get("ns");
    let to = |action, name: &str| Ok(Needs::To(action, own.from_http(name, ns)?));
    match route {
        Route::Token => Ok(Needs::Nothing),
        Route::Base | Route::Catalog => Ok(Needs::Identity),
        Route::Tags(name) | Route::Referrers(name, _) => to(Action::Pull, name),
        Route::Manifest(name, _) | Route::Blob(name, _) => match *method {
            Method::GET | Method::HEAD => to(Action::Pull, name),
            Method::DELETE => to(Action::Delete, name),
            _ => to(Action::Push, name),
        },
        Route::Upload(name, _) => to(Action::Push, name),
        Route::Uploads(name) => {
            let from = query.get("from").filter(|_| query.get("mount").is_some());
            match from.map(|from| own.from_http(from, ns)) {
                Some(Ok(from)) => Ok(Needs::Mount(own.from_http(name, ns)?, from)),
                // What is no name is no repository: the upload goes on without it.
                _ => to(Action::Push, name),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_needs_what_it_does() {
        let own = OwnNames::new(&["127.0.0.1:5000".parse().unwrap()], &[]);
        let key = |key: &str| Repository::from_key(key).unwrap();
        let app = || key("docker.io/team/app");
        let digest = format!("sha256:{}", "a".repeat(64));
        let to = |action| Needs::To(action, app());
        use Action::{Delete, Pull, Push};
        for (method, target, needs) in [
            ("GET", "/v2/", Needs::Identity),
            ("GET", "/v2/_catalog?n=1", Needs::Identity),
            (
                "GET",
                "/token?scope=repository:team/app:pull",
                Needs::Nothing,
            ),
            ("GET", "/v2/team/app/tags/list", to(Pull)),
            ("GET", "/v2/team/app/referrers/DIGEST", to(Pull)),
            ("GET", "/v2/team/app/manifests/v1", to(Pull)),
            ("HEAD", "/v2/team/app/manifests/v1", to(Pull)),
            ("PUT", "/v2/team/app/manifests/v1", to(Push)),
            ("DELETE", "/v2/team/app/manifests/v1", to(Delete)),
            ("GET", "/v2/team/app/blobs/DIGEST", to(Pull)),
            ("HEAD", "/v2/team/app/blobs/DIGEST", to(Pull)),
            ("DELETE", "/v2/team/app/blobs/DIGEST", to(Delete)),
            ("POST", "/v2/team/app/blobs/uploads/", to(Push)),
            (
                "POST",
                "/v2/team/app/blobs/uploads/?digest=DIGEST",
                to(Push),
            ),
            ("POST", "/v2/team/app/blobs/uploads/?mount=DIGEST", to(Push)),
            (
                "POST",
                "/v2/team/app/blobs/uploads/?from=team/other",
                to(Push),
            ),
            (
                "POST",
                "/v2/team/app/blobs/uploads/?mount=DIGEST&from=A..",
                to(Push),
            ),
            (
                "POST",
                "/v2/team/app/blobs/uploads/?mount=DIGEST&from=team/other",
                Needs::Mount(app(), key("docker.io/team/other")),
            ),
            ("GET", "/v2/team/app/blobs/uploads/x", to(Push)),
            ("PATCH", "/v2/team/app/blobs/uploads/x", to(Push)),
            (
                "PUT",
                "/v2/team/app/blobs/uploads/x?digest=DIGEST",
                to(Push),
            ),
            ("DELETE", "/v2/team/app/blobs/uploads/x", to(Push)),
            // No alias is another repository.
            ("GET", "/v2/docker.io/team/app/manifests/v1", to(Pull)),
            ("GET", "/v2/localhost:5000/team/app/manifests/v1", to(Pull)),
            ("GET", "/v2/127.0.0.1:5000/team/app/manifests/v1", to(Pull)),
            ("GET", "/v2/team/app/manifests/v1?ns=docker.io", to(Pull)),
            (
                "GET",
                "/v2/team/app/manifests/v1?ns=index.docker.io",
                to(Pull),
            ),
            ("GET", "/v2/team%2Fapp/manifests/v1", to(Pull)),
            (
                "GET",
                "/v2/team/app/manifests/v1?ns=ghcr.io",
                Needs::To(Pull, key("ghcr.io/team/app")),
            ),
            (
                "GET",
                "/v2/ghcr.io/team/app/manifests/v1",
                Needs::To(Pull, key("ghcr.io/team/app")),
            ),
            (
                "GET",
                "/v2/app/tags/list",
                Needs::To(Pull, key("docker.io/library/app")),
            ),
        ] {
            let uri: http::Uri = target.replace("DIGEST", &digest).parse().unwrap();
            let route = Route::parse(uri.path()).unwrap();
            let method = method.parse().unwrap();
            let got = required(&route, &method, &Query::parse(uri.query()), &own);
            assert_eq!(got.unwrap(), needs, "{method} {target}");
        }
        for target in [
            "/v2/A/tags/list",
            "/v2/slipway.internal/build-cache/manifests/x",
        ] {
            let route = Route::parse(target).unwrap();
            assert!(required(&route, &Method::GET, &Query::default(), &own).is_err());
        }
    }
}
