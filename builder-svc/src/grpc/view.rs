//! Events and results as messages.

use std::time::SystemTime;

use slipway_proto::builder::v1::{
    AskAgent, BuildEvent, BuildResult, NeedContent, NeedSecret, OutputChunk, Step, StepLog,
    Warning, build_event, disk_usage_response, list_builds_response, step,
};

use crate::{
    build::Outcome,
    cache::{
        OnDisk,
        filter::{CONTEXTS, MOUNT, REGULAR},
    },
    events::{Event, State},
    history::Entry,
};

const fn message(event: build_event::Event) -> BuildEvent {
    BuildEvent { event: Some(event) }
}

/// The first event.
pub fn build_id(id: &str) -> BuildEvent {
    message(build_event::Event::BuildId(id.to_owned()))
}

/// What the build tells.
pub fn event(event: Event) -> BuildEvent {
    message(match event {
        Event::NeedManifest(context) => build_event::Event::NeedManifest(context),
        Event::Need(digests) => build_event::Event::Need(NeedContent {
            // They were made from 32 bytes: their hex is right.
            digests: digests
                .iter()
                .map(|d| hex::decode(d.encoded()).unwrap_or_default().into())
                .collect(),
            complete: false,
        }),
        Event::NeedNoMore => build_event::Event::Need(NeedContent {
            digests: Vec::new(),
            complete: true,
        }),
        Event::NeedSecret(id) => build_event::Event::NeedSecret(NeedSecret { id }),
        Event::AskAgent {
            number,
            agent,
            message,
        } => build_event::Event::AskAgent(AskAgent {
            number,
            agent,
            message,
        }),
        Event::Step(told) => build_event::Event::Step(step_message(told)),
        Event::Log {
            index,
            stderr,
            data,
        } => build_event::Event::Log(StepLog {
            index,
            stream: if stderr { 2 } else { 1 },
            data,
            time: Some(SystemTime::now().into()),
        }),
        Event::Warning {
            rule,
            message,
            line,
        } => build_event::Event::Warning(Warning {
            rule: rule.to_owned(),
            message,
            line,
            source_line: String::new(),
        }),
        Event::Output { output, data, last } => {
            build_event::Event::Output(OutputChunk { output, data, last })
        }
    })
}

fn step_message(told: crate::events::Step) -> Step {
    let (state, took, error) = match told.state {
        State::Started => (step::State::Started, None, String::new()),
        State::Cached => (step::State::Cached, None, String::new()),
        State::Done(took) => (step::State::Done, Some(took), String::new()),
        State::Failed(took, error) => (step::State::Failed, Some(took), error),
    };
    // An error of the Dockerfile has an excerpt on further lines: the status carries it.
    let error = error.lines().next().unwrap_or_default().to_owned();
    Step {
        index: told.index,
        name: told.name,
        state: state.into(),
        started: Some(told.started.into()),
        took: took.and_then(|t| t.try_into().ok()),
        error,
    }
}

/// The last event.
pub fn result(outcome: Outcome) -> BuildEvent {
    let image = outcome.image;
    let (image_id, manifest_digest, size) =
        image.map_or_else(Default::default, |i| (i.image_id, i.manifest, i.size));
    message(build_event::Event::Result(BuildResult {
        image_id,
        manifest_digest,
        tags: outcome.tags,
        size,
        steps: outcome.steps,
        cached_steps: outcome.cached,
        metadata: outcome.metadata.into_iter().collect(),
    }))
}

/// A build of the history.
pub fn entry(entry: Entry) -> list_builds_response::Build {
    list_builds_response::Build {
        id: entry.id,
        name: entry.name,
        started: Some(entry.started.into()),
        took: entry.took.and_then(|t| t.try_into().ok()),
        status: entry.status.as_str().to_owned(),
        steps: entry.steps,
        cached_steps: entry.cached,
        error: entry.error,
        tags: entry.tags,
        target: entry.target,
        platforms: entry.platforms,
        dockerfile: entry.dockerfile,
        image: entry.image,
    }
}

/// Whether the history keeps a message: what people read, not the transfer of files.
pub const fn is_kept(message: &BuildEvent) -> bool {
    use build_event::Event::{Log, Step, Warning};
    matches!(&message.event, Some(Step(_) | Log(_) | Warning(_)))
}

/// A record of the cache, or a cache mount.
pub fn record(on_disk: OnDisk, worker: impl Fn(usize) -> String) -> disk_usage_response::Record {
    let (kind, worker) = match &on_disk.mount {
        Some(mount) => (MOUNT, worker(mount.worker)),
        None => (REGULAR, String::new()),
    };
    let listed = on_disk.record;
    disk_usage_response::Record {
        r#type: kind.to_owned(),
        worker,
        id: listed.key,
        description: listed.step,
        size: on_disk.bytes,
        created: Some(listed.created.into()),
        shared: on_disk.shared > 0,
        last_used: Some(on_disk.last_used.into()),
        use_count: on_disk.uses,
        in_use: on_disk.in_use,
    }
}

/// The files of contexts, all together.
pub fn content(size: u64) -> disk_usage_response::Record {
    disk_usage_response::Record {
        id: "context-files".to_owned(),
        description: "files of build contexts".to_owned(),
        r#type: CONTEXTS.to_owned(),
        size,
        ..Default::default()
    }
}
