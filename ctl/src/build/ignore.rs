//! `.dockerignore`: docker's patterns; the last one that matches decides.

use regex::Regex;

#[derive(Debug, Default)]
pub struct Matcher {
    rules: Vec<(Regex, bool)>,
    /// Components of the patterns that bring something back.
    exceptions: Vec<Vec<String>>,
}

impl Matcher {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        let mut exceptions = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (keep, pattern) = line
                .strip_prefix('!')
                .map_or((false, line), |rest| (true, rest.trim()));
            let parts: Vec<&str> = pattern
                .split('/')
                .filter(|p| !p.is_empty() && *p != ".")
                .collect();
            if parts.is_empty() {
                continue;
            }
            let regex = Regex::new(&translate(&parts.join("/")))
                .map_err(|_| format!("syntax error in pattern {line:?} of .dockerignore"))?;
            if keep {
                exceptions.push(parts.iter().map(|p| (*p).to_owned()).collect());
            }
            rules.push((regex, keep));
        }
        Ok(Self { rules, exceptions })
    }

    /// Whether the path, or a folder that holds it, is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let hit = self
            .rules
            .iter()
            .rev()
            .find(|(rule, _)| rule.is_match(path));
        hit.is_some_and(|(_, keep)| !keep)
    }

    /// Whether something below an excluded folder may come back by a later `!`: only then it is walked.
    pub fn may_return_below(&self, folder: &str) -> bool {
        self.exceptions.iter().any(|pattern| {
            let mut parts = pattern.iter();
            for name in folder.split('/') {
                match parts.next().map(String::as_str) {
                    // The exception names a folder above this one.
                    None => return true,
                    Some(part) if part.contains("**") => return true,
                    Some(part) => {
                        let same = Regex::new(&translate(part)).is_ok_and(|r| r.is_match(name));
                        if !same {
                            return false;
                        }
                    }
                }
            }
            true
        })
    }
}

/// Go's filepath.Match with `**`, anchored, matching everything below too.
fn translate(pattern: &str) -> String {
    let mut out = String::from("^");
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                    out.push_str("(.*/)?");
                } else {
                    out.push_str(".*");
                }
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '\\' => out.push_str(&regex::escape(&chars.next().unwrap_or('\\').to_string())),
            '[' => {
                out.push('[');
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            c => out.push_str(&regex::escape(&c.to_string())),
        }
    }
    out.push_str("(/.*)?$");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_dockers() {
        let m = Matcher::parse("# c\nnode_modules\n*.log\n**/tmp\n/docs/*.md\n!docs/keep.md\n")
            .unwrap();
        for (path, out) in [
            ("node_modules", true),
            ("node_modules/a/b", true),
            ("a/node_modules", false),
            ("x.log", true),
            ("a/x.log", false),
            ("a/b/tmp/c", true),
            ("tmp", true),
            ("docs/a.md", true),
            ("docs/keep.md", false),
            ("src", false),
        ] {
            assert_eq!(m.excludes(path), out, "{path}");
        }
        for (folder, may) in [
            ("docs", true),
            ("docs/keep.md", true),
            ("node_modules", false),
            ("docs/other", false),
        ] {
            assert_eq!(m.may_return_below(folder), may, "{folder}");
        }
        let m = Matcher::parse("*\n!dist\n!src/**/*.js\n!a*/b").unwrap();
        for (folder, may) in [
            ("node_modules", false),
            ("dist/x", true),
            ("src/a/b", true),
            ("abc", true),
            ("abc/c", false),
        ] {
            assert_eq!(m.may_return_below(folder), may, "{folder}");
        }
        assert!(Matcher::parse("[").is_err());
    }
}
