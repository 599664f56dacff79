//! Lets each call in, or refuses it with a sentence: one layer around all methods of every service.

use std::{
    future::ready,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either};
use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{
    audit::{AuditLog, Entry, watched},
    error,
    identity::{Caller, Peer, Way},
    roles::{Effect, Role, Rule, rule},
};

/// Reason of a status: the caller's role is not enough.
pub const ROLE_REQUIRED: &str = "ROLE_REQUIRED";

/// Reason of a status: the certificate that the connection was made with is not good any more.
pub const CERTIFICATE_REFUSED: &str = "CERTIFICATE_REFUSED";

/// See the module's page.
#[derive(Debug, Clone, Default)]
pub struct AuthorizeLayer {
    /// Where what was done is told; `None`: nowhere.
    pub audit: Option<Audit>,
}

/// What is told, and where.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Where.
    pub log: AuditLog,
    /// Of calls that only look, too.
    pub reads: bool,
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize {
            inner,
            audit: self.audit.clone(),
        }
    }
}

/// See [`AuthorizeLayer`].
#[derive(Debug, Clone)]
pub struct Authorize<S> {
    inner: S,
    audit: Option<Audit>,
}

impl<S> Authorize<S> {
    /// The line of a call, where there is to be one.
    fn entry(
        &self,
        path: &str,
        peer: Option<&Peer>,
        judged: &Result<Rule, Status>,
    ) -> Option<Entry> {
        let audit = self.audit.as_ref()?;
        let (log, caller) = (audit.log.clone(), peer.map(Peer::caller));
        match judged {
            Ok(rule) if rule.effect == Effect::Reads && !audit.reads => None,
            Ok(_) => Some(Entry::new(log, path, caller)),
            // What no service has is nobody's deed, and its path anybody's text.
            Err(refused) if refused.code() == Code::Unimplemented => None,
            Err(_) => Entry::refused(log, path, caller),
        }
    }
}

impl<S> Service<Request<Body>> for Authorize<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (path, peer) = (request.uri().path(), request.extensions().get());
        let judged = judge(path, peer);
        let entry = self.entry(path, peer, &judged);
        match (judged, entry) {
            (Ok(_), None) => Either::Left(self.inner.call(request)),
            (Ok(rule), Some(mut entry)) => {
                let request = request.map(|body| entry.about(body));
                let lasts = rule.effect == Effect::Lasts;
                Either::Right(Box::pin(watched(entry, lasts, self.inner.call(request))))
            }
            (Err(status), entry) => {
                if let Some(mut entry) = entry {
                    entry.ended(&status);
                }
                Either::Right(Box::pin(ready(Ok(status.into_http()))))
            }
        }
    }
}

/// Whether this one may call that, and the method's rule.
fn judge(path: &str, peer: Option<&Peer>) -> Result<Rule, Status> {
    let Some(rule) = rule(path) else {
        return Err(Status::unimplemented(""));
    };
    let Some(peer) = peer else {
        // A listener that does not say who calls is a mistake of ours.
        return Err(refused("who calls is not known"));
    };
    let caller = peer.caller();
    allow(caller, rule.role, path)?;
    if let Err(wrong) = peer.is_good() {
        let name = &caller.name;
        let sentence = match wrong {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked) => {
                format!("the certificate of {name} was revoked: ask for another one")
            }
            _ => {
                format!("the certificate of {name} is not good any more: renew it (ctl pki renew)")
            }
        };
        return Err(error::status(
            Code::Unauthenticated,
            CERTIFICATE_REFUSED,
            sentence,
        ));
    }
    Ok(rule)
}

fn allow(caller: &Caller, needed: Role, path: &str) -> Result<(), Status> {
    if caller.role >= Some(needed) {
        return Ok(());
    }
    let method = path.rsplit('.').next().unwrap_or(path).replace('/', ".");
    let name = &caller.name;
    let has = match (caller.role, &caller.way) {
        (Some(role), _) => format!("has the role {role}"),
        (None, Way::Certificate { .. }) => "has a certificate without a role".to_owned(),
        (None, _) => "has no role".to_owned(),
    };
    Err(refused(format!(
        "{name} {has}, and {method} needs {needed}: ask whoever keeps the site's certificates for one with it \
         (ctl pki issue --role {needed})"
    )))
}

