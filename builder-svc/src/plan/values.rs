//! Values of instructions: paths, modes, ports, and how docker's history shows them.

pub fn joined(pairs: &[(String, String)]) -> String {
    let words: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
    words.join(" ")
}

/// A history line tells what was done, not each of 65,535 ports.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(1000) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

/// As docker shows a command in its history: `["node" "server.js"]`.
pub fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// Joins a path to a working directory; `.` and `..` are resolved by name.
pub fn join(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{base}/{path}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
