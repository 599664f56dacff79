//! Ids and names of containers.

/// 256 random bits as 64 hex digits.
pub fn new_id() -> String {
    let mut bytes = [0u8; 32];
    // The kernel's generator is ready long before any service starts; it does not fail then.
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    hex::encode(bytes)
}

/// Whether a text is a whole id.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

const ADJECTIVES: [&str; 32] = [
    "agile", "amber", "bold", "brave", "breezy", "calm", "clever", "coastal", "deep", "eager",
    "fair", "fleet", "gentle", "golden", "hardy", "keen", "lively", "lucid", "merry", "nimble",
    "northern", "patient", "quick", "quiet", "salty", "serene", "steady", "stout", "swift",
    "tidal", "trusty", "windward",
];
const SAILORS: [&str; 32] = [
    "amundsen",
    "barents",
    "bering",
    "blake",
    "bligh",
    "cabot",
    "chichester",
    "cook",
    "drake",
    "drebbel",
    "elcano",
    "fitzroy",
    "flinders",
    "frobisher",
    "gama",
    "harrison",
    "hudson",
    "jones",
    "knox",
    "magellan",
    "maury",
    "nansen",
    "ross",
    "scott",
    "shackleton",
    "slocum",
    "tabarly",
    "tasman",
    "vancouver",
    "weddell",
    "wilkes",
    "zheng",
];

/// A name for a container that was given none.
pub fn random_name() -> String {
    let mut bytes = [0u8; 2];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    format!(
        "{}_{}",
        ADJECTIVES[usize::from(bytes[0]) % 32],
        SAILORS[usize::from(bytes[1]) % 32]
    )
}

/// docker's rule for names: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`
pub fn is_name(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric();
    name.len() >= 2
        && name.len() <= 255
        && word(name.as_bytes()[0])
        && name
            .bytes()
            .all(|b| word(b) || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        assert!(is_name("web") && is_name("a1_.-") && is_name(&random_name()));
        for bad in ["", "a", "-ab", "a b", "a/b", "ä1"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert_eq!(new_id().len(), 64);
    }
}
