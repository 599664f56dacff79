//! Progress of pulls and pushes: bars on a terminal, docker's plain lines elsewhere, nothing when quiet.

use std::{collections::HashMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use slipway_proto::types::v1::{Progress, progress::Phase};

use super::human::short_id;

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Quiet,
    /// Lines to stderr.
    Lines,
    /// Bars on stderr.
    Bars,
}

/// Shows units of work by their id.
#[derive(Debug)]
pub struct Show {
    mode: Mode,
    bars: MultiProgress,
    units: HashMap<String, (Phase, Option<ProgressBar>)>,
}

impl Show {
    /// Bars where stderr is a terminal.
    pub fn new(quiet: bool) -> Self {
        let mode = match (quiet, super::draws_bars()) {
            (true, _) => Mode::Quiet,
            (_, true) => Mode::Bars,
            _ => Mode::Lines,
        };
        Self {
            mode,
            bars: MultiProgress::new(),
            units: HashMap::new(),
        }
    }

    /// A line for people.
    pub fn line(&self, text: &str) {
        match self.mode {
            Mode::Quiet => {}
            Mode::Lines => eprintln!("{text}"),
            // A terminal that went away is no reason to stop the work.
            Mode::Bars => drop(self.bars.println(text)),
        }
    }

    /// One unit moved.
    pub fn update(&mut self, progress: &Progress) {
        let phase = progress.phase();
        let known = self.units.get(&progress.id).map(|(phase, _)| *phase);
        match self.mode {
            Mode::Quiet => {}
            Mode::Lines if known != Some(phase) => {
                if let Some(words) = line_words(phase) {
                    eprintln!("{}: {words}", short_id(&progress.id));
                }
            }
            Mode::Lines => {}
            Mode::Bars => self.draw(progress, phase),
        }
        let bar = self.units.remove(&progress.id).and_then(|(_, bar)| bar);
        self.units.insert(progress.id.clone(), (phase, bar));
    }

    fn draw(&mut self, progress: &Progress, phase: Phase) {
        let bars = &self.bars;
        let (_, bar) = self
            .units
            .entry(progress.id.clone())
            .or_insert((phase, None));
        let bar = bar.get_or_insert_with(|| {
            let bar = bars.add(ProgressBar::new(progress.total));
            bar.set_style(moving());
            bar.set_prefix(short_id(&progress.id).to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        bar.set_message(words(phase));
        if progress.total > 0 {
            bar.set_length(progress.total);
        }
        bar.set_position(progress.current);
        if matches!(phase, Phase::Done | Phase::Exists | Phase::Mounted) {
            bar.set_style(ended());
            bar.finish();
        }
    }
}

/// One bar for bytes that are worked on, on stderr.
pub fn bytes() -> ProgressBar {
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template(
            "[{bar:40}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
        )
        .map_or_else(
            |_| ProgressStyle::default_bar(),
            |style| style.progress_chars("=> "),
        ),
    );
    bar
}

fn moving() -> ProgressStyle {
    ProgressStyle::with_template(
        "{prefix}: {msg:<12} [{bar:40}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}",
    )
    .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "))
}

fn ended() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}: {msg}").unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified | Phase::Waiting => "Waiting",
        Phase::Downloading => "Downloading",
        Phase::Verifying => "Verifying",
        Phase::Unpacking => "Extracting",
        Phase::Uploading => "Pushing",
        Phase::Exists => "Already exists",
        Phase::Done => "Complete",
        Phase::Mounted => "Mounted",
    }
}

/// What is worth a line where there is no terminal.
fn line_words(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Downloading => Some("Pulling fs layer"),
        Phase::Uploading => Some("Pushing"),
        Phase::Exists => Some("Already exists"),
        Phase::Done => Some("Complete"),
        Phase::Mounted => Some("Mounted"),
        _ => None,
    }
}
