//! Long work with progress: pull, push, events; and what the service tells about itself.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, stream};
use slipway_proto::{
    registry::v1::{pull_event, pull_request::Policy as PolicyMessage, push_done, push_event, *},
    types::v1 as types,
};
use slipway_service::{CancellationToken, Context};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{Answer, Boxed, convert};
use crate::{
    error::Error,
    events::Event,
    images::{
        pull::{Policy, PullEvent as Pulling, PullRequest as Wanted},
        push::{PushEvent as Pushing, PushRequest as Sending},
    },
    registry::Registry,
};

/// Events on their way to a caller; a slow one slows its own pull's news, not the transfer.
const QUEUE: usize = 32;

pub fn pull(
    registry: &Arc<Registry>,
    request: PullRequest,
) -> Answer<ReceiverStream<Result<PullEvent, Status>>> {
    let wanted = Wanted {
        policy: match request.policy() {
            PolicyMessage::Missing => Policy::Missing,
            PolicyMessage::Never => Policy::Never,
            PolicyMessage::Always | PolicyMessage::Unspecified => Policy::Always,
        },
        reference: request.reference,
        platform: convert::platform(request.platform),
        all_platforms: request.all_platforms,
        all_tags: request.all_tags,
        credentials: convert::credentials(request.auth),
        manifest_only: request.manifest_only,
    };
    let (sender, mut events) = mpsc::channel(QUEUE);
    let (out, stream) = mpsc::channel(QUEUE);
    let registry = Arc::clone(registry);
    tokio::spawn(async move {
        let work = registry.pull(wanted, &sender);
        let forward = forward(&mut events, &out, pull_message);
        // Dropped with the caller: a transfer that nobody else wants stops, and is resumed later.
        let result = tokio::select! {
            result = work => result,
            () = forward => return,
        };
        drop(sender);
        while let Some(event) = events.recv().await {
            if out.send(Ok(pull_message(event))).await.is_err() {
                return;
            }
        }
        if let Err(error) = result {
            // The caller may be gone.
            let _ = out.send(Err(error.into())).await;
        }
    });
    Ok(Response::new(ReceiverStream::new(stream)))
}

/// Hands events on until there are no more, or nobody listens: which is noticed also while an upstream is silent,
/// and nothing comes.
pub(super) async fn forward<E, M>(
    events: &mut mpsc::Receiver<E>,
    out: &mpsc::Sender<Result<M, Status>>,
    message: fn(E) -> M,
) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = out.closed() => return,
        };
        let Some(event) = event else { return };
        if out.send(Ok(message(event))).await.is_err() {
            return;
        }
    }
}

fn pull_message(event: Pulling) -> PullEvent {
    use pull_event::Event as E;
    let event = match event {
        Pulling::Status(line) => E::Status(line),
        Pulling::Warning(line) => E::Warning(line),
        Pulling::Progress(progress) => E::Progress(convert::progress(&progress)),
        Pulling::Resolved(image, stale) => E::Resolved(convert::resolved(&image, stale)),
        Pulling::Done(reference, digest, newer) => E::Done(PullDone {
            reference,
            digest: digest.to_string(),
            newer,
        }),
    };
    PullEvent { event: Some(event) }
}

pub async fn login(registry: &Registry, request: LoginRequest) -> Answer<LoginResponse> {
    let Some(credentials) = convert::credentials(request.auth) else {
        return Err(Error::InvalidArgument("no account was given".to_owned()).into());
    };
    if registry.own.is_own(&request.host) {
        return Err(Error::InvalidArgument(format!(
            "{} is this site's own registry, which ctl uses without logging in: its listener of gRPC decides who may; \
             other clients log in there by themselves",
            request.host
        ))
        .into());
    }
    let client = registry.mirror.client(&request.host, Some(credentials))?;
    let identity_token = client.login().await?.unwrap_or_default();
    Ok(Response::new(LoginResponse { identity_token }))
}

