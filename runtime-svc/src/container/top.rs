//! `top`: a container's processes as ps(1) shows them, read from the host's /proc.

use std::{fs, os::unix::fs::MetadataExt as _};

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
const AUX: [Column; 11] = [
    ("user", "USER"),
    ("pid", "PID"),
    ("%cpu", "%CPU"),
    ("%mem", "%MEM"),
    ("vsz", "VSZ"),
    ("rss", "RSS"),
    ("tty", "TTY"),
    ("stat", "STAT"),
    ("stime", "START"),
    ("bsdtime", "TIME"),
    ("args", "COMMAND"),
];
/// What `-o` takes, with the headings that ps(1) gives.
const OTHERS: [Column; 25] = [
    ("%cpu", "%CPU"),
    ("%mem", "%MEM"),
    ("args", "COMMAND"),
    ("bsdtime", "TIME"),
    ("c", "C"),
    ("cmd", "CMD"),
    ("comm", "COMMAND"),
    ("etime", "ELAPSED"),
    ("etimes", "ELAPSED"),
    ("gid", "GID"),
    ("lstart", "STARTED"),
    ("ni", "NI"),
    ("nlwp", "NLWP"),
    ("pgid", "PGID"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("rss", "RSS"),
    ("sid", "SID"),
    ("stat", "STAT"),
    ("state", "S"),
    ("stime", "STIME"),
    ("time", "TIME"),
    ("tty", "TT"),
    ("uid", "UID"),
    ("user", "USER"),
];
const VSZ: Column = ("vsz", "VSZ");

/// Another name of a column. The heading is the column's, but for those that ps(1) heads by the name.
fn column(name: &str) -> Option<Column> {
    let known = match name {
        "command" => "args",
        "s" => "state",
        "uname" | "euser" => "user",
        "euid" => "uid",
        "egid" => "gid",
        "pcpu" => "%cpu",
        "pmem" => "%mem",
        "ucmd" => "comm",
        "tt" | "tname" => "tty",
        "nice" => "ni",
        "cputime" => "time",
        "rssize" => "rss",
        "vsize" | "vsz" => return Some(VSZ),
        "sess" | "session" => "sid",
        "thcount" => "nlwp",
        name => name,
    };
    OTHERS.into_iter().find(|(other, _)| *other == known)
}

/// The columns that options of ps ask for. As docker, that shows the lines whose process is the
/// container's: without the numbers of processes there is nothing to tell them by.
pub fn columns(options: &[String]) -> Result<Vec<Column>, Error> {
    let refuse = || {
        Err(Error::Unsupported(format!(
            "top with {:?}: -ef, aux and -o with a list of columns are known; anything else",
            options.join(" ")
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
        match column(name) {
            Some(column) => columns.push(column),
            None => {
                return Err(Error::Invalid(format!(
                    "ps: error: unknown user-defined format specifier \"{name}\": {} are known",
                    OTHERS.map(|(name, _)| name).join(",")
                )));
            }
        }
    }
    if !columns.iter().any(|(name, _)| *name == "pid") {
        return Err(Error::Invalid(
            "Couldn't find PID field in ps output".to_owned(),
        ));
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
    let memory = rustix::system::sysinfo().totalram as u64;
    pids.iter()
        .filter_map(|pid| {
            let folder = format!("/proc/{}", pid.as_raw_nonzero());
            let stat = Stat::parse(&fs::read_to_string(format!("{folder}/stat")).ok()?)?;
            let owner = fs::metadata(&folder).ok()?;
            let (uid, gid) = (owner.uid(), owner.gid());
            let command = fs::read(format!("{folder}/cmdline")).ok()?;
            let host = Host {
                user: user_name(&users, uid),
                uid,
                gid,
                memory,
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
    uid: u32,
    gid: u32,
    /// Bytes that the host has.
    memory: u64,
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
    /// Process group in the foreground of the terminal; -1 = none.
    foreground: i64,
    /// Ticks of processor time.
    used: u64,
    nice: i64,
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
            foreground: fields.get(8 - 3)?.parse().unwrap_or(-1),
            used: number(14)? + number(15)?,
            nice: fields.get(19 - 3)?.parse().unwrap_or_default(),
            threads: number(20)?,
            started: number(22)?,
            virtual_size: number(23)?,
            resident: number(24)?,
        })
    }

    fn field(&self, name: &str, host: &Host) -> String {
        let seconds = self.used / TICKS;
        let lived = host.now.saturating_sub(host.started);
        // With one digit, as ps: cut off, not rounded.
        let tenths = |part: u64, whole: u64| {
            let tenths = (part * 1000).checked_div(whole).unwrap_or_default();
            format!("{}.{}", tenths / 10, tenths % 10)
        };
        let resident = self.resident * rustix::param::page_size() as u64;
        match name {
            "uid" => host.uid.to_string(),
            "gid" => host.gid.to_string(),
            "ni" => self.nice.to_string(),
            "stat" => self.flags(),
            "%cpu" => tenths(self.used, lived.max(1) * TICKS),
            "%mem" => tenths(resident, host.memory),
            "bsdtime" => format!("{}:{:02}", seconds / 60, seconds % 60),
            "etimes" => lived.to_string(),
            "etime" => elapsed(lived),
            "lstart" => local(host.started, "%a %b %e %H:%M:%S %Y"),
            "user" => host.user.clone(),
            "pid" => self.pid.to_string(),
            "ppid" => self.ppid.to_string(),
            "pgid" => self.pgid.to_string(),
            "sid" => self.sid.to_string(),
            "nlwp" => self.threads.to_string(),
            "state" => self.state.clone(),
            "comm" => self.comm.clone(),
            "args" | "cmd" => host.arguments.clone(),
            "vsz" => (self.virtual_size / 1024).to_string(),
            "rss" => (resident / 1024).to_string(),
            "c" => (seconds * 100 / lived.max(1)).min(99).to_string(),
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

impl Stat {
    /// ps(1), "PROCESS STATE CODES": priority, session leader, threads, foreground.
    fn flags(&self) -> String {
        let mut text = self.state.clone();
        let marks = [
            (self.nice < 0, '<'),
            (self.nice > 0, 'N'),
            (self.sid == self.pid, 's'),
            (self.threads > 1, 'l'),
            (
                self.foreground > 0 && u64::try_from(self.foreground) == Ok(self.pgid),
                '+',
            ),
        ];
        text.extend(marks.iter().filter(|(is, _)| *is).map(|(_, mark)| mark));
        text
    }
}

/// "[[days-]hours:]minutes:seconds"
fn elapsed(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => rest,
        (0, hours) => format!("{hours:02}:{rest}"),
        (days, hours) => format!("{days}-{hours:02}:{rest}"),
    }
}

/// A time where the host is, as ps shows it.
fn local(seconds: u64, format: &str) -> String {
    zoned(seconds).map_or_else(|| "?".to_owned(), |time| time.strftime(format).to_string())
}

fn zoned(seconds: u64) -> Option<jiff::Zoned> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::system()))
}

/// The time of the day, or the day when that was another.
fn start_time(started: u64, now: u64) -> String {
    let same = zoned(started).map(|t| t.date()) == zoned(now).map(|t| t.date());
    local(started, if same { "%H:%M" } else { "%b%d" })
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
            uid: 0,
            gid: 0,
            memory: 1 << 30,
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
                "root",
                "42",
                "1",
                "30",
                &local(1_700_000_000, "%H:%M"),
                "pts/2",
                "00:00:03",
                "sh -c x "
            ]
        );
        for (name, text) in [
            ("stat", "Sl+"),
            ("%cpu", "31.0"),
            ("bsdtime", "0:03"),
            ("etime", "00:10"),
            ("ni", "0"),
        ] {
            assert_eq!(stat.field(name, &host), text, "{name}");
        }
        assert_eq!(elapsed(90_061), "1-01:01:01");
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
            [("pid", "PID"), ("cmd", "CMD")]
        );
        let without = words("-o comm").unwrap_err().to_string();
        assert_eq!(without, "Couldn't find PID field in ps output");
        assert_eq!(words("-opid").unwrap(), [("pid", "PID")]);
        assert!(words("-o nonsense").is_err() && words("-Z").is_err());
    }
}
