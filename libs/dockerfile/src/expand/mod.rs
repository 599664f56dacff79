//! Shell words: quotes, escapes and `$VARIABLE`s, as docker expands them outside of RUN, CMD and
//! ENTRYPOINT.
//!
//! The rules are those of BuildKit's `frontend/dockerfile/shell/lex.go`. What is made is bounded
//! ([`MAX_EXPANDED`]), and so are the nesting of `${...}` and the work of patterns: a Dockerfile of a
//! few lines can ask for anything.

mod pattern;
mod split;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

pub use split::words;

/// Longest result, bytes. Without a limit `ENV A=$A$A` doubles with every line.
pub const MAX_EXPANDED: usize = 256 * 1024;
/// Deepest `${A:-${B:-...}}`.
const MAX_DEPTH: usize = 100;

/// Where values come from.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub struct Lexer {
    /// `\` or a backtick.
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escapes stay in the result.
    pub raw_escapes: bool,
    /// Quotes are characters like any other.
    pub plain_quotes: bool,
    /// `$X` stays as it is written when X is not set.
    pub keep_unset: bool,
}

/// What became of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// As one word.
    pub text: String,
    /// Split at blanks that are not quoted: also those that came with a variable's value.
    pub words: Vec<String>,
    /// Variables that had a value.
    pub matched: BTreeSet<String>,
    /// Variables that had none.
    pub unmatched: BTreeSet<String>,
}

/// Expands one word: variables by `lookup`, quotes taken away.
pub fn expand(word: &str, escape: char, lookup: Lookup<'_>) -> Result<String, String> {
    Ok(Lexer::new(escape).expand(word, lookup)?.text)
}

impl Lexer {
    /// Quotes and escapes are taken away.
    pub const fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            plain_quotes: false,
            keep_unset: false,
        }
    }

    /// Expands; `${X:?text}` fails with `text` when X is not set.
    pub fn expand(self, word: &str, lookup: Lookup<'_>) -> Result<Expanded, String> {
        let mut scanner = Scanner {
            rest: word.chars().collect(),
            at: 0,
            lexer: self,
            lookup,
            depth: 0,
            made: 0,
            work: 0,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        };
        match scanner.run(None, self.raw_escapes) {
            Ok((text, words)) => Ok(Expanded {
                text,
                words: words.done(),
                matched: scanner.matched,
                unmatched: scanner.unmatched,
            }),
            Err(e) => Err(format!("failed to process {}: {e}", shown(word))),
        }
    }
}

