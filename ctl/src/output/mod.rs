//! What people and scripts see: tables, templates, progress.

pub mod archive;
pub mod human;
pub mod ports;
pub mod progress;
pub mod table;
pub mod template;

use std::io::{IsTerminal as _, Write as _};

use crate::failure::Outcome;

/// Writes to stdout; a closed pipe (`ctl ps | head`) ends quietly.
pub fn print(text: &str) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
            Err(crate::failure::Failure::silent(0))
        }
        other => Ok(other?),
    }
}

/// Whether stderr is a terminal, where bars are drawn.
pub fn draws_bars() -> bool {
    std::io::stderr().is_terminal()
}
