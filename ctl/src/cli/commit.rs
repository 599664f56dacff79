//! `commit`: an image of a container's changes; `--change` is read here.

use clap::Args;
use slipway_dockerfile::{Command, Healthcheck, Instruction, expand::expand, lex, parse, port};
use slipway_proto::runtime::v1::{
    CommitRequest, ConfigChange, HealthCheck, InspectRequest,
    config_change::{self, Change, Pair},
};

use crate::{client::Site, failure::Outcome, output};

/// `ctl commit`
#[derive(Debug, Args)]
pub struct Commit {
    /// Author
    #[arg(short, long, default_value = "")]
    author: String,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long)]
    change: Vec<String>,
    /// Commit message
    #[arg(short, long, default_value = "")]
    message: String,
    /// Pause container during commit
    #[arg(short, long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pause: bool,
    /// Disable pausing container during commit
    #[arg(long)]
    no_pause: bool,
    container: String,
    #[arg(default_value = "", value_name = "REPOSITORY[:TAG]")]
    repository: String,
}

impl Commit {
    pub async fn run(self, site: &Site) -> Outcome {
        let mut changes = Vec::new();
        if !self.change.is_empty() {
            // Their variables are the container's.
            let request = InspectRequest {
                container: self.container.clone(),
                size: false,
            };
            let details = site.containers().inspect(request).await?.into_inner();
            changes = read(&self.change.join("\n"), &details.env)?;
        }
        let request = CommitRequest {
            container: self.container,
            reference: self.repository,
            author: self.author,
            message: self.message,
            pause: self.pause && !self.no_pause,
            changes,
        };
        let answer = site.containers().commit(request).await?.into_inner();
        output::print(&format!("{}\n", answer.image_id))?;
        Ok(0)
    }
}

/// Reads instructions; docker takes those that change nothing but the config.
fn read(text: &str, env: &[String]) -> Result<Vec<ConfigChange>, String> {
    let lexed = lex::lex(text).map_err(|e| format!("dockerfile parse error: {}", e.message))?;
    let mut env: Vec<(String, String)> = env
        .iter()
        .filter_map(|v| v.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let mut changes = Vec::new();
    for line in &lexed.lines {
        let instruction = parse::parse(&line.text, &line.heredocs, lexed.escape)
            .map_err(|e| format!("dockerfile parse error: {e}"))?;
        let lookup = |name: &str| {
            let found = env.iter().rev().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        };
        let word = |text: &str| expand(text, lexed.escape, &lookup);
        let made = made(&instruction, &word, &line.text)?;
        for change in &made {
            if let Change::Env(Pair { key, value }) = change {
                env.push((key.clone(), value.clone()));
            }
        }
        changes.extend(made.into_iter().map(|change| ConfigChange {
            change: Some(change),
        }));
    }
    Ok(changes)
}

fn made(
    instruction: &Instruction,
    word: &dyn Fn(&str) -> Result<String, String>,
    line: &str,
) -> Result<Vec<Change>, String> {
    let pairs = |pairs: &[(String, String)], kind: fn(Pair) -> Change| {
        pairs
            .iter()
            .map(|(key, value)| {
                let (key, value) = (word(key)?, word(value)?);
                Ok(kind(Pair { key, value }))
            })
            .collect::<Result<Vec<_>, String>>()
    };
    Ok(match instruction {
        Instruction::Cmd(words) => vec![Change::Cmd(command(words))],
        Instruction::Entrypoint(words) => vec![Change::Entrypoint(command(words))],
        Instruction::Env(list) => pairs(list, Change::Env)?,
        Instruction::Label(list) => pairs(list, Change::Label)?,
        Instruction::Expose(words) => {
            let mut ports = Vec::new();
            for text in words {
                for one in word(text)?.split_whitespace() {
                    ports.extend(port::exposed(one)?.into_iter().map(Change::Expose));
                }
            }
            ports
        }
        Instruction::User(user) => vec![Change::User(word(user)?)],
        Instruction::Workdir(path) => vec![Change::WorkingDir(word(path)?)],
        Instruction::Volume(paths) => paths
            .iter()
            .map(|path| word(path).map(Change::Volume))
            .collect::<Result<_, _>>()?,
        Instruction::StopSignal(signal) => vec![Change::StopSignal(word(signal)?)],
        Instruction::OnBuild(line) => vec![Change::OnBuild(line.clone())],
        Instruction::Healthcheck(check) => vec![Change::Health(health(check))],
        _ => {
            let name = line.split_whitespace().next().unwrap_or_default();
            return Err(format!("{name} is not a valid change command"));
        }
    })
}

fn command(command: &Command) -> config_change::Command {
    match command {
        Command::Shell(text) => config_change::Command {
            words: vec![text.clone()],
            shell: true,
        },
        Command::Exec(words) => config_change::Command {
            words: words.clone(),
            shell: false,
        },
    }
}

fn health(check: &Healthcheck) -> HealthCheck {
    let span = |nanoseconds: u64| {
        let span = std::time::Duration::from_nanos(nanoseconds);
        // Shorter than the longest that a message has.
        (nanoseconds > 0).then(|| span.try_into().unwrap_or_default())
    };
    HealthCheck {
        test: match &check.command {
            None => vec!["NONE".to_owned()],
            Some(Command::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.clone()],
            Some(Command::Exec(words)) => std::iter::once("CMD".to_owned())
                .chain(words.clone())
                .collect(),
        },
        interval: span(check.interval),
        timeout: span(check.timeout),
        start_period: span(check.start_period),
        start_interval: span(check.start_interval),
        retries: check.retries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_become_changes_with_the_containers_variables() {
        let text = "ENV A=$HOME/x B=two\nLABEL l=$A\nCMD [\"a\", \"$A\"]\nexpose 80-81 $P/udp\nENTRYPOINT run it";
        let changes = read(text, &["HOME=/root".to_owned(), "P=53".to_owned()]).unwrap();
        let pair = |key: &str, value: &str| Pair {
            key: key.into(),
            value: value.into(),
        };
        let port = |port: &str| Change::Expose(port.into());
        let changes: Vec<Change> = changes.into_iter().filter_map(|c| c.change).collect();
        assert_eq!(
            changes,
            [
                Change::Env(pair("A", "/root/x")),
                Change::Env(pair("B", "two")),
                Change::Label(pair("l", "/root/x")),
                Change::Cmd(config_change::Command {
                    words: vec!["a".into(), "$A".into()],
                    shell: false
                }),
                port("80/tcp"),
                port("81/tcp"),
                port("53/udp"),
                Change::Entrypoint(config_change::Command {
                    words: vec!["run it".into()],
                    shell: true
                }),
            ]
        );
    }

    #[test]
    fn what_changes_files_is_refused_in_dockers_words() {
        for (text, why) in [
            ("RUN x", "RUN is not a valid change command"),
            ("COPY a b", "COPY is not a valid change command"),
            ("FROM a", "FROM is not a valid change command"),
        ] {
            assert_eq!(read(text, &[]).unwrap_err(), why);
        }
        assert!(read("NONSENSE x", &[]).is_err());
    }
}
