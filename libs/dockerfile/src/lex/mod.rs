//! Bytes to logical lines: directives, comments, continuations, here-documents.
//!
//! The rules are those of BuildKit's `frontend/dockerfile/parser`: a `#` begins a comment only at the
//! start of a line; a comment between continued lines vanishes; a continued line ends with the escape
//! character and blanks; what a here-document holds is kept as it is, with its line ends.

pub mod directives;
pub mod heredoc;

use std::borrow::Cow;

pub use heredoc::Heredoc;

use super::{MAX_INSTRUCTIONS, SyntaxError};

/// A Dockerfile cut into logical lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lexed {
    /// `# syntax=`, and its line from 1.
    pub syntax: Option<(String, u32)>,
    /// Escape and continuation character: `\`, or a backtick by `# escape=`.
    pub escape: char,
    /// `# check=`, and its line.
    pub check: Option<(String, u32)>,
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
    /// The comments right above it, without their `#`.
    pub comments: Vec<String>,
    /// A blank line stands between its continued ones: this is the last of these.
    pub empty_continuation: Option<u32>,
}

/// A physical line, without its end.
struct Physical<'a> {
    number: u32,
    text: Cow<'a, str>,
    /// Behind the text: `\r\n`, as here-documents keep it.
    end: &'static str,
    /// Why it cannot be part of an instruction.
    broken: Option<&'static str>,
}

impl Physical<'_> {
    fn is_comment(&self) -> bool {
        self.text.trim_start().starts_with('#')
    }

    fn checked(&self) -> Result<&str, SyntaxError> {
        match self.broken {
            Some(why) => Err(SyntaxError {
                line: self.number,
                message: why.to_owned(),
            }),
            None => Ok(&self.text),
        }
    }
}

/// Cuts a Dockerfile into lines.
pub fn lex(text: &str) -> Result<Lexed, SyntaxError> {
    lex_bytes(text.as_bytes())
}

/// The same for bytes that are perhaps no text: only comments may hold others.
pub fn lex_bytes(content: &[u8]) -> Result<Lexed, SyntaxError> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut physical = content
        .split(|b| *b == b'\n')
        .zip(1..)
        .map(|(l, n)| cut(l, n));
    let first = content.split(|b| *b == b'\n').take(4);
    let first: Vec<_> = first.map(|l| cut(l, 0).text.into_owned()).collect();
    let directives = directives::read(first.iter().map(String::as_str))?;
    let mut out = Lexed {
        syntax: directives.syntax,
        escape: directives.escape,
        check: directives.check,
        lines: Vec::new(),
    };
    let mut comments = Vec::new();
    while let Some(start) = physical.next() {
        let trimmed = start.text.trim();
        if let Some(comment) = trimmed.strip_prefix('#') {
            comments.push(comment.trim().to_owned());
            continue;
        }
        if trimmed.is_empty() {
            comments.clear();
            continue;
        }
        let text = start.checked()?.trim_start();
        let mut line = Line {
            first: start.number,
            last: start.number,
            text: String::new(),
            heredocs: Vec::new(),
            comments: std::mem::take(&mut comments),
            empty_continuation: None,
        };
        let (part, mut continues) = continuation(text, out.escape);
        line.text.push_str(part);
        let mut blank = false;
        while continues && let Some(next) = physical.next() {
            line.last = next.number;
            if next.is_comment() {
                continue;
            }
            if next.text.trim().is_empty() {
                blank = true;
                continue;
            }
            let (part, more) = continuation(next.checked()?, out.escape);
            line.text.push_str(part);
            continues = more;
        }
        line.empty_continuation = blank.then_some(line.last);
        line.text = line.text.trim().to_owned();
        line.heredocs = heredoc::beginnings(&line.text);
        for heredoc in &mut line.heredocs {
            loop {
                let Some(next) = physical.next() else {
                    return Err(SyntaxError {
                        line: line.first,
                        message: format!(
                            "unterminated heredoc: a line with nothing but {} is missing",
                            heredoc.name
                        ),
                    });
                };
                line.last = next.number;
                let text = next.checked()?;
                let mut closing = text.trim_end_matches('\r');
                if heredoc.strip_tabs {
                    closing = closing.trim_start_matches('\t');
                }
                if closing == heredoc.name {
                    break;
                }
                heredoc.body.push_str(text);
                heredoc.body.push_str(next.end);
            }
        }
        if line.text.is_empty() {
            continue;
        }
        if out.lines.len() == MAX_INSTRUCTIONS {
            return Err(SyntaxError {
                line: line.first,
                message: format!("there are more than {MAX_INSTRUCTIONS} instructions"),
            });
        }
        out.lines.push(line);
    }
    Ok(out)
}

