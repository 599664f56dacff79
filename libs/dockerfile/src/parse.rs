//! A logical line to a typed instruction.

mod healthcheck;
mod pairs;
#[cfg(test)]
mod tests;

use healthcheck::healthcheck;
use pairs::{arguments, pairs};

use super::{
    copy::copy,
    flags::Flags,
    instruction::{Command, From, Instruction, Run, SCRIPTS, Script},
    lex::{Heredoc, heredoc},
    suggest::suggestion,
};

/// All keywords, for the error about one that is none.
pub(crate) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The flags of an instruction.
fn known_flags(name: &str) -> &'static [&'static str] {
    match name {
        "FROM" => &["platform"],
        "RUN" => &["mount", "network", "security", "device"],
        "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
        "ADD" => &[
            "chown",
            "chmod",
            "link",
            "keep-git-dir",
            "checksum",
            "unpack",
            "exclude",
        ],
        "HEALTHCHECK" => &[
            "interval",
            "timeout",
            "start-period",
            "start-interval",
            "retries",
        ],
        _ => &[],
    }
}
/// Most `--mount` flags of a RUN: each takes a descriptor on its way.
pub const MAX_MOUNTS: usize = 100;

/// Parses one logical line. Errors are sentences without a position.
pub fn parse(text: &str, heredocs: &[Heredoc], escape: char) -> Result<Instruction, String> {
    let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let name = keyword.to_ascii_uppercase();
    if !KEYWORDS.contains(&name.as_str()) {
        return Err(unknown(keyword, &name));
    }
    let (mut flags, rest) = Flags::take(rest.trim());
    if rest.is_empty() {
        match name.as_str() {
            // A shell that is given nothing; a stage that names nothing says so below.
            "FROM" | "RUN" | "CMD" | "ENTRYPOINT" | "COPY" | "ADD" => {}
            "MAINTAINER" | "WORKDIR" | "USER" | "STOPSIGNAL" => {
                return Err(format!("{name} requires exactly one argument"));
            }
            _ => return Err(format!("{name} requires at least one argument")),
        }
    }
    let parsed = match name.as_str() {
        "FROM" => from(&mut flags, rest)?,
        "ARG" => Instruction::Arg(arguments(rest, escape)?),
        "ENV" => Instruction::Env(pairs("ENV", rest, escape)?),
        "LABEL" => Instruction::Label(pairs("LABEL", rest, escape)?),
        "WORKDIR" => Instruction::Workdir(rest.to_owned()),
        "RUN" => run(&mut flags, rest, heredocs)?,
        "COPY" | "ADD" => {
            let json = json(rest)?;
            Instruction::Copy(copy(name == "ADD", &mut flags, rest, json, heredocs)?)
        }
        "EXPOSE" => Instruction::Expose(rest.split_whitespace().map(str::to_owned).collect()),
        "CMD" => Instruction::Cmd(command(rest)?),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)?),
        "USER" => Instruction::User(rest.to_owned()),
        "VOLUME" => volume(rest)?,
        "SHELL" => match json(rest)? {
            Some(words) if !words.is_empty() => Instruction::Shell(words),
            Some(_) => return Err("SHELL requires at least one argument".to_owned()),
            None => {
                return Err(format!(
                    "SHELL requires the arguments to be in JSON form, as [\"/bin/sh\", \"-c\"], not {rest:?}"
                ));
            }
        },
        "STOPSIGNAL" => Instruction::StopSignal(rest.to_owned()),
        "HEALTHCHECK" => healthcheck(&mut flags, rest)?,
        "ONBUILD" => on_build(rest, heredocs)?,
        _ => Instruction::Maintainer(rest.to_owned()),
    };
    flags.nothing_left(&name, known_flags(&name))?;
    Ok(parsed)
}

/// Parses a trigger of ONBUILD: its text, and what it asks for.
pub fn trigger(text: &str) -> Result<(String, Instruction), String> {
    let lexed = super::lex::lex(text).map_err(|e| e.message)?;
    let [line] = &lexed.lines[..] else {
        return Err("onbuild trigger should be a single expression".to_owned());
    };
    let instruction = parse(&line.text, &line.heredocs, lexed.escape)?;
    if matches!(instruction, Instruction::From(_)) {
        return Err("FROM isn't allowed as an ONBUILD trigger".to_owned());
    }
    Ok((line.text.clone(), instruction))
}

fn unknown(keyword: &str, name: &str) -> String {
    let shown: String = keyword.chars().take(100).collect();
    let near = suggestion(name, &KEYWORDS).map_or_else(
        || {
            format!(
                "an instruction was expected: one of {}",
                KEYWORDS.join(", ")
            )
        },
        |k| format!("did you mean {k}?"),
    );
    format!("unknown instruction: {shown} ({near})")
}

