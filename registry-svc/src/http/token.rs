//! `/token`: where clients get their tokens (distribution's "Token Authentication Specification" and "OAuth2 Token
//! Authentication").

use std::sync::Arc;

use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{
    Query, Upload, auth,
    auth::{NotIn, Peer, SERVICE},
    body::Body,
    errors, lists, set,
};
use crate::{
    access::{Access, Caller, TOKEN_LIFE, Wanted, policy::Action, token::Kind},
    error::Result,
    names::OwnNames,
};

/// Bytes of the form of a POST, at most.
const FORM: usize = 16 * 1024;

/// Scopes of a token, at most.
const SCOPES: usize = 32;

/// GET, and POST with a form.
pub async fn answer(
    access: &Arc<Access>,
    own: &OwnNames,
    peer: &Peer,
    method: &Method,
    headers: &HeaderMap,
    query: &Query,
    body: Upload,
) -> Result<Response<Body>> {
    let form;
    let (asked, caller) = if *method == Method::POST {
        let (content, _) = body.whole("the form", FORM, None).await?;
        form = Query::parse(str::from_utf8(&content).ok());
        (&form, granted(access, peer, &form).await)
    } else {
        let permit = auth::identify(access, peer, headers).await;
        // A token that gets tokens is a refresh token, and no other: else none would ever end.
        let caller = permit.and_then(|permit| match permit.is_by_token() {
            false => Ok(permit.caller().clone()),
            true => Err(NotIn::Wrong),
        });
        (query, caller.map_err(Refusal::NotIn))
    };
    let mut response = match caller {
        Ok(caller) => issued(access, own, *method == Method::POST, asked, &caller),
        Err(Refusal::NotIn(NotIn::Wrong)) => wrong(),
        Err(Refusal::NotIn(NotIn::Busy(wait))) => auth::busy(wait),
        Err(Refusal::Form(message)) => {
            errors::plain(StatusCode::BAD_REQUEST, "UNSUPPORTED", &message)
        }
    };
    set(&mut response, "cache-control", "no-store");
    Ok(response)
}

enum Refusal {
    NotIn(NotIn),
    Form(String),
}

/// Who a form says that he is.
async fn granted(access: &Arc<Access>, peer: &Peer, form: &Query) -> Result<Caller, Refusal> {
    let told = |name: &str| {
        let missing = || Refusal::Form(format!("the form lacks {name}"));
        form.get(name).ok_or_else(missing)
    };
    match told("grant_type")? {
        "password" => {
            let (name, password) = (told("username")?, told("password")?);
            let caller = access.by_password(name, password, peer.address.ip()).await;
            caller.map_err(|refused| Refusal::NotIn(refused.into()))
        }
        "refresh_token" => match access.by_token(Kind::Refresh, told("refresh_token")?) {
            Some((caller, _)) => Ok(caller),
            None => Err(Refusal::NotIn(NotIn::Wrong)),
        },
        other => Err(Refusal::Form(format!(
            "grant_type {other:?} is not supported: write password or refresh_token"
        ))),
    }
}

fn issued(
    access: &Access,
    own: &OwnNames,
    oauth: bool,
    asked: &Query,
    caller: &Caller,
) -> Response<Body> {
    let bad = |message: &str| errors::plain(StatusCode::BAD_REQUEST, "UNSUPPORTED", message);
    if asked
        .get("service")
        .is_some_and(|service| service != SERVICE)
    {
        return bad(&format!("tokens of here are for the service {SERVICE}"));
    }
    let scopes: Vec<&str> = asked.all("scope").flat_map(str::split_whitespace).collect();
    if scopes.len() > SCOPES {
        return bad(&format!("at most {SCOPES} scopes may be asked for at once"));
    }
    let wanted: Vec<Wanted> = scopes
        .iter()
        .filter_map(|scope| wanted(scope, own))
        .collect();
    let token = access.token_for(caller, &wanted);
    let mut answer = json!({
        "access_token": token,
        "expires_in": TOKEN_LIFE.as_secs(),
        "issued_at": jiff::Timestamp::now().to_string(),
    });
    let stays = if oauth {
        // Told again: clients keep the last that they were told.
        let told = asked
            .get("refresh_token")
            .map(|token| Value::from(token.to_owned()));
        answer["scope"] = scopes.join(" ").into();
        told.or_else(|| {
            let offline = asked.get("access_type") == Some("offline");
            offline.then(|| access.refresh_token_for(caller).into())
        })
    } else {
        answer["token"] = token.into();
        let offline = asked.get("offline_token") == Some("true");
        offline.then(|| access.refresh_token_for(caller).into())
    };
    if let Some(stays) = stays.filter(Value::is_string) {
        answer["refresh_token"] = stays;
    }
    lists::json_response("application/json", &answer)
}

/// `repository:<name>:<action>,...`; what means nothing here is given nothing.
fn wanted(scope: &str, own: &OwnNames) -> Option<Wanted> {
    let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
    let mut wanted = Vec::new();
    for action in actions.split(',') {
        match action {
            "*" => wanted.extend(Action::ALL),
            _ => wanted.extend(Action::ALL.into_iter().filter(|a| a.as_str() == action)),
        }
    }
    Some(Wanted {
        repository: own.from_http(name, None).ok()?,
        actions: wanted,
    })
}

fn wrong() -> Response<Body> {
    let message = "the user name or password is wrong, or the login has ended";
    let mut response = errors::plain(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
    set(
        &mut response,
        "www-authenticate",
        format!("Basic realm=\"{SERVICE}\""),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Repository;

    #[test]
    fn scopes_name_repositories_as_clients_write_them() {
        let own = OwnNames::new(&["127.0.0.1:5000".parse().unwrap()], &[]);
        use Action::{Delete, Pull, Push};
        for (scope, key, actions) in [
            (
                "repository:team/app:pull",
                "docker.io/team/app",
                &[Pull][..],
            ),
            (
                "repository:app:pull,push",
                "docker.io/library/app",
                &[Pull, Push],
            ),
            (
                "repository:localhost:5000/app:push",
                "docker.io/library/app",
                &[Push],
            ),
            (
                "repository:ghcr.io/org/app:delete",
                "ghcr.io/org/app",
                &[Delete],
            ),
            (
                "repository:app:*",
                "docker.io/library/app",
                &[Pull, Push, Delete],
            ),
            ("repository:app:paint", "docker.io/library/app", &[]),
        ] {
            let repository = Repository::from_key(key).unwrap();
            let actions = actions.to_vec();
            let expected = Some(Wanted {
                repository,
                actions,
            });
            assert_eq!(wanted(scope, &own), expected, "{scope}");
        }
        for scope in [
            "",
            "registry:catalog:*",
            "repository:app",
            "repository:A:pull",
            "repository:slipway.internal/x:pull",
        ] {
            assert_eq!(wanted(scope, &own), None, "{scope}");
        }
    }
}
