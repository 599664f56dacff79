//! A line to words, quotes and escapes left in place (BuildKit's `parseWords`).

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
        // Inside single quotes nothing is escaped.
        if c == escape && quote != Some('\'') {
            // At the end of the line it vanishes.
            if let Some(next) = chars.next() {
                word.extend([c, next]);
            }
            continue;
        }
        word.push(c);
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}