/// A JSON array of strings; nothing for what is no JSON array: that is another form.
pub(crate) fn json(text: &str) -> Result<Option<Vec<String>>, String> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    let string = |value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => {
            Err("when using JSON array syntax, arrays must be comprised of strings only".to_owned())
        }
    };
    values
        .into_iter()
        .map(string)
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The exec form when it is JSON, else the shell form.
fn command(text: &str) -> Result<Command, String> {
    Ok(json(text)?.map_or_else(|| Command::Shell(text.to_owned()), Command::Exec))
}

fn from(flags: &mut Flags, rest: &str) -> Result<Instruction, String> {
    let parts: Vec<&str> = rest.split_whitespace().collect();
    let (base, name) = match parts[..] {
        [base] => (base, None),
        [base, r#as, name] if r#as.eq_ignore_ascii_case("as") => (base, Some(stage_name(name)?)),
        _ => {
            return Err(
                "FROM requires either one or three arguments: FROM image [AS name]".to_owned(),
            );
        }
    };
    Ok(Instruction::From(From {
        base: base.to_owned(),
        platform: flags.raw("platform")?,
        name,
    }))
}

/// Stage names are case-insensitive.
fn stage_name(name: &str) -> Result<String, String> {
    let lower = name.to_ascii_lowercase();
    let valid = lower.starts_with(|c: char| c.is_ascii_lowercase())
        && lower
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
    if valid {
        Ok(lower)
    } else {
        Err(format!(
            "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
        ))
    }
}

fn run(flags: &mut Flags, rest: &str, heredocs: &[Heredoc]) -> Result<Instruction, String> {
    flags.refuse("RUN", &["device"])?;
    let mounts = flags.all("mount")?;
    for mount in &mounts {
        super::mount::from(mount)?;
    }
    if mounts.len() > MAX_MOUNTS {
        return Err(format!("RUN has more than {MAX_MOUNTS} mounts"));
    }
    let network = flags.value("network")?;
    if let Some(other) = network
        .as_deref()
        .filter(|n| !["default", "none", "host"].contains(n))
    {
        return Err(format!(
            "invalid network mode {other:?}: default, none or host"
        ));
    }
    let insecure = match flags.value("security")?.as_deref() {
        None | Some("sandbox") => false,
        Some("insecure") => true,
        Some(other) => return Err(format!("security {other:?} is not valid")),
    };
    let (command, script) = run_command(rest, heredocs)?;
    Ok(Instruction::Run(Run {
        command,
        script,
        network,
        mounts,
        insecure,
    }))
}

/// What a RUN runs, and the file that it needs for that.
fn run_command(rest: &str, heredocs: &[Heredoc]) -> Result<(Command, Option<Script>), String> {
    let Some(first) = heredocs.first() else {
        let command = command(rest)?;
        if command == Command::Exec(Vec::new()) {
            return Err("RUN requires a program: the list is empty".to_owned());
        }
        return Ok((command, None));
    };
    if heredoc::beginning(rest).is_some() {
        // Nothing but a here-document: it is the script.
        let content = first.content();
        if !content.starts_with("#!") {
            return Ok((Command::Shell(content), None));
        }
        let name = first.name.clone();
        if name.contains('/') || matches!(name.as_str(), "." | "..") {
            return Err(format!("a script of RUN cannot have the name {name:?}"));
        }
        let path = format!("{SCRIPTS}/{name}");
        return Ok((Command::Shell(path), Some(Script { name, content })));
    }
    // The shell reads them itself.
    Ok((Command::Shell(written(rest, heredocs)), None))
}

/// A line with its here-documents as they were written, without the last line end.
fn written(line: &str, heredocs: &[Heredoc]) -> String {
    let mut text = line.to_owned();
    for heredoc in heredocs {
        text.extend(["\n", &heredoc.body, &heredoc.name]);
    }
    text
}

fn volume(rest: &str) -> Result<Instruction, String> {
    let paths = json(rest)?.unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
    if paths.is_empty() {
        return Err("VOLUME requires at least one argument".to_owned());
    }
    let paths: Vec<String> = paths.iter().map(|p| p.trim().to_owned()).collect();
    if paths.iter().any(String::is_empty) {
        return Err("VOLUME specified can not be an empty string".to_owned());
    }
    Ok(Instruction::Volume(paths))
}

fn on_build(rest: &str, heredocs: &[Heredoc]) -> Result<Instruction, String> {
    let keyword = rest
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    match keyword.as_str() {
        "ONBUILD" => Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        "MAINTAINER" | "FROM" => Err(format!("{keyword} isn't allowed as an ONBUILD trigger")),
        _ if !KEYWORDS.contains(&keyword.as_str()) => Err(unknown(&keyword, &keyword)),
        _ => Ok(Instruction::OnBuild(written(rest, heredocs))),
    }
}
