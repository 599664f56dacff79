//! Pieces to a tree.

use super::lex::{Piece, Word};

/// A node of a template.
#[derive(Debug, Clone)]
pub enum Node {
    Text(String),
    Show(Pipeline),
    /// `{{$x := ...}}`: prints nothing.
    Set(String, Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    /// Variables for index and element, "" = none.
    Range(String, String, Pipeline, Vec<Node>, Vec<Node>),
}

/// Commands, each fed the value of the one before as its last argument.
pub type Pipeline = Vec<Command>;

/// Words of one command: the first may be a function.
pub type Command = Vec<Term>;

/// A word that has a value.
#[derive(Debug, Clone)]
pub enum Term {
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Text(String),
    Number(f64),
    Bool(bool),
    Nil,
    Function(String),
    Group(Pipeline, Vec<String>),
}

/// Functions that templates may call.
pub const FUNCTIONS: &[&str] = &[
    "json", "join", "lower", "upper", "title", "split", "println", "print", "printf", "truncate",
    "pad", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "index", "len", "slice",
    "table",
];

pub fn parse(pieces: &[Piece]) -> Result<Vec<Node>, String> {
    let mut at = 0;
    let (nodes, end) = block(pieces, &mut at)?;
    match end {
        None => Ok(nodes),
        Some(end) => Err(format!(
            "unexpected {{{{{}}}}}",
            end.first().map_or("end", String::as_str)
        )),
    }
}

/// Nodes up to `end` or `else`, whose words are given back.
fn block(pieces: &[Piece], at: &mut usize) -> Result<(Vec<Node>, Option<Vec<String>>), String> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.get(*at) {
        *at += 1;
        let words = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text.clone()));
                continue;
            }
            Piece::Action(words) => words,
        };
        match words.first() {
            Some(Word::Name(name)) if name == "end" || name == "else" => {
                return Ok((nodes, Some(vec![name.clone()])));
            }
            Some(Word::Name(name)) if matches!(name.as_str(), "if" | "with" | "range") => {
                nodes.push(control(name, &words[1..], pieces, at)?);
            }
            Some(Word::Variable(name, fields))
                if fields.is_empty()
                    && matches!(words.get(1), Some(Word::Declare | Word::Assign)) =>
            {
                nodes.push(Node::Set(name.clone(), pipeline(&words[2..])?));
            }
            _ => nodes.push(Node::Show(pipeline(words)?)),
        }
    }
    Ok((nodes, None))
}

fn control(kind: &str, words: &[Word], pieces: &[Piece], at: &mut usize) -> Result<Node, String> {
    let (index, element, words) = match words {
        [
            Word::Variable(i, _),
            Word::Comma,
            Word::Variable(e, _),
            Word::Declare,
            rest @ ..,
        ] => (i.clone(), e.clone(), rest),
        [Word::Variable(e, _), Word::Declare, rest @ ..] => (String::new(), e.clone(), rest),
        rest => (String::new(), String::new(), rest),
    };
    let value = pipeline(words)?;
    let (body, end) = block(pieces, at)?;
    let otherwise = match end.as_ref().and_then(|end| end.first()).map(String::as_str) {
        None => return Err("unexpected EOF".to_owned()),
        Some("end") => Vec::new(),
        Some(_) => match pieces.get(*at - 1) {
            // `else if` is an `if` within the `else` that shares its `end`.
            Some(Piece::Action(words)) if words.len() > 1 => match &words[1] {
                Word::Name(name) if matches!(name.as_str(), "if" | "with") => {
                    vec![control(name, &words[2..], pieces, at)?]
                }
                _ => return Err("unexpected words after {{else}}".to_owned()),
            },
            _ => {
                let (nodes, end) = block(pieces, at)?;
                match end.as_ref().and_then(|end| end.first()).map(String::as_str) {
                    Some("end") => nodes,
                    Some(_) => return Err("expected end; found {{else}}".to_owned()),
                    None => return Err("unexpected EOF".to_owned()),
                }
            }
        },
    };
    Ok(match kind {
        "if" => Node::If(value, body, otherwise),
        "with" => Node::With(value, body, otherwise),
        _ => Node::Range(index, element, value, body, otherwise),
    })
}

fn pipeline(words: &[Word]) -> Result<Pipeline, String> {
    let mut at = 0;
    let (value, closed) = commands(words, &mut at, 0)?;
    match closed {
        None => Ok(value),
        Some(_) => Err("unexpected right paren".to_owned()),
    }
}

fn commands(
    words: &[Word],
    at: &mut usize,
    depth: usize,
) -> Result<(Pipeline, Option<Vec<String>>), String> {
    // Deeper than anybody writes; keeps the stack small whatever is given.
    if depth > 64 {
        return Err("too many parentheses".to_owned());
    }
    let mut out = Vec::new();
    let mut current: Command = Vec::new();
    let mut closed = None;
    while let Some(word) = words.get(*at) {
        *at += 1;
        current.push(match word {
            Word::Field(names) => Term::Field(names.clone()),
            Word::Variable(name, names) => Term::Variable(name.clone(), names.clone()),
            Word::Text(text) => Term::Text(text.clone()),
            Word::Number(number) => Term::Number(*number),
            Word::Name(name) => match name.as_str() {
                "true" => Term::Bool(true),
                "false" => Term::Bool(false),
                "nil" => Term::Nil,
                name if FUNCTIONS.contains(&name) => Term::Function(name.to_owned()),
                name => return Err(format!("function \"{name}\" not defined")),
            },
            Word::Open => match commands(words, at, depth + 1)? {
                (inner, Some(names)) => Term::Group(inner, names),
                (_, None) => return Err("unclosed left paren".to_owned()),
            },
            Word::Close(names) => {
                closed = Some(names.clone());
                break;
            }
            Word::Pipe => {
                out.push(std::mem::take(&mut current));
                continue;
            }
            Word::Comma | Word::Declare | Word::Assign => {
                return Err("unexpected token in operand".to_owned());
            }
        });
    }
    out.push(current);
    if out.iter().any(Vec::is_empty) {
        return Err("missing value for command".to_owned());
    }
    Ok((out, closed))
}