fn cut(line: &[u8], number: u32) -> Physical<'_> {
    let (line, end) = match line.strip_suffix(b"\r") {
        Some(line) => (line, "\r\n"),
        None => (line, "\n"),
    };
    let text = String::from_utf8_lossy(line);
    let broken = if matches!(text, Cow::Owned(_)) {
        Some("the line is not UTF-8 text: only comments may hold other bytes")
    } else if line.contains(&0) {
        Some("the line holds a NUL byte")
    } else {
        None
    };
    Physical {
        number,
        text,
        end,
        broken,
    }
}

/// A physical line without its continuation mark, and whether it had one.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        // An escaped escape character is no continuation.
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
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
        assert_eq!(lexed.syntax, Some(("docker/dockerfile:1".to_owned(), 1)));
        assert_eq!(lexed.lines[0].text, "RUN a  b");
        assert_eq!(
            lex("# a comment\n# escape=`\nRUN a \\\n b").unwrap().escape,
            '\\'
        );
        assert!(lex("# escape=x\n").is_err());
        assert_eq!(lex("# escape=`\n# escape=`\n").unwrap_err().line, 2);
        assert_eq!(lex("# escape=\nRUN a").unwrap().escape, '\\');
        let checked = lex("#check=skip=all ; error=true\n#  SYNTAX = x\nRUN a").unwrap();
        assert_eq!(checked.check, Some(("skip=all ; error=true".to_owned(), 1)));
        assert_eq!(checked.syntax, Some(("x".to_owned(), 2)));
    }

    #[test]
    fn here_documents() {
        let lexed =
            lex("RUN cat <<EOF > /x\none\n# two\nEOF\nCMD y\nCOPY <<-'E' /z\n\tq\n\tE\n").unwrap();
        assert_eq!(lexed.lines[0].heredocs[0].body, "one\n# two\n");
        assert_eq!((lexed.lines[0].first, lexed.lines[0].last), (1, 4));
        assert_eq!(lexed.lines[2].heredocs[0].content(), "q\n");
        assert!(lex("RUN <<EOF\nx\n").is_err());
        assert_eq!(
            lex("RUN sh -c \"cat <<EOF\"\nRUN y").unwrap().lines.len(),
            2
        );
        assert!(lex("CMD cat <<EOF\n").unwrap().lines[0].heredocs.is_empty());
    }

    #[test]
    fn a_heredoc_keeps_its_line_ends() {
        let lexed = lex("RUN <<E\r\na\r\n\tE\r\n\r\nE\r\nCMD x\r\n").unwrap();
        assert_eq!(lexed.lines[0].heredocs[0].body, "a\r\n\tE\r\n\r\n");
        assert_eq!(lexed.lines[1].text, "CMD x");
        let error = lex("FROM a\nRUN <<EOF\nx").unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.message.contains("unterminated heredoc"));
    }

    #[test]
    fn comments_above_and_gaps_within() {
        let lexed = lex("# far\n\n# near\n#  too\nRUN a \\\n\n  b\nRUN c \\\n# fine\n d").unwrap();
        assert_eq!(lexed.lines[0].comments, ["near", "too"]);
        assert_eq!(lexed.lines[0].empty_continuation, Some(7));
        assert_eq!(lexed.lines[1].empty_continuation, None);
    }

    #[test]
    fn bytes_that_are_no_text_are_for_comments_only() {
        assert_eq!(
            lex_bytes(b"# caf\xe9\nRUN a \\\n # \xff \0\n b")
                .unwrap()
                .lines[0]
                .text,
            "RUN a  b"
        );
        for (content, line) in [
            (&b"RUN a\xff"[..], 1),
            (b"RUN a \\\n b\xff", 2),
            (b"\nRUN a\0b", 2),
            (b"RUN <<E\n# \xff\nE", 2),
        ] {
            assert_eq!(lex_bytes(content).unwrap_err().line, line);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_lexed_or_refused(content in proptest::collection::vec(0_u8.., 0..200)) {
            let _ = lex_bytes(&content);
        }

        #[test]
        fn a_line_that_is_written_again_is_the_same(text in "[A-Z]{1,4}( [a-z$<\"'\\\\-]{1,5}){0,5}") {
            // What is left at the end of a file by a continuation into nothing may be a sign of continuation.
            if let Ok(lexed) = lex(&text)
                && let [line] = &lexed.lines[..]
                && line.heredocs.is_empty()
                && !line.text.ends_with('\\')
            {
                proptest::prop_assert_eq!(&lex(&line.text).unwrap().lines[0].text, &line.text);
            }
        }

        #[test]
        fn any_text_is_lexed_or_refused(text in "[#=a-z\\\\`< \t\nEOF]{0,200}") {
            let _ = lex(&text);
        }
    }
}
