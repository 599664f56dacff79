//! `events`: what happens to containers, volumes, networks and images, told by the services that own
//! them, in the order in which it happened.

use clap::Args;
use prost_types::Timestamp;
use serde_json::{Map, Value, json};
use slipway_proto::{
    registry, runtime,
    types::v1::{Event, Filter},
};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{self, human, template::Template},
    spec::units,
};

/// `ctl events`
#[derive(Debug, Args)]
pub struct Events {
    /// Filter output based on conditions provided
    #[arg(short, long)]
    filter: Vec<String>,
    /// Show all events created since timestamp
    #[arg(long)]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long)]
    until: Option<String>,
    /// Format output using a custom template
    #[arg(long)]
    format: Option<String>,
}

/// A span of time; none = open.
#[derive(Clone, Copy)]
struct Span {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Events {
    pub async fn run(self, site: &Site) -> Outcome {
        let moment = |text: &Option<String>| text.as_deref().map(units::moment).transpose();
        let span = Span {
            since: moment(&self.since)?,
            until: moment(&self.until)?,
        };
        let filters = units::filters(&self.filter)?;
        let format = Format::new(self.format.as_deref())?;
        let now = Timestamp::from(std::time::SystemTime::now());
        let later = |a: &Timestamp, b: &Timestamp| (a.seconds, a.nanos) > (b.seconds, b.nanos);
        let mut live = span;
        if span.since.is_some() || span.until.is_some() {
            // The past comes from several services: it is put into order.
            let until = span.until.filter(|u| !later(u, &now)).unwrap_or(now);
            let past = Span {
                since: span.since,
                until: Some(until),
            };
            let mut events = Vec::new();
            let mut all = follow(site, &filters, past).await?;
            while let Some(event) = all.recv().await {
                events.push(event?);
            }
            events.sort_by_key(|e| e.time.map(|t| (t.seconds, t.nanos)));
            for event in &events {
                format.print(event)?;
            }
            if span.until.is_some_and(|u| !later(&u, &now)) {
                return Ok(0);
            }
            live.since = Some(now);
        }
        let mut all = follow(site, &filters, live).await?;
        while let Some(event) = all.recv().await {
            let event = event?;
            let told = live.since.is_some() && event.time.is_none_or(|t| !later(&t, &now));
            if !told {
                format.print(&event)?;
            }
        }
        Ok(0)
    }
}

/// Events of all services that may have some, as they come.
async fn follow(
    site: &Site,
    filters: &[Filter],
    span: Span,
) -> Outcome<mpsc::Receiver<Outcome<Event>>> {
    let (send, receive) = mpsc::channel(64);
    let request = runtime::v1::EventsRequest {
        since: span.since,
        until: span.until,
        filters: filters.to_vec(),
    };
    let containers = site.host().events(request).await?.into_inner();
    tokio::spawn(pass_on(containers, send.clone()));
    if may_be_images(filters) {
        let request = registry::v1::EventsRequest {
            since: span.since,
            until: span.until,
            filters: filters
                .iter()
                .filter(|f| f.key != "scope")
                .cloned()
                .collect(),
        };
        match site.registry().events(request).await {
            Ok(images) => drop(tokio::spawn(pass_on(images.into_inner(), send))),
            Err(e) => eprintln!("WARNING: no events of images: {}", Failure::from(e).text),
        }
    }
    Ok(receive)
}

async fn pass_on(mut events: Streaming<Event>, to: mpsc::Sender<Outcome<Event>>) {
    loop {
        let event = match events.message().await {
            Ok(None) => return,
            Ok(Some(event)) => Ok(event),
            Err(e) => Err(e.into()),
        };
        let failed = event.is_err();
        if to.send(event).await.is_err() || failed {
            return;
        }
    }
}

/// Whether an event of an image could pass: those have no container, volume or network.
fn may_be_images(filters: &[Filter]) -> bool {
    filters.iter().all(|filter| match filter.key.as_str() {
        "type" => filter.values.iter().any(|v| v == "image"),
        "scope" => filter.values.iter().any(|v| v == "local"),
        key => matches!(key, "event" | "image" | "label"),
    })
}

/// How an event is shown.
enum Format {
    Plain,
    Json,
    Template(Template),
}

impl Format {
    fn new(text: Option<&str>) -> Outcome<Self> {
        Ok(match text {
            None | Some("") => Self::Plain,
            Some("json") => Self::Json,
            Some(text) => Self::Template(Template::parse(text)?),
        })
    }

    fn print(&self, event: &Event) -> Outcome<()> {
        let line = match self {
            Self::Plain => plain(event),
            Self::Json => json(event).to_string(),
            Self::Template(template) => {
                let mut value = json(event);
                // docker's older names, which templates use to this day.
                value["Status"] = event.action.clone().into();
                value["ID"] = event.actor_id.clone().into();
                value["From"] = event.attributes.get("image").cloned().into();
                value["Scope"] = "local".into();
                value["Time"] = value["time"].clone();
                value["TimeNano"] = value["timeNano"].clone();
                template.render(&value, &Map::new())?
            }
        };
        output::print(&format!("{line}\n"))?;
        Ok(())
    }
}

fn attributes(event: &Event) -> std::collections::BTreeMap<&String, &String> {
    event.attributes.iter().collect()
}

fn plain(event: &Event) -> String {
    let pairs: Vec<_> = attributes(event)
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let shown = if pairs.is_empty() {
        String::new()
    } else {
        format!(" ({})", pairs.join(", "))
    };
    let time = human::rfc3339_fixed(event.time.as_ref());
    let (kind, action, id) = (&event.r#type, &event.action, &event.actor_id);
    format!("{time} {kind} {action} {id}{shown}")
}

fn json(event: &Event) -> Value {
    let nanos = |t: &Timestamp| t.seconds * 1_000_000_000 + i64::from(t.nanos);
    json!({
        "Type": event.r#type,
        "Action": event.action,
        "Actor": {"ID": event.actor_id, "Attributes": attributes(event)},
        "scope": "local",
        "time": event.time.as_ref().map(|t| t.seconds),
        "timeNano": event.time.as_ref().map(nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_dockers() {
        let event = Event {
            time: Some(Timestamp {
                seconds: 1,
                nanos: 5,
            }),
            r#type: "container".into(),
            action: "die".into(),
            actor_id: "abc".into(),
            attributes: [("name", "web"), ("exitCode", "3")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        };
        assert_eq!(
            plain(&event),
            "1970-01-01T00:00:01.000000005Z container die abc (exitCode=3, name=web)"
        );
    }

    #[test]
    fn registries_are_asked_when_images_may_pass() {
        let filter = |key: &str, value: &str| Filter {
            key: key.into(),
            values: vec![value.into()],
        };
        assert!(may_be_images(&[]));
        assert!(may_be_images(&[
            filter("type", "image"),
            filter("event", "tag")
        ]));
        assert!(!may_be_images(&[filter("type", "container")]));
        assert!(!may_be_images(&[filter("container", "web")]));
    }
}
