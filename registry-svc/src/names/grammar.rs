//! docker's grammar of names: hosts, and the components of a path.

/// docker's rule for the first component of a name.
pub fn looks_like_host(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

/// A host with an optional port, as docker's grammar has it; also a file name, so no `.` at the ends.
pub fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) => {
                let ok = !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
                return ok && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
            }
            None => return false,
        },
        None => text.split_once(':').unwrap_or((text, "1")),
    };
    is_port(port)
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|p| p > 0)
}

/// `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
pub fn is_component(text: &str) -> bool {
    let mut rest = text.as_bytes();
    loop {
        let letters = rest
            .iter()
            .take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            .count();
        if letters == 0 {
            return false;
        }
        rest = &rest[letters..];
        rest = match rest {
            [] => return true,
            [b'_', b'_', ..] => &rest[2..],
            [b'.' | b'_', ..] => &rest[1..],
            [b'-', ..] => &rest[rest.iter().take_while(|b| **b == b'-').count()..],
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_follow_dockers_grammar() {
        for ok in ["a", "a-b", "a--b", "a_b", "a__b", "a.b", "0"] {
            assert!(is_component(ok), "{ok}");
        }
        for bad in ["a..b", "a___b", "a.", "-a", "a_-b", "a+b"] {
            assert!(!is_component(bad), "{bad}");
        }
    }
}
