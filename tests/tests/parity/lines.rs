//! Lines that are said to both, and what of their answers is compared.
//!
//! A script is a line a command, without the program's name; `#` begins a comment, `'` quotes a word, `$HERE`
//! is a folder that each side has for itself, and a line that begins with `!` is for the shell in that folder. What stands indented below a line says where the answers
//! differ and why: `~ err: reason` (they must: who mends it takes the note away), `~? out err: reason` (they
//! may: it depends on the version or on the moment). `inspect` is compared key by key, see `json`.

use std::path::Path;

use slipway_tests::Said;

use crate::json;

/// Daemons before this say many things in other words: of them exit codes and output are compared.
pub const CURRENT: u32 = 25;

/// A line of a script.
#[derive(Debug, Default)]
pub struct Line {
    /// As it is written.
    pub text: String,
    differs: Vec<String>,
    may_differ: Vec<String>,
}

/// Reads a script.
pub fn parse(script: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for text in script.lines() {
        if text.trim().is_empty() || text.starts_with('#') {
            continue;
        }
        let Some(note) = text.strip_prefix(' ') else {
            lines.push(Line {
                text: text.to_owned(),
                ..Line::default()
            });
            continue;
        };
        let (parts, reason) = note.trim().split_once(':').expect("a note has a reason");
        assert!(!reason.trim().is_empty(), "{note}");
        let line = lines.last_mut().expect("a note stands below a line");
        let mut words = parts.split(' ');
        let list = match words.next() {
            Some("~") => &mut line.differs,
            Some("~?") => &mut line.may_differ,
            _ => panic!("{note}"),
        };
        list.extend(words.map(str::to_owned));
    }
    lines
}

impl Line {
    /// Its words for one of the sides.
    pub fn words(&self, here: &Path) -> Vec<String> {
        let text = self.text.replace("$HERE", here.to_str().unwrap());
        let (mut words, mut word, mut quoted, mut begun) = (vec![], String::new(), false, false);
        for c in text.chars() {
            match c {
                '\'' => (quoted, begun) = (!quoted, true),
                ' ' if !quoted => {
                    if begun {
                        words.push(std::mem::take(&mut word));
                    }
                    begun = false;
                }
                c => {
                    word.push(c);
                    begun = true;
                }
            }
        }
        if begun {
            words.push(word);
        }
        words
    }

    /// What is not as it should be: answers that differ, or no longer do.
    pub fn judge(&self, docker: &Said, ctl: &Said, version: u32) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut part = |name: &str, docker: &str, ctl: &str| {
            let is = |list: &[String]| list.iter().any(|p| p == name);
            match docker == ctl {
                true if is(&self.differs) && version >= CURRENT => {
                    wrong.push(format!("{name} is the same now: {docker}"));
                }
                false if !is(&self.differs) && !is(&self.may_differ) => {
                    wrong.push(format!("{name}:\n  docker: {docker}\n  ctl:    {ctl}"));
                }
                _ => {}
            }
        };
        part("code", &docker.code.to_string(), &ctl.code.to_string());
        let is_json = docker.out.starts_with("[\n") && ctl.out.starts_with("[\n");
        if !is_json {
            part("out", &on_ipv4_only(&docker.out), &ctl.out);
        }
        if version >= CURRENT {
            part("err", &docker.err, &ctl.err);
        }
        if is_json {
            wrong.extend(json::differences(&docker.out, &ctl.out, version));
        }
        wrong
            .iter()
            .map(|w| format!("{}\n  {w}", self.text))
            .collect()
    }
}

/// Takes what is another every time out of an answer.
pub fn plain(said: Said, here: &Path) -> Said {
    let tidy = |text: &str| {
        let text = text.replace(here.to_str().unwrap(), "<here>");
        moments(&ids(&text))
    };
    let table = |text: String| text.lines().map(|l| squeezed(l) + "\n").collect::<String>();
    let is_json = said.out.starts_with("[\n");
    Said {
        code: said.code,
        err: sentences(&tidy(&said.err)),
        out: if is_json {
            said.out.replace(here.to_str().unwrap(), "<here>")
        } else {
            table(tidy(&said.out))
        },
    }
}

