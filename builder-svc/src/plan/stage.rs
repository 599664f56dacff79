//! A stage while its instructions are read: what each does to the image's config, and what it asks to
//! be done to the files.

#[cfg(test)]
mod tests;

use std::{cell::Cell, collections::BTreeMap};

use serde_json::json;
use slipway_dockerfile::{
    Command, Healthcheck, Instruction, Run, expand::Lexer, lex::heredoc, mount::Kind,
    port::exposed, signal::is_signal,
};
use slipway_image::{ImageConfig, config};

use crate::context::fetch::redacted;

use super::{
    action::{Action, RunAction},
    copy::CopyAction,
    mounts,
    values::{join, joined, quoted, shortened},
    variables::{DEFAULT_PATH, Inherited, NO_VARIABLES, get_env, proxies, set_env},
};

/// State of a stage.
#[derive(Debug, Clone)]
pub struct StageState {
    /// The image's config so far.
    pub config: ImageConfig,
    /// `ARG` and `ENV` so far.
    variables: Inherited,
    /// This stage has set CMD itself.
    has_cmd: bool,
    /// Bytes of this stage's history.
    history: usize,
    /// Bytes that were looked up: a value that is taken ten thousand times is work, too.
    looked_up: Cell<usize>,
    escape: char,
}

/// Most bytes of what a stage's instructions put into a config.
const MAX_CONFIG: usize = 2 << 20;
/// Most bytes that a stage's instructions look up.
const MAX_LOOKED_UP: usize = 64 << 20;
/// Most ports of one EXPOSE.
const MAX_PORTS: usize = 3 * 65_535;

/// What the whole build gives to its stages.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// `--build-arg`
    pub build_args: BTreeMap<String, String>,
    /// `ARG`s in front of the first FROM and the platform's.
    pub global: BTreeMap<String, String>,
}

impl StageState {
    /// Begins upon a base's config.
    ///
    /// `inherited` are the variables of the stage that it is built upon.
    pub fn new(mut config: ImageConfig, inherited: Inherited, escape: char) -> Self {
        if get_env(&config.config.env, "PATH").is_none() {
            set_env(&mut config.config.env, "PATH", DEFAULT_PATH);
        }
        if config.config.working_dir.is_empty() {
            "/".clone_into(&mut config.config.working_dir);
        }
        let mut variables = inherited;
        variables.begin_stage();
        for entry in &config.config.env {
            // Also over an ARG of the base stage that came later than its ENV (BuildKit, dispatchStages).
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            variables.set(name, value);
        }
        Self {
            config,
            variables,
            has_cmd: false,
            history: 0,
            looked_up: Cell::new(0),
            escape,
        }
    }

    /// The config, and the variables for stages that are built upon this one.
    pub fn finish(self) -> (ImageConfig, Inherited) {
        (self.config, self.variables)
    }

    /// `ARG` and `ENV` so far.
    pub const fn variables(&self) -> &Inherited {
        &self.variables
    }

