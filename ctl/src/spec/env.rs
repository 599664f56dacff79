//! `-e`, `--env-file`, `--label`, `--label-file`: pairs from words, files and the environment.

use std::{collections::HashMap, fs, path::Path};

/// Environment of a container: files first, then words; the later wins by standing later.
pub fn env(words: &[String], files: &[String]) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for file in files {
        for line in lines(Path::new(file))? {
            if let Some(pair) = resolve(&line, true)? {
                out.push(pair);
            }
        }
    }
    for word in words {
        if let Some(pair) = resolve(word, false)? {
            out.push(pair);
        }
    }
    Ok(out)
}

/// "K" takes the value from our environment. Unset: left out in files; in words the image's own is
/// removed, as docker does.
fn resolve(word: &str, in_file: bool) -> Result<Option<String>, String> {
    let (key, value) = word
        .split_once('=')
        .map_or((word, None), |(k, v)| (k, Some(v)));
    if key.is_empty() {
        return Err(format!("invalid environment variable: {word}"));
    }
    if in_file && key.contains(char::is_whitespace) {
        return Err(format!("variable '{key}' contains whitespaces"));
    }
    Ok(match value {
        Some(_) => Some(word.to_owned()),
        None => match std::env::var(key) {
            Ok(value) => Some(format!("{key}={value}")),
            Err(_) if in_file => None,
            Err(_) => Some(key.to_owned()),
        },
    })
}

/// Labels: "K=V" or "K".
pub fn labels(words: &[String], files: &[String]) -> Result<HashMap<String, String>, String> {
    let mut all = Vec::new();
    for file in files {
        all.extend(lines(Path::new(file))?);
    }
    all.extend(words.iter().cloned());
    pairs(&all)
}

/// "K=V" or "K" to a map; the last one wins.
pub fn pairs(words: &[String]) -> Result<HashMap<String, String>, String> {
    words
        .iter()
        .map(|word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            if key.is_empty() {
                return Err(format!("invalid pair {word:?}: write key=value"));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn lines(path: &Path) -> Result<Vec<String>, String> {
    let text =
        fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let text = text.trim_start_matches('\u{feff}');
    Ok(text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_first_and_comments_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        fs::write(&file, "# c\n\nA=1\n  B=x y \nSLIPWAY_TEST_UNSET\n").unwrap();
        let file = file.display().to_string();
        let got = env(&["A=2".into(), "SLIPWAY_TEST_UNSET".into()], &[file]).unwrap();
        assert_eq!(got, ["A=1", "B=x y ", "A=2", "SLIPWAY_TEST_UNSET"]);
        assert!(env(&["=1".into()], &[]).is_err());
    }

    #[test]
    fn labels_may_lack_a_value() {
        assert_eq!(
            pairs(&["a".into(), "b=c=d".into()]).unwrap(),
            [("a".into(), String::new()), ("b".into(), "c=d".into())].into()
        );
    }
}
