//! Dockerfiles: text to stages of typed instructions, each with its place in the file.
//!
//! * [`lex`]: bytes to logical lines;
//! * [`parse`]: a line to a typed [`instruction`], its flags apart;
//! * [`expand`]: shell words and variables.
//!
//! Architecture invariant: nothing here reads a file, knows an image or runs anything.

mod copy;
pub mod expand;
mod flags;
pub mod instruction;
pub mod lex;
pub mod parse;
pub mod port;

pub use instruction::{Command, Content, Copy, From, Healthcheck, Instruction, Run};

/// Most bytes of a Dockerfile.
pub const MAX_SIZE: usize = 1 << 20;
/// Most instructions of a Dockerfile.
pub const MAX_INSTRUCTIONS: usize = 5_000;

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// Name for messages.
    pub name: String,
    /// Escape character.
    pub escape: char,
    /// `ARG`s in front of the first `FROM`.
    pub arguments: Vec<Located>,
    /// Stages, in order; at least one.
    pub stages: Vec<Stage>,
    /// Its physical lines, for excerpts.
    lines: Vec<String>,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The `FROM`.
    pub from: From,
    /// Where it stands.
    pub place: Place,
    /// What follows.
    pub instructions: Vec<Located>,
}

/// An instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Where.
    pub place: Place,
    /// Its text, continuations joined.
    pub text: String,
    /// What.
    pub instruction: Instruction,
}

/// Physical lines, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// First.
    pub first: u32,
    /// Last.
    pub last: u32,
}

/// A line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// From 1.
    pub line: u32,
    /// A sentence.
    pub message: String,
}

impl SyntaxError {
    /// `index` counts physical lines from 0.
    pub fn new(index: usize, message: impl Into<String>) -> Self {
        Self {
            line: u32::try_from(index + 1).unwrap_or(u32::MAX),
            message: message.into(),
        }
    }
}

impl Dockerfile {
    /// Parses a Dockerfile. The error names the line and shows it.
    pub fn parse(name: &str, content: &[u8]) -> Result<Self, String> {
        if content.len() > MAX_SIZE {
            return Err(format!("{name} is larger than {} KiB", MAX_SIZE / 1024));
        }
        let Ok(text) = std::str::from_utf8(content) else {
            return Err(format!("{name} is not UTF-8 text"));
        };
        let mut out = Self {
            name: name.to_owned(),
            escape: '\\',
            arguments: Vec::new(),
            stages: Vec::new(),
            lines: text.lines().map(str::to_owned).collect(),
        };
        let at = |out: &Self, line: u32, message: &str| {
            let place = Place {
                first: line,
                last: line,
            };
            out.error(place, &format!("dockerfile parse error: {message}"))
        };
        let lexed = lex::lex(text).map_err(|e| at(&out, e.line, &e.message))?;
        out.escape = lexed.escape;
        if let Some(syntax) = lexed.syntax.filter(|s| !is_our_syntax(s)) {
            return Err(at(
                &out,
                1,
                &format!(
                    "the front end {syntax:?} is not supported: only docker/dockerfile is, and it is built in"
                ),
            ));
        }
        if lexed.lines.len() > MAX_INSTRUCTIONS {
            return Err(format!(
                "{name} has more than {MAX_INSTRUCTIONS} instructions"
            ));
        }
        for line in &lexed.lines {
            let place = Place {
                first: line.first,
                last: line.last,
            };
            let instruction = parse::parse(&line.text, &line.heredocs, out.escape)
                .map_err(|e| out.error(place, &format!("dockerfile parse error: {e}")))?;
            match (instruction, out.stages.last_mut()) {
                (Instruction::From(from), _) => out.stages.push(Stage {
                    from,
                    place,
                    instructions: Vec::new(),
                }),
                (instruction, Some(stage)) => stage.instructions.push(Located {
                    place,
                    text: line.text.clone(),
                    instruction,
                }),
                (instruction @ Instruction::Arg(_), None) => out.arguments.push(Located {
                    place,
                    text: line.text.clone(),
                    instruction,
                }),
                (_, None) => {
                    return Err(out.error(
                        place,
                        "no build stage in current context: a Dockerfile begins with FROM (only ARG may stand before it)",
                    ));
                }
            }
        }
        if out.stages.is_empty() {
            return Err(format!(
                "the {name} has no build stage: it must hold at least FROM image"
            ));
        }
        Ok(out)
    }

    /// A sentence with its place in front and an excerpt of the file behind, on lines of its own.
    pub fn error(&self, place: Place, message: &str) -> String {
        let (first, last) = (place.first as usize, place.last as usize);
        let (from, to) = (
            first.saturating_sub(3).max(1),
            (last + 2).min(self.lines.len()),
        );
        let mut out = format!("{}:{first}: {message}\n--------------------\n", self.name);
        for number in from..=to {
            let mark = if (first..=last).contains(&number) {
                ">>>"
            } else {
                "   "
            };
            let line = self.lines.get(number - 1).map_or("", String::as_str);
            let line: String = line.chars().take(200).collect();
            out.push_str(&format!("{number:>4} | {mark} {line}\n"));
        }
        out.push_str("--------------------");
        out
    }
}

/// The official front end, any version of it: what it understands is built in.
fn is_our_syntax(syntax: &str) -> bool {
    let name = syntax.split(['@', ' ']).next().unwrap_or_default();
    let name = name
        .trim_start_matches("docker.io/")
        .split(':')
        .next()
        .unwrap_or_default();
    matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_their_instructions() {
        let text = "# syntax=docker/dockerfile:1.7\nARG V=1\nFROM a:$V AS build\nRUN x\n\nFROM scratch\nCOPY --from=build /x /\n";
        let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
        assert_eq!(file.arguments.len(), 1);
        assert_eq!(file.stages.len(), 2);
        assert_eq!(file.stages[0].from.name.as_deref(), Some("build"));
        assert_eq!(file.stages[1].instructions[0].place.first, 7);
    }

    #[test]
    fn errors_show_their_place() {
        let error = Dockerfile::parse("Dockerfile", b"FROM a\nRUNN x\nCMD y\n").unwrap_err();
        assert_eq!(
            error,
            "Dockerfile:2: dockerfile parse error: unknown instruction: RUNN (did you mean RUN?)\n\
             --------------------\n   1 |     FROM a\n   2 | >>> RUNN x\n   3 |     CMD y\n--------------------"
        );
        for text in ["", "RUN x", "# only\n", "\u{0}", "# syntax=me/mine\nFROM a"] {
            assert!(
                Dockerfile::parse("Dockerfile", text.as_bytes()).is_err(),
                "{text:?}"
            );
        }
        assert!(Dockerfile::parse("Dockerfile", b"FROM a\n\xff").is_err());
    }
}
