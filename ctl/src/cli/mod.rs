//! The command line: one file a command family.

pub mod build;
pub mod builder;
mod cache_usage;
pub mod commit;
pub mod container;
pub mod context;
pub mod copy;
mod disk;
pub mod events;
pub mod exec;
mod flags;
mod history;
pub mod image;
pub mod login;
pub mod logs;
pub mod network;
mod often;
mod pki;
mod prune;
#[cfg(test)]
mod reference;
mod refuse;
pub mod registry;
pub mod run;
pub mod system;
pub mod volume;

use clap::{CommandFactory as _, Parser, Subcommand};
use futures_util::{StreamExt as _, stream};

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
    /// Authenticate to a registry
    Login(login::Login),
    /// Log out from a registry
    Logout(login::Logout),
    /// Search the site's registry for images
    Search(image::Search),
    /// Manage builds
    #[command(subcommand, alias = "buildx")]
    Builder(builder::Command),
    /// Manage containers
    #[command(subcommand, name = "container")]
    Containers(container::Group),
    /// Manage images
    #[command(subcommand, name = "image")]
    Images(image::Group),
    /// Manage networks
    #[command(subcommand, alias = "net")]
    Network(network::Command),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volume::Command),
    /// Manage the store of images
    #[command(subcommand)]
    Registry(registry::Command),
    /// Manage Slipway
    #[command(subcommand, name = "system")]
    Systems(system::Group),
    /// Manage contexts
    #[command(subcommand)]
    Context(context::Command),
    /// Manage the authority that certificates of services and people are from
    Pki(pki::Group),
}

/// Parses the process's words and does what they say.
pub async fn main() -> Outcome {
    let line = match often::parse(&std::env::args_os().collect::<Vec<_>>()) {
        Some(line) => line,
        None => {
            let words = flags::plain(&Line::command(), std::env::args_os());
            match Line::try_parse_from(&words) {
                Ok(line) => line,
                Err(error) => return refuse::refuse(&error, Line::command(), &words),
            }
        }
    };
    if let Command::Context(command) = line.command {
        return command.run();
    }
    if let Command::Pki(group) = line.command {
        return group.run();
    }
    let (name, context) = chosen(line.context.as_deref())?;
    let site = Site { context };
    match line.command {
        Command::Builder(command) => command.run(&site).await,
        Command::Container(command) => command.run(&site).await,
        Command::Image(command) => command.run(&site).await,
        Command::System(command) => command.run(&site, &name).await,
        Command::Build(build) => build.run(&site).await,
        Command::Login(login) => login.run(&site).await,
        Command::Logout(logout) => logout.run().await,
        Command::Search(search) => search.run(&site).await,
        Command::Containers(group) => group.run(&site).await,
        Command::Images(group) => group.run(&site).await,
        Command::Network(command) => command.run(&site).await,
        Command::Volume(command) => command.run(&site).await,
        Command::Registry(command) => command.run(&site).await,
        Command::Systems(group) => group.run(&site, &name).await,
        Command::Context(command) => command.run(),
        Command::Pki(group) => group.run(),
    }
}

/// How many containers one command is about at the same time, as docker (parallelOperation in docker/cli).
const AT_ONCE: usize = 50;

/// Does something for each name, one after the other as docker: prints what each answers, goes on after an
/// error, exits 1.
pub async fn each<F>(names: &[String], work: impl Fn(String) -> F) -> Outcome
where
    F: Future<Output = Outcome<String>>,
{
    side_by_side(1, names, work).await
}

/// The same for many at once, where docker does that; told in the order of the names.
pub async fn each_at_once<F>(names: &[String], work: impl Fn(String) -> F) -> Outcome
where
    F: Future<Output = Outcome<String>>,
{
    side_by_side(AT_ONCE, names, work).await
}

async fn side_by_side<F>(most: usize, names: &[String], work: impl Fn(String) -> F) -> Outcome
where
    F: Future<Output = Outcome<String>>,
{
    let mut code = 0;
    let mut answers = std::pin::pin!(stream::iter(names.iter().cloned()).map(work).buffered(most));
    while let Some(answer) = answers.next().await {
        match answer {
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
    crate::output::print(&format!(
        "WARNING! {question}\nAre you sure you want to continue? [y/N] "
    ))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    // As docker: "yes" is no yes.
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> Option<Failure> {
        let words: Vec<std::ffi::OsString> = line.split(' ').map(Into::into).collect();
        let error = Line::try_parse_from(&words).err()?;
        refuse::refuse(&error, Line::command(), &words).err()
    }

    fn code(line: &str) -> u8 {
        refused(line).map_or(0, |f| f.code)
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
    fn what_is_wrong_is_said_as_docker_says_it() {
        for (line, says) in [
            ("ctl imagse", "Did you mean: ctl image"),
            (
                "ctl volume nosuch",
                "unknown command: ctl volume nosuch. See: ctl volume --help",
            ),
            ("ctl run", "'ctl run' requires at least 1 argument."),
            (
                "ctl -c x exec a",
                "'ctl exec' requires at least 2 arguments.",
            ),
            (
                "ctl container rename a",
                "'ctl container rename' requires 2 arguments.",
            ),
            (
                "ctl port",
                "'ctl port' requires at least 1 and at most 2 arguments.",
            ),
            ("ctl ps a", "'ctl ps' accepts no arguments."),
            (
                "ctl create --name a",
                "'ctl create' requires at least 1 argument.",
            ),
            ("ctl ps --nope", "unknown flag: --nope."),
            (
                "ctl ps --last x",
                "invalid argument \"x\" for \"--last\" flag:",
            ),
            ("ctl ps --filter", "flag needs an argument: --filter."),
        ] {
            let failure = refused(line).unwrap();
            assert!(failure.text.contains(says), "{line}: {}", failure.text);
        }
    }
}
