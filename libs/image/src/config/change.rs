//! What one instruction of a Dockerfile changes in how an image runs: `commit --change`, `import --change`.

use serde_json::json;

use super::{Healthcheck, RunConfig};

/// The shell of images that name none.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// An instruction, its variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// CMD
    Cmd(Command),
    /// ENTRYPOINT
    Entrypoint(Command),
    /// ENV: key and value.
    Env(String, String),
    /// LABEL: key and value.
    Label(String, String),
    /// EXPOSE: `80/tcp`
    Expose(String),
    /// USER
    User(String),
    /// WORKDIR
    WorkingDir(String),
    /// VOLUME: one path.
    Volume(String),
    /// STOPSIGNAL; whether there is such a signal was looked at.
    StopSignal(String),
    /// ONBUILD: the instruction behind it.
    OnBuild(String),
    /// HEALTHCHECK
    Health(Healthcheck),
}

/// The command of CMD or ENTRYPOINT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// For the image's shell.
    Shell(String),
    /// Word by word.
    Exec(Vec<String>),
}

impl Command {
    fn is_empty(&self) -> bool {
        match self {
            Self::Shell(line) => line.is_empty(),
            Self::Exec(words) => words.is_empty(),
        }
    }
}

impl RunConfig {
    /// Makes changes in their order, as the instructions of one Dockerfile would. A command that was for another
    /// entrypoint is none for a new one: an ENTRYPOINT takes CMD away, unless a change before it gave one (moby,
    /// builder/dockerfile/dispatchers.go). An empty ENTRYPOINT leaves it (daemon/commit.go: what is empty is filled
    /// from the container).
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        let mut cmd_is_new = false;
        for change in changes {
            match &change {
                Change::Cmd(command) => cmd_is_new |= !command.is_empty(),
                Change::Entrypoint(command) if !cmd_is_new && !command.is_empty() => {
                    self.cmd = None;
                }
                _ => {}
            }
            self.change(change);
        }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Cmd(command) => self.cmd = Some(self.words(command)),
            Change::Entrypoint(command) => self.entrypoint = Some(self.words(command)),
            Change::Env(key, value) => {
                let variable = format!("{key}={value}");
                let same = |v: &String| v.split('=').next() == Some(key.as_str());
                match self.env.iter().position(same) {
                    Some(at) => self.env[at] = variable,
                    None => self.env.push(variable),
                }
            }
            Change::Label(key, value) => drop(self.labels.insert(key, value)),
            Change::Expose(port) => drop(self.exposed_ports.insert(port, json!({}))),
            Change::User(user) => self.user = user,
            Change::WorkingDir(path) => self.working_dir = joined(&self.working_dir, &path),
            Change::Volume(path) => drop(self.volumes.insert(path, json!({}))),
            Change::StopSignal(signal) => self.stop_signal = signal,
            Change::OnBuild(line) => self.on_build.push(line),
            Change::Health(check) => self.healthcheck = Some(check),
        }
    }

    fn words(&self, command: Command) -> Vec<String> {
        let line = match command {
            Command::Exec(words) => return words,
            Command::Shell(line) => line,
        };
        let mut words = match self.shell.as_slice() {
            [] => SHELL.map(str::to_owned).to_vec(),
            own => own.to_vec(),
        };
        words.push(line);
        words
    }
}

/// A working directory, seen from the one before.
fn joined(base: &str, path: &str) -> String {
    let base = match path.starts_with('/') {
        true => "",
        false => base,
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_those_of_a_dockerfile() {
        let mut config = RunConfig {
            env: vec!["A=1".into(), "B=2".into()],
            working_dir: "/srv".into(),
            ..RunConfig::default()
        };
        config.apply([
            Change::Env("A".into(), "9".into()),
            Change::Env("C".into(), "3".into()),
            Change::Cmd(Command::Shell("echo hi".into())),
            Change::Entrypoint(Command::Exec(vec!["a".into(), "b".into()])),
            Change::WorkingDir("sub/../x".into()),
            Change::Expose("80/tcp".into()),
            Change::StopSignal("SIGQUIT".into()),
        ]);
        assert_eq!(config.env, ["A=9", "B=2", "C=3"]);
        assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "echo hi"]);
        assert_eq!(config.entrypoint.unwrap(), ["a", "b"]);
        assert_eq!(config.working_dir, "/srv/x");
        assert_eq!(config.stop_signal, "SIGQUIT");
    }

    #[test]
    fn an_entrypoint_takes_the_command_of_another_one_away() {
        let words = |text: &str| Command::Exec(text.split_whitespace().map(Into::into).collect());
        let (cmd, entrypoint) = (
            |text| Change::Cmd(words(text)),
            |text| Change::Entrypoint(words(text)),
        );
        for (changes, expected) in [
            (vec![], Some("old")),
            (vec![entrypoint("run")], None),
            (vec![entrypoint("run"), cmd("new")], Some("new")),
            (vec![cmd("new"), entrypoint("run")], Some("new")),
            (vec![cmd(""), entrypoint("run")], None),
            (vec![entrypoint("")], Some("old")),
            (vec![cmd("new")], Some("new")),
        ] {
            let mut config = RunConfig {
                cmd: Some(vec!["old".into()]),
                entrypoint: Some(vec!["before".into()]),
                ..RunConfig::default()
            };
            config.apply(changes.clone());
            let cmd = config.cmd.map(|words| words.join(" "));
            assert_eq!(cmd.as_deref(), expected, "{changes:?}");
        }
    }
}
