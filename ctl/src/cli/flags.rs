//! Switches with a value, as Go's flags have them: `--init=false`, `--rm=true`, `-d=false`.
//!
//! clap's switches take none. Before it reads the words, those that say true become bare switches and
//! those that say false go; what belongs to a container's own command is left alone.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command};

/// Rewrites the words of a command line.
pub fn plain(root: &Command, words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words = words.into_iter();
    let mut out: Vec<OsString> = words.next().into_iter().collect();
    let mut command = root;
    while let Some(word) = words.next() {
        let Some(text) = word.to_str() else {
            out.push(word);
            continue;
        };
        if text == "--" {
            out.push(word);
            break;
        }
        match Word::of(command, text) {
            Word::Switch(Some(true), name) => out.push(OsString::from(name)),
            Word::Switch(Some(false), _) => {}
            // Not a truth value: clap says what is wrong.
            Word::Switch(None, _) | Word::Whole => out.push(word),
            Word::WantsValue => {
                out.push(word);
                out.extend(words.next());
            }
            Word::Other => {
                let below = command.find_subcommand(OsStr::new(text));
                let ends = command.get_arguments().any(Arg::is_trailing_var_arg_set);
                out.push(word);
                match below {
                    Some(below) => command = below,
                    None if ends => break,
                    None => {}
                }
            }
        }
    }
    out.extend(words);
    out
}

/// What a word of a command line is.
enum Word {
    /// A switch with a truth value, and the switch alone.
    Switch(Option<bool>, String),
    /// An option that is complete.
    Whole,
    /// An option whose value is the next word.
    WantsValue,
    /// No option.
    Other,
}

impl Word {
    fn of(command: &Command, text: &str) -> Self {
        if let Some(rest) = text.strip_prefix("--") {
            let (name, value) = rest
                .split_once('=')
                .map_or((rest, None), |(n, v)| (n, Some(v)));
            let named = |arg: &&Arg| {
                arg.get_long() == Some(name)
                    || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
            };
            return match (command.get_arguments().find(named), value) {
                (Some(arg), Some(value)) if is_switch(arg) => {
                    Self::Switch(truth(value), format!("--{name}"))
                }
                (Some(arg), None) if wants_value(arg) => Self::WantsValue,
                _ => Self::Whole,
            };
        }
        let Some(letters) = text.strip_prefix('-').filter(|l| !l.is_empty()) else {
            return Self::Other;
        };
        let short = |letter: char| {
            command
                .get_arguments()
                .find(|a| a.get_short() == Some(letter))
        };
        for (at, letter) in letters.char_indices() {
            let rest = &letters[at + letter.len_utf8()..];
            match (short(letter), rest.strip_prefix('=')) {
                (Some(arg), Some(value)) if is_switch(arg) => {
                    let bare = &letters[..at + letter.len_utf8()];
                    return match (truth(value), bare.len() > letter.len_utf8()) {
                        // Switches before this one stay.
                        (Some(false), true) => {
                            Self::Switch(Some(true), format!("-{}", &letters[..at]))
                        }
                        (value, _) => Self::Switch(value, format!("-{bare}")),
                    };
                }
                (Some(arg), _) if wants_value(arg) && rest.is_empty() => return Self::WantsValue,
                (Some(arg), _) if is_switch(arg) => {}
                _ => return Self::Whole,
            }
        }
        Self::Whole
    }
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// An option with a value of its own word; those with an optional one have it behind `=`.
fn wants_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && !arg.is_require_equals_set()
}

/// Go's strconv.ParseBool.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn plain(line: &str) -> String {
        let words = line.split(' ').map(OsString::from);
        let root = super::super::Line::command();
        let words = super::plain(&root, words);
        let words: Vec<_> = words
            .iter()
            .map(|w| w.to_string_lossy().into_owned())
            .collect();
        words.join(" ")
    }

    #[test]
    fn switches_with_values_become_bare_or_go() {
        for (line, expected) in [
            ("ctl run --init=false --rm=true x", "ctl run --rm x"),
            ("ctl run -d=false -it=1 x", "ctl run -it x"),
            ("ctl run -it=false x", "ctl run -i x"),
            ("ctl run --sig-proxy=false x", "ctl run --sig-proxy=false x"),
            (
                "ctl run -e A --rm=f x cmd --rm=false",
                "ctl run -e A x cmd --rm=false",
            ),
            ("ctl run -eA=true x", "ctl run -eA=true x"),
            (
                "ctl run -ie A=true --init=no x",
                "ctl run -ie A=true --init=no x",
            ),
            (
                "ctl exec box sh -c --tty=false",
                "ctl exec box sh -c --tty=false",
            ),
            ("ctl container ls --all=true", "ctl container ls --all"),
            ("ctl ps --all=false -- --x=true", "ctl ps -- --x=true"),
            ("ctl rm a --force=true", "ctl rm a --force"),
        ] {
            assert_eq!(plain(line), expected, "{line}");
        }
    }
}
