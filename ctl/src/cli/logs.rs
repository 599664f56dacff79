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
        if self.details {
            return Err(Failure::new(
                "--details is not supported: no log driver here adds attributes",
            ));
        }
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
        while let Some(batch) = entries.message().await? {
            for entry in batch.entries {
                let is_err = entry.stream() == Stream::Stderr;
                let data = if self.timestamps {
                    lines[usize::from(is_err)]
                        .stamp(&human::rfc3339_fixed(entry.time.as_ref()), &entry.data)
                } else {
                    entry.data.to_vec()
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

/// Puts the time before each line; an entry may hold part of a line or several.
#[derive(Debug, Default)]
struct Stamper {
    within: bool,
}

impl Stamper {
    fn stamp(&mut self, time: &str, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() + time.len() + 1);
        for line in data.split_inclusive(|b| *b == b'\n') {
            if !self.within {
                out.extend_from_slice(time.as_bytes());
                out.push(b' ');
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
        assert_eq!(s.stamp("T", b"a\nb"), b"T a\nT b");
        assert_eq!(s.stamp("U", b"c\nd\n"), b"c\nU d\n");
    }
}
