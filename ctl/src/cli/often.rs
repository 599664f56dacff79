//! The commands that scripts call all the time, read without the definitions of all others: making those
//! takes longer than the rest of such a command.

use std::ffi::OsString;

use clap::Args;

use super::{Command, Line, container, flags, image};

/// Reads such a command. `None` = it is another one, or not right: then [`Line`] knows what to say.
pub fn parse(words: &[OsString]) -> Option<Line> {
    let words = words.get(1..)?;
    let command = match words.first()?.to_str()? {
        "build" => Command::Build(Box::new(read(words)?)),
        "images" => Command::Image(image::Command::Images(read(words)?)),
        name => Command::Container(match name {
            "run" => container::Command::Run(Box::new(read(words)?)),
            "exec" => container::Command::Exec(read(words)?),
            "ps" => container::Command::Ps(read(words)?),
            "logs" => container::Command::Logs(read(words)?),
            "start" => container::Command::Start(read(words)?),
            "stop" => container::Command::Stop(read(words)?),
            _ => return None,
        }),
    };
    Some(Line {
        context: None,
        command,
    })
}

/// By the definition of this command alone; its name stands where the program's does.
fn read<T: Args>(words: &[OsString]) -> Option<T> {
    let definition = T::augment_args(clap::Command::new("ctl"));
    let words = flags::plain(&definition, words.iter().cloned());
    let matches = definition.try_get_matches_from(words).ok()?;
    T::from_arg_matches(&matches).ok()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

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
            "ctl exec x sh -c a --privileged=false -e",
            "ctl ps -aq --no-trunc=false --filter name=x",
            "ctl build -t a --build-arg B=c --no-cache=true -q .",
            "ctl images -q --filter dangling=true x",
            "ctl logs -f=true --tail 5 x",
            "ctl start -ai x",
            "ctl stop -t 3 x y",
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
            "ctl ps --nope",
            "ctl exec --version",
            "ctl exec x",
            "ctl rmi x",
            "ctl -c x exec a b",
        ] {
            assert!(parse(&words(line)).is_none(), "{line}");
        }
    }
}
