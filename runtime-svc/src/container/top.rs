//! `top`: a container's processes as ps(1) shows them, read from the host's /proc.

use std::fs;

use rustix::process::Pid;

use crate::error::Error;

/// Ticks a second of the times in /proc: the kernel's USER_HZ, 100 on every architecture we run on.
const TICKS: u64 = 100;

/// A column: name for `-o`, and heading.
type Column = (&'static str, &'static str);

const FULL: [Column; 8] = [
    ("user", "UID"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("c", "C"),
    ("stime", "STIME"),
    ("tty", "TTY"),
    ("time", "TIME"),
    ("args", "CMD"),
];
const AUX: [Column; 9] = [
    ("user", "USER"),
    ("pid", "PID"),
    ("vsz", "VSZ"),
    ("rss", "RSS"),
    ("tty", "TTY"),
    ("state", "STAT"),
    ("stime", "START"),
    ("time", "TIME"),
    ("args", "COMMAND"),
];
const OTHERS: [Column; 14] = [
    ("args", "COMMAND"),
    ("c", "C"),
    ("comm", "COMMAND"),
    ("nlwp", "NLWP"),
    ("pgid", "PGID"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("rss", "RSS"),
    ("sid", "SID"),
    ("state", "S"),
    ("time", "TIME"),
    ("tty", "TT"),
    ("user", "USER"),
    ("vsz", "VSZ"),
];

/// The columns that options of ps ask for.
pub fn columns(options: &[String]) -> Result<Vec<Column>, Error> {
    let refuse = || {
        Err(Error::Unsupported(format!(
            "top with {:?}: -ef, aux and -o with {} are known; anything else",
            options.join(" "),
            OTHERS.map(|(name, _)| name).join(",")
        )))
    };
    let words: Vec<&str> = options.iter().map(String::as_str).collect();
    let list = match words.as_slice() {
        [] | ["-ef" | "-e" | "-f" | "ef"] => return Ok(FULL.to_vec()),
        ["aux" | "-aux" | "auxw" | "auxww"] => return Ok(AUX.to_vec()),
        ["-o" | "-eo" | "-Ao" | "o" | "--format", list] => *list,
        [one] => match one.strip_prefix("-o").or(one.strip_prefix("-eo")) {
            Some(list) if !list.is_empty() => list,
            _ => return refuse(),
        },
        _ => return refuse(),
    };
    let mut columns = Vec::new();
    for name in list.split(',') {
        let known = match name {
            "cmd" | "command" => "args",
            "s" | "stat" => "state",
            "uname" | "euser" => "user",
            "ucmd" => "comm",
            "tt" | "tname" => "tty",
            "cputime" => "time",
            "rssize" => "rss",
            "vsize" => "vsz",
            name => name,
        };
        match OTHERS.iter().find(|(other, _)| *other == known) {
            Some(column) => columns.push(*column),
            None => return refuse(),
        }
    }
    Ok(columns)
}

/// A line for each process that still lives.
pub fn processes(pids: &[Pid], columns: &[Column]) -> Vec<Vec<String>> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("btime "))?;
            line.trim().parse::<u64>().ok()
        })
        .unwrap_or_default();
    let now = crate::monitor::now() / 1_000_000_000;
    pids.iter()
        .filter_map(|pid| {
            let folder = format!("/proc/{}", pid.as_raw_nonzero());
            let stat = Stat::parse(&fs::read_to_string(format!("{folder}/stat")).ok()?)?;
            let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&folder).ok()?);
            let command = fs::read(format!("{folder}/cmdline")).ok()?;
            let host = Host {
                user: user_name(&users, uid),
                arguments: arguments(&command, &stat.comm),
                started: boot + stat.started / TICKS,
                now,
            };
            Some(
                columns
                    .iter()
                    .map(|(name, _)| stat.field(name, &host))
                    .collect(),
            )
        })
        .collect()
}

/// What is known of a process from elsewhere.
struct Host {
    user: String,
    arguments: String,
    /// Seconds since the epoch.
    started: u64,
    now: u64,
}

/// A line of /proc/<pid>/stat (proc_pid_stat(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stat {
    pid: u64,
    comm: String,
    state: String,
    ppid: u64,
    pgid: u64,
    sid: u64,
    tty: u64,
    /// Ticks of processor time.
    used: u64,
    threads: u64,
    /// Ticks since boot.
    started: u64,
    /// Bytes.
    virtual_size: u64,
    /// Pages.
    resident: u64,
}

