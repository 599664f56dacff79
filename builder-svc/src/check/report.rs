//! Findings as docker prints them (BuildKit's `frontend/subrequests/lint`), and the list of targets.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use slipway_dockerfile::{Dockerfile, lint::Warning};

/// An answer to a call that builds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: String,
    /// What the caller ends with.
    pub status: u32,
}

fn source(file: &Dockerfile) -> Value {
    json!([{
        "filename": file.name,
        "language": "Dockerfile",
        "data": BASE64_STANDARD.encode(&file.source),
    }])
}

/// `--check`
pub fn check(file: &Dockerfile, found: &[Warning], failed: Option<&str>) -> Answer {
    let mut text = match found.len() {
        0 if failed.is_none() => "Check complete, no warnings found.\n".to_owned(),
        0 => String::new(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        n => format!("Check complete, {n} warnings have been found!\n"),
    };
    let mut warnings = Vec::new();
    for warning in found {
        let (rule, place) = (warning.rule, warning.place);
        let url = rule.url();
        text.push_str(&format!(
            "\nWARNING: {} - {url}\n{}\n{}:{}\n{}\n",
            rule.name,
            warning.message,
            file.name,
            place.first,
            file.excerpt(place)
        ));
        warnings.push(json!({
            "ruleName": rule.name,
            "description": rule.description,
            "url": url,
            "detail": warning.message,
            "location": {"ranges": [{"start": {"line": place.first}, "end": {"line": place.last}}]},
        }));
    }
    let mut out = json!({"warnings": warnings, "sources": source(file)});
    if let Some(message) = failed {
        out["buildError"] = json!({"message": message});
        text.push_str(&format!("\nERROR: {message}\n"));
    }
    Answer {
        text,
        json: format!("{out:#}"),
        status: u32::from(!found.is_empty() || failed.is_some()),
    }
}

/// `--call=targets`
pub fn targets(file: &Dockerfile) -> Answer {
    let last = file.stages.len() - 1;
    let mut rows = vec![("TARGET".to_owned(), "DESCRIPTION".to_owned())];
    let mut list = Vec::new();
    for (index, stage) in file.stages.iter().enumerate() {
        let name = stage.from.name.clone().unwrap_or_default();
        let description = description(&name, &stage.around.comments);
        let mut target = json!({
            "base": stage.from.base,
            "location": {"ranges": [{"start": {"line": stage.place.first}, "end": {"line": stage.place.last}}]},
        });
        for (key, value) in [("name", &name), ("description", &description)] {
            if !value.is_empty() {
                target[key] = json!(value);
            }
        }
        if let Some(platform) = &stage.from.platform {
            target["platform"] = json!(platform);
        }
        if index == last {
            target["default"] = json!(true);
        }
        list.push(target);
        let shown = match (name.as_str(), index == last) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        rows.push((shown, description));
    }
    let rows: Vec<_> = rows.iter().map(|(n, d)| [n.as_str(), d]).collect();
    Answer {
        text: table(&rows, 4),
        json: format!(
            "{:#}",
            json!({"targets": list, "sources": [BASE64_STANDARD.encode(&file.source)]})
        ),
        status: 0,
    }
}

/// Columns as wide as what is in them, with so many blanks between them (Go's tabwriter).
pub fn table<const N: usize>(rows: &[[&str; N]], gap: usize) -> String {
    let wide: [usize; N] =
        std::array::from_fn(|i| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0) + gap);
    let line = |row: &[&str; N]| {
        let cells = row
            .iter()
            .zip(wide)
            .map(|(cell, wide)| format!("{cell:wide$}"));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The comment above that begins with the name.
pub fn description(name: &str, comments: &[String]) -> String {
    let after = |comment: &String| Some(comment.strip_prefix(name)?.strip_prefix(' ')?.to_owned());
    match name {
        "" => String::new(),
        _ => comments.iter().find_map(after).unwrap_or_default(),
    }
}
