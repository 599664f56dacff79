//! docker's wildcards: never for ever, and a name without any fits itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_pattern::{has_wildcards, matches};

fuzz_target!(|data: (&str, &str)| {
    let (pattern, name) = data;
    let fits = matches(pattern, name);
    if !has_wildcards(pattern) && !pattern.contains('\\') {
        assert_eq!(fits, pattern == name);
    }
    assert!(matches("*", name));
});
