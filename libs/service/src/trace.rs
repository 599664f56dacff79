//! Structured logs on stderr.

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// Installs the log writer of this process. `filter` is tracing's filter syntax; one that cannot be
/// read is replaced by `info` and reported.
pub fn install(filter: &str, json: bool) {
    let (parsed, complaint) = match EnvFilter::try_new(filter) {
        Ok(parsed) => (parsed, None),
        Err(e) => (EnvFilter::new("info"), Some(e)),
    };
    // It tells, byte by byte, which keys there are and what is signed with them.
    let parsed = match "russh=warn".parse() {
        Ok(quiet) => parsed.add_directive(quiet),
        Err(_) => parsed,
    };
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(parsed);
    // A second installation in one process happens only in tests, where the first one serves.
    let _ = if json {
        registry.with(layer.json().flatten_event(true)).try_init()
    } else {
        registry
            .with(layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())))
            .try_init()
    };
    if let Some(complaint) = complaint {
        tracing::warn!(filter, %complaint, "log filter not understood: logging at info");
    }
}