fn shown(word: &str) -> String {
    match word.char_indices().nth(200) {
        Some((at, _)) => format!("{:?}...", &word[..at]),
        None => format!("{word:?}"),
    }
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

/// The words of a text while it is read.
#[derive(Default)]
struct Words {
    word: String,
    words: Vec<String>,
    inside: bool,
}

impl Words {
    fn take(&mut self, c: char) {
        if !c.is_whitespace() {
            self.raw(c);
        } else if self.inside && !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
            self.inside = false;
        }
    }

    fn raw(&mut self, c: char) {
        self.word.push(c);
        self.inside = true;
    }

    fn raw_text(&mut self, text: &str) {
        self.word.push_str(text);
        self.inside = true;
    }

    fn done(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Scanner<'a> {
    rest: Vec<char>,
    at: usize,
    lexer: Lexer,
    lookup: Lookup<'a>,
    depth: usize,
    /// Bytes of all variables that were looked up: what is made of them is not much longer.
    made: usize,
    /// Steps that patterns took so far.
    work: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
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
    fn run(&mut self, end: Option<char>, raw_escapes: bool) -> Result<(String, Words), String> {
        let mut out = String::new();
        let mut words = Words::default();
        loop {
            let Some(c) = self.next() else {
                return match end {
                    Some(end) => Err(format!(
                        "unexpected end of statement while looking for matching {end}"
                    )),
                    None => Ok((out, words)),
                };
            };
            if Some(c) == end {
                return Ok((out, words));
            }
            match c {
                '\'' if !self.lexer.plain_quotes => {
                    let text = self.single_quoted()?;
                    words.raw_text(&text);
                    out.push_str(&text);
                }
                '"' if !self.lexer.plain_quotes => {
                    let text = self.double_quoted(raw_escapes)?;
                    words.raw_text(&text);
                    out.push_str(&text);
                }
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| words.take(c));
                    out.push_str(&value);
                }
                c if c == self.lexer.escape => {
                    if raw_escapes {
                        words.raw(c);
                        out.push(c);
                    }
                    // At the end of the word it vanishes.
                    if let Some(next) = self.next() {
                        words.raw(next);
                        out.push(next);
                    }
                }
                c => {
                    words.take(c);
                    out.push(c);
                }
            }
            // A word may be as long as its line was; only what grew is judged.
            limited(out.len().saturating_sub(self.rest.len()))?;
        }
    }

    /// Nothing is special up to the next single quote.
    fn single_quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        if self.lexer.raw_quotes {
            out.push('\'');
        }
        loop {
            match self.next() {
                Some('\'') => break,
                Some(c) => out.push(c),
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching single-quote"
                            .to_owned(),
                    );
                }
            }
        }
        if self.lexer.raw_quotes {
            out.push('\'');
        }
        Ok(out)
    }

    fn double_quoted(&mut self, raw_escapes: bool) -> Result<String, String> {
        let mut out = String::new();
        if self.lexer.raw_quotes {
            out.push('"');
        }
        loop {
            match self.next() {
                Some('"') => break,
                Some('$') => {
                    let value = self.dollar()?;
                    out.push_str(&value);
                }
                Some(c) if c == self.lexer.escape => {
                    if raw_escapes {
                        out.push(c);
                    }
                    match self.peek() {
                        // Only these are special inside double quotes (POSIX shell, 2.2.3).
                        Some(next) if next == '"' || next == '$' || next == self.lexer.escape => {
                            self.at += 1;
                            out.push(next);
                        }
                        Some(_) => out.push(c),
                        None => {}
                    }
                }
                Some(c) => out.push(c),
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote"
                            .to_owned(),
                    );
                }
            }
            limited(out.len().saturating_sub(self.rest.len()))?;
        }
        if self.lexer.raw_quotes {
            out.push('"');
        }
        Ok(out)
    }

    fn dollar(&mut self) -> Result<String, String> {
        if self.peek() == Some('{') {
            self.at += 1;
            self.depth += 1;
            if self.depth > MAX_DEPTH {
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
        Ok(match self.look_up(&name)? {
            Some(value) => value,
            None if self.lexer.keep_unset => format!("${name}"),
            None => String::new(),
        })
    }

    fn look_up(&mut self, name: &str) -> Result<Option<String>, String> {
        let value = (self.lookup)(name);
        let seen = match value {
            Some(_) => &mut self.matched,
            None => &mut self.unmatched,
        };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
        }
        self.made += value.as_ref().map_or(0, String::len);
        limited(self.made)?;
        Ok(value)
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if name.is_empty() && c.is_ascii_digit() {
                // A positional parameter: all of its digits, and nothing else.
                while let Some(digit) = self.peek().filter(char::is_ascii_digit) {
                    self.at += 1;
                    name.push(digit);
                }
                break;
            }
            if name.is_empty() && "@*#?-$!".contains(c) {
                self.at += 1;
                name.push(c);
                break;
            }
            if c != '_' && !c.is_alphanumeric() {
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }

    /// A part of `${...}` up to `end`; what is missing is said as docker does.
    fn part(&mut self, end: char, raw_escapes: bool) -> Result<String, String> {
        match self.run(Some(end), raw_escapes) {
            Ok((text, _)) => Ok(text),
            Err(_) if self.peek().is_none() && end == '/' => {
                Err("syntax error: missing '/' in ${}".to_owned())
            }
            Err(e) if self.peek().is_none() && !e.starts_with("a value") => {
                Err(format!("syntax error: missing '{end}'"))
            }
            Err(e) => Err(e),
        }
    }

    fn braced(&mut self) -> Result<String, String> {
        match self.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            _ => {}
        }
        let name = self.name();
        let Some(c) = self.next() else {
            return Err("syntax error: missing '}'".to_owned());
        };
        match c {
            '}' => Ok(match self.look_up(&name)? {
                Some(value) => value,
                None if self.lexer.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => match self.next() {
                Some(operator) => self.modified(&name, operator, true),
                None => Err("syntax error: missing '}'".to_owned()),
            },
            '+' | '-' | '?' | '#' | '%' => self.modified(&name, c, false),
            '/' => self.substituted(&name),
            other => Err(format!("unsupported modifier ({other}) in substitution")),
        }
    }

    /// `:-`, `+`, `?`, `#` and their kin.
    fn modified(&mut self, name: &str, operator: char, or_empty: bool) -> Result<String, String> {
        let word = self.part('}', matches!(operator, '#' | '%'))?;
        let value = self.look_up(name)?;
        let colon = if or_empty { ":" } else { "" };
        if self.lexer.keep_unset && value.is_none() {
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let unset = value.is_none();
        let set = value.clone().filter(|v| !(or_empty && v.is_empty()));
        match operator {
            '-' => Ok(set.unwrap_or(word)),
            '+' => Ok(set.map_or(String::new(), |_| word)),
            '?' => set.ok_or_else(|| match (word.as_str(), unset) {
                ("", true) => format!("{name}: is not allowed to be unset"),
                ("", false) => format!("{name}: is not allowed to be empty"),
                (message, _) => format!("{name}: {message}"),
            }),
            '#' | '%' => {
                let longest = word.strip_prefix(operator);
                let text = longest.unwrap_or(&word);
                let value = value.unwrap_or_default();
                let found = pattern::Pattern::parse(text)?;
                self.work(&found, &value)?;
                if operator == '#' {
                    found.strip_prefix(&value, longest.is_some())
                } else {
                    found.strip_suffix(&value, longest.is_some())
                }
            }
            other => Err(format!(
                "unsupported modifier ({colon}{other}) in substitution"
            )),
        }
    }

    /// `${X/pattern/replacement}` and `${X//pattern/replacement}`.
    fn substituted(&mut self, name: &str) -> Result<String, String> {
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let text = self.part('/', true)?;
        let with = self.part('}', true)?;
        let value = self.look_up(name)?;
        if self.lexer.keep_unset && value.is_none() {
            return Ok(format!("${{{name}/{text}/{with}}}"));
        }
        let value = value.unwrap_or_default();
        let found = pattern::Pattern::parse(&text)?;
        self.work(&found, &value)?;
        let out = found.replace(&value, &with, all)?;
        self.made += out.len();
        limited(self.made)?;
        Ok(out)
    }

    /// Patterns take time: what a word may ask for has an end.
    fn work(&mut self, found: &pattern::Pattern, value: &str) -> Result<(), String> {
        self.work += found.cost(value);
        if self.work > pattern::MAX_WORK {
            return Err("the patterns of a substitution take too long".to_owned());
        }
        Ok(())
    }
}