pub fn push(
    registry: &Arc<Registry>,
    request: PushRequest,
) -> Answer<ReceiverStream<Result<PushEvent, Status>>> {
    let sending = Sending {
        reference: request.reference,
        all_tags: request.all_tags,
        platform: convert::platform(request.platform),
        credentials: convert::credentials(request.auth),
    };
    let (sender, mut events) = mpsc::channel(QUEUE);
    let (out, stream) = mpsc::channel(QUEUE);
    let registry = Arc::clone(registry);
    tokio::spawn(async move {
        let work = registry.push(sending, &sender);
        let forward = forward(&mut events, &out, push_message);
        let result = tokio::select! {
            result = work => result,
            () = forward => return,
        };
        drop(sender);
        while let Some(event) = events.recv().await {
            if out.send(Ok(push_message(event))).await.is_err() {
                return;
            }
        }
        if let Err(error) = result {
            // The caller may be gone.
            let _ = out.send(Err(error.into())).await;
        }
    });
    Ok(Response::new(ReceiverStream::new(stream)))
}

fn push_message(event: Pushing) -> PushEvent {
    use push_event::Event as E;
    let event = match event {
        Pushing::Status(line) => E::Status(line),
        Pushing::Progress(progress) => E::Progress(convert::progress(&progress)),
        Pushing::Done(pushed) => E::Done(PushDone {
            reference: pushed.reference,
            digest: pushed.digest.to_string(),
            size: pushed.size,
            part: pushed.part.map(|part| push_done::Part {
                index: part.index.to_string(),
                platform: part.platform.to_string(),
                missing: part.missing,
            }),
        }),
    };
    PushEvent { event: Some(event) }
}

pub fn events(
    registry: &Arc<Registry>,
    request: EventsRequest,
    stop: CancellationToken,
) -> Answer<Boxed<types::Event>> {
    const KEYS: [&str; 4] = ["type", "event", "image", "label"];
    if let Some(filter) = request
        .filters
        .iter()
        .find(|f| !KEYS.contains(&f.key.as_str()))
    {
        return Err(Error::InvalidArgument(format!("invalid filter {:?}", filter.key)).into());
    }
    let millis = |t: prost_types::Timestamp| {
        (t.seconds.max(0) as u64) * 1000 + t.nanos.max(0) as u64 / 1_000_000
    };
    let until = request.until.map(millis);
    let (past, receiver) = registry.events.listen(request.since.map(millis));
    let past: Vec<Event> = past
        .into_iter()
        .filter(|e| until.is_none_or(|until| e.at <= until))
        .collect();
    let filters = request.filters;
    let stream = stream::unfold((receiver, stop), move |(mut receiver, stop)| async move {
        let left = until.map(|until| until.saturating_sub(crate::registry::now()));
        let ended = async {
            match left {
                Some(ms) => tokio::time::sleep(std::time::Duration::from_millis(ms)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = receiver.recv() => match received {
                Ok(event) => Some((Some(event), (receiver, stop))),
                // Too slow: the oldest are gone, the listener goes on with what there is.
                Err(RecvError::Lagged(_)) => Some((None, (receiver, stop))),
                Err(RecvError::Closed) => None,
            },
            () = stop.cancelled() => None,
            () = ended => None,
        }
    });
    let stream = stream::iter(past.into_iter().map(Some)).chain(stream);
    let stream = stream.filter_map(move |event| {
        let message = event.filter(|e| passes(e, &filters)).map(event_message);
        std::future::ready(message.map(Ok))
    });
    Ok(Response::new(stream.boxed()))
}

fn passes(event: &Event, filters: &[types::Filter]) -> bool {
    filters.iter().all(|filter| {
        filter.values.iter().any(|value| match filter.key.as_str() {
            "type" => value == "image",
            "event" => value == event.action,
            "image" => *value == event.name || *value == event.id,
            // Image events of ours carry no labels.
            _ => false,
        })
    })
}

fn event_message(event: Event) -> types::Event {
    let mut attributes = HashMap::new();
    if !event.name.is_empty() {
        attributes.insert("name".to_owned(), event.name);
    }
    types::Event {
        time: Some(convert::timestamp_ms(event.at)),
        r#type: "image".to_owned(),
        action: event.action.to_owned(),
        actor_id: event.id,
        attributes,
    }
}

pub fn info(registry: &Registry, context: &Context) -> types::ServiceInfo {
    let mut facts = HashMap::from([(
        "state".to_owned(),
        context
            .paths
            .state_of(context.identity.name)
            .display()
            .to_string(),
    )]);
    for (host, state) in registry.mirror.report() {
        facts.insert(format!("upstream {host}"), state);
    }
    types::ServiceInfo {
        name: context.identity.program.to_owned(),
        version: context.identity.version.to_owned(),
        started: Some(context.started.into()),
        facts,
        warnings: [registry.warnings.clone(), registry.mirror.warnings()].concat(),
    }
}