/// Without the ports of `[::]` that docker always tells of: the containers of these scripts have no IPv6
/// (docs/reference/docker-differences.md).
fn on_ipv4_only(text: &str) -> String {
    let json: Vec<&str> = text.split(r#",{"HostIp":"::""#).collect();
    let rest = json[1..].iter().filter_map(|piece| piece.split_once('}'));
    let text = json[0].to_owned() + &rest.map(|(_, after)| after).collect::<String>();
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        let pieces: Vec<&str> = line.split(", [::]:").collect();
        let mut line = pieces[0].to_owned();
        for piece in &pieces[1..] {
            let end = piece.find(['\n', ',', ' ']).unwrap_or(piece.len());
            line.push_str(&piece[end..]);
        }
        if !line.contains("[::]:") {
            kept.push_str(&line);
        }
    }
    kept
}

/// The columns of a table, wherever they stand.
fn squeezed(line: &str) -> String {
    let columns = line.split("  ").map(str::trim).filter(|c| !c.is_empty());
    columns.collect::<Vec<_>>().join("  ")
}

/// Errors without who says them, and without docker's advice where to read on.
fn sentences(text: &str) -> String {
    const WHO: [&str; 4] = [
        "docker: ",
        "Error response from daemon: ",
        "Error: ",
        "ctl: ",
    ];
    const ADVICE: [&str; 6] = [
        "See '",
        "Run 'docker",
        "Usage:",
        "ctl ",
        "docker ",
        "Aliases:",
    ];
    let mut kept = Vec::new();
    for mut line in text.lines() {
        while let Some(rest) = WHO.iter().find_map(|who| line.strip_prefix(who)) {
            line = rest;
        }
        for advice in [". See '", " See '", ". See the command's --help", "\tSee "] {
            line = line.split(advice).next().unwrap_or(line);
        }
        let line = line.trim().trim_end_matches('.');
        if !(line.is_empty() || ADVICE.iter().any(|a| line.starts_with(a))) {
            kept.push(line);
        }
    }
    kept.join("\n")
}

/// Ids, in both lengths. Digests of images are the same on both sides, and stay.
pub fn ids(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let hex = word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let is_id = hex && matches!(word.len(), 12 | 64) && !out.ends_with("sha256:");
        out.push_str(if is_id { "<id>" } else { word });
        rest = after;
    }
    out + rest
}

/// Times of the day, and how long ago something was.
fn moments(text: &str) -> String {
    let text = ["Less than a second", "About a minute", "About an hour"]
        .iter()
        .fold(text.to_owned(), |text, span| text.replace(span, "<span>"));
    let mut out = String::new();
    for piece in text.split_inclusive([' ', '\n', '"', ',']) {
        let word = piece.trim_end_matches([' ', '\n', '"', ',']);
        let end = &piece[word.len()..];
        let unit = matches!(word, "second" | "seconds" | "minute" | "minutes");
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if unit && out.ends_with(' ') {
            let before = out
                .trim_end()
                .rsplit(' ')
                .next()
                .unwrap_or_default()
                .to_owned();
            if number(&before) {
                out.truncate(out.trim_end().len() - before.len());
                out.push_str("<span>");
                out.push_str(end);
                continue;
            }
        }
        let bytes = word.as_bytes();
        let shaped = |sep: u8, at: usize| bytes.get(at) == Some(&sep);
        let time = word.len() >= 19 && shaped(b'-', 4) && shaped(b'T', 10) && shaped(b':', 13);
        let day = word.len() == 10 && shaped(b'-', 4) && shaped(b'-', 7) && number(&word[..4]);
        let hour = word.len() == 8 && shaped(b':', 2) && shaped(b':', 5);
        if time && !word.starts_with("0001-") || day || hour {
            out.push_str("<time>");
            out.push_str(end);
        } else {
            out.push_str(piece);
        }
    }
    out
}
