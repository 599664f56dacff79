//! FROM: the variables of its image and platform.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, rules};
use crate::{Dockerfile, Instruction, expand::Lexer, suggest::suggestion};

/// What the values around a FROM are.
pub struct Globals<'a> {
    /// The predefined arguments, as `TARGETPLATFORM`.
    pub predefined: &'a BTreeMap<String, String>,
    /// All values that FROM sees.
    pub values: &'a BTreeMap<String, String>,
    /// Whether a text may name an image.
    pub is_image: &'a dyn Fn(&str) -> bool,
    /// Operating system and architecture of a platform.
    pub platform: &'a dyn Fn(&str) -> Option<(String, String)>,
}

/// Looks at every FROM.
pub fn check(file: &Dockerfile, globals: &Globals<'_>, findings: &mut Findings) {
    let declared: BTreeSet<&str> = file
        .arguments
        .iter()
        .filter_map(|located| match &located.instruction {
            Instruction::Arg(arguments) => Some(arguments.iter().map(|(name, _)| name.as_str())),
            _ => None,
        })
        .flatten()
        .chain(globals.values.keys().map(String::as_str))
        .collect();
    let options: Vec<&str> = declared.iter().copied().collect();
    let lexer = Lexer::new(file.escape);
    let lookup = |name: &str| globals.values.get(name).cloned();
    let defaults = defaults(file, globals.predefined);
    for stage in &file.stages {
        let undefined = |names: &BTreeSet<String>, findings: &mut Findings| {
            for name in names.iter().filter(|n| !declared.contains(n.as_str())) {
                let near = suggestion(name, &options)
                    .map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
                let message = format!("FROM argument '{name}' is not declared{near}");
                findings.report(&rules::UNDEFINED_ARG_IN_FROM, stage.place, message);
            }
        };
        if let Ok(base) = lexer.expand(&stage.from.base, &lookup) {
            undefined(&base.unmatched, findings);
        }
        if let Some(defaults) = &defaults
            && let Ok(base) = lexer.expand(&stage.from.base, &|n| defaults.get(n).cloned())
            && !(globals.is_image)(&base.text)
        {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.from.base
            );
            findings.report(&rules::INVALID_DEFAULT_ARG_IN_FROM, stage.place, message);
        }
        let Some(written) = &stage.from.platform else {
            continue;
        };
        let Ok(platform) = lexer.expand(written, &lookup) else {
            continue;
        };
        undefined(&platform.unmatched, findings);
        let target = "TARGETPLATFORM";
        if platform.unmatched.is_empty()
            && platform.matched.len() == 1
            && platform.matched.contains(target)
            && globals.values.get(target) == Some(&platform.text)
        {
            let message = format!(
                "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
            );
            findings.report(&rules::REDUNDANT_TARGET_PLATFORM, stage.place, message);
        }
        let name = stage.from.name.as_deref().unwrap_or_default();
        if platform.matched.is_empty()
            && platform.unmatched.is_empty()
            && let Some((os, architecture)) = (globals.platform)(&platform.text)
            && !name.contains(&os)
            && !name.contains(&architecture)
        {
            let message = format!(
                "FROM --platform flag should not use constant value {:?}",
                platform.text
            );
            findings.report(
                &rules::FROM_PLATFORM_FLAG_CONST_DISALLOWED,
                stage.place,
                message,
            );
        }
    }
}

/// What the global arguments are when the caller gives none; nothing if that fails.
fn defaults(
    file: &Dockerfile,
    predefined: &BTreeMap<String, String>,
) -> Option<BTreeMap<String, String>> {
    let mut values = predefined.clone();
    for located in &file.arguments {
        let Instruction::Arg(arguments) = &located.instruction else {
            continue;
        };
        for (name, default) in arguments {
            if let Some(text) = default {
                let value = Lexer::new(file.escape)
                    .expand(text, &|n| values.get(n).cloned())
                    .ok()?;
                values.insert(name.clone(), value.text);
            }
        }
    }
    Some(values)
}
