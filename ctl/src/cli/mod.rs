//! The command line: one file a command family.

pub mod build;
pub mod builder;
pub mod container;
pub mod context;
pub mod copy;
pub mod exec;
mod flags;
pub mod image;
pub mod logs;
pub mod network;
pub mod run;
pub mod system;
pub mod volume;

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use crate::{
    client::Site,
    context::chosen,
    failure::{Failure, Outcome},
};

/// Images and containers, as docker's command line has them
#[derive(Debug, Parser)]
#[command(
    name = "ctl",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
struct Line {
    /// Name of the context to use
    #[arg(short, long)]
    context: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Container(container::Command),
    #[command(flatten)]
    Image(image::Command),
    #[command(flatten)]
    System(system::Command),
    /// Build an image from a Dockerfile
    Build(Box<build::Build>),
    /// Manage builds
    #[command(subcommand)]
    Builder(builder::Command),
    /// Manage containers
    #[command(subcommand, name = "container")]
    Containers(container::Group),
    /// Manage images
    #[command(subcommand, name = "image")]
    Images(image::Group),
    /// Manage networks
    #[command(subcommand)]
    Network(network::Command),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volume::Command),
    /// Manage Slipway
    #[command(subcommand, name = "system")]
    Systems(system::Group),
    /// Manage contexts
    #[command(subcommand)]
    Context(context::Command),
}

/// Parses the process's words and does what they say.
pub async fn main() -> Outcome {
    let words = flags::plain(&Line::command(), std::env::args_os());
    let line = match Line::try_parse_from(words) {
        Ok(line) => line,
        Err(error) => return refuse(&error),
    };
    if let Command::Context(command) = line.command {
        return command.run();
    }
    let (name, context) = chosen(line.context.as_deref())?;
    let site = Site { context };
    match line.command {
        Command::Builder(command) => command.run(&site).await,
        Command::Container(command) => command.run(&site).await,
        Command::Image(command) => command.run(&site).await,
        Command::System(command) => command.run(&site, &name).await,
        Command::Build(build) => build.run(&site).await,
        Command::Containers(group) => group.run(&site).await,
        Command::Images(group) => group.run(&site).await,
        Command::Network(command) => command.run(&site).await,
        Command::Volume(command) => command.run(&site).await,
        Command::Systems(group) => group.run(&site, &name).await,
        Command::Context(command) => command.run(),
    }
}

/// docker's words for what the parser did not like, on one line.
fn refuse(error: &clap::Error) -> Outcome {
    use clap::error::{ContextKind, ContextValue};
    let get = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        // clap sorts its guesses, the best last.
        Some(ContextValue::Strings(texts)) => texts.last().cloned(),
        _ => None,
    };
    let hint = get(ContextKind::SuggestedSubcommand).map(|s| format!(" Did you mean: ctl {s}?"));
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
            let word = get(ContextKind::InvalidSubcommand).unwrap_or_default();
            let hint = hint.unwrap_or_else(|| " See: ctl --help".to_owned());
            Err(Failure::new(format!(
                "'{word}' is not a ctl command.{hint}"
            )))
        }
        ErrorKind::UnknownArgument => {
            let flag = get(ContextKind::InvalidArg).unwrap_or_default();
            if !flag.starts_with('-') {
                return Err(Failure::new(format!(
                    "unexpected argument '{flag}'. See the command's --help"
                )));
            }
            let (kind, shown) = match flag.strip_prefix("--") {
                Some(_) => ("unknown flag", flag.clone()),
                None => (
                    "unknown shorthand flag",
                    format!("'{}' in {flag}", flag.trim_start_matches('-')),
                ),
            };
            Err(Failure::new(format!("{kind}: {shown}. See the command's --help")).exits(125))
        }
        _ => {
            let text = error.render().to_string();
            let lines: Vec<_> = text
                .lines()
                .map(str::trim)
                .take_while(|l| !l.is_empty() && !l.starts_with("Usage:"))
                .collect();
            let text = lines.join(" ");
            Err(
                Failure::new(text.trim_start_matches("error: ")).exits(match error.kind() {
                    ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues => 1,
                    _ => 125,
                }),
            )
        }
    }
}

/// Does something for each name, as docker: prints what each answers, goes on after an error, exits 1.
pub async fn each<F>(names: &[String], work: impl Fn(String) -> F) -> Outcome
where
    F: Future<Output = Outcome<String>>,
{
    let mut code = 0;
    for name in names {
        match work(name.clone()).await {
            Ok(text) if text.is_empty() => {}
            Ok(text) => crate::output::print(&format!("{text}\n"))?,
            Err(failure) => {
                eprintln!("Error: {}", failure.text);
                code = 1;
            }
        }
    }
    if code == 0 {
        Ok(0)
    } else {
        Err(Failure::silent(code))
    }
}

/// Asks before something is thrown away.
pub fn confirm(question: &str, force: bool) -> Outcome<bool> {
    if force {
        return Ok(true);
    }
    eprint!("WARNING! {question}\nAre you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> u8 {
        match Line::try_parse_from(line.split(' ')) {
            Ok(_) => 0,
            Err(e) => refuse(&e).unwrap_or_else(|f| f.code),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Line::command().debug_assert();
    }

    #[test]
    fn both_forms_parse_and_errors_have_dockers_codes() {
        for line in [
            "ctl ps -aq",
            "ctl container ls -a",
            "ctl container ps",
            "ctl images -q",
            "ctl image ls goals",
            "ctl run -it --rm x sh -c y",
            "ctl container run -d x",
            "ctl rm -f a b",
            "ctl image rm a",
            "ctl rmi a",
            "ctl logs -f --tail 5 x",
            "ctl logs -n 5 x",
            "ctl exec -it x sh -c a",
            "ctl inspect -f {{.Name}} x",
            "ctl build -t a .",
            "ctl build -f - .",
            "ctl image build .",
            "ctl network ls",
            "ctl volume create v",
            "ctl stop -t -1 a",
            "ctl system df",
            "ctl context ls",
            "ctl -c x ps",
            "ctl top x -ef",
            "ctl container inspect x",
            "ctl image inspect x",
        ] {
            assert_eq!(code(line), 0, "{line}");
        }
        for (line, expected) in [
            ("ctl run --nope x", 125),
            ("ctl ps --nope", 125),
            ("ctl rnu", 1),
            ("ctl rm", 1),
            ("ctl run", 1),
        ] {
            assert_eq!(code(line), expected, "{line}");
        }
    }

    #[test]
    fn a_mistyped_command_is_guessed() {
        let error = Line::try_parse_from(["ctl", "imagse"]).unwrap_err();
        assert!(
            refuse(&error)
                .unwrap_err()
                .text
                .contains("Did you mean: ctl image")
        );
    }
}
