//! `save` and `load`.

use std::io::{self, IsTerminal as _, Read};

use clap::Args;
use slipway_proto::registry::v1::{
    LoadRequest, SaveRequest, load_event,
    load_request::{self, Part},
};
use slipway_service::CHUNK_SIZE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        archive::Archive,
        progress::{Show, What},
    },
    spec::options::platform,
};

/// Chunks on their way.
const QUEUE: usize = 8;

/// `ctl save`
#[derive(Debug, Args)]
pub struct Save {
    /// Write to a file, instead of STDOUT
    #[arg(short, long)]
    output: Option<String>,
    /// Save only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long)]
    platform: Option<String>,
    #[arg(required = true)]
    images: Vec<String>,
}

impl Save {
    pub async fn run(self, site: &Site) -> Outcome {
        let mut out = Archive::to(self.output.as_deref())?;
        let request = SaveRequest {
            images: self.images,
            platform: self.platform.as_deref().map(platform).transpose()?,
        };
        let mut chunks = site.registry().save(request).await?.into_inner();
        while let Some(chunk) = chunks.message().await? {
            out.write(&chunk.data)?;
        }
        out.finish()
    }
}

/// `ctl load`
#[derive(Debug, Args)]
pub struct Load {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long)]
    input: Option<String>,
    /// Load only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long)]
    platform: Option<String>,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

impl Load {
    pub async fn run(self, site: &Site) -> Outcome {
        let source = source(self.input.as_deref(), "load")?;
        let header = load_request::Header {
            platform: self.platform.as_deref().map(platform).transpose()?,
        };
        let (requests, reading) = stream(source, Part::Header(header), Part::Data, || {
            Part::End(load_request::End {})
        });
        let requests =
            tokio_stream::StreamExt::map(requests, |part| LoadRequest { part: Some(part) });
        let mut show = Show::new(What::Pull, self.quiet || !io::stdout().is_terminal());
        let loading = async {
            let mut events = site.registry().load(requests).await?.into_inner();
            while let Some(event) = events.message().await? {
                match event.event {
                    Some(load_event::Event::Progress(progress)) => show.update(&progress),
                    Some(load_event::Event::Loaded(image)) => {
                        output::print(&match &*image.reference {
                            "" => format!("Loaded image ID: {}\n", image.id),
                            name => format!("Loaded image: {name}\n"),
                        })?
                    }
                    None => {}
                }
            }
            Ok(0)
        };
        let loaded: Outcome = loading.await;
        ended(loaded, reading).await
    }
}

/// A file, or standard input, which must be no terminal, for what is done.
pub fn source(path: Option<&str>, what: &str) -> Outcome<Box<dyn Read + Send>> {
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        if io::stdin().is_terminal() {
            return Err(Failure::new(format!(
                "requested {what} from stdin, but stdin is empty"
            )));
        }
        return Ok(Box::new(io::stdin()));
    };
    let file =
        std::fs::File::open(path).map_err(|e| Failure::new(format!("cannot read {path}: {e}")))?;
    Ok(Box::new(file))
}

/// The end of a call with a body: what could not be read here is why the service got half of it. Who reads from a
/// terminal or a pipe may never end, and is not waited for when the service has refused.
pub async fn ended<T>(outcome: Outcome<T>, reading: Reading) -> Outcome<T> {
    if outcome.is_ok() || reading.is_finished() {
        reading.await.map_err(io::Error::other)??;
    }
    outcome
}

type Reading = tokio::task::JoinHandle<io::Result<()>>;

/// A body in chunks, between a header and an end that says that it is whole.
pub fn stream<P: Send + 'static>(
    mut source: Box<dyn Read + Send>,
    header: P,
    data: fn(bytes::Bytes) -> P,
    end: fn() -> P,
) -> (ReceiverStream<P>, Reading) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let reading = tokio::task::spawn_blocking(move || {
        let mut part = header;
        // Who takes it has ended when it takes no more, and says why.
        while sender.blocking_send(part).is_ok() {
            let mut chunk = Vec::with_capacity(CHUNK_SIZE);
            source
                .by_ref()
                .take(CHUNK_SIZE as u64)
                .read_to_end(&mut chunk)?;
            if chunk.is_empty() {
                let _ = sender.blocking_send(end());
                break;
            }
            part = data(chunk.into());
        }
        Ok(())
    });
    (ReceiverStream::new(receiver), reading)
}
