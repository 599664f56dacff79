//! The cases are BuildKit's own (`frontend/dockerfile/shell`: `envVarTest`, `wordsTest`,
//! `lex_test.go`; Apache-2.0), put into tables of ours.

use super::*;

fn values(name: &str) -> Option<String> {
    let value = match name {
        "PWD" => "/home",
        "SHELL" => "bash",
        "KOREAN" => "한국어",
        "NULL" => "",
        "A" => "one",
        "TAR" => "/a/b/c.tar.gz",
        "XY" => "xxyy",
        "BAR" => "x",
        "STAR" => "xx**",
        "ODD" => "()[]{}^$.*?|\\x",
        "URL" => "http://google.de",
        "NEEDLE" => "http://",
        "FOO" => "/foo*/*/*.txt",
        "GLOB" => "\\*/",
        "TWICE" => "/tmp/tmp/bar.txt",
        "TMP" => "/tmp",
        "BLANKS" => "a b  c",
        _ => return None,
    };
    Some(value.to_owned())
}

fn on(word: &str) -> Result<String, String> {
    expand(word, '\\', &values)
}

#[test]
fn quotes_and_escapes() {
    for (word, expected) in [
        ("hello", "hello"),
        ("he'll'o", "hello"),
        ("he'll\\'o", "hell\\o"),
        ("he\\'llo", "he'llo"),
        ("he\\\\'llo", "error"),
        ("abc\\tdef", "abctdef"),
        ("\"abc\\tdef\"", "abc\\tdef"),
        ("\"abc\\\\tdef\"", "abc\\tdef"),
        ("'abc\\tdef'", "abc\\tdef"),
        ("hello\\", "hello"),
        ("hello\\\\", "hello\\"),
        ("\"hello\\", "error"),
        ("\"hello\\\"", "error"),
        ("'hello", "error"),
        ("'hello\\''", "error"),
        ("\"hello", "error"),
        ("\"''\"", "''"),
        ("$.", "$."),
        ("he$1x", "hex"),
        ("he$.x", "he$.x"),
        ("he$pwd.", "he."),
        ("he$PWD", "he/home"),
        ("he\\$PWD", "he$PWD"),
        ("he\\\\$PWD", "he\\/home"),
        ("\"he\\$PWD\"", "he$PWD"),
        ("\"he\\\\$PWD\"", "he\\/home"),
        ("'he$PWD'", "he$PWD"),
        ("a\\ b", "a b"),
        ("$", "$"),
        ("$$", ""),
        ("$12abc", "abc"),
        ("$KOREAN", "한국어"),
        ("안녕\\t하$KOREAN", "안녕t하한국어"),
    ] {
        check(word, expected);
    }
}

#[test]
fn braces_and_modifiers() {
    for (word, expected) in [
        ("${PWD}", "/home"),
        ("he${PWD}x", "he/homex"),
        ("${}", "error"),
        ("${{}", "error"),
        ("${:}", "error"),
        ("${:x}", "error"),
        ("${", "error"),
        ("${PWD", "error"),
        ("${PWD:", "error"),
        ("${PWD:-", "error"),
        ("${A=x}", "error"),
        ("${A:x}", "error"),
        ("${A^}", "error"),
        ("${NONE:-x}", "x"),
        ("${NULL:-x}", "x"),
        ("${NULL-x}", ""),
        ("${NONE-x$A}", "xone"),
        ("${NONE:-${A}}", "one"),
        ("${NONE:-${NULL:-${A}x}y}", "onexy"),
        ("${NONE:-'a}b'}", "a}b"),
        ("${NONE:-a\\}b}", "a}b"),
        ("${NONE:-\"$A b\"}", "one b"),
        ("${A:+yes}", "yes"),
        ("${NULL:+yes}", ""),
        ("${NULL+yes}", "yes"),
        ("${NONE+yes}", ""),
        ("${A:+${PWD}:}x", "/home:x"),
        ("${A?no}", "one"),
        ("${NULL?no}", ""),
        ("${NULL:?no}", "error"),
        ("${NONE?no}", "error"),
        ("${*}", ""),
        ("${1}", ""),
    ] {
        check(word, expected);
    }
    assert!(
        on("${NONE:?give $A}")
            .unwrap_err()
            .ends_with("NONE: give one")
    );
    let unset = on("${NONE:?}").unwrap_err();
    assert_eq!(
        unset,
        "failed to process \"${NONE:?}\": NONE: is not allowed to be unset"
    );
    assert!(
        on("${NULL:?}")
            .unwrap_err()
            .ends_with("NULL: is not allowed to be empty")
    );
}

