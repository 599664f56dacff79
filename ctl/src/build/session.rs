//! The build protocol: manifest out, needs in, content out, events in.

use std::{cell::LazyCell, collections::HashMap, fs::File, io::Read, sync::Arc};

use slipway_proto::builder::v1::{
    BuildRequest, BuildResult, BuildStart, ContentChunks, ContextEntries, ContextEntry,
    ContextStream, Step, StepLog, Warning, build_event::Event, build_request::Part,
    content_chunks::Chunk,
};
use slipway_service::CHUNK_SIZE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    context::{self, Context, Source},
    offer::Offer,
    output::Place,
    progress::{Lines, Style},
    receive::Receiver,
    screen::Screen,
    source::{Folder, Sources},
};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
};

/// Entries in one message: far below the limit of 4 MiB with the longest paths.
const ENTRIES: usize = 500;

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
    let mut contexts = tokio::task::spawn_blocking(move || contexts(folders))
        .await
        .map_err(|e| Failure::new(format!("reading the context failed: {e}")))??;
    // A Dockerfile alone: its context is empty.
    if !main && !elsewhere {
        contexts.manifests.push((String::new(), Vec::new()));
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

/// Manifests by name, and where all their content is.
#[derive(Default)]
struct Contexts {
    manifests: Vec<(String, Vec<ContextEntry>)>,
    files: Vec<([u8; 32], Source)>,
}

fn contexts(folders: Vec<Folder>) -> Outcome<Contexts> {
    let mut all = Contexts::default();
    for folder in folders {
        let Context { entries, files } = context::read(&folder.root, folder.dockerfile.as_deref())?;
        all.manifests.push((folder.name, entries));
        all.files.extend(files);
    }
    Ok(all)
}

async fn receive(
    site: &Site,
    receiver: mpsc::Receiver<BuildRequest>,
    wanted: mpsc::Sender<Vec<bytes::Bytes>>,
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
                        let _ = sender.send(need.digests).await;
                    }
                    if need.complete {
                        // Nobody sends any more: our side of the call ends.
                        (wanted, answers) = (None, None);
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

async fn send(
    sender: mpsc::Sender<BuildRequest>,
    start: BuildStart,
    contexts: Contexts,
    stream: Option<Box<dyn Read + Send>>,
    mut wants: mpsc::Receiver<Vec<bytes::Bytes>>,
) {
    let parts = vec![Part::Start(start)];
    let Contexts { manifests, files } = contexts;
    for part in parts {
        if put(&sender, part).await.is_err() {
            return;
        }
    }
    for (name, entries) in manifests {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let some = ContextEntries {
                context: name.clone(),
                entries: entries.by_ref().take(ENTRIES).collect(),
            };
            if put(&sender, Part::Entries(some)).await.is_err() {
                return;
            }
        }
        if put(&sender, Part::ManifestEnd(name)).await.is_err() {
            return;
        }
    }
    if let Some(stream) = stream
        && pass_on(&sender, stream).await.is_err()
    {
        return;
    }
    // Nothing is looked for in a build that finds everything.
    let files = LazyCell::new(|| files.into_iter().collect::<HashMap<_, _>>());
    while let Some(digests) = wants.recv().await {
        let mut batch = Vec::new();
        let mut filled = 0;
        for digest in digests {
            let Some(mut file) = open(&files, &digest, &mut batch) else {
                continue;
            };
            let mut offset = 0;
            loop {
                let mut data = Vec::new();
                let read = file.by_ref().take(CHUNK_SIZE as u64).read_to_end(&mut data);
                let last = read.as_ref().map_or(true, |n| *n < CHUNK_SIZE);
                let error = read.err().map(|e| e.to_string()).unwrap_or_default();
                let size = data.len();
                batch.push(Chunk {
                    digest: digest.clone(),
                    offset,
                    data: data.into(),
                    last,
                    error,
                });
                offset += size as u64;
                filled += size;
                if filled >= CHUNK_SIZE || batch.len() >= ENTRIES {
                    filled = 0;
                    let chunks = std::mem::take(&mut batch);
                    if put(&sender, Part::Content(ContentChunks { chunks }))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                if last {
                    break;
                }
            }
        }
        if !batch.is_empty()
            && put(&sender, Part::Content(ContentChunks { chunks: batch }))
                .await
                .is_err()
        {
            return;
        }
    }
}

/// Sends a tar stream as it comes; what it is worth is the builder's to say.
async fn pass_on(
    sender: &mpsc::Sender<BuildRequest>,
    stream: Box<dyn Read + Send>,
) -> Result<(), ()> {
    let mut stream = stream;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let mut data = Vec::with_capacity(CHUNK_SIZE);
            let n = stream
                .by_ref()
                .take(CHUNK_SIZE as u64)
                .read_to_end(&mut data);
            n.map(|_| (stream, data))
        });
        // What cannot be read ends the call without the context's end, which the builder reports.
        let (rest, data) = read.await.map_err(drop)?.map_err(drop)?;
        stream = rest;
        if data.is_empty() {
            return put(sender, Part::ManifestEnd(String::new())).await;
        }
        let part = Part::Stream(ContextStream {
            context: String::new(),
            data: data.into(),
        });
        put(sender, part).await?;
    }
}

/// A file that went away since it was hashed is told to the builder, which names it.
fn open(
    files: &HashMap<[u8; 32], Source>,
    digest: &bytes::Bytes,
    batch: &mut Vec<Chunk>,
) -> Option<File> {
    let source = digest[..].try_into().ok();
    let error = match source.and_then(|digest: [u8; 32]| files.get(&digest)) {
        None => "the context does not hold this content".to_owned(),
        Some(source) => match source.open() {
            Ok(file) => return Some(file),
            Err(e) => format!("{}: {e}", source.path.display()),
        },
    };
    batch.push(Chunk {
        digest: digest.clone(),
        last: true,
        error,
        ..Chunk::default()
    });
    None
}

async fn put(sender: &mpsc::Sender<BuildRequest>, part: Part) -> Result<(), ()> {
    sender
        .send(BuildRequest { part: Some(part) })
        .await
        .map_err(drop)
}
