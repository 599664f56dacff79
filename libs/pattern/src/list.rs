//! Lists of patterns, as `.dockerignore` and `COPY --exclude` have them: the last one that matches a path
//! or a folder above it decides, `!` brings back, `**` goes through folders.
//!
//! The rules are those of moby/patternmatcher, its oddities included: a pattern that begins with `**` and
//! has no other wildcard is a suffix, so `**file` fits `profile`.

use regex::Regex;

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPattern(pub String);

impl std::fmt::Display for BadPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "syntax error in pattern {:?}", self.0)
    }
}

impl std::error::Error for BadPattern {}

/// Patterns in their order.
#[derive(Debug, Clone, Default)]
pub struct PatternList {
    rules: Vec<Rule>,
}

/// Which patterns fit a folder: what is in it needs no second look at them.
#[derive(Debug, Clone, Default)]
pub struct Matched(Vec<bool>);

#[derive(Debug, Clone)]
struct Rule {
    text: String,
    kind: Kind,
    /// `!`
    keeps: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Regex(Regex),
}

impl PatternList {
    /// From patterns, each with its `!`. Empty ones are left out.
    pub fn new<T: AsRef<str>>(patterns: &[T]) -> Result<Self, BadPattern> {
        let mut rules = Vec::new();
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if pattern.is_empty() {
                continue;
            }
            let bad = || BadPattern(pattern.to_owned());
            let cleaned = clean(pattern);
            let (keeps, text) = match cleaned.strip_prefix('!') {
                Some("") => return Err(bad()),
                Some(rest) => (true, rest.to_owned()),
                None => (false, cleaned),
            };
            let kind = compile(&text).ok_or_else(bad)?;
            rules.push(Rule { text, kind, keeps });
        }
        Ok(Self { rules })
    }

    /// The lines of an ignore file (moby/patternmatcher, ignorefile).
    pub fn of_file(text: &str) -> Result<Self, BadPattern> {
        let mut patterns = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            // Before blanks are taken away, as docker: ` #x` is a pattern.
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (keeps, rest) = match line.strip_prefix('!') {
                Some(rest) => ("!", rest.trim()),
                None => ("", line),
            };
            let mut rest = match rest {
                "" => String::new(),
                rest => clean(rest),
            };
            if rest.len() > 1 && rest.starts_with('/') {
                rest.remove(0);
            }
            patterns.push(format!("{keeps}{rest}"));
        }
        Self::new(&patterns)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a path fits.
    pub fn matches(&self, path: &str) -> bool {
        let mut above = Matched::default();
        for (at, _) in path.match_indices('/') {
            above = self.step(&path[..at], &above).1;
        }
        self.step(path, &above).0
    }

    /// Whether a path fits whose folder had this outcome, and the outcome for what is in it.
    pub fn step(&self, path: &str, above: &Matched) -> (bool, Matched) {
        let mut outcome = Vec::with_capacity(self.rules.len());
        let mut matched = false;
        for (i, rule) in self.rules.iter().enumerate() {
            let fits = above.0.get(i).copied().unwrap_or(false)
                // One that could not change the outcome is not tried.
                || (rule.keeps == matched && rule.fits(path));
            outcome.push(fits);
            if fits {
                matched = !rule.keeps;
            }
        }
        (matched, Matched(outcome))
    }

    /// Whether something below a folder that fits may be brought back: only then it is looked into.
    pub fn may_return_below(&self, folder: &str) -> bool {
        self.rules.iter().filter(|r| r.keeps).any(|rule| {
            let mut parts = rule.text.split('/');
            for name in folder.split('/') {
                match parts.next() {
                    // The exception names a folder above this one.
                    None => return true,
                    Some(part) if part.contains("**") => return true,
                    Some(part) if part == name || crate::matches(part, name) => {}
                    Some(_) => return false,
                }
            }
            true
        })
    }
}

impl Rule {
    fn fits(&self, path: &str) -> bool {
        match &self.kind {
            Kind::Exact(text) => text == path,
            Kind::Prefix(start) => path.starts_with(start.as_str()),
            Kind::Suffix(end) => {
                path.ends_with(end.as_str()) || end.strip_prefix('/').is_some_and(|e| e == path)
            }
            Kind::Regex(regex) => regex.is_match(path),
        }
    }
}

/// Go's filepath.Clean.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

/// None: not a pattern of Go's filepath.Match.
fn compile(pattern: &str) -> Option<Kind> {
    #[derive(PartialEq)]
    enum Form {
        Exact,
        Prefix,
        Suffix,
        Regex,
    }
    let mut form = Form::Exact;
    let mut regex = String::from("^(?s:");
    let mut literal = String::new();
    let mut chars = pattern.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                if chars.peek().is_some() {
                    regex.push_str("(.*/)?");
                    form = Form::Regex;
                } else if form == Form::Exact {
                    form = Form::Prefix;
                } else {
                    regex.push_str(".*");
                    form = Form::Regex;
                }
                if first {
                    form = Form::Suffix;
                }
            }
            '*' => {
                regex.push_str("[^/]*");
                form = Form::Regex;
            }
            '?' => {
                regex.push_str("[^/]");
                form = Form::Regex;
            }
            '\\' => {
                regex.push_str(&regex::escape(&chars.next()?.to_string()));
                form = Form::Regex;
            }
            '[' => {
                class(&mut chars, &mut regex)?;
                form = Form::Regex;
            }
            c => {
                literal.push(c);
                regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
            }
        }
        first = false;
    }
    Some(match form {
        Form::Exact => Kind::Exact(pattern.to_owned()),
        Form::Prefix => Kind::Prefix(pattern[..pattern.len() - 2].to_owned()),
        Form::Suffix => Kind::Suffix(pattern[2..].to_owned()),
        Form::Regex => {
            regex.push_str(")$");
            Kind::Regex(Regex::new(&regex).ok()?)
        }
    })
}

