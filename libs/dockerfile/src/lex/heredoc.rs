//! Here-documents: `<<EOF`, `<<-EOF`, `<<"EOF"`, `3<<EOF` (BuildKit's `heredocFromMatch`).

use crate::expand::Lexer;

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// Its delimiter.
    pub name: String,
    /// Its lines as they are written, without the delimiter's.
    pub body: String,
    /// `<<-`: tabs in front of its lines do not count.
    pub strip_tabs: bool,
    /// The delimiter has no quotes: variables are expanded, where the document is a file.
    pub expands: bool,
}

impl Heredoc {
    /// The content that is meant.
    pub fn content(&self) -> String {
        if !self.strip_tabs {
            return self.body.clone();
        }
        self.body
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// A word that begins a here-document; its body is still empty.
pub fn beginning(word: &str) -> Option<Heredoc> {
    let rest = word
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let lexer = Lexer {
        keep_unset: true,
        ..Lexer::new('\\')
    };
    let mut names = lexer.expand(rest, &|_| None).ok()?.words;
    let raw = Lexer {
        raw_quotes: true,
        ..lexer
    };
    let written = raw.expand(rest, &|_| None).ok()?.words;
    let name = names.pop().filter(|_| names.is_empty())?;
    Some(Heredoc {
        expands: quotes(&name) == quotes(&written.concat()),
        name,
        body: String::new(),
        strip_tabs,
    })
}

/// The here-documents that a line begins, for the instructions that may have them.
pub fn beginnings(text: &str) -> Vec<Heredoc> {
    let mut words = text.splitn(2, char::is_whitespace);
    let mut keyword = words.next().unwrap_or_default();
    let mut rest = words.next().unwrap_or_default().trim_start();
    // The trigger's own keyword counts.
    if keyword.eq_ignore_ascii_case("onbuild") {
        let mut words = rest.splitn(2, char::is_whitespace);
        keyword = words.next().unwrap_or_default();
        rest = words.next().unwrap_or_default();
    }
    let may = |k: &&str| keyword.eq_ignore_ascii_case(k);
    if !["run", "copy", "add"].iter().any(may) || !rest.contains("<<") {
        return Vec::new();
    }
    // The exec form has none.
    if crate::parse::json(crate::flags::Flags::take(rest).1).is_ok_and(|j| j.is_some()) {
        return Vec::new();
    }
    let lexer = Lexer {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        ..Lexer::new('\\')
    };
    // What is quoted wrongly has no words, and no documents.
    let words = lexer.expand(text, &|_| None).unwrap_or_default().words;
    words.iter().filter_map(|word| beginning(word)).collect()
}

/// The text of a COPY's document with its variables expanded: quotes mean nothing in it.
pub fn expanded(body: &str, lookup: crate::expand::Lookup<'_>) -> Result<String, String> {
    let lexer = Lexer {
        plain_quotes: true,
        ..Lexer::new('\\')
    };
    Ok(lexer.expand(body, lookup)?.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_all_sorts() {
        for (word, expected) in [
            ("<<EOF", Some(("EOF", false, true))),
            ("<<-EOF", Some(("EOF", true, true))),
            ("<<\"EOF\"", Some(("EOF", false, false))),
            ("<<-'EOF'", Some(("EOF", true, false))),
            ("<<'E O'F", Some(("E OF", false, false))),
            ("3<<EOF", Some(("EOF", false, true))),
            ("<<EOF>x", Some(("EOF>x", false, true))),
            ("<<", None),
            ("<<-", None),
            ("<<<EOF", None),
            ("a<<EOF", None),
            ("<<E'", None),
        ] {
            let found = beginning(word);
            let found = found
                .as_ref()
                .map(|h| (h.name.as_str(), h.strip_tabs, h.expands));
            assert_eq!(found, expected, "{word}");
        }
    }

    #[test]
    fn only_some_instructions_have_them() {
        for (line, count) in [
            ("RUN cat <<A <<B", 2),
            ("run --mount=x <<A", 1),
            ("COPY <<A <<B /x/", 2),
            ("ADD <<A /x", 1),
            ("ONBUILD RUN <<A", 1),
            ("CMD cat <<A", 0),
            ("RUN [\"cat\", \"<<A\"]", 0),
            ("RUN sh -c \"cat <<A\"", 0),
            ("RUN cat \\<<A", 0),
            ("RUN echo $((1<<2))", 0),
            ("RUN it's <<A", 0),
        ] {
            assert_eq!(beginnings(line).len(), count, "{line}");
        }
    }

    #[test]
    fn tabs_go_where_they_are_to() {
        let mut heredoc = beginning("<<-E").unwrap();
        heredoc.body = "\t\ta\n b\n\tc\n".to_owned();
        assert_eq!(heredoc.content(), "a\n b\nc\n");
    }
}
