//! Dockerfiles: parsed or refused with a sentence, never a panic, never for ever; the linter too.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_dockerfile::{
    Dockerfile,
    lint::{Config, Findings, file},
};

fuzz_target!(|data: &[u8]| {
    match Dockerfile::parse("Dockerfile", data) {
        Err(sentence) => assert!(!sentence.trim().is_empty()),
        Ok(parsed) => {
            let mut findings = Findings::new(Config::default());
            file::check(&parsed, &mut findings);
            for found in findings.take() {
                assert!(parsed.excerpt(found.place).contains(">>>"));
            }
        }
    }
});