/// `[a-z]`, behind its `[`: Go's filepath.Match has ranges and escapes, and no `]` or `-` that stands
/// alone.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, regex: &mut String) -> Option<()> {
    fn one(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
        match chars.next()? {
            '-' | ']' => None,
            '\\' => chars.next(),
            c => Some(c),
        }
    }
    regex.push('[');
    if chars.peek() == Some(&'^') {
        chars.next();
        regex.push('^');
    }
    let mut ranges = 0;
    loop {
        if ranges > 0 && chars.peek() == Some(&']') {
            chars.next();
            regex.push(']');
            return Some(());
        }
        let low = one(chars)?;
        let mut high = low;
        if chars.peek() == Some(&'-') {
            chars.next();
            high = one(chars)?;
        }
        ranges += 1;
        // A range that is turned round holds nothing: U+10FFFF stands in no path.
        let (low, high) = match low <= high {
            true => (low, high),
            false => (char::MAX, char::MAX),
        };
        regex.push_str(&format!(
            "\\x{{{:x}}}-\\x{{{:x}}}",
            u32::from(low),
            u32::from(high)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(patterns: &[&str], path: &str) -> bool {
        PatternList::new(patterns).unwrap().matches(path)
    }

    /// The tables of moby/patternmatcher's own tests: does the pattern fit the path or a folder above it?
    #[test]
    fn patterns_fit_as_mobys() {
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**/", "file", true),
            ("**", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir3/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/file", true),
            ("**file", "dir/dir/file", true),
            ("**file", "dir/profile", true),
            ("**/file", "dir/profile", false),
            ("**/file*", "dir/dir/file", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a(b)c/def", "a(b)c/xyz", false),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            (
                "dist/*.whl",
                "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
                true,
            ),
            ("a\\\\", "a\\", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a*", "ab/c", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[e-g]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a?b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "z", false),
            ("[\\-x]", "x", true),
            ("[&&a]", "&", true),
            ("[[]", "[", true),
        ] {
            assert_eq!(fits(&[pattern], path), expected, "{pattern} {path}");
        }
        for bad in [
            "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "!", "a\\",
        ] {
            assert!(PatternList::new(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_pattern_that_fits_decides() {
        for (patterns, path, expected) in [
            (&["!fileutils.go", "*.go"][..], "fileutils.go", true),
            (&["docs", "!docs/README.md"], "docs/README.md", false),
            (&["docs/", "!docs/README.md"], "docs/README.md", false),
            (&["docs/*", "!docs/README.md"], "docs/README.md", false),
            (&["*.go", "!fileutils.go"], "fileutils.go", false),
            (&["**", "!util/docker/web"], "util/docker/web/foo", false),
            (
                &["**", "!util/docker/web", "util/docker/web/foo"],
                "util/docker/web/foo",
                true,
            ),
            (&["**", "!dist/*.whl"], "dist/a+b.whl", false),
            (&[" docs ", "  !docs/a  "], "docs/a", false),
        ] {
            assert_eq!(fits(patterns, path), expected, "{patterns:?} {path}");
        }
    }

    #[test]
    fn ignore_files_have_comments_and_absolute_paths() {
        let list = PatternList::of_file(
            "\u{feff}# c\n\nnode_modules\n/*.log\r\n! /keep.log\n/docs/../src/./x/\n #odd\n",
        )
        .unwrap();
        for (path, expected) in [
            ("node_modules/a/b", true),
            ("a/node_modules", false),
            ("x.log", true),
            ("keep.log", false),
            ("src/x/y", true),
            ("#odd", true),
        ] {
            assert_eq!(list.matches(path), expected, "{path}");
        }
    }

    #[test]
    fn folders_are_looked_into_only_where_something_may_return() {
        let list = PatternList::new(&["*", "!dist", "!src/**/*.js", "!a*/b"]).unwrap();
        for (folder, may) in [
            ("node_modules", false),
            ("dist/x", true),
            ("src/a/b", true),
            ("abc", true),
            ("abc/c", false),
        ] {
            assert_eq!(list.may_return_below(folder), may, "{folder}");
        }
    }

    #[test]
    fn paths_become_clean_as_gos() {
        for (path, cleaned) in [
            ("", "."),
            ("./a//b/", "a/b"),
            ("a/../../b", "../b"),
            ("/../a", "/a"),
            ("/", "/"),
        ] {
            assert_eq!(clean(path), cleaned);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_list_is_read_or_refused(text in "[!*?\\[\\]^a/\\\\\n.#-]{0,40}", path in "[a/.]{1,20}") {
            if let Ok(list) = PatternList::of_file(&text) {
                list.matches(&path);
                list.may_return_below(&path);
            }
        }
    }
}