    /// Reads an instruction: what must be done, and its line of the history. Errors are sentences.
    pub fn read(
        &mut self,
        instruction: &Instruction,
        given: &Given,
    ) -> Result<(Action, String), String> {
        let mut action = Action::None;
        let text = match instruction {
            Instruction::From(_) => return Err("FROM is not allowed here".to_owned()),
            Instruction::Arg(arguments) => self.arg(arguments, given)?,
            Instruction::Env(pairs) => {
                let pairs = self.expanded(pairs)?;
                for (key, value) in &pairs {
                    set_env(&mut self.config.config.env, key, value);
                    self.variables.set(key, value);
                }
                format!("ENV {}", joined(&pairs))
            }
            Instruction::Label(pairs) => {
                let pairs = self.expanded(pairs)?;
                self.config.config.labels.extend(pairs.iter().cloned());
                format!("LABEL {}", joined(&pairs))
            }
            Instruction::Workdir(path) => {
                let path = self.expand(path)?;
                // As BuildKit: an absolute one is told as it is written.
                let folder = join(&self.config.config.working_dir, &path);
                let told = match path.starts_with('/') {
                    true => path,
                    false => folder.clone(),
                };
                let text = format!("WORKDIR {told}");
                self.config.config.working_dir = told;
                self.variables.workdir_set = true;
                let user = self.config.config.user.clone();
                action = Action::MakeFolder { path: folder, user };
                text
            }
            Instruction::Run(run) => {
                let (run, text) = self.run(run, given)?;
                action = Action::Run(run);
                text
            }
            Instruction::Copy(copy) => {
                let expand = |word: &str| self.expand(word);
                let folder = &self.config.config.working_dir;
                let document = |text: &str| heredoc::expanded(text, &|name| self.lookup(name));
                let (copy, text) = CopyAction::read(copy, folder, &expand, &document)?;
                action = Action::Copy(copy);
                text
            }
            Instruction::Expose(words) => {
                let mut ports = Vec::new();
                for word in words {
                    let lookup = |name: &str| self.lookup(name);
                    for word in Lexer::new(self.escape).expand(word, &lookup)?.words {
                        ports.extend(exposed(&word)?);
                        if ports.len() > MAX_PORTS {
                            return Err("EXPOSE of more ports than there are".to_owned());
                        }
                    }
                }
                let text = format!("EXPOSE [{}]", shortened(&ports.join(" ")));
                let exposed = &mut self.config.config.exposed_ports;
                exposed.extend(ports.into_iter().map(|p| (p, json!({}))));
                text
            }
            Instruction::Cmd(command) => {
                let words = self.command(command);
                let text = format!("CMD {}", quoted(&words));
                self.config.config.cmd = Some(words);
                self.has_cmd = true;
                text
            }
            Instruction::Entrypoint(command) => {
                let words = self.command(command);
                let text = format!("ENTRYPOINT {}", quoted(&words));
                // `ENTRYPOINT []` is none.
                self.config.config.entrypoint = Some(words).filter(|w| !w.is_empty());
                // docker: the base's CMD was meant for the base's ENTRYPOINT.
                if !self.has_cmd {
                    self.config.config.cmd = None;
                }
                text
            }
            Instruction::User(user) => {
                let user = self.expand(user)?;
                let text = format!("USER {user}");
                self.config.config.user = user;
                text
            }
            Instruction::Volume(paths) => {
                let paths = paths
                    .iter()
                    .map(|p| self.expand(p))
                    .collect::<Result<Vec<_>, _>>()?;
                if paths.iter().any(String::is_empty) {
                    return Err("VOLUME specified can not be an empty string".to_owned());
                }
                let text = format!("VOLUME [{}]", paths.join(" "));
                let volumes = &mut self.config.config.volumes;
                volumes.extend(paths.into_iter().map(|p| (p, json!({}))));
                text
            }
            Instruction::Shell(words) => {
                self.config.config.shell.clone_from(words);
                format!("SHELL [{}]", words.join(" "))
            }
            Instruction::StopSignal(signal) => {
                let signal = self.expand(signal)?;
                if !is_signal(&signal) {
                    return Err(format!("invalid signal: {signal}"));
                }
                let text = format!("STOPSIGNAL {signal}");
                self.config.config.stop_signal = signal;
                text
            }
            Instruction::Healthcheck(check) => self.healthcheck(check),
            Instruction::OnBuild(line) => {
                self.config.config.on_build.push(line.clone());
                format!("ONBUILD {line}")
            }
            Instruction::Maintainer(name) => {
                self.config.author = Some(name.clone());
                format!("MAINTAINER {name}")
            }
        };
        self.history += text.len();
        self.check_size()?;
        Ok((action, text))
    }

    /// A Dockerfile of a few lines can ask for a config of gigabytes.
    fn check_size(&self) -> Result<(), String> {
        let config = &self.config.config;
        let pairs = config.labels.iter();
        let size = config.env.iter().map(String::len).sum::<usize>()
            + self.variables.size()
            + pairs.map(|(k, v)| k.len() + v.len()).sum::<usize>()
            + config.volumes.keys().map(String::len).sum::<usize>()
            + config.on_build.iter().map(String::len).sum::<usize>()
            + self.history;
        if size > MAX_CONFIG {
            return Err(format!(
                "the image's configuration becomes larger than {} KiB",
                MAX_CONFIG / 1024
            ));
        }
        Ok(())
    }

    /// A line as people read it in the progress: variables expanded where they have a value.
    pub fn shown(&self, text: &str, instruction: &Instruction) -> String {
        let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let run = match instruction {
            Instruction::Run(run) => Some(run),
            _ => None,
        };
        let lexer = Lexer {
            keep_unset: true,
            raw_quotes: run.is_some(),
            ..Lexer::new(self.escape)
        };
        let lookup = |name: &str| self.lookup(name);
        let rest = lexer
            .expand(rest, &lookup)
            .map_or_else(|_| rest.to_owned(), |done| done.text);
        let rest = match instruction {
            // Progress and the build's history are read by others than who wrote a password there.
            Instruction::Copy(_) => rest.split(' ').map(redacted).collect::<Vec<_>>().join(" "),
            _ => rest,
        };
        let mut shown = format!("{} {rest}", keyword.to_ascii_uppercase());
        let document = run.and_then(|run| match (&run.script, &run.command) {
            (Some(script), _) => Some(script.content.as_str()),
            (None, Command::Shell(text)) if heredoc::beginning(rest.trim()).is_some() => Some(text),
            _ => None,
        });
        if let Some(document) = document {
            let mut lines = document.trim().lines();
            let first = lines.next().unwrap_or_default();
            let more = if lines.next().is_some() { "..." } else { "" };
            shown.push_str(&format!(" ({first}{more})"));
        }
        shown
    }

