//! The build protocol as a whole: what `sending` sends, and the events that come.

use std::sync::Arc;

use slipway_proto::builder::v1::{
    BuildRequest, BuildResult, BuildStart, Step, StepLog, Warning, build_event::Event,
    build_request::Part,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    offer::Offer,
    output::Place,
    progress::{Lines, Style},
    receive::Receiver,
    screen::Screen,
    sending::{Contexts, Want, put, send},
    source::Sources,
};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
};

/// Builds. Dropping the future closes the call, which cancels the build.
pub async fn run(
    site: &Site,
    start: BuildStart,
    offer: Offer,
    sources: Sources,
    style: Style,
    places: &[Option<Place>],
) -> Outcome<BuildResult> {
    tokio::select! {
        result = go(site, start, offer, sources, style, places) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::new("the build was canceled").exits(130)),
    }
}

async fn go(
    site: &Site,
    start: BuildStart,
    offer: Offer,
    sources: Sources,
    style: Style,
    places: &[Option<Place>],
) -> Outcome<BuildResult> {
    let Sources {
        folders,
        stream,
        remote,
        ..
    } = sources;
    let main = folders.iter().any(|f| f.name.is_empty());
    let elsewhere = stream.is_some() || remote.contains_key("");
    let mut contexts = tokio::task::spawn_blocking(move || Contexts::read(folders))
        .await
        .map_err(|e| Failure::new(format!("reading the context failed: {e}")))??;
    // A Dockerfile alone: its context is empty.
    if !main && !elsewhere {
        contexts.add(String::new(), Vec::new());
    }
    let (sender, receiver) = mpsc::channel(8);
    let (wanted, wants) = mpsc::channel(64);
    let answers = Answers {
        offer: Arc::new(offer),
        sender: sender.clone(),
    };
    let sending = send(sender, start, contexts, stream, wants);
    let receiving = receive(site, receiver, wanted, answers, style, places);
    // The sender ends when no more is needed; only the receiver knows how the build ended.
    let ((), result) = tokio::join!(sending, receiving);
    result
}

async fn receive(
    site: &Site,
    receiver: mpsc::Receiver<BuildRequest>,
    wanted: mpsc::Sender<Want>,
    answers: Answers,
    style: Style,
    places: &[Option<Place>],
) -> Outcome<BuildResult> {
    let (mut wanted, mut answers) = (Some(wanted), Some(answers));
    let mut files = Receiver::new(places);
    let mut events = site
        .builder()
        .build(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let mut show = Show::new(style);
    let mut result = None;
    let failed = loop {
        match events.message().await {
            Err(status) => break Some(status),
            Ok(None) => break None,
            Ok(Some(event)) => match event.event {
                Some(Event::Need(need)) => {
                    if let Some(sender) = &wanted
                        && !need.digests.is_empty()
                    {
                        // The sender is gone only when the call is: then the next read says why.
                        let _ = sender.send(Want::Content(need.digests)).await;
                    }
                    if need.complete {
                        // Nobody sends any more: our side of the call ends.
                        (wanted, answers) = (None, None);
                    }
                }
                Some(Event::NeedManifest(name)) => {
                    if let Some(sender) = &wanted {
                        let _ = sender.send(Want::Manifest(name)).await;
                    }
                }
                Some(Event::NeedSecret(need)) => {
                    if let Some(answers) = &answers {
                        answers.give(move |offer| async move { offer.secret(need.id) });
                    }
                }
                Some(Event::AskAgent(asked)) => {
                    if let Some(answers) = &answers {
                        answers.give(move |offer| async move { offer.ask(asked).await });
                    }
                }
                Some(Event::Step(step)) => show.step(&step),
                Some(Event::Log(log)) => show.log(&log),
                Some(Event::Warning(warning)) => show.warning(&warning),
                Some(Event::Result(done)) => result = Some(done),
                Some(Event::Output(chunk)) => files.take(chunk).await?,
                Some(Event::BuildId(_) | Event::Progress(_)) | None => {}
            },
        }
    };
    match (failed, result) {
        (None, Some(result)) => {
            drop(show);
            if matches!(style, Style::Plain | Style::Terminal) {
                let image = match result.image_id.as_str() {
                    "" => String::new(),
                    id => format!(", image {id}"),
                };
                eprintln!(
                    "\n{} of {} steps cached{image}",
                    result.cached_steps, result.steps
                );
                if !result.image_id.is_empty() {
                    result
                        .tags
                        .iter()
                        .for_each(|tag| eprintln!("naming to {tag} done"));
                }
            }
            Ok(result)
        }
        (failed, _) => {
            show.kept().iter().for_each(|line| eprintln!("{line}"));
            let Some(status) = failed else {
                return Err(Failure::new(
                    "the builder ended the build without a result: see its log",
                ));
            };
            // The excerpt of the Dockerfile is lines: shown before the one line of the error.
            let text = status.message().to_owned();
            if let Some((first, rest)) = text.split_once('\n') {
                eprintln!("{}", rest.trim_end());
                return Err(Failure::new(first));
            }
            Err(Failure::from(status).exits(1))
        }
    }
}

/// Answers to what a step wants of us.
struct Answers {
    offer: Arc<Offer>,
    sender: mpsc::Sender<BuildRequest>,
}

impl Answers {
    /// Gives one when it is there: events go on meanwhile.
    fn give<F>(&self, answer: impl FnOnce(Arc<Offer>) -> F)
    where
        F: Future<Output = Part> + Send + 'static,
    {
        let (answer, sender) = (answer(self.offer.clone()), self.sender.clone());
        tokio::spawn(async move {
            let part = answer.await;
            // The call may be over.
            let _ = put(&sender, part).await;
        });
    }
}

/// Where events are shown.
enum Show {
    Nothing,
    Screen(Box<Screen>),
    /// Lines; with `-q` kept, and shown only if the build fails.
    Lines(Box<Lines>, Option<Vec<String>>),
}

impl Show {
    fn new(style: Style) -> Self {
        match style {
            Style::Nothing => Self::Nothing,
            Style::Terminal => Self::Screen(Box::new(Screen::new())),
            style => Self::Lines(
                Box::new(Lines::new(style)),
                (style == Style::Quiet).then(Vec::new),
            ),
        }
    }

    fn step(&mut self, step: &Step) {
        match self {
            Self::Nothing => {}
            Self::Screen(screen) => screen.step(step),
            Self::Lines(lines, kept) => say(kept, lines.step(step)),
        }
    }

    fn log(&mut self, log: &StepLog) {
        match self {
            Self::Nothing => {}
            Self::Screen(screen) => screen.log(log),
            Self::Lines(lines, kept) => say(kept, lines.log(log)),
        }
    }

    fn warning(&mut self, warning: &Warning) {
        match self {
            Self::Nothing => {}
            Self::Screen(screen) => {
                screen.print(&Lines::new(Style::Plain).warning(warning));
            }
            Self::Lines(lines, kept) => say(kept, vec![lines.warning(warning)]),
        }
    }

    fn kept(self) -> Vec<String> {
        match self {
            Self::Lines(_, Some(kept)) => kept,
            _ => Vec::new(),
        }
    }
}

fn say(kept: &mut Option<Vec<String>>, new: Vec<String>) {
    match kept {
        None => new.iter().for_each(|line| eprintln!("{line}")),
        Some(kept) => {
            kept.extend(new);
            let many = kept.len().saturating_sub(200);
            kept.drain(..many);
        }
    }
}
