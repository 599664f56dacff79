//! A logical line to a typed instruction.

use super::{
    copy::copy,
    expand::words,
    flags::Flags,
    instruction::{Command, From, Healthcheck, Instruction, Run},
    lex::Heredoc,
};

/// All keywords, for the error about one that is none.
const KEYWORDS: [&str; 18] = [
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
/// Parses one logical line. Errors are sentences without a position.
pub fn parse(text: &str, heredocs: &[Heredoc], escape: char) -> Result<Instruction, String> {
    let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let name = keyword.to_ascii_uppercase();
    if !KEYWORDS.contains(&name.as_str()) {
        return Err(unknown(keyword, &name));
    }
    let (mut flags, rest) = Flags::take(rest.trim(), escape)?;
    if rest.is_empty() {
        return Err(match name.as_str() {
            "FROM" => "FROM requires either one or three arguments".to_owned(),
            "COPY" | "ADD" => {
                format!("{name} requires at least two arguments, but only 0 were provided")
            }
            "RUN" | "CMD" | "ENTRYPOINT" | "SHELL" | "VOLUME" | "ENV" | "LABEL" | "ARG"
            | "EXPOSE" => {
                format!("{name} requires at least one argument")
            }
            _ => format!("{name} requires exactly one argument"),
        });
    }
    let parsed = match name.as_str() {
        "FROM" => from(&mut flags, rest)?,
        "ARG" => Instruction::Arg(arguments(rest, escape)?),
        "ENV" => Instruction::Env(pairs("ENV", rest, escape)?),
        "LABEL" => Instruction::Label(pairs("LABEL", rest, escape)?),
        "WORKDIR" => Instruction::Workdir(rest.to_owned()),
        "RUN" => run(&mut flags, rest, heredocs)?,
        "COPY" | "ADD" => {
            let json = json(rest);
            Instruction::Copy(copy(
                name == "ADD",
                &mut flags,
                rest,
                json,
                escape,
                heredocs,
            )?)
        }
        "EXPOSE" => Instruction::Expose(rest.split_whitespace().map(str::to_owned).collect()),
        "CMD" => Instruction::Cmd(command(rest)),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)),
        "USER" => Instruction::User(rest.to_owned()),
        "VOLUME" => volume(rest)?,
        "SHELL" => match json(rest) {
            Some(words) if !words.is_empty() => Instruction::Shell(words),
            _ => {
                return Err(format!(
                    "SHELL requires the arguments to be in JSON form, as [\"/bin/sh\", \"-c\"], not {rest:?}"
                ));
            }
        },
        "STOPSIGNAL" => Instruction::StopSignal(rest.to_owned()),
        "HEALTHCHECK" => healthcheck(&mut flags, rest)?,
        "ONBUILD" => on_build(rest)?,
        _ => Instruction::Maintainer(rest.to_owned()),
    };
    flags.nothing_left(&name)?;
    Ok(parsed)
}
fn unknown(keyword: &str, name: &str) -> String {
    let near = KEYWORDS
        .iter()
        .map(|k| (distance(k, name), k))
        .min()
        .filter(|(d, _)| *d <= 2)
        .map_or_else(
            || {
                format!(
                    "an instruction was expected: one of {}",
                    KEYWORDS.join(", ")
                )
            },
            |(_, k)| format!("did you mean {k}?"),
        );
    format!("unknown instruction: {keyword} ({near})")
}

/// Levenshtein's distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(32).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let kept = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = kept.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}
/// A JSON array of strings, or nothing.
fn json(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

fn command(text: &str) -> Command {
    json(text).map_or_else(|| Command::Shell(text.to_owned()), Command::Exec)
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

fn arguments(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>, String> {
    words(rest, escape)
        .into_iter()
        .map(|word| {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            if is_variable(&name) {
                Ok((name, value))
            } else {
                Err(format!(
                    "ARG names can not be blank or hold other than letters, digits and _: {name:?}"
                ))
            }
        })
        .collect()
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
        && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric())
}

/// `KEY=VALUE ...`, or the old form with one key and a value that may hold blanks.
fn pairs(name: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>, String> {
    let all = words(rest, escape);
    let first = all.first().map_or("", String::as_str);
    if !first.contains('=') {
        let Some((key, value)) = rest.split_once(char::is_whitespace) else {
            return Err(format!(
                "{name} must have two arguments: write {name} {rest}=value"
            ));
        };
        return Ok(vec![(key.to_owned(), value.trim_start().to_owned())]);
    }
    all.into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(format!("{name} names can not be blank")),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            )),
        })
        .collect()
}

