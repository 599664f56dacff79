//! What a build shows: BuildKit's plain lines.

use std::collections::HashMap;

use slipway_proto::builder::v1::{Step, StepLog, Warning, step::State};

use super::rawjson;

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Nothing at all.
    Nothing,
    /// Nothing but the image's id; what happened where it fails.
    Quiet,
    Plain,
    Terminal,
    RawJson,
}

/// Turns events into lines.
#[derive(Debug)]
pub struct Lines {
    style: Style,
    begun: HashMap<u32, prost_types::Timestamp>,
    named: HashMap<u32, String>,
    partial: HashMap<u32, Vec<u8>>,
    last: u32,
    tail: HashMap<u32, Vec<String>>,
}

impl Lines {
    pub fn new(style: Style) -> Self {
        Self {
            style,
            begun: HashMap::new(),
            named: HashMap::new(),
            partial: HashMap::new(),
            last: 0,
            tail: HashMap::new(),
        }
    }

    /// The lines of a step's change.
    pub fn step(&mut self, step: &Step) -> Vec<String> {
        let n = step.index;
        let took = step.took.as_ref().map_or(0.0, |d| {
            #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
            let seconds = d.seconds as f64;
            seconds + f64::from(d.nanos) / 1e9
        });
        if self.style == Style::RawJson {
            return vec![rawjson::step(step)];
        }
        if let Some(started) = &step.started {
            self.begun.insert(n, *started);
        }
        let mut out = self.flush(n);
        let mut head = Vec::new();
        if !self.named.contains_key(&n) || self.last != n {
            if !step.name.is_empty() {
                self.named.insert(n, step.name.clone());
            }
            if self.last != 0 && self.last != n {
                head.push(String::new());
            }
            head.push(format!(
                "#{n} {}",
                self.named.get(&n).cloned().unwrap_or_default()
            ));
        }
        self.last = n;
        head.append(&mut out);
        head.extend(match step.state() {
            State::Cached => Some(format!("#{n} CACHED")),
            State::Done => Some(format!("#{n} DONE {took:.1}s")),
            State::Failed => Some(format!("#{n} ERROR: {}", step.error)),
            State::Canceled => Some(format!("#{n} CANCELED")),
            State::Started | State::Unspecified => None,
        });
        if step.state() == State::Failed {
            head.extend(self.failure(n));
        }
        head
    }

    /// The lines that a step's output completes.
    pub fn log(&mut self, log: &StepLog) -> Vec<String> {
        let n = log.index;
        if self.style == Style::RawJson {
            return vec![rawjson::log(log)];
        }
        let mut out = Vec::new();
        if self.last != n {
            out.push(String::new());
            out.push(format!(
                "#{n} {}",
                self.named.get(&n).cloned().unwrap_or_default()
            ));
            self.last = n;
        }
        let mut pending = self.partial.remove(&n).unwrap_or_default();
        pending.extend_from_slice(&log.data);
        let since = self.since(n, log.time.as_ref());
        while let Some(at) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=at).collect();
            out.push(self.line(n, since, &line));
        }
        // A program that never ends its line must not fill our memory.
        if pending.len() > 64 * 1024 {
            out.push(self.line(n, since, &pending));
            pending.clear();
        }
        self.partial.insert(n, pending);
        out
    }

    fn line(&mut self, n: u32, since: f64, line: &[u8]) -> String {
        let text = String::from_utf8_lossy(line)
            .trim_end_matches(['\n', '\r'])
            .to_owned();
        let tail = self.tail.entry(n).or_default();
        tail.push(format!("{since:.3} {text}"));
        if tail.len() > 20 {
            tail.remove(0);
        }
        format!("#{n} {since:.3} {text}")
    }

    fn flush(&mut self, n: u32) -> Vec<String> {
        let pending = self.partial.remove(&n).unwrap_or_default();
        if pending.is_empty() {
            Vec::new()
        } else {
            vec![self.line(n, 0.0, &pending)]
        }
    }

    fn since(&self, n: u32, time: Option<&prost_types::Timestamp>) -> f64 {
        match (self.begun.get(&n), time) {
            (Some(from), Some(to)) => {
                #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
                let seconds = (to.seconds - from.seconds) as f64;
                (seconds + f64::from(to.nanos - from.nanos) / 1e9).max(0.0)
            }
            _ => 0.0,
        }
    }

    fn failure(&self, n: u32) -> Vec<String> {
        let mut out = vec![
            "------".to_owned(),
            format!(" > {}:", self.named.get(&n).cloned().unwrap_or_default()),
        ];
        out.extend(self.tail.get(&n).into_iter().flatten().cloned());
        out.push("------".to_owned());
        out
    }

    /// A remark on the Dockerfile.
    pub fn warning(&self, w: &Warning) -> String {
        if self.style == Style::RawJson {
            return rawjson::warning(w);
        }
        let line = match w.line {
            0 => String::new(),
            line => format!(" (line {line})"),
        };
        format!(" - {}: {}{line}", w.rule, w.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_reads_like_buildkits() {
        let mut lines = Lines::new(Style::Plain);
        let at = |nanos| Some(prost_types::Timestamp { seconds: 10, nanos });
        let mut step = Step {
            index: 5,
            name: "[2/4] RUN x".into(),
            started: at(0),
            ..Step::default()
        };
        step.set_state(State::Started);
        assert_eq!(lines.step(&step), ["#5 [2/4] RUN x"]);
        let log = |data: &'static [u8]| StepLog {
            index: 5,
            stream: 1,
            data: data.into(),
            time: at(213_000_000),
        };
        assert_eq!(lines.log(&log(b"one\ntw")), ["#5 0.213 one"]);
        assert_eq!(lines.log(&log(b"o\n")), ["#5 0.213 two"]);
        step.set_state(State::Failed);
        step.error = "exit code: 3".into();
        assert_eq!(
            lines.step(&step),
            [
                "#5 ERROR: exit code: 3",
                "------",
                " > [2/4] RUN x:",
                "0.213 one",
                "0.213 two",
                "------"
            ]
        );
        let mut other = Step {
            index: 6,
            name: "[3/4] COPY".into(),
            ..Step::default()
        };
        other.set_state(State::Cached);
        assert_eq!(lines.step(&other), ["", "#6 [3/4] COPY", "#6 CACHED"]);
    }
}
