//! Where errors and warnings go: to standard error, and to the file of `--log` in the form that the
//! caller reads (runc's: JSON lines, or logfmt).

use std::{io::Write as _, path::PathBuf};

use super::cli::{Global, LogFormat};

/// One call's.
#[derive(Debug)]
pub struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
}

impl Log {
    pub fn new(global: &Global) -> Self {
        Self {
            file: global.log.clone(),
            format: global.log_format,
        }
    }

    /// Why it did not work.
    pub fn error(&self, text: &str) {
        eprintln!("{text}");
        self.write("error", text);
    }

    /// What did not keep it from working.
    pub fn warn(&self, text: &str) {
        if self.file.is_none() {
            eprintln!("{text}");
        }
        self.write("warning", text);
    }

    fn write(&self, level: &str, text: &str) {
        let Some(path) = &self.file else { return };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let line = match self.format {
            LogFormat::Json => {
                serde_json::json!({"level": level, "msg": text, "time": now.to_string()})
                    .to_string()
            }
            LogFormat::Text => format!("time=\"{now}\" level={level} msg={text:?}"),
        };
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        if let Err(error) = written {
            eprintln!("cannot write the log {}: {error}", path.display());
        }
    }
}
