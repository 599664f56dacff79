//! What a build shows on a terminal: a line a step, with what a running step last said below it.

use std::{collections::HashMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use slipway_proto::builder::v1::{Step, StepLog, step::State};

use super::progress::{Lines, Style};

/// Lines of output that a running step shows.
const SHOWN: usize = 4;

/// The steps on the terminal.
pub struct Screen {
    bars: MultiProgress,
    steps: HashMap<u32, Running>,
    /// Keeps the output, for the step that fails.
    lines: Lines,
}

struct Running {
    bar: ProgressBar,
    name: String,
    said: Vec<String>,
}

impl Screen {
    pub fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            steps: HashMap::new(),
            lines: Lines::new(Style::Plain),
        }
    }

    /// A step began or ended.
    pub fn step(&mut self, step: &Step) {
        let plain = self.lines.step(step);
        let running = self.steps.entry(step.index).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(style(" => {msg} {elapsed}"));
            bar.enable_steady_tick(Duration::from_millis(200));
            Running {
                bar,
                name: step.name.clone(),
                said: Vec::new(),
            }
        });
        running.said.clear();
        let took = step.took.as_ref().map_or(String::new(), |d| {
            let tenths = d.nanos / 100_000_000;
            format!("{}.{tenths}s", d.seconds)
        });
        let ended = match step.state() {
            State::Started | State::Unspecified => {
                running.bar.set_message(running.name.clone());
                return;
            }
            State::Cached => format!(" => CACHED {}", running.name),
            State::Done => format!(" => {} {took}", running.name),
            State::Failed => format!(" => ERROR {} {took}", running.name),
            State::Canceled => format!(" => CANCELED {}", running.name),
        };
        running.bar.set_style(style("{msg}"));
        running.bar.finish_with_message(ended);
        if step.state() == State::Failed {
            // Its own output, which was shown in passing only.
            let from = plain.iter().position(|line| line == "------");
            for line in &plain[from.unwrap_or(plain.len())..] {
                self.print(line);
            }
        }
    }

    /// Output of a step.
    pub fn log(&mut self, log: &StepLog) {
        self.lines.log(log);
        let Some(running) = self.steps.get_mut(&log.index) else {
            return;
        };
        let text = String::from_utf8_lossy(&log.data);
        let lines = text.lines().filter(|l| !l.trim().is_empty());
        running.said.extend(lines.map(printable));
        let many = running.said.len().saturating_sub(SHOWN);
        running.said.drain(..many);
        let mut message = running.name.clone();
        for line in &running.said {
            message.push_str("\n => => # ");
            message.push_str(line);
        }
        running.bar.set_message(message);
    }

    /// A line of its own, above the steps.
    pub fn print(&self, line: &str) {
        // The terminal has gone: there is nobody to show it to.
        let _ = self.bars.println(line);
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are right.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// What a program says must not move our cursor: control characters are left out.
fn printable(line: &str) -> String {
    let line = line.rsplit('\r').find(|l| !l.is_empty()).unwrap_or(line);
    line.chars().filter(|c| !c.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_left_out() {
        assert_eq!(printable("10%\r20%\r\u{1b}[2Jdone\r"), "[2Jdone");
    }
}
