//! `logs`.

use std::io::Write as _;

use clap::Args;
use slipway_proto::runtime::v1::{LogsRequest, Stream};

use crate::{
    client::Site,
    failure::{Failure, Outcome},
    output::human,
    spec::units,
};

/// `ctl logs`
#[derive(Debug, Args)]
pub struct Logs {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since timestamp or relative
    #[arg(long)]
    since: Option<String>,
    /// Show logs before a timestamp or relative
    #[arg(long)]
    until: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, default_value = "all", allow_hyphen_values = true)]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    container: String,
}

impl Logs {
    pub async fn run(self, site: &Site) -> Outcome {
        let moment = |text: &Option<String>| text.as_deref().map(units::moment).transpose();
        let request = LogsRequest {
            container: self.container.clone(),
            follow: self.follow,
            stdout: true,
            stderr: true,
            since: moment(&self.since)?,
            until: moment(&self.until)?,
            tail: match self.tail.as_str() {
                "all" => -1,
                text => text.parse().map_err(|_| {
                    Failure::new(format!(
                        "invalid value for --tail: {text:?}: a number or \"all\""
                    ))
                })?,
            },
        };
        let mut entries = site.containers().logs(request).await?.into_inner();
        let mut lines = [Stamper::default(), Stamper::default()];
        let mut details = String::new();
        while let Some(batch) = entries.message().await? {
            if !batch.attributes.is_empty() {
                details = attributes(batch.attributes);
            }
            if batch.lost > 0 {
                eprintln!(
                    "WARNING: {} bytes of the log were rotated away before they were read",
                    batch.lost
                );
            }
            for entry in batch.entries {
                let is_err = entry.stream() == Stream::Stderr;
                // As docker: the time, the details, the line.
                let mut front = String::new();
                if self.timestamps {
                    front = human::rfc3339_fixed(entry.time.as_ref()) + " ";
                }
                if self.details {
                    front.push_str(&details);
                    front.push(' ');
                }
                let data = match front.is_empty() {
                    false => lines[usize::from(is_err)].stamp(&front, &entry.data),
                    true => entry.data.to_vec(),
                };
                let written = if is_err {
                    std::io::stderr().lock().write_all(&data)
                } else {
                    let mut out = std::io::stdout().lock();
                    out.write_all(&data).and_then(|()| out.flush())
                };
                match written {
                    Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(0),
                    other => other?,
                }
            }
        }
        Ok(0)
    }
}

/// What the log driver adds, as docker shows it: sorted, and escaped as in a URL.
fn attributes(pairs: std::collections::HashMap<String, String>) -> String {
    let escape = |text: &str| -> String {
        let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
        text.bytes()
            .map(|b| match b {
                b if keep(b) => char::from(b).to_string(),
                b' ' => "+".to_owned(),
                b => format!("%{b:02X}"),
            })
            .collect()
    };
    let mut all: Vec<String> = pairs
        .iter()
        .map(|(k, v)| format!("{}={}", escape(k), escape(v)))
        .collect();
    all.sort();
    all.join(",")
}

/// Puts something before each line; an entry may hold part of a line or several.
#[derive(Debug, Default)]
struct Stamper {
    within: bool,
}

impl Stamper {
    fn stamp(&mut self, front: &str, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() + front.len());
        for line in data.split_inclusive(|b| *b == b'\n') {
            if !self.within {
                out.extend_from_slice(front.as_bytes());
            }
            out.extend_from_slice(line);
            self.within = !line.ends_with(b"\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_stamped_once_whatever_its_pieces() {
        let mut s = Stamper::default();
        assert_eq!(s.stamp("T ", b"a\nb"), b"T a\nT b");
        assert_eq!(s.stamp("U ", b"c\nd\n"), b"c\nU d\n");
    }
}
