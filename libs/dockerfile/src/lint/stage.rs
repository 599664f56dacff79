//! A stage's instructions, with the variables that they see.

use std::collections::BTreeSet;

use super::{Findings, Rule, rules};
use crate::{
    Command, Copy, Instruction, Located, Place,
    expand::{Lexer, words},
    suggest::suggestion,
};

/// What an instruction finds.
pub struct Surroundings<'a> {
    /// A variable's value.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Names of all variables.
    pub names: &'a dyn Fn() -> Vec<String>,
    /// Whether there was an ARG of that name, with a value or without.
    pub declares: &'a dyn Fn(&str) -> bool,
    /// The caller gives an ARG's value.
    pub given: &'a dyn Fn(&str) -> bool,
    /// The image has a SHELL of its own.
    pub own_shell: bool,
    /// The `.dockerignore` leaves a path out; always false for one that brings something back.
    pub ignored: &'a dyn Fn(&str) -> bool,
}

/// A stage while its instructions are read.
#[derive(Debug, Clone, Default)]
pub struct StageLint {
    /// A WORKDIR stood in the file before.
    workdir_set: bool,
    command: Option<Place>,
    entrypoint: Option<Place>,
    health: Option<Place>,
}

impl StageLint {
    /// Begins a stage; `workdir_set`: one that it is built upon had a WORKDIR.
    pub fn new(workdir_set: bool) -> Self {
        Self {
            workdir_set,
            ..Self::default()
        }
    }

    /// Looks at the next instruction.
    pub fn see(
        &mut self,
        located: &Located,
        around: &Surroundings<'_>,
        escape: char,
        findings: &mut Findings,
    ) {
        let place = located.place;
        let (keyword, rest) = located
            .text
            .split_once(char::is_whitespace)
            .unwrap_or((&located.text, ""));
        let mut report =
            |rule: &'static Rule, message: String| findings.report(rule, place, message);
        for name in undefined(&located.instruction, around, escape) {
            let names = (around.names)();
            let options: Vec<&str> = names.iter().map(String::as_str).collect();
            let near = suggestion(&name, &options)
                .map_or_else(String::new, |near| format!(" (did you mean ${near}?)"));
            let message = format!("Usage of undefined variable '${name}'{near}");
            report(&rules::UNDEFINED_VAR, message);
        }
        match &located.instruction {
            Instruction::Env(pairs) | Instruction::Label(pairs) => {
                let first = words(rest.trim(), escape);
                if first.first().is_some_and(|word| !word.contains('=')) {
                    report(
                        &rules::LEGACY_KEY_VALUE_FORMAT,
                        format!(
                            "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
                        ),
                    );
                }
                if matches!(located.instruction, Instruction::Env(_)) {
                    for (name, _) in pairs.iter().filter(|(name, _)| is_secret(name)) {
                        report(&rules::SECRETS_USED_IN_ARG_OR_ENV, secret("ENV", name));
                    }
                }
            }
            Instruction::Arg(arguments) => {
                for (name, _) in arguments.iter().filter(|(name, _)| is_secret(name)) {
                    report(&rules::SECRETS_USED_IN_ARG_OR_ENV, secret("ARG", name));
                }
            }
            Instruction::Workdir(path) => {
                let shown = Lexer::new(escape)
                    .expand(path, around.lookup)
                    .map_or_else(|_| path.clone(), |done| done.text);
                if !self.workdir_set && !shown.starts_with('/') {
                    report(
                        &rules::WORKDIR_RELATIVE_PATH,
                        format!(
                            "Relative workdir {shown:?} can have unexpected results if the base image changes"
                        ),
                    );
                }
                self.workdir_set = true;
            }
            Instruction::Cmd(Command::Shell(_)) | Instruction::Entrypoint(Command::Shell(_))
                if !around.own_shell =>
            {
                report(
                    &rules::JSON_ARGS_RECOMMENDED,
                    format!(
                        "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
                    ),
                );
            }
            Instruction::Expose(ports) => {
                for port in ports {
                    let done = Lexer::new(escape).expand(port, around.lookup);
                    for word in done.map(|d| d.words).unwrap_or_default() {
                        exposed(&word, &mut report);
                    }
                }
            }
            Instruction::Copy(copy) if copy.from.is_none() => {
                let verb = if copy.add { "Add" } else { "Copy" };
                for source in copy.sources.iter().filter(|s| (around.ignored)(s)) {
                    let source = source.trim_start_matches("./");
                    let message = format!(
                        "Attempting to {verb} file {source:?} that is excluded by .dockerignore"
                    );
                    report(&rules::COPY_IGNORED_FILE, message);
                }
            }
            _ => {}
        }
        let once = match &located.instruction {
            Instruction::Cmd(_) => &mut self.command,
            Instruction::Entrypoint(_) => &mut self.entrypoint,
            Instruction::Healthcheck(_) => &mut self.health,
            _ => return,
        };
        if let Some(before) = once.replace(place) {
            let message = format!(
                "Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
            );
            findings.report(&rules::MULTIPLE_INSTRUCTIONS_DISALLOWED, before, message);
        }
    }
}