impl Stat {
    /// The name is in brackets and may hold anything, brackets too: the last one ends it.
    fn parse(text: &str) -> Option<Self> {
        let (pid, rest) = text.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // Numbered as in the manual page, where the state is the third.
        let number = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
        Some(Self {
            pid: pid.parse().ok()?,
            comm: comm.to_owned(),
            state: (*fields.first()?).to_owned(),
            ppid: number(4)?,
            pgid: number(5)?,
            sid: number(6)?,
            tty: number(7).unwrap_or_default(),
            used: number(14)? + number(15)?,
            threads: number(20)?,
            started: number(22)?,
            virtual_size: number(23)?,
            resident: number(24)?,
        })
    }

    fn field(&self, name: &str, host: &Host) -> String {
        let seconds = self.used / TICKS;
        match name {
            "user" => host.user.clone(),
            "pid" => self.pid.to_string(),
            "ppid" => self.ppid.to_string(),
            "pgid" => self.pgid.to_string(),
            "sid" => self.sid.to_string(),
            "nlwp" => self.threads.to_string(),
            "state" => self.state.clone(),
            "comm" => self.comm.clone(),
            "args" => host.arguments.clone(),
            "vsz" => (self.virtual_size / 1024).to_string(),
            "rss" => (self.resident * rustix::param::page_size() as u64 / 1024).to_string(),
            "c" => {
                let lived = host.now.saturating_sub(host.started).max(1);
                (seconds * 100 / lived).min(99).to_string()
            }
            "time" => {
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
            }
            "stime" => start_time(host.started, host.now),
            "tty" => match (
                self.tty >> 8 & 0xfff,
                self.tty & 0xff | self.tty >> 12 & 0xfff00,
            ) {
                (0, 0) => "?".to_owned(),
                (136..=143, minor) => format!("pts/{minor}"),
                (4, minor) => format!("tty{minor}"),
                _ => "?".to_owned(),
            },
            _ => String::new(),
        }
    }
}

/// The time of the day, or the day when that was another.
fn start_time(started: u64, now: u64) -> String {
    let format = if now / 86_400 == started / 86_400 {
        "%H:%M"
    } else {
        "%b%d"
    };
    i64::try_from(started)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| "?".to_owned(), |time| time.strftime(format).to_string())
}

fn user_name(passwd: &str, uid: u32) -> String {
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .unwrap_or_else(|| uid.to_string())
}

fn arguments(line: &[u8], comm: &str) -> String {
    let text = String::from_utf8_lossy(line);
    let words: Vec<&str> = text.trim_end_matches('\0').split('\0').collect();
    match words.as_slice() {
        [""] => format!("[{comm}]"),
        words => words
            .join(" ")
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        "42 (a) b (c) S 1 42 41 34818 42 4194560 1 0 0 0 250 60 0 0 20 0 3 0 1000 4096000 200 1";

    #[test]
    fn a_line_of_proc_whatever_the_name() {
        let stat = Stat::parse(LINE).unwrap();
        assert_eq!(
            (stat.pid, stat.comm.as_str(), stat.threads),
            (42, "a) b (c", 3)
        );
        let host = Host {
            user: "root".into(),
            arguments: arguments(b"sh\0-c\0x\n\0", "sh"),
            started: 1_700_000_000,
            now: 1_700_000_010,
        };
        let shown: Vec<String> = FULL
            .iter()
            .map(|(name, _)| stat.field(name, &host))
            .collect();
        assert_eq!(
            shown,
            [
                "root", "42", "1", "30", "22:13", "pts/2", "00:00:03", "sh -c x "
            ]
        );
        assert_eq!(Stat::parse("42 (x"), None);
        assert_eq!(arguments(b"", "kworker"), "[kworker]");
    }

    #[test]
    fn what_ps_would_be_asked() {
        let words = |text: &str| columns(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(columns(&[]).unwrap(), FULL);
        assert_eq!(words("aux").unwrap(), AUX);
        assert_eq!(
            words("-o pid,cmd").unwrap(),
            [("pid", "PID"), ("args", "COMMAND")]
        );
        assert_eq!(words("-opid").unwrap(), [("pid", "PID")]);
        assert!(words("-o nonsense").is_err() && words("-Z").is_err());
    }
}
