//! The words of STOPSIGNAL.

/// Signals of Linux by number, from 1 (signal(7)).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Whether docker knows the signal: a number that is not 0, or a name with or without SIG
/// (`moby/sys/signal`).
pub fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = || {
        let (base, offset) = match name.split_once(['+', '-']) {
            Some((base, offset)) => (base, offset.parse::<u8>().ok()),
            None => (name, Some(0)),
        };
        matches!(base, "RTMIN" | "RTMAX") && offset.is_some_and(|n| n <= 15)
    };
    NAMES.contains(&name) || matches!(name, "IOT" | "CLD" | "POLL" | "UNUSED") || real_time()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for text in [
            "SIGTERM",
            "term",
            "9",
            "37",
            "SIGRTMIN+3",
            "RTMAX-1",
            "SIGIO",
        ] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["", "0", "SIG", "SIGTERMM", "RTMIN+99", "1.5"] {
            assert!(!is_signal(text), "{text}");
        }
    }
}
