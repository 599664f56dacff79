//! Text to pieces: plain text, and actions as words.

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Text(String),
    Action(Vec<Word>),
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    /// `.A.B` as its names; `.` alone has none.
    Field(Vec<String>),
    /// `$x.A`: the variable (without `$`), then names.
    Variable(String, Vec<String>),
    Text(String),
    Number(f64),
    Name(String),
    Open,
    /// `)`, and the fields taken of it.
    Close(Vec<String>),
    Pipe,
    Comma,
    Declare,
    Assign,
}

/// Splits and trims as `{{-` and `-}}` say.
pub fn split(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some(at) = rest.find("{{") {
        let mut plain = &rest[..at];
        let mut inner = &rest[at + 2..];
        if trim {
            plain = plain.trim_start();
        }
        if inner.starts_with("- ") {
            plain = plain.trim_end();
            inner = &inner[1..];
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.to_owned()));
        }
        let end = close(inner)?;
        let mut body = &inner[..end];
        rest = &inner[end + 2..];
        trim = body.ends_with(" -");
        if trim {
            body = &body[..body.len() - 2];
        }
        let body = body.trim();
        if !(body.starts_with("/*") && body.ends_with("*/")) {
            pieces.push(Piece::Action(words(body)?));
        }
    }
    let rest = if trim { rest.trim_start() } else { rest };
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// Where `}}` is, outside of quotes.
fn close(text: &str) -> Result<usize, String> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut at = 0;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"'), b'\\') => at += 1,
            (Some(q), c) if q == c => quote = None,
            (None, c @ (b'"' | b'`')) => quote = Some(c),
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Ok(at),
            _ => {}
        }
        at += 1;
    }
    Err(match quote {
        Some(_) => "unterminated quoted string".to_owned(),
        None => "unclosed action".to_owned(),
    })
}

fn words(text: &str) -> Result<Vec<Word>, String> {
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    let mut out = Vec::new();
    while let Some(&c) = chars.get(at) {
        at += 1;
        match c {
            c if c.is_whitespace() => {}
            '(' => out.push(Word::Open),
            ')' => out.push(Word::Close(fields(&chars, &mut at))),
            '|' => out.push(Word::Pipe),
            ',' => out.push(Word::Comma),
            '=' => out.push(Word::Assign),
            ':' if chars.get(at) == Some(&'=') => {
                at += 1;
                out.push(Word::Declare);
            }
            '"' => {
                let mut string = String::new();
                loop {
                    match chars.get(at) {
                        None => return Err("unterminated quoted string".to_owned()),
                        Some('"') => break,
                        Some('\\') => {
                            at += 1;
                            string.push(match chars.get(at) {
                                Some('n') => '\n',
                                Some('t') => '\t',
                                Some(&c) => c,
                                None => return Err("unterminated quoted string".to_owned()),
                            });
                        }
                        Some(&c) => string.push(c),
                    }
                    at += 1;
                }
                at += 1;
                out.push(Word::Text(string));
            }
            '`' => {
                let end = chars[at..]
                    .iter()
                    .position(|&c| c == '`')
                    .ok_or("unterminated raw quoted string")?;
                out.push(Word::Text(chars[at..at + end].iter().collect()));
                at += end + 1;
            }
            '.' => {
                at -= 1;
                let names = fields(&chars, &mut at);
                if names.is_empty() {
                    at += 1;
                }
                out.push(Word::Field(names));
            }
            '$' => {
                let name = name(&chars, &mut at);
                out.push(Word::Variable(name, fields(&chars, &mut at)));
            }
            c if c.is_ascii_digit()
                || (c == '-' && chars.get(at).is_some_and(char::is_ascii_digit)) =>
            {
                let start = at - 1;
                while chars
                    .get(at)
                    .is_some_and(|c| c.is_ascii_digit() || *c == '.')
                {
                    at += 1;
                }
                let digits: String = chars[start..at].iter().collect();
                out.push(Word::Number(
                    digits
                        .parse()
                        .map_err(|_| format!("bad number syntax: {digits:?}"))?,
                ));
            }
            c if c.is_alphabetic() || c == '_' => {
                at -= 1;
                out.push(Word::Name(name(&chars, &mut at)));
            }
            c => return Err(format!("unexpected {c:?} in command")),
        }
    }
    Ok(out)
}

fn name(chars: &[char], at: &mut usize) -> String {
    let start = *at;
    while chars
        .get(*at)
        .is_some_and(|c| c.is_alphanumeric() || *c == '_')
    {
        *at += 1;
    }
    chars[start..*at].iter().collect()
}

fn fields(chars: &[char], at: &mut usize) -> Vec<String> {
    let mut names = Vec::new();
    while chars.get(*at) == Some(&'.')
        && chars
            .get(*at + 1)
            .is_some_and(|c| c.is_alphabetic() || *c == '_')
    {
        *at += 1;
        names.push(name(chars, at));
    }
    names
}
