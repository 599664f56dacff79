//! A password file: read or refused with the number of a line, and what was read can be compared with.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use registry_svc::access::htpasswd::{HtpasswdError, Users};

fuzz_target!(|text: &str| {
    match Users::parse(Path::new("users"), text) {
        Ok(users) => {
            for (name, hash) in users.iter() {
                assert!(!name.is_empty() && !name.contains([':', '\n']));
                assert!(text.contains(&format!("{name}:{hash}")));
                // What takes long is as well formed as what does not.
                let quick = format!("{}04{}", &hash[..4], &hash[6..]);
                bcrypt::verify("password", &quick).unwrap();
            }
        }
        Err(HtpasswdError::Line { line, .. }) => assert!(line <= text.lines().count()),
        Err(error) => panic!("{error}"),
    }
});
