//! `--progress rawjson`: BuildKit's SolveStatus, one JSON object a line (buildkit, client/graph.go), so that
//! tools which read buildx' output read ours.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use slipway_proto::builder::v1::{Step, StepLog, Warning, step::State};

/// A step's vertex: BuildKit's is a digest of its operation, ours of its number. Tools only compare it.
fn vertex(index: u32) -> String {
    let mut out = "sha256:".to_owned();
    for byte in Sha256::digest(format!("step {index}")) {
        // Writing to a string does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn time(seconds: i64, nanos: i32) -> Value {
    match jiff::Timestamp::new(seconds, nanos) {
        Ok(time) => time.to_string().into(),
        Err(_) => Value::Null,
    }
}

/// A step that began or ended.
pub fn step(step: &Step) -> String {
    let mut one = json!({"digest": vertex(step.index), "name": step.name});
    if let Some(started) = &step.started {
        one["started"] = time(started.seconds, started.nanos);
        if !matches!(step.state(), State::Started | State::Unspecified) {
            let took = step.took.unwrap_or_default();
            let nanos = started.nanos + took.nanos;
            let (more, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            one["completed"] = time(started.seconds + took.seconds + i64::from(more), nanos);
        }
    }
    match step.state() {
        State::Cached => one["cached"] = true.into(),
        State::Failed => one["error"] = step.error.clone().into(),
        State::Canceled => one["error"] = "context canceled".into(),
        _ => {}
    }
    json!({"vertexes": [one]}).to_string()
}

/// Output of a step.
pub fn log(log: &StepLog) -> String {
    let at = log.time.unwrap_or_default();
    json!({"logs": [{
        "vertex": vertex(log.index),
        "stream": log.stream,
        "data": base64(&log.data),
        "timestamp": time(at.seconds, at.nanos),
    }]})
    .to_string()
}

/// A remark on the Dockerfile.
pub fn warning(warning: &Warning) -> String {
    let short = format!(
        "{}: {} (line {})",
        warning.rule, warning.message, warning.line
    );
    let mut one = json!({"level": 1, "short": base64(short.as_bytes())});
    if warning.line > 0 {
        let place = json!({"line": warning.line});
        one["range"] = json!([{"start": place, "end": place}]);
    }
    json!({"warnings": [one]}).to_string()
}

/// How Go writes bytes in JSON.
fn base64(data: &[u8]) -> String {
    STANDARD.encode(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_solve_statuses() {
        let mut one = Step {
            index: 3,
            name: "[2/2] RUN x".into(),
            started: Some(prost_types::Timestamp {
                seconds: 1_700_000_000,
                nanos: 900_000_000,
            }),
            took: Some(prost_types::Duration {
                seconds: 1,
                nanos: 200_000_000,
            }),
            ..Step::default()
        };
        one.set_state(State::Done);
        let line: Value = serde_json::from_str(&step(&one)).unwrap();
        let vertex = &line["vertexes"][0];
        assert_eq!(vertex["completed"], "2023-11-14T22:13:22.1Z");
        assert!(vertex["digest"].as_str().unwrap().starts_with("sha256:"));
        let said = StepLog {
            index: 3,
            stream: 2,
            data: "foo".into(),
            time: None,
        };
        let line: Value = serde_json::from_str(&log(&said)).unwrap();
        assert_eq!(line["logs"][0]["vertex"], vertex["digest"]);
        assert_eq!(line["logs"][0]["data"], "Zm9v");
    }
}
