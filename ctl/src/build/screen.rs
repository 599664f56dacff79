//! What a build shows on a terminal: how far it is, a line for each step that runs with what it last said below,
//! and above them the steps that have ended, which scroll away like any output.
//!
//! No line is wider than the terminal is when it is drawn, so what is drawn over is what was drawn. No colours
//! are used, which is what NO_COLOR asks for (no-color.org).

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use slipway_proto::builder::v1::{Step, StepLog, step::State};

use super::progress::{Lines, Style};

/// Lines of output that a running step shows.
const SHOWN: usize = 4;
/// Steps that are shown at once: the others run unseen.
const AT_ONCE: usize = 8;

/// The steps on the terminal.
pub struct Screen {
    bars: MultiProgress,
    head: ProgressBar,
    steps: HashMap<u32, Running>,
    begun: usize,
    ended: usize,
    /// Keeps the output, for the step that fails.
    lines: Lines,
}

struct Running {
    bar: Option<ProgressBar>,
    name: String,
    /// Lines as they would be on a terminal of any width.
    said: Arc<Mutex<Vec<String>>>,
}

impl Screen {
    pub fn new() -> Self {
        let bars = MultiProgress::new();
        let head = bars.add(ProgressBar::new_spinner());
        head.set_style(style("[+] Building {elapsed} {msg}"));
        head.enable_steady_tick(TICK);
        Self {
            bars,
            head,
            steps: HashMap::new(),
            begun: 0,
            ended: 0,
            lines: Lines::new(Style::Plain),
        }
    }

    /// A step began or ended.
    pub fn step(&mut self, step: &Step) {
        let plain = self.lines.step(step);
        if !self.steps.contains_key(&step.index) {
            self.begin(step);
        }
        let took = step.took.as_ref().map_or(String::new(), |d| {
            let tenths = d.nanos / 100_000_000;
            format!(" {}.{tenths}s", d.seconds)
        });
        let word = match step.state() {
            State::Started | State::Unspecified => return,
            State::Cached => "CACHED ",
            State::Done => "",
            State::Failed => "ERROR ",
            State::Canceled => "CANCELED ",
        };
        let Some(running) = self.steps.remove(&step.index) else {
            return;
        };
        if let Some(bar) = running.bar {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        self.ended += 1;
        self.count();
        let room = width().saturating_sub(took.len() + word.len() + 4);
        self.print(&format!(" => {word}{}{took}", cut(&running.name, room)));
        if step.state() == State::Failed {
            // Its own output, which was shown in passing only.
            let from = plain.iter().position(|line| line == "------");
            for line in &plain[from.unwrap_or(plain.len())..] {
                self.print(&printable(line));
            }
        }
    }

    fn begin(&mut self, step: &Step) {
        let said = Arc::new(Mutex::new(vec![printable(&step.name)]));
        let shown = self.steps.values().filter(|s| s.bar.is_some()).count();
        let bar = (shown < AT_ONCE).then(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            let drawn = said.clone();
            // Asked anew whenever it is drawn: a terminal changes its size.
            let lines = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let lines = drawn.lock().unwrap_or_else(PoisonError::into_inner);
                // Writing into a line cannot fail.
                let _ = out.write_str(&drawing(&lines, state.elapsed(), width()));
            };
            bar.set_style(style("{lines}").with_key("lines", lines));
            bar.enable_steady_tick(TICK);
            bar
        });
        let running = Running {
            bar,
            name: printable(&step.name),
            said,
        };
        self.steps.insert(step.index, running);
        self.begun += 1;
        self.count();
    }

    fn count(&self) {
        self.head
            .set_message(format!("({}/{})", self.ended, self.begun));
    }

    /// Output of a step.
    pub fn log(&mut self, log: &StepLog) {
        self.lines.log(log);
        let Some(running) = self.steps.get_mut(&log.index) else {
            return;
        };
        let text = String::from_utf8_lossy(&log.data);
        let lines = text.lines().filter(|l| !l.trim().is_empty());
        let mut said = running.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend(lines.map(printable));
        let many = said.len().saturating_sub(SHOWN + 1);
        said.drain(1..=many);
    }

    /// A line of its own, above the steps.
    pub fn print(&self, line: &str) {
        // The terminal has gone: there is nobody to show it to.
        let _ = self.bars.println(line);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        for bar in self.steps.values().filter_map(|s| s.bar.as_ref()) {
            bar.finish_and_clear();
        }
        let all = format!("({}/{})", self.ended, self.begun);
        let done = if self.ended == self.begun {
            " FINISHED"
        } else {
            ""
        };
        self.head.finish_with_message(format!("{all}{done}"));
    }
}

const TICK: Duration = Duration::from_millis(200);

/// A running step: its name with the time, then what it said.
fn drawing(lines: &[String], elapsed: Duration, width: usize) -> String {
    let took = format!(" {}.{}s", elapsed.as_secs(), elapsed.subsec_millis() / 100);
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        // Writing into a string cannot fail.
        let _ = match number {
            0 => {
                let room = width.saturating_sub(took.len() + 4);
                write!(out, " => {}{took}", cut(line, room))
            }
            _ => write!(out, "\n => => # {}", cut(line, width.saturating_sub(9))),
        };
    }
    out
}

/// Columns of the terminal, less the last: what stands there may make a new line.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    // A terminal that does not say has as many as ever.
    if columns == 0 { 79 } else { columns - 1 }
}

/// As much of a line as fits, and a mark where there was more.
fn cut(line: &str, room: usize) -> String {
    if console::measure_text_width(line) <= room {
        return line.to_owned();
    }
    match room {
        0..=3 => console::truncate_str(line, room, "").into_owned(),
        room => console::truncate_str(line, room, "...").into_owned(),
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are right.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// What a program says must not move our cursor: control characters are left out.
fn printable(line: &str) -> String {
    let line = line.rsplit('\r').find(|l| !l.is_empty()).unwrap_or(line);
    line.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_left_out() {
        assert_eq!(printable("10%\r20%\r\u{1b}[2Jdone\r"), "[2Jdone");
    }

    #[test]
    fn nothing_is_wider_than_the_terminal() {
        let lines = ["[2/3] RUN make everything".to_owned(), "世界".repeat(40)];
        for width in [0, 1, 5, 12, 20, 79, 500] {
            let drawn = drawing(&lines, Duration::from_millis(1234), width);
            assert_eq!(drawn.lines().count(), 2);
            for line in drawn.lines().filter(|_| width >= 12) {
                assert!(
                    console::measure_text_width(line) <= width,
                    "{width}: {line:?}"
                );
            }
        }
        let drawn = drawing(&lines[..1], Duration::from_millis(1234), 20);
        assert_eq!(drawn, " => [2/3] RU... 1.2s");
    }
}
