//! Bytes to logical lines: directives, comments, continuations, here-documents.
//!
//! The rules are those of BuildKit's `frontend/dockerfile/parser`: a `#` begins a comment only at the
//! start of a line; a comment between continued lines vanishes; a continued line ends with the escape
//! character and blanks.

use super::SyntaxError;

/// A Dockerfile cut into logical lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lexed {
    /// `# syntax=`
    pub syntax: Option<String>,
    /// Escape and continuation character: `\`, or a backtick by `# escape=`.
    pub escape: char,
    /// Instructions, in order.
    pub lines: Vec<Line>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// First physical line, from 1.
    pub first: u32,
    /// Last physical line.
    pub last: u32,
    /// The text, continuations joined.
    pub text: String,
    /// Here-documents that it begins, in order.
    pub heredocs: Vec<Heredoc>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// Its delimiter.
    pub name: String,
    /// Its lines, without the delimiter's.
    pub body: String,
}

/// Longest logical line, bytes.
const MAX_LINE: usize = 1 << 20;

/// Cuts a Dockerfile into lines.
pub fn lex(text: &str) -> Result<Lexed, SyntaxError> {
    let text = text.trim_start_matches('\u{feff}');
    let physical: Vec<&str> = text
        .split('\n')
        .map(|l| l.strip_suffix('\r').unwrap_or(l))
        .collect();
    let mut out = directives(&physical)?;
    let mut at = 0;
    while at < physical.len() {
        let start = at;
        let first = physical[at].trim();
        at += 1;
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let (mut joined, mut continues) = continuation(physical[start].trim_start(), out.escape);
        while continues && at < physical.len() {
            let next = physical[at];
            at += 1;
            let trimmed = next.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let (part, more) = continuation(next, out.escape);
            joined.push_str(&part);
            continues = more;
            if joined.len() > MAX_LINE {
                return Err(SyntaxError::new(
                    start,
                    "the instruction is longer than 1 MiB",
                ));
            }
        }
        let mut line = Line {
            first: number(start),
            last: number(at - 1),
            text: joined.trim().to_owned(),
            heredocs: Vec::new(),
        };
        for (name, strip_tabs) in heredoc_names(&line.text, out.escape) {
            let mut body = String::new();
            loop {
                let Some(next) = physical.get(at) else {
                    let what = format!("unterminated heredoc: {name:?} is not closed");
                    return Err(SyntaxError::new(start, what));
                };
                at += 1;
                let content = if strip_tabs {
                    next.trim_start_matches('\t')
                } else {
                    next
                };
                if content == name {
                    break;
                }
                body.push_str(content);
                body.push('\n');
            }
            line.heredocs.push(Heredoc { name, body });
        }
        line.last = number(at - 1);
        if !line.text.is_empty() {
            out.lines.push(line);
        }
    }
    Ok(out)
}

fn number(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}

/// The parser directives: comments of the form `# name=value` before anything else.
fn directives(physical: &[&str]) -> Result<Lexed, SyntaxError> {
    let mut out = Lexed {
        syntax: None,
        escape: '\\',
        lines: Vec::new(),
    };
    let mut seen = Vec::new();
    for (index, line) in physical.iter().enumerate() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|rest| rest.split_once('='))
        else {
            break;
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            break;
        }
        if seen.contains(&name) {
            let what = format!("only one {name} parser directive can be used");
            return Err(SyntaxError::new(index, what));
        }
        match (name.as_str(), value) {
            ("syntax", value) => out.syntax = Some(value.to_owned()),
            ("escape", "\\") => out.escape = '\\',
            ("escape", "`") => out.escape = '`',
            ("escape", other) => {
                let what = format!("invalid escape token {other:?}: it is \\ or `");
                return Err(SyntaxError::new(index, what));
            }
            // `check` configures docker's linter, which has no part in what is built.
            ("check", _) => {}
            // An ordinary comment, and the end of the directives.
            _ => break,
        }
        seen.push(name);
    }
    Ok(out)
}