fn run(flags: &mut Flags, rest: &str, heredocs: &[Heredoc]) -> Result<Instruction, String> {
    flags.refuse("RUN", &["mount", "device"])?;
    let network = flags.value("network")?;
    if let Some(other) = network
        .as_deref()
        .filter(|n| !["default", "none", "host"].contains(n))
    {
        return Err(format!(
            "invalid network mode {other:?}: default, none or host"
        ));
    }
    match flags.value("security")?.as_deref() {
        None | Some("sandbox") => {}
        Some("insecure") => return Err("RUN --security=insecure is not supported yet".to_owned()),
        Some(other) => {
            return Err(format!(
                "security {other:?} is not valid: sandbox or insecure"
            ));
        }
    }
    let command = match heredocs {
        [] => command(rest),
        // Nothing but a here-document: it is the script.
        [only]
            if rest
                .trim_start_matches("<<")
                .trim_start_matches('-')
                .trim_matches(['"', '\''])
                == only.name =>
        {
            if only.body.starts_with("#!") {
                return Err("a here-document with an interpreter line is not supported yet: copy the script and RUN it".to_owned());
            }
            Command::Shell(only.body.clone())
        }
        several => {
            let mut text = format!("{rest}\n");
            for heredoc in several {
                text.push_str(&format!("{}{}\n", heredoc.body, heredoc.name));
            }
            Command::Shell(text)
        }
    };
    Ok(Instruction::Run(Run { command, network }))
}

fn volume(rest: &str) -> Result<Instruction, String> {
    let paths = json(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
    if paths.iter().any(|p| p.trim().is_empty()) {
        return Err("VOLUME specified can not be an empty string".to_owned());
    }
    Ok(Instruction::Volume(paths))
}

fn healthcheck(flags: &mut Flags, rest: &str) -> Result<Instruction, String> {
    let (kind, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if kind.eq_ignore_ascii_case("none") {
        return match argument.trim() {
            "" => Ok(Instruction::Healthcheck(Healthcheck::default())),
            _ => Err("HEALTHCHECK NONE takes no arguments".to_owned()),
        };
    }
    if !kind.eq_ignore_ascii_case("cmd") {
        return Err(format!("unknown type {kind:?} of HEALTHCHECK (try CMD)"));
    }
    if argument.trim().is_empty() {
        return Err("missing command after HEALTHCHECK CMD".to_owned());
    }
    let mut time = |name: &str| -> Result<u64, String> {
        match flags.value(name)? {
            None => Ok(0),
            Some(text) => duration(&text).ok_or_else(|| {
                format!("invalid duration {text:?} of --{name}: write 30s or 1m30s")
            }),
        }
    };
    Ok(Instruction::Healthcheck(Healthcheck {
        command: Some(command(argument.trim())),
        interval: time("interval")?,
        timeout: time("timeout")?,
        start_period: time("start-period")?,
        start_interval: time("start-interval")?,
        retries: match flags.value("retries")? {
            None => 0,
            Some(text) => text
                .parse()
                .map_err(|_| format!("invalid --retries {text:?}"))?,
        },
    }))
}

/// Go's durations: `1m30s`, `500ms`. Nanoseconds.
fn duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let factor = match &rest[..unit] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * factor;
        rest = &rest[unit..];
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to fit"
    )]
    (!text.is_empty() && total <= 1e18).then_some(total as u64)
}

