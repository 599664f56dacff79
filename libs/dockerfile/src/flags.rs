//! The flags of an instruction: `COPY --from=build`.
//!
//! As in BuildKit (`parser/split_command.go`, `instructions/bflag.go`): quotes and escapes of a flag are
//! taken away where it is read; a name is given once, unless it is one of a list.

use super::suggest::suggestion;

/// The `--name[=value]` words in front of an instruction's arguments.
pub struct Flags {
    flags: Vec<(String, Option<String>)>,
}

impl Flags {
    /// Takes them; the rest of the line.
    pub fn take(text: &str) -> (Self, &str) {
        let mut flags = Vec::new();
        let mut rest = text.trim_start();
        while rest.starts_with("--") {
            let (word, end) = word(rest);
            rest = rest[end..].trim_start();
            if word == "--" {
                break;
            }
            let word = word.strip_prefix("--").unwrap_or(&word).to_owned();
            flags.push(match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            });
        }
        (Self { flags }, rest)
    }

    /// A value that is used as it stands.
    pub fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        let mut all = self.all(name)?;
        if all.len() > 1 {
            return Err(format!("duplicate flag specified: {name}"));
        }
        Ok(all.pop())
    }

    /// A value whose variables are expanded where it is used.
    pub fn raw(&mut self, name: &str) -> Result<Option<String>, String> {
        self.value(name)
    }

    /// The values of a flag that may be given several times.
    pub fn all(&mut self, name: &str) -> Result<Vec<String>, String> {
        let mut out = Vec::new();
        while let Some(at) = self.flags.iter().position(|(n, _)| n == name) {
            match self.flags.remove(at).1 {
                Some(value) => out.push(value),
                None => return Err(format!("missing a value on flag: {name}")),
            }
        }
        Ok(out)
    }

    pub fn switch(&mut self, name: &str) -> Result<bool, String> {
        let Some(at) = self.flags.iter().position(|(n, _)| n == name) else {
            return Ok(false);
        };
        let value = self.flags.remove(at).1;
        if self.flags.iter().any(|(n, _)| n == name) {
            return Err(format!("duplicate flag specified: {name}"));
        }
        match value.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some("") => Err(format!("missing a value on flag: {name}")),
            Some(_) => Err(format!(
                "expecting boolean value for flag {name}, not: {}",
                value.unwrap_or_default()
            )),
        }
    }

    /// A switch that need not be given.
    pub fn optional_switch(&mut self, name: &str) -> Result<Option<bool>, String> {
        let given = self.flags.iter().any(|(n, _)| n == name);
        Ok(if given {
            Some(self.switch(name)?)
        } else {
            None
        })
    }

    pub fn refuse(&self, instruction: &str, names: &[&str]) -> Result<(), String> {
        match self.flags.iter().find(|(n, _)| names.contains(&n.as_str())) {
            Some((name, _)) => Err(format!("{instruction} --{name} is not supported yet")),
            None => Ok(()),
        }
    }

    /// Whatever nobody took is no flag of this instruction; `known` are those that it has.
    pub fn nothing_left(&self, instruction: &str, known: &[&str]) -> Result<(), String> {
        let Some((name, _)) = self.flags.first() else {
            return Ok(());
        };
        Err(match (suggestion(name, known), known) {
            (Some(near), _) => format!("unknown flag: --{name} (did you mean {near}?)"),
            (None, []) => format!("unknown flag: --{name} ({instruction} has no flags)"),
            (None, known) => format!(
                "unknown flag: --{name} ({instruction} has --{})",
                known.join(", --")
            ),
        })
    }
}

/// The first word without its quotes and escapes, and where it ends.
fn word(text: &str) -> (String, usize) {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (out, at),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if c == q => quote = None,
            _ if c == '\\' => out.extend(chars.next().map(|(_, c)| c)),
            _ => out.push(c),
        }
    }
    (out, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_words_in_front() {
        let (mut flags, rest) = Flags::take("--a=1 --b  --c='x y'z --c=\"q\\\"\" --  --d rest --e");
        assert_eq!(rest, "--d rest --e");
        assert_eq!(flags.value("a"), Ok(Some("1".to_owned())));
        assert_eq!(flags.switch("b"), Ok(true));
        assert_eq!(
            flags.all("c"),
            Ok(vec!["x yz".to_owned(), "q\"".to_owned()])
        );
        assert_eq!(flags.nothing_left("X", &[]), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("--from", "missing a value on flag: from"),
            ("--from=a --from=b", "duplicate flag specified: from"),
            ("--frm=a", "unknown flag: --frm (did you mean from?)"),
            ("--zzzzzz", "X has --from, --link"),
            (
                "--link=maybe",
                "expecting boolean value for flag link, not: maybe",
            ),
            ("--link --link", "duplicate flag"),
        ] {
            let (mut flags, _) = Flags::take(text);
            let outcome = flags
                .value("from")
                .and_then(|_| flags.switch("link"))
                .and_then(|_| flags.nothing_left("X", &["from", "link"]));
            let error = outcome.unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_line_has_flags_or_none(text in "[-a=b'\"\\\\ é]{0,40}") {
            let (_, rest) = Flags::take(&text);
            proptest::prop_assert!(text.ends_with(rest));
        }
    }
}
