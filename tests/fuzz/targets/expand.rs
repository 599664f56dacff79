//! Expansion of variables: bounded, whatever they hold.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_dockerfile::expand::{MAX_EXPANDED, expand, words};

fuzz_target!(|data: (&str, &str, &str)| {
    let (word, a, b) = data;
    for escape in ['\\', '`'] {
        let lookup = |name: &str| match name {
            "A" => Some(a.to_owned()),
            "B" => Some(b.to_owned()),
            _ => None,
        };
        if let Ok(expanded) = expand(word, escape, &lookup) {
            assert!(expanded.len() <= MAX_EXPANDED + 4 * word.len());
        }
        let length: usize = words(word, escape).iter().map(String::len).sum();
        assert!(length <= word.len());
    }
});
