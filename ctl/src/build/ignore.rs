//! `.dockerignore`: docker's patterns; the last one that matches decides.

use regex::Regex;

#[derive(Debug, Default)]
pub struct Matcher {
    rules: Vec<(Regex, bool)>,
}

impl Matcher {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
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
            rules.push((regex, keep));
        }
        Ok(Self { rules })
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

    /// An excluded folder may hold what a later `!` brings back: then it must be walked all the same.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|(_, keep)| *keep)
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
        assert!(m.has_exceptions());
        assert!(Matcher::parse("[").is_err());
    }
}
