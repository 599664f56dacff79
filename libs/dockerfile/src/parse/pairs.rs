//! The words of ARG, ENV and LABEL.

use crate::expand::words;

/// `NAME[=DEFAULT] ...`
pub fn arguments(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>, String> {
    words(rest, escape)
        .into_iter()
        .map(|word| {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            if name.is_empty() {
                return Err("ARG names can not be blank".to_owned());
            }
            Ok((name, value))
        })
        .collect()
}

/// `KEY=VALUE ...`, or the old form with one key and a value that may hold blanks.
pub fn pairs(name: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>, String> {
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