fn exposed(word: &str, report: &mut impl FnMut(&'static Rule, String)) {
    let container = word.rsplit(':').next().unwrap_or(word);
    if let Some((_, protocol)) = container.split_once('/')
        && protocol != protocol.to_lowercase()
    {
        let message =
            format!("Defined protocol '{word}' in EXPOSE instruction should be lowercase");
        report(&rules::EXPOSE_PROTO_CASING, message);
    }
    if word.contains(':') {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
        );
        report(&rules::EXPOSE_INVALID_FORMAT, message);
    }
}

fn secret(instruction: &str, name: &str) -> String {
    format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})")
}

/// A word of the name says so, and none says that it is public.
fn is_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&[
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "psw",
        "secret",
        "token",
    ]) && !has(&["public", "file", "version"])
}

/// Variables of an instruction that have no value and no ARG.
fn undefined(
    instruction: &Instruction,
    around: &Surroundings<'_>,
    escape: char,
) -> BTreeSet<String> {
    let lexer = Lexer::new(escape);
    let mut texts: Vec<(&str, Lexer)> = Vec::new();
    match instruction {
        Instruction::Env(pairs) | Instruction::Label(pairs) => {
            texts.extend(
                pairs
                    .iter()
                    .flat_map(|(k, v)| [(k.as_str(), lexer), (v, lexer)]),
            );
        }
        Instruction::Workdir(text) | Instruction::User(text) | Instruction::StopSignal(text) => {
            texts.push((text, lexer));
        }
        Instruction::Volume(paths) => texts.extend(paths.iter().map(|p| (p.as_str(), lexer))),
        Instruction::Arg(arguments) => {
            let used = arguments.iter().filter(|(name, _)| !(around.given)(name));
            texts.extend(used.filter_map(|(_, default)| Some((default.as_deref()?, lexer))));
        }
        Instruction::Copy(copy) => copied(copy, lexer, &mut texts),
        _ => {}
    }
    texts
        .iter()
        .filter_map(|(text, lexer)| lexer.expand(text, around.lookup).ok())
        .flat_map(|done| done.unmatched)
        .filter(|name| !(around.declares)(name) && !name.starts_with("BUILDKIT_SBOM_SCAN_"))
        .collect()
}

fn copied<'a>(copy: &'a Copy, lexer: Lexer, texts: &mut Vec<(&'a str, Lexer)>) {
    let optional = [&copy.chown, &copy.chmod, &copy.checksum];
    let words = copy
        .sources
        .iter()
        .chain(&copy.exclude)
        .chain([&copy.destination])
        .chain(optional.into_iter().flatten());
    texts.extend(words.map(|w| (w.as_str(), lexer)));
    let document = Lexer {
        plain_quotes: true,
        ..Lexer::new('\\')
    };
    let expanding = copy.contents.iter().filter(|c| c.expand);
    texts.extend(expanding.map(|c| (c.body.as_str(), document)));
}
