//! What `labels`, `env` and `tag` add to each line (moby, daemon/logger/loginfo.go).

use std::collections::{BTreeMap, HashMap};

use crate::{container::record::Record, error::Error};

/// Checks the options that are patterns.
pub fn check(options: &HashMap<String, String>) -> Result<(), Error> {
    for key in ["labels-regex", "env-regex"] {
        if let Some(pattern) = options.get(key) {
            regex::Regex::new(pattern)
                .map_err(|_| Error::Invalid(format!("invalid value for {key}: {pattern:?}")))?;
        }
    }
    match options.get("tag") {
        Some(tag) => render(tag, &|_| Some(String::new())).map(drop),
        None => Ok(()),
    }
}

/// The attributes of a container's lines: chosen labels and variables, and the tag where one is asked
/// for.
pub fn of(record: &Record) -> BTreeMap<String, String> {
    let options = record.spec.log.clone().unwrap_or_default().options;
    let mut all = BTreeMap::new();
    let listed = |key: &str| -> Vec<String> {
        let list = options.get(key).map(String::as_str).unwrap_or_default();
        list.split(',')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect()
    };
    // Checked when the container was made.
    let pattern = |key: &str| options.get(key).and_then(|p| regex::Regex::new(p).ok());
    let (names, like) = (listed("labels"), pattern("labels-regex"));
    for (key, value) in &record.effective.labels {
        if names.contains(key) || like.as_ref().is_some_and(|l| l.is_match(key)) {
            all.insert(key.clone(), value.clone());
        }
    }
    let (names, like) = (listed("env"), pattern("env-regex"));
    for (key, value) in record
        .effective
        .env
        .iter()
        .filter_map(|e| e.split_once('='))
    {
        if names.iter().any(|n| n == key) || like.as_ref().is_some_and(|l| l.is_match(key)) {
            all.insert(key.to_owned(), value.to_owned());
        }
    }
    if options.get("tag").is_some_and(|t| !t.is_empty()) {
        all.insert("tag".to_owned(), tag(record));
    }
    all
}

/// The tag: as asked for, else the short id.
pub fn tag(record: &Record) -> String {
    let options = record.spec.log.clone().unwrap_or_default().options;
    let template = options.get("tag").filter(|t| !t.is_empty());
    let template = template.map_or("{{.ID}}", |t| t);
    let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect();
    render(template, &|field| {
        Some(match field {
            "ID" => short(&record.id),
            "FullID" => record.id.clone(),
            "Name" => record.name.clone(),
            "FullName" => format!("/{}", record.name),
            "ImageID" => short(&record.image_id),
            "ImageFullID" => record.image_id.clone(),
            "ImageName" => record.spec.image.clone(),
            "DaemonName" => "docker".to_owned(),
            _ => return None,
        })
    })
    .unwrap_or_default()
}

const FIELDS: [&str; 8] = [
    "ID",
    "FullID",
    "Name",
    "FullName",
    "ImageID",
    "ImageFullID",
    "ImageName",
    "DaemonName",
];

/// Puts values into `{{.Field}}`.
fn render(template: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String, Error> {
    let invalid = || {
        Error::Invalid(format!(
            "invalid value for tag: {template:?}: there are {{{{.{}}}}}",
            FIELDS.join("}}, {{.")
        ))
    };
    let (mut out, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, after) = after.split_once("}}").ok_or_else(invalid)?;
        let field = inside.trim().strip_prefix('.').ok_or_else(invalid)?;
        if !FIELDS.contains(&field) {
            return Err(invalid());
        }
        out.push_str(before);
        out.push_str(&value(field).ok_or_else(invalid)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_templates() {
        let value = |field: &str| Some(field.to_lowercase());
        assert_eq!(
            render("a/{{.Name}}/{{ .ID }}", &value).unwrap(),
            "a/name/id"
        );
        assert!(render("{{.Nope}}", &value).is_err());
        assert!(render("{{.ID", &value).is_err());
    }
}
