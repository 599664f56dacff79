//! What is only looked at: `state`, `list`, `ps`, `events` and the version.

use std::io::Write as _;

use serde_json::{Value, json};

use super::{
    Error, cli,
    state::{Record, Status, Store},
};
use crate::{
    cgroup::Usage,
    container::top,
    executor::{hooks::SPEC_VERSION, plan::Root},
    oci::error::Tried as _,
};

/// Prints lines; a reader that has gone is no error of ours.
pub fn print(text: &str) -> Result<u8, Error> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(e).tried(|| "cannot write".to_owned())
        }
        _ => Ok(0),
    }
}

/// Three lines, as go-runc wants to read them.
pub fn version() {
    let version = env!("CARGO_PKG_VERSION");
    // Nobody to tell if nobody reads.
    let _ = print(&format!(
        "slipway-oci version {version}\ncommit: {version}\nspec: {SPEC_VERSION}"
    ));
}

fn describe(store: &Store, record: &Record) -> Value {
    let (status, alive) = store.status(record);
    let about = &record.plan.hooks.about;
    let rootfs = match &record.plan.root {
        Root::Bundle(path) => path.display().to_string(),
        _ => String::new(),
    };
    json!({
        "ociVersion": SPEC_VERSION,
        "id": about.id,
        "status": status.word(),
        "pid": alive.map_or(0, |alive| alive.pid.as_raw_pid()),
        "bundle": about.bundle,
        "rootfs": rootfs,
        "created": record.created,
        "annotations": about.annotations,
        "owner": "",
    })
}

/// A container's state (runtime.md, "State", and what runc adds).
pub fn state(store: &Store, id: &str) -> Result<u8, Error> {
    let state = describe(store, &store.read(id)?);
    print(&serde_json::to_string_pretty(&state).map_err(Error::invalid)?)
}

/// All containers.
pub fn list(store: &Store, options: &cli::List) -> Result<u8, Error> {
    let ids = store.ids()?;
    if options.quiet {
        return match ids.is_empty() {
            true => Ok(0),
            false => print(&ids.join("\n")),
        };
    }
    // One that goes meanwhile is not there.
    let records = ids.iter().filter_map(|id| store.read(id).ok());
    let all: Vec<Value> = records.map(|record| describe(store, &record)).collect();
    if options.format == cli::Format::Json {
        return print(&Value::Array(all).to_string());
    }
    let heading = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let keys = ["id", "pid", "status", "bundle", "created", "owner"];
    let rows = all.iter().map(|state| {
        let text = |key: &str| match &state[key] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        keys.map(text).to_vec()
    });
    let rows: Vec<_> = std::iter::once(heading.to_vec()).chain(rows).collect();
    print(&table(&rows))
}

/// Columns as wide as their widest word; the last one as it is.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| {
        rows.iter()
            .filter_map(|row| row.get(n))
            .map(|w| w.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|n| width(n).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A container's processes.
pub fn ps(store: &Store, options: &cli::Ps) -> Result<u8, Error> {
    let record = store.read(&options.id)?;
    let what = || format!("cannot list the processes of container {}", options.id);
    let pids = record.group()?.processes().tried(what)?;
    if options.format == cli::Format::Json {
        let numbers: Vec<i32> = pids.iter().map(|pid| pid.as_raw_pid()).collect();
        return print(&json!(numbers).to_string());
    }
    let words = match options.options.is_empty() {
        true => vec!["-ef".to_owned()],
        false => options.options.clone(),
    };
    let columns = top::columns(&words).map_err(Error::invalid)?;
    let heading = columns
        .iter()
        .map(|(_, heading)| (*heading).to_owned())
        .collect();
    let mut rows = vec![heading];
    rows.extend(top::processes(&pids, &columns));
    print(&table(&rows))
}

/// What a container uses, once or again and again until it ends.
pub fn events(store: &Store, options: &cli::Events) -> Result<u8, Error> {
    let interval = interval(&options.interval)?;
    let record = store.read(&options.id)?;
    loop {
        let (status, alive) = store.status(&record);
        let Some(alive) = alive else {
            return match options.stats {
                true => Err(Error::NotRunning(options.id.clone())),
                false => Ok(0),
            };
        };
        if status != Status::Creating {
            let usage = record.group()?.usage();
            let event = json!({"type": "stats", "id": options.id, "data": stats(&usage)});
            print(&event.to_string())?;
        }
        if options.stats {
            return Ok(0);
        }
        // Wakes up when the container ends.
        use rustix::event::{PollFd, PollFlags, Timespec};
        let mut polled = [PollFd::new(&alive.pidfd, PollFlags::IN)];
        let timeout = Timespec::try_from(interval).map_err(Error::invalid)?;
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&timeout)))
            .tried(|| "cannot wait".to_owned())?;
    }
}

/// The part of runc's form (types/events.go) that is known here.
fn stats(usage: &Usage) -> Value {
    let limit = match usage.memory_limit {
        0 => u64::MAX,
        limit => limit,
    };
    json!({
        "cpu": {"usage": {"total": usage.cpu}},
        "memory": {
            "cache": usage.memory_cache,
            "usage": {"limit": limit, "usage": usage.memory},
        },
        "pids": {"current": usage.pids, "limit": usage.pids_limit},
        "blkio": {"ioServiceBytesRecursive": [
            {"op": "Read", "value": usage.block_read},
            {"op": "Write", "value": usage.block_write},
        ]},
    })
}

/// `5s`, `500ms`, `1m`.
fn interval(text: &str) -> Result<std::time::Duration, Error> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => 0,
    };
    let milliseconds = number.parse::<u32>().ok().map(|n| u64::from(n) * factor);
    match milliseconds {
        Some(n @ 1..) => Ok(std::time::Duration::from_millis(n)),
        _ => Err(Error::Invalid(format!(
            "--interval {text:?} is not a time such as 5s"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units() {
        assert_eq!(interval("500ms").unwrap().as_millis(), 500);
        assert_eq!(interval("1m").unwrap().as_secs(), 60);
        for bad in ["", "5", "0s", "s", "-1s", "1h"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [["ID", "PID"], ["longer", "1"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "ID     PID\nlonger 1");
    }
}
