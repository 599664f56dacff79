//! Shell words: quotes, escapes and `$VARIABLE`s, as docker expands them outside of RUN, CMD and
//! ENTRYPOINT (BuildKit, `frontend/dockerfile/shell`).

/// Longest result, bytes. Without a limit `ENV A=$A$A` doubles with every line.
pub const MAX_EXPANDED: usize = 256 * 1024;

/// Expands one word: variables by `lookup`, quotes taken away. Only variables that are set expand to
/// something; `${X:?text}` fails with `text` when X is not.
pub fn expand(
    word: &str,
    escape: char,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut scanner = Scanner {
        rest: word.chars().collect(),
        at: 0,
        escape,
        lookup,
        depth: 0,
        made: 0,
    };
    scanner.run(None)
}

fn limited(size: usize) -> Result<(), String> {
    if size > MAX_EXPANDED {
        return Err(format!(
            "a value expands to more than {} KiB",
            MAX_EXPANDED / 1024
        ));
    }
    Ok(())
}

/// Splits into words at blanks outside of quotes; quotes and escapes stay.
pub fn words(text: &str, escape: char) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ => {}
        }
        word.push(c);
        // Inside single quotes nothing is escaped.
        if c == escape && quote != Some('\'') {
            word.extend(chars.next());
        }
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}

struct Scanner<'a> {
    rest: Vec<char>,
    at: usize,
    escape: char,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    depth: usize,
    /// Bytes of all variables that were looked up: what is made of them is not much longer.
    made: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Up to an unquoted `end`, which is taken too.
    fn run(&mut self, end: Option<char>) -> Result<String, String> {
        let mut out = String::new();
        loop {
            let Some(c) = self.next() else {
                return match end {
                    Some(end) => Err(format!(
                        "unexpected end of statement while looking for matching {end}"
                    )),
                    None => Ok(out),
                };
            };
            if Some(c) == end {
                return Ok(out);
            }
            match c {
                '\'' => {
                    loop {
                        match self.next() {
                        Some('\'') => break,
                        Some(c) => out.push(c),
                        None => return Err("unexpected end of statement while looking for matching single-quote".to_owned()),
                    }
                    }
                }
                '"' => self.double_quoted(&mut out)?,
                '$' => out.push_str(&self.dollar()?),
                c if c == self.escape => match self.next() {
                    Some(next) => out.push(next),
                    None => out.push(c),
                },
                c => out.push(c),
            }
            limited(out.len())?;
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.dollar()?;
                    out.push_str(&value);
                }
                Some(c) if c == self.escape => match self.next() {
                    // Only these are special inside double quotes (POSIX shell, 2.2.3).
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        out.push(next)
                    }
                    Some(next) => out.extend([c, next]),
                    None => break,
                },
                Some(c) => out.push(c),
                None => break,
            }
        }
        Err("unexpected end of statement while looking for matching double-quote".to_owned())
    }

    fn dollar(&mut self) -> Result<String, String> {
        if self.peek() == Some('{') {
            self.at += 1;
            self.depth += 1;
            if self.depth > 20 {
                return Err("variables are nested too deep".to_owned());
            }
            let value = self.braced();
            self.depth -= 1;
            return value;
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(self.look_up(&name)?.unwrap_or_default())
    }

    fn look_up(&mut self, name: &str) -> Result<Option<String>, String> {
        let value = (self.lookup)(name);
        self.made += value.as_ref().map_or(0, String::len);
        limited(self.made)?;
        Ok(value)
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            let fits =
                c == '_' || c.is_ascii_alphabetic() || !name.is_empty() && c.is_ascii_digit();
            if !fits {
                // Positional and special parameters have one character.
                if name.is_empty() && (c.is_ascii_digit() || "@*#?-!".contains(c)) {
                    self.at += 1;
                    name.push(c);
                }
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }

    fn braced(&mut self) -> Result<String, String> {
        let name = self.name();
        if name.is_empty() {
            return Err("bad substitution: ${ without a name".to_owned());
        }
        let value = self.look_up(&name)?;
        let Some(c) = self.next() else {
            return Err("syntax error: missing '}'".to_owned());
        };
        let (operator, or_empty) = match c {
            '}' => return Ok(value.unwrap_or_default()),
            ':' => match self.next() {
                Some(operator @ ('+' | '-' | '?')) => (operator, true),
                other => {
                    return Err(format!(
                        "unsupported modifier ({}) in substitution",
                        other.map_or(String::new(), String::from)
                    ));
                }
            },
            '+' | '-' | '?' => (c, false),
            '#' | '%' => {
                let greedy = self.peek() == Some(c);
                self.at += usize::from(greedy);
                let pattern = self.raw('}')?;
                return strip(value.unwrap_or_default(), &pattern, c == '#', greedy);
            }
            '/' => {
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let pattern = self.raw('/')?;
                let replacement = self.run(Some('}'))?;
                return replace(value.unwrap_or_default(), &pattern, &replacement, all);
            }
            other => return Err(format!("unsupported modifier ({other}) in substitution")),
        };
        let word = self.run(Some('}'))?;
        let set = value.filter(|v| !(or_empty && v.is_empty()));
        match (operator, set) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('-', set) => Ok(set.unwrap_or(word)),
            (_, Some(value)) => Ok(value),
            (_, None) if word.is_empty() => Err(format!("{name}: is not allowed to be unset")),
            (_, None) => Err(format!("{name}: {word}")),
        }
    }

    /// A pattern up to `end`: variables expand, escapes stay for the pattern.
    fn raw(&mut self, end: char) -> Result<String, String> {
        let mut out = String::new();
        loop {
            match self.next() {
                None => return Err("syntax error: missing '}'".to_owned()),
                Some(c) if c == end => return Ok(out),
                Some('$') => out.push_str(&self.dollar()?),
                Some(c) if c == self.escape => {
                    out.push('\\');
                    out.extend(self.next());
                }
                Some(c) => out.push(c),
            }
        }
    }
}

