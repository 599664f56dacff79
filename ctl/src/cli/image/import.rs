//! `import`.

use clap::Args;
use slipway_image::config::RunConfig;
use slipway_proto::registry::v1::{
    ImportRequest, import_event,
    import_request::{self, Part},
};
use tokio_stream::StreamExt as _;

use super::archive::{ended, source, stream};
use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output,
    spec::{changes, options::platform},
};

/// `ctl import`
#[derive(Debug, Args)]
pub struct Import {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long)]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long, default_value = "")]
    message: String,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    platform: Option<String>,
    #[arg(value_name = "file|URL|-")]
    source: String,
    #[arg(default_value = "", value_name = "REPOSITORY[:TAG]")]
    repository: String,
}

impl Import {
    pub async fn run(self, site: &Site) -> Outcome {
        let mut config = RunConfig::default();
        config.apply(changes::read(&self.change, &[])?);
        let header = import_request::Header {
            reference: self.repository,
            url: match is_url(&self.source) {
                true => self.source.clone(),
                false => String::new(),
            },
            message: self.message,
            config_json: serde_json::to_vec(&config).unwrap_or_default().into(),
            platform: self.platform.as_deref().map(platform).transpose()?,
        };
        if !header.url.is_empty() {
            let request = ImportRequest {
                part: Some(Part::Header(header)),
            };
            return follow(site, tokio_stream::once(request)).await;
        }
        let path = Some(self.source.as_str()).filter(|path| *path != "-");
        let source = source(path, "import")?;
        let (requests, reading) = stream(source, Part::Header(header), Part::Data, || {
            Part::End(import_request::End {})
        });
        let requests = requests.map(|part| ImportRequest { part: Some(part) });
        let imported = follow(site, requests).await;
        ended(imported, reading).await
    }
}

/// What registry-svc fetches itself, as docker's daemon does.
fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

async fn follow(
    site: &Site,
    requests: impl tokio_stream::Stream<Item = ImportRequest> + Send + 'static,
) -> Outcome {
    let mut events = site.registry().import(requests).await?.into_inner();
    let bar = output::draws_bars().then(output::progress::bytes);
    while let Some(event) = events.message().await? {
        match event.event {
            Some(import_event::Event::Status(line)) => output::print(&format!("{line}\n"))?,
            Some(import_event::Event::Progress(progress)) => {
                if let Some(bar) = &bar {
                    bar.set_length(progress.total);
                    bar.set_position(progress.current);
                }
            }
            Some(import_event::Event::Imported(image)) => {
                if let Some(bar) = &bar {
                    bar.finish_and_clear();
                }
                output::print(&format!("{}\n", image.id))?;
                return Ok(0);
            }
            None => {}
        }
    }
    Err(Failure::new(
        "the registry ended the import before it was complete: see its log",
    ))
}