    fn lookup(&self, name: &str) -> Option<String> {
        let value = self.variables.get(name)?;
        self.looked_up.set(self.looked_up.get() + value.len());
        Some(value.to_owned())
    }

    fn expand(&self, word: &str) -> Result<String, String> {
        if self.looked_up.get() > MAX_LOOKED_UP {
            return Err(format!(
                "the stage looks up variables of more than {} MiB in all",
                MAX_LOOKED_UP >> 20
            ));
        }
        let done = Lexer::new(self.escape).expand(word, &|name| self.lookup(name))?;
        Ok(done.text)
    }

    /// All pairs with the values as they were before the line (docker: `ENV a=1 b=$a` does not see a).
    fn expanded(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>, String> {
        pairs
            .iter()
            .map(|(key, value)| Ok((self.expand(key)?, self.expand(value)?)))
            .collect()
    }

    fn arg(
        &mut self,
        arguments: &[(String, Option<String>)],
        given: &Given,
    ) -> Result<String, String> {
        let mut text = "ARG".to_owned();
        for (name, default) in arguments {
            let value = match (given.build_args.get(name), default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(default)?),
                (None, None) => given.global.get(name).cloned(),
            };
            text.push_str(&format!(" {name}"));
            if let Some(value) = value {
                text.push_str(&format!("={value}"));
                if !NO_VARIABLES.contains(&name.as_str()) {
                    self.variables.set(name, &value);
                }
            }
            self.variables.declare(name);
        }
        Ok(text)
    }

    fn shell(&self) -> Vec<String> {
        let shell = &self.config.config.shell;
        if shell.is_empty() {
            return vec!["/bin/sh".to_owned(), "-c".to_owned()];
        }
        shell.clone()
    }

    fn command(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let mut words = self.shell();
                words.push(text.clone());
                words
            }
        }
    }

    fn run(&self, run: &Run, given: &Given) -> Result<(RunAction, String), String> {
        let args = self.command(&run.command);
        let mut env = self.variables.all();
        let working_dir = join("/", &self.config.config.working_dir);
        let namespace = given.build_args.get("BUILDKIT_CACHE_MOUNT_NS");
        let mounts = mounts::resolve(
            &run.mounts,
            &working_dir,
            namespace.map_or("", String::as_str),
            &|value| self.expand(value),
        )?;
        // BuildKit, client/llb/exec.go: the first agent is the usual one.
        let agent = mounts.iter().find(|m| m.kind == Kind::Ssh);
        if let Some(agent) = agent.filter(|_| get_env(&env, "SSH_AUTH_SOCK").is_none()) {
            env.push(format!("SSH_AUTH_SOCK={}", agent.target));
        }
        let hidden_env = proxies(&given.build_args)
            .filter(|(name, _)| self.variables.get(name).is_none())
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let named = self.variables.declared();
        let text = match &named[..] {
            [] => format!("RUN {}", args.join(" ")),
            named => format!(
                "RUN |{} {} {}",
                named.len(),
                named.join(" "),
                args.join(" ")
            ),
        };
        let action = RunAction {
            args,
            env,
            hidden_env,
            working_dir,
            user: self.config.config.user.clone(),
            network: run.network.clone().unwrap_or_default(),
            script: run
                .script
                .as_ref()
                .map(|s| (s.name.clone(), s.content.clone())),
            mounts,
            insecure: run.insecure,
        };
        Ok((action, text))
    }

    fn healthcheck(&mut self, check: &Healthcheck) -> String {
        let test = match &check.command {
            None => vec!["NONE".to_owned()],
            Some(Command::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.clone()],
            Some(Command::Exec(words)) => {
                let mut test = vec!["CMD".to_owned()];
                test.extend(words.iter().cloned());
                test
            }
        };
        let text = format!("HEALTHCHECK {}", quoted(&test));
        self.config.config.healthcheck = Some(config::Healthcheck {
            test,
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        });
        text
    }
}