/// A shell pattern (`*`, `?`) as a regular expression.
fn pattern(text: &str, lazy: bool) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' if lazy => out.push_str(".*?"),
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '\\' => out.push_str(&regex::escape(&chars.next().unwrap_or('\\').to_string())),
            c => out.push_str(&regex::escape(&c.to_string())),
        }
    }
    out
}

fn compile(text: &str) -> Result<regex::Regex, String> {
    regex::RegexBuilder::new(text)
        .dot_matches_new_line(true)
        .size_limit(1 << 20)
        .build()
        .map_err(|_| "the pattern of a substitution is too long".to_owned())
}

fn strip(value: String, text: &str, prefix: bool, greedy: bool) -> Result<String, String> {
    if prefix {
        let found = compile(&format!("^(?:{})", pattern(text, !greedy)))?;
        return Ok(found.replace(&value, regex::NoExpand("")).into_owned());
    }
    // The shortest suffix is what follows the longest rest, and the other way round.
    let head = if greedy { "^(.*?)" } else { "^(.*)" };
    let found = compile(&format!("{head}(?:{})$", pattern(text, false)))?;
    Ok(found
        .captures(&value)
        .and_then(|c| c.get(1))
        .map_or(value.clone(), |m| m.as_str().to_owned()))
}

fn replace(value: String, text: &str, with: &str, all: bool) -> Result<String, String> {
    let found = compile(&pattern(text, false))?;
    let limit = usize::from(!all);
    let hits = if all {
        found.find_iter(&value).count()
    } else {
        1
    };
    limited(value.len() + hits.saturating_mul(with.len()))?;
    Ok(found
        .replacen(&value, limit, regex::NoExpand(with))
        .into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(word: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "PATHS" => Some("/a/b/c.tar.gz".to_owned()),
            _ => None,
        };
        expand(word, '\\', &lookup)
    }

    #[test]
    fn words_expand_as_dockers_do() {
        for (word, expected) in [
            ("plain", "plain"),
            ("$A", "one"),
            ("${A}two", "onetwo"),
            ("$A-x", "one-x"),
            ("$NONE", ""),
            ("\\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A b\"", "one b"),
            ("\"a\\\"b\\n\"", "a\"b\\n"),
            ("a\\ b", "a b"),
            ("${NONE:-x$A}", "xone"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${A:+yes}", "yes"),
            ("${NONE:+yes}", ""),
            ("${EMPTY+yes}", "yes"),
            ("${NONE:-${A}}", "one"),
            ("${PATHS#*/}", "a/b/c.tar.gz"),
            ("${PATHS##*/}", "c.tar.gz"),
            ("${PATHS%.*}", "/a/b/c.tar"),
            ("${PATHS%%.*}", "/a/b/c"),
            ("${PATHS/\\//-}", "-a/b/c.tar.gz"),
            ("${PATHS//\\//-}", "-a-b-c.tar.gz"),
            ("a$", "a$"),
            ("$1", ""),
        ] {
            assert_eq!(on(word).as_deref(), Ok(expected), "{word}");
        }
    }

    #[test]
    fn what_is_no_word_says_why() {
        for word in [
            "'a",
            "\"a",
            "${A",
            "${",
            "${A:x}",
            "${A^}",
            "${NONE:?}",
            "${}",
        ] {
            assert!(on(word).is_err(), "{word}");
        }
        assert_eq!(on("${NONE:?give one}").unwrap_err(), "NONE: give one");
        let long = |_: &str| Some("x".repeat(200 * 1024));
        for word in ["$A$A", "\"$A$A\"", "${X#$A$A}", "${A//x/yy}"] {
            assert!(expand(word, '\\', &long).is_err(), "{word}");
        }
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(
            words("a  b=\"c d\" 'e f'\\ g", '\\'),
            ["a", "b=\"c d\"", "'e f'\\ g"]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_word_expands_or_is_refused(word in "[a-z${}:+?#%/\\\\'\"*A -]{0,40}") {
            let _ = on(&word);
            let _ = words(&word, '\\');
        }
    }
}
