//! `pull` and `push`.

use clap::Args;
use slipway_proto::registry::v1::{
    PullRequest, PushRequest, pull_event, pull_request::Policy, push_event,
};

use super::super::run::familiar;
use crate::{
    auth,
    client::Site,
    failure::{Failure, Outcome},
    output::{self, progress::Show},
    spec::options::platform,
};

#[derive(Debug, Args)]
pub struct Pull {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    platform: Option<String>,
    name: String,
}

impl Pull {
    pub async fn run(self, site: &Site) -> Outcome {
        if !self.quiet
            && !self.all_tags
            && !self.name.contains('@')
            && !self.name.rsplit('/').next().unwrap_or("").contains(':')
        {
            println!("Using default tag: latest");
        }
        let request = PullRequest {
            reference: self.name.clone(),
            platform: self.platform.as_deref().map(platform).transpose()?,
            policy: Policy::Always.into(),
            all_tags: self.all_tags,
            auth: auth::for_image(&self.name).await,
            ..PullRequest::default()
        };
        let mut events = site.registry().pull(request).await?.into_inner();
        let mut show = Show::new(self.quiet);
        let mut done = false;
        while let Some(event) = events.message().await? {
            match event.event {
                Some(pull_event::Event::Status(text)) => show.line(&text),
                Some(pull_event::Event::Progress(progress)) => show.update(&progress),
                Some(pull_event::Event::Warning(text)) => eprintln!("WARNING: {text}"),
                Some(pull_event::Event::Done(end)) => {
                    done = true;
                    let name = end
                        .reference
                        .parse::<slipway_image::Reference>()
                        .map_or_else(|_| end.reference.clone(), |r| r.to_string());
                    if !self.quiet {
                        let what = if end.newer {
                            "Downloaded newer image for"
                        } else {
                            "Image is up to date for"
                        };
                        output::print(&format!(
                            "Digest: {}\nStatus: {what} {}\n",
                            end.digest,
                            familiar(&end.reference)
                        ))?;
                    }
                    output::print(&format!("{name}\n"))?;
                }
                Some(pull_event::Event::Resolved(_)) | None => {}
            }
        }
        if done {
            Ok(0)
        } else {
            Err(Failure::new(
                "the registry ended the pull before it was complete: see its log",
            ))
        }
    }
}

/// `ctl push`
#[derive(Debug, Args)]
pub struct Push {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// Push a platform-specific manifest as a single-platform image
    #[arg(long)]
    platform: Option<String>,
    name: String,
}

impl Push {
    pub async fn run(self, site: &Site) -> Outcome {
        let platform = self.platform.as_deref().map(platform).transpose()?;
        let auth = auth::for_image(&self.name).await;
        let mut events = site
            .registry()
            .push(PushRequest {
                reference: self.name,
                auth,
                all_tags: self.all_tags,
                platform,
            })
            .await?
            .into_inner();
        let mut show = Show::new(self.quiet);
        let mut done = false;
        while let Some(event) = events.message().await? {
            match event.event {
                Some(push_event::Event::Status(text)) => show.line(&text),
                Some(push_event::Event::Progress(progress)) => show.update(&progress),
                Some(push_event::Event::Done(end)) => {
                    done = true;
                    let reference = end.reference.parse::<slipway_image::Reference>().ok();
                    let tag = reference
                        .as_ref()
                        .and_then(|r| r.tag())
                        .unwrap_or("latest")
                        .to_owned();
                    if self.quiet {
                        output::print(&format!("{}\n", end.reference))?;
                    } else {
                        output::print(&format!(
                            "{tag}: digest: {} size: {}\n",
                            end.digest, end.size
                        ))?;
                    }
                }
                None => {}
            }
        }
        if done {
            Ok(0)
        } else {
            Err(Failure::new(
                "the registry ended the push before it was complete: see its log",
            ))
        }
    }
}
