//! The parser directives: comments of the form `# name=value` in front of anything else.

use crate::SyntaxError;

/// What they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`, and its line from 1.
    pub syntax: Option<(String, u32)>,
    /// `# escape=`
    pub escape: char,
    /// `# check=`, and its line.
    pub check: Option<(String, u32)>,
}

/// Reads them from the first lines.
pub fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Directives, SyntaxError> {
    let mut out = Directives {
        syntax: None,
        escape: '\\',
        check: None,
    };
    let mut seen = Vec::new();
    for (index, line) in lines.enumerate() {
        let Some((name, value)) = directive(line) else {
            break;
        };
        let name = name.to_ascii_lowercase();
        if !["syntax", "escape", "check"].contains(&name.as_str()) {
            // An ordinary comment, and the end of the directives.
            break;
        }
        if seen.contains(&name) {
            let what = format!("only one {name} parser directive can be used");
            return Err(SyntaxError::new(index, what));
        }
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        match (name.as_str(), value) {
            ("syntax", value) => out.syntax = Some((value.to_owned(), number)),
            ("check", value) => out.check = Some((value.to_owned(), number)),
            (_, "\\") => {}
            (_, "`") => out.escape = '`',
            (_, other) => {
                let what = format!("invalid escape token '{other}' does not match ` or \\");
                return Err(SyntaxError::new(index, what));
            }
        }
        seen.push(name);
    }
    Ok(out)
}

/// `#name=value`, the value not empty.
fn directive(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim().strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric());
    (valid && !value.is_empty()).then_some((name, value))
}
