//! `inspect`: docker's JSON, or a template on it.

mod container;
mod host_config;
mod image;
mod network;
mod network_settings;

use clap::Args;
use serde_json::{Map, Value, json};
use slipway_proto::{
    registry::v1::InspectImageRequest,
    runtime::v1::{InspectRequest, InspectVolumeRequest, Volume},
};
use tonic::Code;

use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{self, human, template::Template},
    spec::options::platform,
};

/// `ctl inspect`, also below `container`, `image`, `network`, `volume`
#[derive(Debug, Args)]
pub struct Inspect {
    /// Format output using a custom template
    #[arg(short, long)]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    size: bool,
    /// Only inspect objects of the given type
    #[arg(long)]
    r#type: Option<String>,
    #[arg(required = true)]
    names: Vec<String>,
}

/// `ctl image inspect`
#[derive(Debug, Args)]
pub struct InspectImage {
    /// Format output using a custom template
    #[arg(short, long)]
    format: Option<String>,
    /// Inspect a specific platform of the multi-platform image
    #[arg(long)]
    platform: Option<String>,
    #[arg(required = true)]
    names: Vec<String>,
}

impl InspectImage {
    pub async fn run(self, site: &Site) -> Outcome {
        let platform = self.platform.as_deref().map(platform).transpose()?;
        let shown = Shown::parse(self.format.as_deref())?;
        let mut answers = Vec::new();
        for name in self.names {
            let request = InspectImageRequest {
                image: name,
                platform: platform.clone(),
            };
            let answer = site.registry().inspect_image(request).await;
            answers.push(match answer {
                Ok(answer) => Ok(image::json(&answer.into_inner())),
                Err(status) => Err(status.into()),
            });
        }
        shown.print(answers)
    }
}

const TYPES: [&str; 4] = ["container", "image", "network", "volume"];

impl Inspect {
    /// `kind`: of the command that this stands below.
    pub async fn run(self, site: &Site, kind: Option<&str>) -> Outcome {
        let kind = kind.or(self.r#type.as_deref());
        if let Some(kind) = kind.filter(|k| !TYPES.contains(k)) {
            return Err(Failure::new(format!(
                "\"{kind}\" is not a valid value for --type: container, image, network or volume"
            )));
        }
        let shown = Shown::parse(self.format.as_deref())?;
        let mut answers = Vec::new();
        for name in &self.names {
            answers.push(find(site, name, kind, self.size).await);
        }
        shown.print(answers)
    }
}

/// In which form.
enum Shown {
    Pretty,
    Json,
    Template(Template),
}

impl Shown {
    fn parse(format: Option<&str>) -> Outcome<Self> {
        Ok(match format {
            None | Some("") => Self::Pretty,
            Some("json") => Self::Json,
            Some(text) => {
                Self::Template(Template::parse(text).map_err(|f| bad_template(f).exits(64))?)
            }
        })
    }

    /// Prints what was found, then what was not.
    fn print(&self, answers: Vec<Outcome<Value>>) -> Outcome {
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for answer in answers {
            match answer {
                Ok(value) => found.push(value),
                Err(failure) => failures.push(failure),
            }
        }
        match self {
            Self::Template(template) => {
                for value in &found {
                    let text = template.render(value, &Map::new()).map_err(bad_template)?;
                    output::print(&format!("{text}\n"))?;
                }
            }
            Self::Json => output::print(&format!("{}\n", Value::from(found)))?,
            Self::Pretty => {
                let mut out = Vec::new();
                let pretty = serde_json::ser::PrettyFormatter::with_indent(b"    ");
                let mut writer = serde_json::Serializer::with_formatter(&mut out, pretty);
                serde::Serialize::serialize(&Value::from(found), &mut writer)
                    .map_err(|e| Failure::new(e.to_string()))?;
                output::print(&format!("{}\n", String::from_utf8_lossy(&out)))?;
            }
        }
        if failures.is_empty() {
            return Ok(0);
        }
        for failure in failures {
            eprintln!("Error: {}", failure.text);
        }
        Err(Failure::silent(1))
    }
}

/// `inspect` says it in other words than the lists do.
fn bad_template(failure: Failure) -> Failure {
    let why = failure.text.split_once(": ").map_or("", |(_, why)| why);
    Failure::new(format!("template parsing error: {why}"))
}

async fn find(site: &Site, name: &str, kind: Option<&str>, size: bool) -> Outcome<Value> {
    for wanted in TYPES {
        if kind.is_some_and(|k| k != wanted) {
            continue;
        }
        let answer = match wanted {
            "container" => site
                .containers()
                .inspect(InspectRequest {
                    container: name.to_owned(),
                    size,
                })
                .await
                .map(|a| container::json(&a.into_inner(), size)),
            "image" => site
                .registry()
                .inspect_image(InspectImageRequest {
                    image: name.to_owned(),
                    platform: None,
                })
                .await
                .map(|a| {
                    not_sized(size, "images");
                    image::json(&a.into_inner())
                }),
            "network" => network::find(site, name)
                .await
                .inspect(|_| not_sized(size, "networks")),
            _ => site
                .volumes()
                .inspect_volume(InspectVolumeRequest {
                    name: name.to_owned(),
                })
                .await
                .map(|a| {
                    not_sized(size, "volumes");
                    volume(&a.into_inner())
                }),
        };
        match answer {
            Ok(value) => return Ok(value),
            // A name that is none of this kind's may be one of the next's.
            Err(status)
                if kind.is_none()
                    && matches!(
                        status.code(),
                        Code::NotFound | Code::InvalidArgument | Code::Unimplemented
                    ) => {}
            Err(status) => return Err(status.into()),
        }
    }
    Err(Failure::new(format!("No such object: {name}")))
}

/// docker's word on `--size` of what is no container.
fn not_sized(size: bool, kind: &str) {
    if size {
        eprintln!("WARNING: --size ignored for {kind}");
    }
}

fn volume(v: &Volume) -> Value {
    let map = |map: &std::collections::HashMap<String, String>| match map.is_empty() {
        true => Value::Null,
        false => json!(map),
    };
    json!({
        "CreatedAt": human::rfc3339(v.created.as_ref()), "Driver": v.driver, "Labels": map(&v.labels), "Mountpoint": v.mountpoint,
        "Name": v.name, "Options": map(&v.options), "Scope": if v.scope.is_empty() { "local" } else { &v.scope },
    })
}
