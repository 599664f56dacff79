//! Dockerfiles: text to stages of typed instructions, each with its place in the file.
//!
//! * [`lex`]: bytes to logical lines;
//! * [`parse`]: a line to a typed [`instruction`], its flags apart;
//! * [`expand`]: shell words and variables;
//! * [`lint`]: what is allowed and yet not advisable;
//! * [`mount`]: the value of `RUN --mount`.
//!
//! Architecture invariant: nothing here reads a file, knows an image or runs anything.

mod copy;
pub mod expand;
mod flags;
pub mod instruction;
pub mod lex;
pub mod lint;
pub mod mount;
pub mod parse;
pub mod port;
pub mod signal;
pub mod suggest;

use lint::config::directive;

pub use instruction::{Command, Content, Copy, From, Healthcheck, Instruction, Run};

/// Most bytes of a Dockerfile.
pub const MAX_SIZE: usize = 1 << 20;
/// Most instructions of a Dockerfile.
pub const MAX_INSTRUCTIONS: usize = 5_000;
/// Most stages of a Dockerfile.
pub const MAX_STAGES: usize = 1_000;

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// Name for messages.
    pub name: String,
    /// Escape character.
    pub escape: char,
    /// `# check=`: what it says, and its line.
    pub check: Option<(String, u32)>,
    /// `ARG`s in front of the first `FROM`.
    pub arguments: Vec<Located>,
    /// Stages, in order; at least one.
    pub stages: Vec<Stage>,
    /// All of it, for excerpts.
    pub source: String,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The `FROM`.
    pub from: From,
    /// Where it stands.
    pub place: Place,
    /// Its text, continuations joined.
    pub text: String,
    /// What the linter looks at.
    pub around: Around,
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
    /// What the linter looks at.
    pub around: Around,
}

/// Bytes of an excerpt after which no further line is shown.
const EXCERPT: usize = 2 << 10;

/// What stands around an instruction and has no part in what it means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// The comments right above, without their `#`.
    pub comments: Vec<String>,
    /// What those among them say of checks: the value of `# check=`.
    pub checks: Vec<String>,
    /// The last of its continued lines, when a blank one stands between these.
    pub empty_continuation: Option<u32>,
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
        let mut out = Self {
            name: name.to_owned(),
            escape: '\\',
            check: None,
            arguments: Vec::new(),
            stages: Vec::new(),
            source: String::from_utf8_lossy(content.strip_prefix(BOM).unwrap_or(content))
                .into_owned(),
        };
        let at = |out: &Self, line: u32, message: &str| {
            let place = Place {
                first: line,
                last: line,
            };
            out.error(place, &format!("dockerfile parse error: {message}"))
        };
        let lexed = lex::lex_bytes(content).map_err(|e| at(&out, e.line, &e.message))?;
        out.escape = lexed.escape;
        out.check = lexed.check;
        if let Some((syntax, line)) = lexed.syntax.filter(|(s, _)| !is_our_syntax(s)) {
            return Err(at(
                &out,
                line,
                &format!(
                    "the front end {syntax:?} is not supported: only docker/dockerfile is, and it is built in"
                ),
            ));
        }
        for line in lexed.lines {
            let place = Place {
                first: line.first,
                last: line.last,
            };
            let instruction = parse::parse(&line.text, &line.heredocs, out.escape)
                .map_err(|e| out.error(place, &format!("dockerfile parse error: {e}")))?;
            out.put(line, place, instruction)?;
        }
        if out.stages.is_empty() {
            return Err(format!(
                "the {name} has no build stage: it must hold at least FROM image"
            ));
        }
        Ok(out)
    }

    fn put(
        &mut self,
        line: lex::Line,
        place: Place,
        instruction: Instruction,
    ) -> Result<(), String> {
        let check = |comment: &String| directive(comment).map(str::to_owned);
        let around = Around {
            checks: line.comments.iter().filter_map(check).collect(),
            comments: {
                let mut comments = line.comments;
                comments.retain(|comment| directive(comment).is_none());
                comments
            },
            empty_continuation: line.empty_continuation,
        };
        let text = line.text;
        if let Instruction::From(from) = instruction {
            if self.stages.len() == MAX_STAGES {
                return Err(self.error(place, &format!("there are more than {MAX_STAGES} stages")));
            }
            self.stages.push(Stage {
                from,
                place,
                text,
                around,
                instructions: Vec::new(),
            });
            return Ok(());
        }
        let located = Located {
            place,
            text,
            instruction,
            around,
        };
        match (self.stages.last_mut(), &located.instruction) {
            (Some(stage), _) => stage.instructions.push(located),
            (None, Instruction::Arg(_)) => self.arguments.push(located),
            (None, _) => {
                return Err(self.error(
                    place,
                    "no build stage in current context: a Dockerfile begins with FROM (only ARG may stand before it)",
                ));
            }
        }
        Ok(())
    }

    /// Names of the stages that have one.
    pub fn stage_names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|s| s.from.name.as_deref())
    }

    /// Whether a front end other than ours is asked for by name (`BUILDKIT_SYNTAX`).
    pub fn understands(syntax: &str) -> bool {
        is_our_syntax(syntax)
    }

    /// A sentence with its place in front and an excerpt of the file behind, on lines of its own.
    pub fn error(&self, place: Place, message: &str) -> String {
        format!(
            "{}:{}: {message}\n{}",
            self.name,
            place.first,
            self.excerpt(place)
        )
    }

    /// The lines of a place among those around them, between two rules, as BuildKit shows them
    /// (`solver/errdefs/source.go`).
    pub fn excerpt(&self, place: Place) -> String {
        let (first, last) = (place.first as usize, place.last as usize);
        let around = if first == last { 4 } else { 2 };
        // A here-document may be long: its beginning is enough.
        let last = last.min(first + 30);
        let count = self.source.split('\n').take(last + around).count();
        let (mut from, mut to, mut more) = (first, last.min(count), 0);
        while more < around {
            if from > 1 {
                from -= 1;
                more += 1;
            }
            if to < count {
                to += 1;
                more += 1;
            }
            more += 1;
        }
        let mut out = "--------------------\n".to_owned();
        let lines = self.source.split('\n').zip(1..).skip(from - 1);
        for (line, number) in lines.take(to + 1 - from) {
            if out.len() > EXCERPT {
                break;
            }
            let mark = if (first..=last).contains(&number) {
                ">>>"
            } else {
                "   "
            };
            let line: String = line.trim_end_matches('\r').chars().take(200).collect();
            out.push_str(&format!(" {number:>3} | {mark} {line}\n"));
        }
        out.push_str("--------------------");
        out
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

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
             --------------------\n   1 |     FROM a\n   2 | >>> RUNN x\n   3 |     CMD y\n   4 |     \n--------------------"
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
