//! `pull` and `push`.

use clap::Args;
use slipway_image::Reference;
use slipway_proto::registry::v1::{
    PullDone, PullRequest, PushDone, PushRequest, pull_event, pull_request::Policy,
    push_done::Part, push_event,
};

use super::super::run::familiar;
use crate::{
    auth,
    client::Site,
    failure::{Failure, Outcome},
    output::{
        self,
        progress::{Show, What},
    },
    spec::options::platform,
};

#[derive(Debug, Args)]
pub struct Pull {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Download the image of every platform that it has
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Skip image verification
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    disable_content_trust: bool,
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
        trusts_nobody(self.disable_content_trust)?;
        begin(&self.name, self.all_tags, self.quiet)?;
        let request = PullRequest {
            reference: self.name.clone(),
            platform: self.platform.as_deref().map(platform).transpose()?,
            all_platforms: self.all_platforms,
            policy: Policy::Always.into(),
            all_tags: self.all_tags,
            auth: auth::for_image(&self.name).await,
            ..PullRequest::default()
        };
        let mut events = site.registry().pull(request).await?.into_inner();
        let mut show = Show::new(What::Pull, self.quiet);
        let mut done: Option<PullDone> = None;
        while let Some(event) = events.message().await? {
            match event.event {
                Some(pull_event::Event::Status(text)) => show.line(&text),
                Some(pull_event::Event::Progress(progress)) => show.update(&progress),
                Some(pull_event::Event::Warning(text)) => eprintln!("WARNING: {text}"),
                Some(pull_event::Event::Done(mut end)) => {
                    if !self.quiet {
                        output::print(&format!("Digest: {}\n", end.digest))?;
                    }
                    // Of several tags: whether one of them moved.
                    end.newer |= done.is_some_and(|done| done.newer);
                    done = Some(end);
                }
                Some(pull_event::Event::Resolved(_)) | None => {}
            }
        }
        let Some(done) = done else {
            return Err(Failure::new(
                "the registry ended the pull before it was complete: see its log",
            ));
        };
        let (whole, short) = names(&done.reference, self.all_tags);
        if !self.quiet {
            let what = match done.newer {
                true => "Downloaded newer image for",
                false => "Image is up to date for",
            };
            output::print(&format!("Status: {what} {short}\n"))?;
        }
        output::print(&format!("{whole}\n"))?;
        Ok(0)
    }
}

/// `ctl push`
#[derive(Debug, Args)]
pub struct Push {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Skip image signing
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    disable_content_trust: bool,
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
        trusts_nobody(self.disable_content_trust)?;
        begin(&self.name, self.all_tags, self.quiet)?;
        let platform = self.platform.as_deref().map(platform).transpose()?;
        let auth = auth::for_image(&self.name).await;
        let request = PushRequest {
            reference: self.name,
            auth,
            all_tags: self.all_tags,
            platform,
        };
        let mut events = site.registry().push(request).await?.into_inner();
        let mut show = Show::new(What::Push, self.quiet);
        let mut done: Option<PushDone> = None;
        while let Some(event) = events.message().await? {
            match event.event {
                Some(push_event::Event::Status(text)) => show.line(&text),
                Some(push_event::Event::Progress(progress)) => show.update(&progress),
                Some(push_event::Event::Done(end)) => {
                    if !self.quiet {
                        let reference = end.reference.parse::<Reference>().ok();
                        let tag = reference.as_ref().and_then(Reference::tag);
                        output::print(&format!(
                            "{}: digest: {} size: {}\n",
                            tag.unwrap_or("latest"),
                            end.digest,
                            end.size
                        ))?;
                    }
                    if let Some(part) = &end.part {
                        eprintln!("{}", note(&end, part));
                    }
                    done = Some(end);
                }
                None => {}
            }
        }
        match done {
            Some(done) if self.quiet => {
                let (whole, _) = names(&done.reference, self.all_tags);
                output::print(&format!("{whole}\n"))?;
                Ok(0)
            }
            Some(_) => Ok(0),
            None => Err(Failure::new(
                "the registry ended the push before it was complete: see its log",
            )),
        }
    }
}

/// What the remote has in place of an index: docker's words first.
fn note(done: &PushDone, part: &Part) -> String {
    format!(
        "Not all multiplatform-content is present and only the available single-platform image was pushed\n\
         {} -> {} ({})\n\
         Not here: {}. To push all of it, pull it first: ctl pull --all-platforms NAME",
        part.index,
        done.digest,
        part.platform,
        part.missing.join(", ")
    )
}

/// docker takes `true`, and so it is here; nobody's signatures are asked for.
fn trusts_nobody(disabled: bool) -> Outcome<()> {
    match disabled {
        true => Ok(()),
        false => Err(Failure::new(
            "--disable-content-trust=false is not supported: signatures of Docker Content Trust are neither made nor \
             checked; pull by digest, as in NAME@sha256:..., to get exactly the image that you mean",
        )),
    }
}

/// What docker looks at and says before it asks anybody. A name that is none is the registry's to complain of.
fn begin(name: &str, all_tags: bool, quiet: bool) -> Outcome<()> {
    let Ok(reference) = name.parse::<Reference>() else {
        return Ok(());
    };
    let bare = reference.tag().is_none() && reference.digest().is_none();
    match (all_tags, bare) {
        (true, false) => Err(Failure::new("tag can't be used with --all-tags/-a")),
        (false, true) if !quiet => output::print("Using default tag: latest\n"),
        _ => Ok(()),
    }
}

/// A name as scripts and as people read it; of all tags, that of their repository.
fn names(reference: &str, all_tags: bool) -> (String, String) {
    match reference.parse::<Reference>() {
        Ok(parsed) if all_tags => (parsed.repository(), parsed.familiar_name()),
        Ok(parsed) => (parsed.to_string(), familiar(reference)),
        Err(_) => (reference.to_owned(), reference.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_as_docker_tells_them() {
        let name = "docker.io/library/goals:v1";
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(names(name, false), pair(name, "goals:v1"));
        assert_eq!(names(name, true), pair("docker.io/library/goals", "goals"));
    }

    #[test]
    fn a_tag_is_none_of_all_tags_and_nobody_is_trusted() {
        let error = begin("goals:v1", true, true).unwrap_err().text;
        assert_eq!(error, "tag can't be used with --all-tags/-a");
        assert!(begin("goals", true, true).is_ok());
        assert!(trusts_nobody(true).is_ok());
        assert!(
            trusts_nobody(false)
                .unwrap_err()
                .text
                .contains("not supported")
        );
    }
}
