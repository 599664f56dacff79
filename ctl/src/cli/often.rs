//! The commands that scripts call all the time, read without the definitions of all others: making those
//! takes longer than the rest of such a command.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::{Command, Line, container, exec::Exec, flags, run::Run};

/// As [`Line`], with those commands alone.
#[derive(Debug, Parser)]
#[command(name = "ctl", version, disable_help_subcommand = true)]
struct Often {
    #[arg(short, long)]
    context: Option<String>,
    #[command(subcommand)]
    command: Few,
}

#[derive(Debug, Subcommand)]
enum Few {
    Run(Box<Run>),
    Exec(Exec),
}

/// Reads such a command. `None` = it is another one, or not right: then [`Line`] knows what to say.
pub fn parse(words: &[OsString]) -> Option<Line> {
    let first = words.get(1)?;
    if first != "run" && first != "exec" {
        return None;
    }
    let definition = Often::command();
    let words = flags::plain(&definition, words.iter().cloned());
    let matches = definition.try_get_matches_from(words).ok()?;
    let read = Often::from_arg_matches(&matches).ok()?;
    let command = match read.command {
        Few::Run(run) => container::Command::Run(run),
        Few::Exec(exec) => container::Command::Exec(exec),
    };
    Some(Line {
        context: read.context,
        command: Command::Container(command),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn they_are_read_as_by_the_whole_definition() {
        for line in [
            "ctl run --rm busybox true",
            "ctl run -it --rm=true --init=false --name a -p 80:80 -v /a:/b x sh -c exit",
            "ctl run --env A=b --memory 5m -d x",
            "ctl exec -it -e A=b --user 5 --privileged=true x sh -c a",
        ] {
            let all = flags::plain(&Line::command(), words(line));
            let whole = Line::try_parse_from(all).unwrap();
            let read = parse(&words(line)).unwrap();
            assert_eq!(format!("{read:?}"), format!("{whole:?}"), "{line}");
        }
    }

    #[test]
    fn what_is_not_right_or_another_command_is_left_to_it() {
        for line in [
            "ctl",
            "ctl run",
            "ctl run --nope x",
            "ctl run --help",
            "ctl ps",
            "ctl -c x exec a b",
        ] {
            assert!(parse(&words(line)).is_none(), "{line}");
        }
    }
}