/// A physical line without its continuation mark, and whether it had one.
fn continuation(line: &str, escape: char) -> (String, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        // An escaped escape character is no continuation.
        Some(rest) if !rest.ends_with(escape) => (rest.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

/// Names of the here-documents that a line begins (`<<EOF`, `<<-EOF`, `<<"EOF"`), for the
/// instructions that may have them.
fn heredoc_names(text: &str, escape: char) -> Vec<(String, bool)> {
    let keyword = text.split_whitespace().next().unwrap_or_default();
    if !["run", "copy", "add"]
        .iter()
        .any(|k| keyword.eq_ignore_ascii_case(k))
    {
        return Vec::new();
    }
    // Not what is quoted: `sh -c "cat <<EOF"`.
    super::expand::words(text, escape)
        .iter()
        .skip(1)
        .filter_map(|word| {
            // Also behind a file descriptor: `3<<EOF`.
            let rest = word
                .trim_start_matches(|c: char| c.is_ascii_digit())
                .strip_prefix("<<")?;
            let (strip_tabs, rest) = match rest.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, rest),
            };
            let name = match rest.chars().next()? {
                quote @ ('"' | '\'') => rest[1..].strip_suffix(quote)?,
                _ => rest,
            };
            let valid = !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-' || b == b'.');
            valid.then(|| (name.to_owned(), strip_tabs))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(u32, u32, String)> {
        lex(text)
            .unwrap()
            .lines
            .into_iter()
            .map(|l| (l.first, l.last, l.text))
            .collect()
    }

    #[test]
    fn comments_and_continuations() {
        let text = "# hello\n\nFROM a\nRUN one && \\\n  # in between\n\n  two \\  \n three\n  # end\nCMD x";
        assert_eq!(
            texts(text),
            [
                (3, 3, "FROM a".to_owned()),
                (4, 8, "RUN one &&   two  three".to_owned()),
                (10, 10, "CMD x".to_owned()),
            ]
        );
        assert_eq!(texts("RUN echo a\\\\\nRUN b").len(), 2);
        assert_eq!(
            texts("\u{feff}FROM a\r\nRUN b \\\r\n c\r\n")[1].2,
            "RUN b  c"
        );
        assert_eq!(texts("").len(), 0);
        assert_eq!(texts("RUN x \\").len(), 1);
    }

    #[test]
    fn directives_come_first_and_once() {
        let lexed = lex("# syntax=docker/dockerfile:1\n# escape=`\nRUN a `\n b").unwrap();
        assert_eq!(lexed.syntax.as_deref(), Some("docker/dockerfile:1"));
        assert_eq!(lexed.lines[0].text, "RUN a  b");
        assert_eq!(
            lex("# a comment\n# escape=`\nRUN a \\\n b").unwrap().escape,
            '\\'
        );
        assert!(lex("# escape=x\n").is_err());
        assert_eq!(lex("# escape=`\n# escape=`\n").unwrap_err().line, 2);
    }

    #[test]
    fn here_documents() {
        let lexed =
            lex("RUN cat <<EOF > /x\none\n# two\nEOF\nCMD y\nCOPY <<-'E' /z\n\tq\n\tE\n").unwrap();
        assert_eq!(lexed.lines[0].heredocs[0].body, "one\n# two\n");
        assert_eq!((lexed.lines[0].first, lexed.lines[0].last), (1, 4));
        assert_eq!(lexed.lines[2].heredocs[0].body, "q\n");
        assert!(lex("RUN <<EOF\nx\n").is_err());
        assert_eq!(
            lex("RUN sh -c \"cat <<EOF\"\nRUN y").unwrap().lines.len(),
            2
        );
        assert!(lex("CMD cat <<EOF\n").unwrap().lines[0].heredocs.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_lexed_or_refused(text in "[#=a-z\\\\`< \t\nEOF]{0,200}") {
            let _ = lex(&text);
        }
    }
}
