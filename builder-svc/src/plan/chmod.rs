//! `--chmod`: an octal mode, or chmod(1)'s symbolic ones.

/// What becomes of the mode of each file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// This mode for all.
    Octal(u32),
    /// Changes in their order.
    Symbolic(Vec<Change>),
}

/// `u+rwX`: one operator of a clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Permission bits of those who are meant (0o700, 0o070, 0o007), and 0o7000 as far as it is theirs.
    who: u32,
    operator: char,
    /// Bits for everybody, to be cut to `who`.
    bits: u32,
    /// `X`: to be executed if it is a folder, or somebody may already.
    execute: bool,
    /// `g=u`: the bits of this class.
    copied: Option<char>,
}

impl Chmod {
    /// Reads the option's value.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .map(Self::Octal)
                .ok_or_else(|| {
                    format!(
                        "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
                    )
                });
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            read(clause, &mut changes).ok_or_else(|| {
                format!("invalid chmod parameter: '{text}'. It is 755 or u=rwX,go=rX")
            })?;
        }
        Ok(Self::Symbolic(changes))
    }

    /// The new mode of a file or folder.
    pub fn apply(&self, mode: u32, folder: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(changes) => changes.iter().fold(mode, |mode, c| c.apply(mode, folder)),
        }
    }
}

impl Change {
    fn apply(&self, mode: u32, folder: bool) -> u32 {
        let mut bits = self.bits;
        if self.execute && (folder || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(class) = self.copied {
            let three = match class {
                'u' => mode >> 6,
                'g' => mode >> 3,
                _ => mode,
            } & 0o7;
            bits |= three << 6 | three << 3 | three;
        }
        let bits = bits & self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            // A folder keeps setuid and setgid unless they are named, as chmod(1).
            _ if folder => mode & !(self.who & 0o1777) | bits,
            _ => mode & !self.who | bits,
        }
    }
}

fn read(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let at = clause.find(['+', '-', '='])?;
    let mut who = 0;
    for c in clause[..at].chars() {
        who |= match c {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o0007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    // The sticky bit is nobody's and everybody's.
    who = if who == 0 { 0o7777 } else { who | 0o1000 };
    let mut rest = &clause[at..];
    while let Some(operator) = rest.chars().next() {
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let (letters, after) = rest.split_at(end);
        rest = after;
        let mut change = Change {
            who,
            operator,
            bits: 0,
            execute: false,
            copied: None,
        };
        match letters {
            "u" | "g" | "o" => change.copied = letters.chars().next(),
            letters => {
                for c in letters.chars() {
                    match c {
                        'r' => change.bits |= 0o444,
                        'w' => change.bits |= 0o222,
                        'x' => change.bits |= 0o111,
                        'X' => change.execute = true,
                        's' => change.bits |= 0o6000,
                        't' => change.bits |= 0o1000,
                        _ => return None,
                    }
                }
            }
        }
        changes.push(change);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_become_what_chmod_makes_of_them() {
        for (text, mode, folder, expected) in [
            ("755", 0o600, false, 0o755),
            ("0", 0o644, false, 0),
            ("4755", 0o600, true, 0o4755),
            ("+x", 0o644, false, 0o755),
            ("u+x", 0o644, false, 0o744),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a=r", 0o4755, false, 0o444),
            ("go-rwx", 0o777, false, 0o700),
            ("g=u", 0o750, false, 0o770),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("+t", 0o777, true, 0o1777),
            ("u+w-x", 0o555, false, 0o655),
            ("o=", 0o777, false, 0o770),
        ] {
            let chmod = Chmod::parse(text).unwrap();
            assert_eq!(chmod.apply(mode, folder), expected, "{text} of {mode:o}");
        }
        for bad in ["", "8", "77777", "u", "u+q", "x+r", "u=rw,", "1x"] {
            assert!(Chmod::parse(bad).is_err(), "{bad}");
        }
        assert!(Chmod::parse("999").unwrap_err().contains("octal string"));
    }
}
