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
            && let Some(length) = match_one(&pattern[p..], name[n])
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

/// Length of the pattern's first item when it fits this character.
fn match_one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', escaped, ..] => (*escaped == c).then_some(2),
        ['[', rest @ ..] => {
            let (negated, rest) = match rest {
                ['^', rest @ ..] => (true, rest),
                _ => (false, rest),
            };
            let end = rest.iter().skip(1).position(|x| *x == ']')? + 1;
            let set = &rest[..end];
            let mut hit = false;
            let mut i = 0;
            while i < set.len() {
                if i + 2 < set.len() && set[i + 1] == '-' {
                    hit |= (set[i]..=set[i + 2]).contains(&c);
                    i += 3;
                } else {
                    hit |= set[i] == c;
                    i += 1;
                }
            }
            (hit != negated).then_some(pattern.len() - rest.len() + end + 1)
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
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
            ("[", "[", false),
            ("[]a]", "]", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(has_wildcards("a/*") && !has_wildcards("a/b"));
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_panics_or_hangs(pattern in "[*?\\[\\]^a\\\\-]{0,30}", name in "a{0,60}") {
            matches(&pattern, &name);
        }
    }
}
