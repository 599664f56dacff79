//! Progress of pulls and pushes: bars on a terminal, docker's plain lines elsewhere, nothing when quiet.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use slipway_proto::types::v1::{Progress, progress::Phase};

use super::human::short_id;

/// What moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// To standard output, as `docker pull` tells it.
    Pull,
    /// To standard output, as `docker push` tells it.
    Push,
    /// A pull within something else, whose output is another: to standard error.
    Beside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Lines,
    Bars,
}

/// Shows units of work by their id.
#[derive(Debug)]
pub struct Show {
    what: What,
    mode: Mode,
    bars: MultiProgress,
    units: HashMap<String, (Phase, Option<ProgressBar>)>,
}

impl Show {
    /// Bars where that is told to a terminal.
    pub fn new(what: What, quiet: bool) -> Self {
        let (terminal, target) = match what {
            What::Beside => (io::stderr().is_terminal(), ProgressDrawTarget::stderr()),
            What::Pull | What::Push => (io::stdout().is_terminal(), ProgressDrawTarget::stdout()),
        };
        let mode = match (quiet, terminal) {
            (true, _) => Mode::Quiet,
            (_, true) => Mode::Bars,
            _ => Mode::Lines,
        };
        Self {
            what,
            mode,
            bars: MultiProgress::with_draw_target(target),
            units: HashMap::new(),
        }
    }

    /// A line for people.
    pub fn line(&self, text: &str) {
        match self.mode {
            Mode::Quiet => {}
            Mode::Lines if self.what == What::Beside => eprintln!("{text}"),
            // Whoever reads no further does not stop the work.
            Mode::Lines => drop(writeln!(io::stdout(), "{text}")),
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
                for words in self.words(phase) {
                    self.line(&format!("{}: {words}", short_id(&progress.id)));
                }
            }
            Mode::Lines => {}
            Mode::Bars => self.draw(progress, phase),
        }
        let bar = self.units.remove(&progress.id).and_then(|(_, bar)| bar);
        self.units.insert(progress.id.clone(), (phase, bar));
    }

    /// What is worth lines where there is no terminal, in docker's words.
    fn words(&self, phase: Phase) -> &'static [&'static str] {
        let pushes = self.what == What::Push;
        match phase {
            Phase::Downloading => &["Pulling fs layer"],
            Phase::Uploading => &["Preparing"],
            Phase::Exists if pushes => &["Layer already exists"],
            Phase::Exists => &["Already exists"],
            Phase::Done if pushes => &["Pushed"],
            Phase::Done => &["Download complete", "Pull complete"],
            Phase::Mounted => &["Mounted"],
            _ => &[],
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_dockers() {
        let of = |what| Show::new(what, false);
        let pull = of(What::Pull);
        assert_eq!(pull.words(Phase::Exists), ["Already exists"]);
        assert_eq!(
            pull.words(Phase::Done),
            ["Download complete", "Pull complete"]
        );
        let push = of(What::Push);
        assert_eq!(push.words(Phase::Exists), ["Layer already exists"]);
        assert_eq!(push.words(Phase::Done), ["Pushed"]);
    }
}
