//! docs/reference/options.md and clap's own list of options say the same.

use std::collections::BTreeSet;

use clap::{Command, CommandFactory as _};

const PAGE: &str = include_str!("../../../docs/reference/options.md");

/// Commands of the page.
const COMMANDS: [&str; 55] = [
    "run",
    "create",
    "exec",
    "start",
    "stop",
    "restart",
    "kill",
    "rm",
    "ps",
    "logs",
    "attach",
    "cp",
    "commit",
    "update",
    "wait",
    "top",
    "stats",
    "diff",
    "export",
    "port",
    "port add",
    "port rm",
    "rename",
    "pause",
    "unpause",
    "tag",
    "container prune",
    "volume create",
    "volume ls",
    "volume inspect",
    "volume rm",
    "volume prune",
    "images",
    "image ls",
    "image inspect",
    "image prune",
    "history",
    "rmi",
    "pull",
    "push",
    "save",
    "load",
    "import",
    "search",
    "network create",
    "network connect",
    "network disconnect",
    "network prune",
    "builder du",
    "builder prune",
    "builder history ls",
    "builder history logs",
    "builder history rm",
    "system df",
    "system prune",
];

/// `-a`, `--all`: as the page writes an option.
fn options(command: &Command) -> BTreeSet<String> {
    let named = command.get_arguments().filter(|a| !a.is_positional());
    named
        .filter(|a| a.get_id() != "help")
        .map(|a| match (a.get_short(), a.get_long()) {
            (Some(short), Some(long)) => format!("`-{short}`, `--{long}`"),
            (Some(short), None) => format!("`-{short}`"),
            (None, long) => format!("`--{}`", long.unwrap_or_default()),
        })
        .collect()
}

/// The options of a command's sections: those whose headings name it.
fn rows(command: &str) -> Vec<(String, String)> {
    let mut of_it = false;
    let mut rows = Vec::new();
    for line in PAGE.lines() {
        let row = line.strip_prefix("| `").and_then(|l| l.split_once(" | "));
        if let Some(heading) = line.strip_prefix("## ") {
            of_it = heading.split(", ").any(|name| name == command);
        } else if let Some((option, says)) = row.filter(|_| of_it) {
            rows.push((format!("`{option}"), says.trim_end_matches(" |").to_owned()));
        }
    }
    rows
}

#[test]
fn every_option_has_a_row_and_every_row_an_option() {
    let mut root = super::Line::command();
    root.build();
    let mut wrong = Vec::new();
    for name in COMMANDS {
        let command = name
            .split(' ')
            .fold(&root, |c, word| c.find_subcommand(word).unwrap());
        let rows = rows(name);
        for (option, says) in &rows {
            let known =
                says == "works" || says.starts_with("works: ") || says.starts_with("refused: ");
            if !known {
                wrong.push(format!(
                    "{name}: {option} neither works nor is refused: {says}"
                ));
            }
        }
        let told: BTreeSet<String> = rows.into_iter().map(|(option, _)| option).collect();
        let known = options(command);
        wrong.extend(
            known
                .difference(&told)
                .map(|o| format!("{name}: no row for {o}")),
        );
        wrong.extend(
            told.difference(&known)
                .map(|o| format!("{name}: no option {o}")),
        );
    }
    assert!(
        wrong.is_empty(),
        "docs/reference/options.md:\n{}",
        wrong.join("\n")
    );
}
