//! What the text of the file alone tells: casing, names of stages, comments.

use std::collections::BTreeSet;

use super::{Findings, rules};
use crate::{Around, Dockerfile, Instruction, Place, flags::Flags};

/// Looks at the whole file.
pub fn check(file: &Dockerfile, findings: &mut Findings) {
    for located in &file.arguments {
        around(&located.around, findings);
        described(
            &located.instruction,
            &located.around,
            located.place,
            findings,
        );
    }
    let mut names = BTreeSet::new();
    for stage in &file.stages {
        around(&stage.around, findings);
        from(&stage.text, stage.place, findings);
        if let Some(name) = &stage.from.name {
            description("FROM", &[name], &stage.around, stage.place, findings);
            if ["context", "scratch"].contains(&name.as_str()) {
                let message =
                    format!("Stage name should not use the same name as reserved stage {name:?}");
                findings.report(&rules::RESERVED_STAGE_NAME, stage.place, message);
            }
            if !names.insert(name) {
                let message =
                    format!("Duplicate stage name {name:?}, stage names should be unique");
                findings.report(&rules::DUPLICATE_STAGE_NAME, stage.place, message);
            }
        }
        for located in &stage.instructions {
            around(&located.around, findings);
            described(
                &located.instruction,
                &located.around,
                located.place,
                findings,
            );
            if matches!(located.instruction, Instruction::Maintainer(_)) {
                let message = "Maintainer instruction is deprecated in favor of using label";
                findings.report(
                    &rules::MAINTAINER_DEPRECATED,
                    located.place,
                    message.to_owned(),
                );
            }
        }
    }
    casing(file, findings);
}

fn around(around: &Around, findings: &mut Findings) {
    if let Some(line) = around.empty_continuation {
        let place = Place {
            first: line,
            last: line,
        };
        let message = "Empty continuation line".to_owned();
        findings.report(&rules::NO_EMPTY_CONTINUATION, place, message);
    }
}

fn described(instruction: &Instruction, around: &Around, place: Place, findings: &mut Findings) {
    if let Instruction::Arg(arguments) = instruction {
        let keys: Vec<&str> = arguments.iter().map(|(name, _)| name.as_str()).collect();
        description("ARG", &keys, around, place, findings);
    }
}

/// The comment right above tells what the name is, or nothing.
fn description(
    instruction: &str,
    keys: &[&str],
    around: &Around,
    place: Place,
    findings: &mut Findings,
) {
    let (Some(comment), [first, ..]) = (around.comments.last(), keys) else {
        return;
    };
    let word = comment.split(' ').next().unwrap_or_default();
    // A comment without words keeps its distance.
    if comment.is_empty() || keys.contains(&word) {
        return;
    }
    let example = if keys.len() > 1 { "<arg_key>" } else { first };
    let message =
        format!("Comment for {instruction} should follow the format: `# {example} <description>`");
    findings.report(&rules::INVALID_DEFINITION_DESCRIPTION, place, message);
}

fn is_lower(text: &str) -> bool {
    text == text.to_lowercase()
}

fn is_upper(text: &str) -> bool {
    text == text.to_uppercase()
}

fn keyword(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

fn from(text: &str, place: Place, findings: &mut Findings) {
    let own = keyword(text);
    let (_, rest) = Flags::take(&text[own.len()..]);
    let words: Vec<&str> = rest.split_whitespace().collect();
    let [_, r#as, name] = words[..] else { return };
    if !is_lower(name) {
        let message = format!("Stage name '{name}' should be lowercase");
        findings.report(&rules::STAGE_NAME_CASING, place, message);
    }
    let matches = match (is_lower(own), is_upper(own)) {
        (true, _) => is_lower(r#as),
        (_, true) => is_upper(r#as),
        // Its own casing is another rule's.
        _ => true,
    };
    if !matches {
        let message = format!("'{as}' and '{own}' keywords' casing do not match");
        findings.report(&rules::FROM_AS_CASING, place, message);
    }
}

/// All keywords as most of them are.
fn casing(file: &Dockerfile, findings: &mut Findings) {
    let all = || {
        file.stages.iter().flat_map(|stage| {
            let own = stage
                .instructions
                .iter()
                .map(|l| (keyword(&l.text), l.place));
            std::iter::once((keyword(&stage.text), stage.place)).chain(own)
        })
    };
    let lower = all().filter(|(word, _)| is_lower(word)).count();
    let upper = all().filter(|(word, _)| is_upper(word)).count();
    let most_are_lower = lower > upper;
    for (word, place) in all() {
        let (fits, wanted) = match most_are_lower {
            true => (is_lower(word), "lowercase"),
            false => (is_upper(word), "uppercase"),
        };
        if !fits {
            let message = format!(
                "Command '{word}' should match the case of the command majority ({wanted})"
            );
            findings.report(&rules::CONSISTENT_INSTRUCTION_CASING, place, message);
        }
    }
}