fn on_build(rest: &str) -> Result<Instruction, String> {
    let keyword = rest
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    match keyword.as_str() {
        "ONBUILD" => Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned()),
        "MAINTAINER" | "FROM" => Err(format!("{keyword} isn't allowed as an ONBUILD trigger")),
        _ if !KEYWORDS.contains(&keyword.as_str()) => Err(unknown(&keyword, &keyword)),
        _ => Ok(Instruction::OnBuild(rest.to_owned())),
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn on(text: &str) -> Result<Instruction, String> {
        parse(text, &[], '\\')
    }

    #[test]
    fn both_forms_of_commands() {
        assert_eq!(
            on("cmd [\"a\", \"b\"]"),
            Ok(Instruction::Cmd(Command::Exec(vec![
                "a".into(),
                "b".into()
            ])))
        );
        assert_eq!(
            on("CMD [a, b]"),
            Ok(Instruction::Cmd(Command::Shell("[a, b]".into())))
        );
        let Ok(Instruction::Run(run)) = on("RUN --network=none echo --x") else {
            panic!("a RUN was expected");
        };
        assert_eq!(
            (run.command, run.network),
            (Command::Shell("echo --x".into()), Some("none".into()))
        );
    }

    #[test]
    fn copies() {
        let Ok(Instruction::Copy(copy)) = on("COPY --from=build --chown=1:2 --link a \"b c\" /d/")
        else {
            panic!("a COPY was expected");
        };
        assert_eq!(copy.sources, ["a", "\"b c\""]);
        assert_eq!(
            (copy.from.as_deref(), copy.chown.as_deref(), copy.link),
            (Some("build"), Some("1:2"), true)
        );
        let Ok(Instruction::Copy(copy)) = on("ADD [\"a b\", \"/c\"]") else {
            panic!("an ADD was expected");
        };
        assert!(copy.add);
        assert_eq!(copy.sources, ["a b"]);
    }

    #[test]
    fn pairs_in_both_forms() {
        assert_eq!(
            on("ENV A=1 B=\"two words\""),
            Ok(Instruction::Env(vec![
                ("A".into(), "1".into()),
                ("B".into(), "\"two words\"".into())
            ]))
        );
        assert_eq!(
            on("ENV A b c"),
            Ok(Instruction::Env(vec![("A".into(), "b c".into())]))
        );
        assert_eq!(
            on("ARG X Y=2"),
            Ok(Instruction::Arg(vec![
                ("X".into(), None),
                ("Y".into(), Some("2".into()))
            ]))
        );
    }

    #[test]
    fn health_checks() {
        let Ok(Instruction::Healthcheck(check)) =
            on("HEALTHCHECK --interval=1m30s --retries=3 CMD curl x")
        else {
            panic!("a HEALTHCHECK was expected");
        };
        assert_eq!((check.interval, check.retries), (90_000_000_000, 3));
        assert_eq!(check.command, Some(Command::Shell("curl x".into())));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("FORM a", "did you mean FROM?"),
            ("GREETINGS", "one of ADD, ARG"),
            ("FROM a b", "one or three arguments"),
            ("FROM a AS 1", "invalid name for build stage"),
            ("COPY a", "at least two arguments"),
            ("COPY --frm=x a b", "unknown flag"),
            ("COPY --from a b", "missing a value"),
            ("RUN --mount=type=cache,target=/x y", "not supported yet"),
            ("ENV A", "two arguments"),
            ("ENV A=1 B", "can't find ="),
            ("SHELL sh", "JSON form"),
            ("ONBUILD FROM x", "isn't allowed"),
            ("CMD", "at least one argument"),
            ("HEALTHCHECK FOO", "unknown type"),
            ("HEALTHCHECK --interval=x CMD y", "invalid duration"),
        ] {
            let error = on(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_parsed_or_refused(keyword in "(FROM|RUN|COPY|ENV|ARG|HEALTHCHECK|VOLUME)", rest in "[ -~]{0,60}") {
            let _ = on(&format!("{keyword} {rest}"));
        }
    }
}
