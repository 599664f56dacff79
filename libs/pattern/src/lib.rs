//! Wildcards as docker has them: Go's `filepath.Match`, for one component of a path; [`list`] has lists of
//! patterns for whole paths.
//!
//! `*` any characters, `?` one, `[a-z]` one of a set, `[^a]` one outside of it, `\x` x itself.

#![forbid(unsafe_code)]

pub mod list;

pub use list::{BadPattern, Matched, PatternList};

/// Whether a path has wildcards.
pub fn has_wildcards(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Whether a component's name fits a pattern. Linear but for backtracking to the last `*`. A pattern
/// that is malformed fits nothing.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        if n == name.len() && p == pattern.len() {
            return true;
        }
        if n < name.len()
            && let Some((true, length)) = match_one(&pattern[p..], name[n])
        {
            p += length;
            n += 1;
            continue;
        }
        match star {
            Some((after, from)) if from < name.len() => {
                p = after;
                n = from + 1;
                star = Some((after, from + 1));
            }
            _ => return false,
        }
    }
}

/// Whether a pattern is one, of which [`matches()`] can say something.
pub fn check(pattern: &str) -> Result<(), BadPattern> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut rest = &chars[..];
    while !rest.is_empty() {
        let (_, length) = match_one(rest, ' ').ok_or_else(|| BadPattern(pattern.to_owned()))?;
        rest = &rest[length..];
    }
    Ok(())
}

/// Whether the first item of a pattern that is not at its end fits a character, and how long the item is;
/// nothing where it is malformed.
fn match_one(pattern: &[char], c: char) -> Option<(bool, usize)> {
    match pattern {
        ['?' | '*', ..] => Some((true, 1)),
        ['\\', escaped, ..] => Some((*escaped == c, 2)),
        ['\\'] | [] => None,
        ['[', '^', set @ ..] => match_set(set, c).map(|(hit, length)| (!hit, 2 + length)),
        ['[', set @ ..] => match_set(set, c).map(|(hit, length)| (hit, 1 + length)),
        [literal, ..] => Some((*literal == c, 1)),
    }
}

/// Whether a set, from behind its `[` or `[^`, has a character, and how long it is with its `]`. One without
/// anything in it is none.
fn match_set(set: &[char], c: char) -> Option<(bool, usize)> {
    let (mut at, mut hit) = (0, false);
    while at == 0 || *set.get(at)? != ']' {
        let (low, length) = of_set(&set[at..])?;
        at += length;
        let mut high = low;
        if set.get(at) == Some(&'-') {
            let (end, length) = of_set(&set[at + 1..])?;
            high = end;
            at += 1 + length;
        }
        hit |= (low..=high).contains(&c);
    }
    Some((hit, at + 1))
}

/// One character of a set, and how long it is with what escapes it.
fn of_set(set: &[char]) -> Option<(char, usize)> {
    match set {
        ['\\', escaped, ..] => Some((*escaped, 2)),
        ['-' | ']' | '\\', ..] | [] => None,
        [plain, ..] => Some((*plain, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_as_go() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a*b*c", "aXbYbZc", true),
            ("?", "", false),
            ("?", "ä", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[!b]x", "bx", true),
            ("\\*", "*", true),
            ("*", "", true),
            ("hom?.txt", "home.txt", true),
            ("[a-b-c]x", "bx", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[\\-x]", "a", false),
            ("[a\\-z]", "b", false),
            ("[x-a]", "m", false),
            ("[*]", "*", true),
            ("[*]", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(has_wildcards("a/*") && !has_wildcards("a/b"));
    }

    /// The table of Go's path/match_test.go, what is malformed.
    #[test]
    fn what_is_malformed_is_as_with_go() {
        for bad in [
            "[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "a[x", "[]", "[^]",
            "\\", "a*\\", "[\\", "*[",
        ] {
            assert_eq!(check(bad), Err(BadPattern(bad.to_owned())));
            assert!(!matches(bad, bad), "{bad}");
        }
        for good in [
            "", "*", "a?b", "[a-z]", "[^a-z]*", "\\[", "[\\]]", "a]", "a-b",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_matches_is_well_formed(pattern in "[*?\\[\\]^a\\\\-]{0,9}", name in "[-a\\]]{0,5}") {
            proptest::prop_assert!(!matches(&pattern, &name) || check(&pattern).is_ok());
        }

        #[test]
        fn no_pattern_panics_or_hangs(pattern in "[*?\\[\\]^a\\\\-]{0,30}", name in "a{0,60}") {
            matches(&pattern, &name);
        }
    }
}
