//! `--change` of commit and import: instructions of a Dockerfile.

use slipway_dockerfile::{
    Command, Healthcheck, Instruction, expand::expand, lex, parse, port, signal::is_signal,
};
use slipway_image::config::{
    self,
    change::{self, Change},
};

/// Reads instructions; docker takes those that change nothing but the config. `env` are the variables that they may
/// name.
pub fn read(lines: &[String], env: &[String]) -> Result<Vec<Change>, String> {
    let text = lines.join("\n");
    let lexed = lex::lex(&text).map_err(|e| format!("dockerfile parse error: {}", e.message))?;
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
            if let Change::Env(key, value) = change {
                env.push((key.clone(), value.clone()));
            }
        }
        changes.extend(made);
    }
    Ok(changes)
}

fn made(
    instruction: &Instruction,
    word: &dyn Fn(&str) -> Result<String, String>,
    line: &str,
) -> Result<Vec<Change>, String> {
    let pairs = |pairs: &[(String, String)], kind: fn(String, String) -> Change| {
        pairs
            .iter()
            .map(|(key, value)| Ok(kind(word(key)?, word(value)?)))
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
        Instruction::StopSignal(signal) => {
            let signal = word(signal)?;
            if !is_signal(&signal) {
                return Err(format!("invalid signal: {signal}"));
            }
            vec![Change::StopSignal(signal)]
        }
        Instruction::OnBuild(line) => vec![Change::OnBuild(line.clone())],
        Instruction::Healthcheck(check) => vec![Change::Health(health(check))],
        _ => {
            let name = line.split_whitespace().next().unwrap_or_default();
            return Err(format!("{name} is not a valid change command"));
        }
    })
}

fn command(command: &Command) -> change::Command {
    match command {
        Command::Shell(text) => change::Command::Shell(text.clone()),
        Command::Exec(words) => change::Command::Exec(words.clone()),
    }
}

fn health(check: &Healthcheck) -> config::Healthcheck {
    config::Healthcheck {
        test: match &check.command {
            None => vec!["NONE".to_owned()],
            Some(Command::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.clone()],
            Some(Command::Exec(words)) => std::iter::once("CMD".to_owned())
                .chain(words.clone())
                .collect(),
        },
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, env: &[&str]) -> Result<Vec<Change>, String> {
        let env: Vec<String> = env.iter().map(|v| (*v).to_owned()).collect();
        super::read(&[text.to_owned()], &env)
    }

    #[test]
    fn instructions_become_changes_with_the_variables() {
        let text = "ENV A=$HOME/x B=two\nLABEL l=$A\nCMD [\"a\", \"$A\"]\nexpose 80-81 $P/udp\nENTRYPOINT run it";
        let changes = read(text, &["HOME=/root", "P=53"]).unwrap();
        let port = |port: &str| Change::Expose(port.into());
        assert_eq!(
            changes,
            [
                Change::Env("A".into(), "/root/x".into()),
                Change::Env("B".into(), "two".into()),
                Change::Label("l".into(), "/root/x".into()),
                Change::Cmd(change::Command::Exec(vec!["a".into(), "$A".into()])),
                port("80/tcp"),
                port("81/tcp"),
                port("53/udp"),
                Change::Entrypoint(change::Command::Shell("run it".into())),
            ]
        );
    }

    #[test]
    fn what_changes_files_is_refused_in_dockers_words() {
        for (text, why) in [
            ("RUN x", "RUN is not a valid change command"),
            ("COPY a b", "COPY is not a valid change command"),
            ("FROM a", "FROM is not a valid change command"),
            ("STOPSIGNAL NOPE", "invalid signal: NOPE"),
        ] {
            assert_eq!(read(text, &[]).unwrap_err(), why);
        }
        assert!(read("NONSENSE x", &[]).is_err());
    }
}
