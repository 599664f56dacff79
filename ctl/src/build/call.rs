//! `--call` and `--check`: questions about a Dockerfile, answered without a build.

use std::collections::HashMap;

use slipway_proto::builder::v1::{
    BuildRequest, BuildStart, build_event::Event, build_request::Part,
};

use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output,
};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `check`, `outline` or `targets`: the builder knows which there are.
    pub method: String,
    json: bool,
    ignore_status: bool,
}

impl Call {
    /// Reads `--call`: `check`, `check,format=json`; nothing for `build`.
    pub fn parse(text: &str) -> Outcome<Option<Self>> {
        let mut fields = text.split(',');
        let method = fields.next().unwrap_or_default().to_owned();
        let mut call = Self {
            method,
            json: false,
            ignore_status: false,
        };
        for field in fields {
            match field.split_once('=') {
                Some(("format", "json")) => call.json = true,
                Some(("format", "text")) => call.json = false,
                Some(("ignorestatus", "true" | "1")) => call.ignore_status = true,
                Some(("ignorestatus", "false" | "0")) => call.ignore_status = false,
                _ => {
                    return Err(Failure::new(format!(
                        "invalid --call {text:?}: METHOD[,format=json|text][,ignorestatus=true]"
                    )));
                }
            }
        }
        Ok((!matches!(call.method.as_str(), "" | "build")).then_some(call))
    }

    /// Asks, prints the answer; what the program ends with.
    pub async fn run(&self, site: &Site, mut start: BuildStart) -> Outcome {
        start.call.clone_from(&self.method);
        let parts = [BuildRequest {
            part: Some(Part::Start(start)),
        }];
        let mut events = site
            .builder()
            .build(tokio_stream::iter(parts))
            .await?
            .into_inner();
        let mut answer = HashMap::new();
        while let Some(event) = events.message().await? {
            if let Some(Event::Result(result)) = event.event {
                answer = result.metadata;
            }
        }
        let key = if self.json {
            "result.json"
        } else {
            "result.txt"
        };
        let Some(text) = answer.get(key) else {
            return Err(Failure::new(
                "the builder gave no answer: it is of another version",
            ));
        };
        output::print(&format!("{}\n", text.trim_end()))?;
        let status = answer.get("result.statuscode").and_then(|s| s.parse().ok());
        Ok(if self.ignore_status {
            0
        } else {
            status.unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read() {
        assert!(Call::parse("build").unwrap().is_none());
        let call = Call::parse("check,format=json,ignorestatus=true")
            .unwrap()
            .unwrap();
        assert_eq!(
            (call.method.as_str(), call.json, call.ignore_status),
            ("check", true, true)
        );
        assert!(Call::parse("check,x").is_err());
    }
}