#[test]
fn patterns() {
    for (word, expected) in [
        ("${TAR#*/}", "a/b/c.tar.gz"),
        ("${TAR##*/}", "c.tar.gz"),
        ("${TAR%.*}", "/a/b/c.tar"),
        ("${TAR%%.*}", "/a/b/c"),
        ("${XY#*x*y}", "y"),
        ("${XY#*}", "xxyy"),
        ("${XY##*}", ""),
        ("${XY#$BAR}", "xyy"),
        ("${XY#$NULL}", "xxyy"),
        ("${XY#}", "xxyy"),
        ("${XY##}", "xxyy"),
        ("${XY##*x}", "yy"),
        ("${XY%}", "xxyy"),
        ("${XY%y}", "xxy"),
        ("${NONE:-.}${XY%x}${NONE:-.}", ".xxyy."),
        ("${STAR%%\\**}", "xx"),
        ("${ODD#()[]{\\}^$.\\*\\?|\\\\}", "x"),
        (
            "${FOO/$GLOB/.} - ${FOO//$GLOB/.}",
            "/foo.*/*.txt - /foo..*.txt",
        ),
        (
            "${TWICE/$TMP/} - ${TWICE//$TMP/}",
            "/tmp/bar.txt - /bar.txt",
        ),
        ("${URL/$NEEDLE/https://}", "https://google.de"),
        ("${TMP//\\//\\/}", "\\/tmp"),
        ("${XY/$NULL/ww}", "wwxxyy"),
        ("${XY///}", "xxyy"),
        ("${NONE///}", ""),
        ("${XY//x/-}", "--yy"),
        ("${XY/x?/-}", "-yy"),
        ("${XY//ww}", "error"),
        ("${XY//}", "error"),
        ("${XY#\\a}", "error"),
    ] {
        check(word, expected);
    }
}

fn check(word: &str, expected: &str) {
    match (on(word), expected) {
        (result, "error") => assert!(result.is_err(), "{word}: {result:?}"),
        (result, expected) => assert_eq!(result.as_deref(), Ok(expected), "{word}"),
    }
}

#[test]
fn words_are_split_after_the_expansion_unless_quoted() {
    let all = |text: &str| Lexer::new('\\').expand(text, &values).unwrap().words;
    assert_eq!(all("x $BLANKS y"), ["x", "a", "b", "c", "y"]);
    assert_eq!(all("x \"$BLANKS\" y"), ["x", "a b  c", "y"]);
    assert_eq!(all("hello\\ there  you"), ["hello there", "you"]);
    assert_eq!(all("  'a b'c "), ["a bc"]);
    assert!(all(" $NULL ").is_empty());
}

#[test]
fn what_was_looked_up_is_told() {
    let done = Lexer::new('\\')
        .expand("$A ${NONE:-$B} ${NULL-x} $A", &values)
        .unwrap();
    assert_eq!(Vec::from_iter(&done.matched), ["A", "NULL"]);
    assert_eq!(Vec::from_iter(&done.unmatched), ["B", "NONE"]);
}

#[test]
fn texts_may_stay_as_they_are_written() {
    let lexer = Lexer {
        raw_quotes: true,
        keep_unset: true,
        ..Lexer::new('\\')
    };
    let kept = lexer
        .expand("a \"$A\" 'b' $X ${X} ${X:-y}", &values)
        .unwrap();
    assert_eq!(kept.text, "a \"one\" 'b' $X ${X} ${X:-y}");
    let heredoc = Lexer {
        plain_quotes: true,
        ..Lexer::new('\\')
    };
    let body = heredoc.expand("it's \"$A\" \\$A\n", &values).unwrap();
    assert_eq!(body.text, "it's \"one\" $A\n");
}

#[test]
fn another_escape_character() {
    assert_eq!(expand("c:\\$A`$A", '`', &values).unwrap(), "c:\\one$A");
}

#[test]
fn what_could_be_endless_has_an_end() {
    let long = |_: &str| Some("x".repeat(200 * 1024));
    for word in [
        "$A$A",
        "\"$A$A\"",
        "${X#$A$A}",
        "${A//x/yy}",
        "${A%%*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y*y}",
    ] {
        assert!(expand(word, '\\', &long).is_err(), "{word}");
    }
    let deep = format!("{}x{}", "${A:-".repeat(100_000), "}".repeat(100_000));
    assert!(on(&deep).unwrap_err().contains("nested too deep"));
    // A word may be long itself.
    let plain = "x".repeat(900 * 1024);
    assert_eq!(on(&plain).unwrap().len(), plain.len());
}

#[test]
fn quotes_hold_words_together() {
    assert_eq!(
        words("a  b=\"c d\" 'e f'\\ g", '\\'),
        ["a", "b=\"c d\"", "'e f'\\ g"]
    );
    assert_eq!(words("a\\", '\\'), ["a"]);
}

proptest::proptest! {
    #[test]
    fn any_word_expands_or_is_refused(word in "[a-zA${}:+?#%/\\\\'\"*한 -]{0,60}") {
        let _ = on(&word);
        let _ = words(&word, '\\');
    }

    #[test]
    fn a_quoted_text_is_itself(text in "[ -~]{0,60}") {
        let quoted = format!("'{}'", text.replace('\'', "'\\''"));
        proptest::prop_assert_eq!(on(&quoted), Ok(text));
    }

    #[test]
    fn stripping_leaves_an_end_of_the_value(value in "[abc]{0,20}", pattern in "[abc*?]{0,6}") {
        let lookup = |_: &str| Some(value.clone());
        let cut = |operator: &str| expand(&format!("${{V{operator}{pattern}}}"), '\\', &lookup).unwrap();
        proptest::prop_assert!(value.ends_with(&cut("#")) && value.ends_with(&cut("##")));
        proptest::prop_assert!(value.starts_with(&cut("%")) && value.starts_with(&cut("%%")));
        proptest::prop_assert!(cut("##").len() <= cut("#").len());
        proptest::prop_assert!(cut("%%").len() <= cut("%").len());
    }
}