fn refused(sentence: impl Into<String>) -> Status {
    error::status(Code::PermissionDenied, ROLE_REQUIRED, sentence)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use tower::{ServiceExt as _, service_fn};

    use super::*;

    fn peer(role: Option<Role>) -> Peer {
        let way = Way::Certificate {
            address: "10.0.0.7:5".parse().unwrap(),
            serial: "01".to_owned(),
        };
        Peer::new(Caller::new("eve".to_owned(), role, way), None)
    }

    /// What the layer answers; `None` when the service itself was asked.
    async fn answer(path: &str, peer: Option<Peer>) -> Option<Status> {
        answer_of(&AuthorizeLayer::default(), path, peer).await
    }

    async fn answer_of(layer: &AuthorizeLayer, path: &str, peer: Option<Peer>) -> Option<Status> {
        let inner = service_fn(async |_: Request<Body>| {
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert("it was asked");
            Ok::<_, Infallible>(response)
        });
        let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
        request.extensions_mut().extend(peer.into_iter().fold(
            http::Extensions::new(),
            |mut all, peer| {
                all.insert(peer);
                all
            },
        ));
        let response = layer.layer(inner).oneshot(request).await.unwrap();
        match response.extensions().get::<&str>() {
            Some(_) => None,
            None => Some(Status::from_header_map(response.headers()).unwrap()),
        }
    }

    #[tokio::test]
    async fn a_role_that_is_not_enough_is_refused_with_what_is_needed() {
        let run = "/slipway.runtime.v1.Containers/Run";
        for (role, let_in) in [
            (Some(Role::Admin), true),
            (Some(Role::Operate), true),
            (Some(Role::Build), false),
            (Some(Role::Read), false),
            (None, false),
        ] {
            let said = answer(run, Some(peer(role))).await;
            assert_eq!(said.is_none(), let_in, "{role:?}");
            if let Some(said) = said {
                assert_eq!(said.code(), Code::PermissionDenied);
                assert_eq!(error::reason(&said), ROLE_REQUIRED);
                for word in ["eve", "Containers.Run", "needs operate"] {
                    assert!(said.message().contains(word), "{}", said.message());
                }
            }
        }
        let list = "/slipway.runtime.v1.Containers/List";
        assert!(answer(list, Some(peer(Some(Role::Read)))).await.is_none());
        assert!(answer(list, Some(peer(None))).await.is_some());
    }

    #[tokio::test]
    async fn who_is_not_known_and_what_has_no_rule_never_gets_to_a_service() {
        let list = "/slipway.runtime.v1.Containers/List";
        let said = answer(list, None).await.unwrap();
        assert_eq!(said.code(), Code::PermissionDenied);
        let said = answer("/x.Y/Z", Some(peer(Some(Role::Admin)))).await;
        assert_eq!(said.unwrap().code(), Code::Unimplemented);
    }
    #[tokio::test]
    async fn who_may_do_nothing_does_not_push_others_out_of_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditLog::open(path.clone(), 16 << 20).unwrap();
        let layer = AuthorizeLayer {
            audit: Some(Audit {
                log: log.clone(),
                reads: false,
            }),
        };
        let stop = "/slipway.runtime.v1.Containers/Stop";
        for _ in 0..300 {
            answer_of(&layer, stop, Some(peer(None))).await.unwrap();
        }
        let operator = Some(peer(Some(Role::Operate)));
        assert!(answer_of(&layer, stop, operator).await.is_none());
        log.finish(Duration::from_secs(60));
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let (last, refused) = lines.split_last().unwrap();
        assert_eq!(last["role"], "operate");
        let left_out: u64 = lines
            .iter()
            .filter_map(|line| line["left_out"].as_u64())
            .sum();
        assert!(left_out > 0, "all of them are told");
        assert_eq!(refused.len() as u64 + left_out, 300);
    }
}
