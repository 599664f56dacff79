//! What the parser did not like, in docker's words and with docker's exit codes, on one line.

use std::ffi::OsString;

use clap::{
    ArgAction, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::failure::{Failure, Outcome};

/// Answers for a line that could not be parsed: help, or an error. `words` are the line's, the program's
/// name first.
pub fn refuse(error: &clap::Error, mut root: Command, words: &[OsString]) -> Outcome {
    root.build();
    let (path, command) = meant(&root, words);
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        // clap sorts its guesses, the best last.
        Some(ContextValue::Strings(texts)) => texts.last().cloned(),
        _ => None,
    };
    let see = format!("See: {path} --help");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            crate::output::print(&error.render().to_string())?;
            Ok(0)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            eprint!("{}", error.render());
            Err(Failure::silent(1))
        }
        ErrorKind::InvalidSubcommand => {
            let word = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let hint = text(ContextKind::SuggestedSubcommand)
                .map_or(see, |s| format!("Did you mean: {path} {s}?"));
            Err(Failure::new(format!(
                "unknown command: {path} {word}. {hint}"
            )))
        }
        ErrorKind::UnknownArgument => {
            let flag = text(ContextKind::InvalidArg).unwrap_or_default();
            let kind = match flag.strip_prefix("--") {
                _ if !flag.starts_with('-') => return Err(miscounted(&path, command)),
                Some(_) => format!("unknown flag: {flag}"),
                None => {
                    let letter = flag.trim_start_matches('-');
                    format!("unknown shorthand flag: '{letter}' in {flag}")
                }
            };
            Err(Failure::new(format!("{kind}. {see}")).exits(125))
        }
        ErrorKind::MissingRequiredArgument
        | ErrorKind::TooFewValues
        | ErrorKind::WrongNumberOfValues
        | ErrorKind::TooManyValues => Err(miscounted(&path, command)),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let flag = text(ContextKind::InvalidArg).unwrap_or_default();
            let flag = flag.split([' ', '=']).next().unwrap_or_default();
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            let why = std::error::Error::source(error).map(ToString::to_string);
            let sentence = match why {
                None if value.is_empty() => format!("flag needs an argument: {flag}"),
                None => format!("invalid argument {value:?} for \"{flag}\" flag"),
                Some(why) => format!("invalid argument {value:?} for \"{flag}\" flag: {why}"),
            };
            Err(Failure::new(format!("{sentence}. {see}")).exits(125))
        }
        _ => {
            let text = error.render().to_string();
            let lines: Vec<_> = text
                .lines()
                .map(str::trim)
                .take_while(|l| !l.is_empty() && !l.starts_with("Usage:"))
                .collect();
            let text = lines.join(" ");
            Err(Failure::new(text.trim_start_matches("error: ")).exits(125))
        }
    }
}

/// The command that the words lead to, and its name with those above it.
fn meant<'a>(root: &'a Command, words: &[OsString]) -> (String, &'a Command) {
    let (mut path, mut command) = (root.get_name().to_owned(), root);
    for word in words.iter().skip(1) {
        let Some(below) = word.to_str().and_then(|w| command.find_subcommand(w)) else {
            // Options of the program itself stand before the first command.
            if std::ptr::eq(command, root) {
                continue;
            }
            break;
        };
        path = format!("{path} {}", below.get_name());
        command = below;
    }
    (path, command)
}

/// docker's sentence on how many arguments there must be (cli/required.go).
fn miscounted(path: &str, command: &Command) -> Failure {
    let (mut least, mut most) = (0, Some(0));
    for positional in command.get_positionals() {
        let range = positional.get_num_args().unwrap_or_else(|| 1.into());
        let many = range.max_values() > 1 || matches!(positional.get_action(), ArgAction::Append);
        if positional.is_required_set() {
            least += range.min_values().max(1);
        }
        most = most.filter(|_| !many).map(|n| n + 1);
    }
    let count = |n: usize| match n {
        1 => "1 argument".to_owned(),
        n => format!("{n} arguments"),
    };
    let needs = match most {
        Some(0) => "accepts no arguments".to_owned(),
        None => format!("requires at least {}", count(least)),
        Some(most) if most == least => format!("requires {}", count(most)),
        Some(most) if least == 0 => format!("requires at most {}", count(most)),
        Some(most) => format!("requires at least {least} and at most {}", count(most)),
    };
    Failure::new(format!("'{path}' {needs}. See: {path} --help"))
}
