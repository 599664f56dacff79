//! The last steps of every process in a container, the first one and those that join: who it is, what
//! it may do, and the exec.

use std::{
    ffi::{CStr, CString},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{io::Errno, process::RawGid};

use super::{
    StartError, Step as _,
    gate::Gate,
    plan::{CapabilitySets, Label, Namespaces, Process, Seccomp, Tuning},
    procfs, reaper, seccomp,
    user::{self, User},
    userns::UserNamespace,
};
use crate::sys::{bpf, capability, fork, prctl, schedule};

/// How a process comes into its container's user namespace.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    /// As the first one, which also makes these namespaces the user namespace's own.
    First(&'a UserNamespace, &'a Namespaces),
    /// As a further one.
    Join(&'a UserNamespace),
}

/// What a monitor hears of a first process before the last steps, which nothing but SIGKILL keeps from the
/// exec or an error.
pub const LAST_STEPS: &[u8] = b"last steps";

/// Becomes the program. Returns only when that failed, and then nothing but `report` is open any more.
/// Runs inside the container's root.
pub fn become_program(process: &Process, entry: Option<Entry<'_>>, report: &OwnedFd) -> StartError {
    let reports = Reports {
        last_steps: None,
        listener: Some(report),
    };
    match prepare(process, entry, reports) {
        Ok(ready) => ready.exec(report),
        Err(error) => error,
    }
}

/// As [`become_program`], of a container's first process: says [`LAST_STEPS`] before them.
pub fn become_first_program(
    process: &Process,
    entry: Option<Entry<'_>>,
    report: &OwnedFd,
) -> StartError {
    let reports = Reports {
        last_steps: Some(report),
        listener: None,
    };
    match prepare(process, entry, reports) {
        Ok(ready) => ready.exec(report),
        Err(error) => error,
    }
}

/// As [`become_program`], with a stop just before the exec; says on which descriptor the error is to be
/// reported.
pub fn become_program_at(
    gate: Gate<'_>,
    process: &Process,
    entry: Option<Entry<'_>>,
    report: OwnedFd,
) -> (StartError, OwnedFd) {
    let reports = Reports {
        last_steps: None,
        listener: Some(&report),
    };
    let ready = prepare(process, entry, reports);
    let ready = match ready.and_then(|ready| ready.look().map(|()| ready)) {
        Ok(ready) => ready,
        Err(error) => return (error, report),
    };
    match gate.pass(report, ready.descriptors) {
        Ok(report) => (ready.exec(&report), report),
        Err(failed) => failed,
    }
}

/// Message of a process whose filter asks an agent, with the number of the descriptor that is for that one.
pub const LISTENS: &str = "listens ";

/// The number in such a message.
pub fn listens(message: &[u8]) -> Option<i32> {
    let message = std::str::from_utf8(message).ok()?;
    message.strip_prefix(LISTENS)?.parse().ok()
}

/// Who hears of steps on the way.
struct Reports<'a> {
    /// Of [`LAST_STEPS`].
    last_steps: Option<&'a OwnedFd>,
    /// Of [`LISTENS`]; it says when the agent has it.
    listener: Option<&'a OwnedFd>,
}

/// Hands over the listener of a filter. With write(2) and read(2) alone: the filter is in force.
fn hand_over(listener: &OwnedFd, report: Option<&OwnedFd>) -> Result<(), StartError> {
    let what = || "cannot hand the seccomp listener over".to_owned();
    let Some(report) = report else {
        return Err(StartError::Failed {
            step: what(),
            why: "nobody takes it".to_owned(),
        });
    };
    let message = format!("{LISTENS}{}", listener.as_raw_fd());
    rustix::io::write(report, message.as_bytes()).step(what)?;
    let mut word = [0; 1];
    match rustix::io::retry_on_intr(|| rustix::io::read(report, &mut word)).step(what)? {
        0 => fork::exit_now(125),
        _ => Ok(()),
    }
}

/// Everything about a process that is settled before its privileges go.
struct Ready {
    argv: Vec<CString>,
    env: Vec<CString>,
    candidates: Vec<CString>,
    init: bool,
    descriptors: u32,
}

fn prepare(
    process: &Process,
    entry: Option<Entry<'_>>,
    reports: Reports<'_>,
) -> Result<Ready, StartError> {
    let who = match &process.identity {
        Some(identity) => user::exactly(identity),
        None => user::resolve(&process.user, &process.groups)?,
    };
    let env = environment(&process.env, &who);
    tune(&process.tuning)?;
    set_limits(process)?;
    give_streams(&who, entry)?;
    // From here on there is only what the container's root may do: limits and streams came before.
    match entry {
        Some(Entry::First(user, namespaces)) => user.begin(namespaces)?,
        Some(Entry::Join(user)) => user.join()?,
        None => {}
    }
    // A folder that only the user may enter is entered as the user.
    let early = enter_working_dir(&process.working_dir);
    if process.identity.is_none() {
        early.clone()?;
    }
    if let Some(report) = reports.last_steps {
        // While no filter forbids it: whoever ends without it was killed on its way in. A monitor that is
        // gone is noticed by that as well, before the change of user undoes our bond to it.
        rustix::io::write(report, LAST_STEPS).step(|| "the monitor went away".to_owned())?;
    }
    // Without no_new_privs the filter needs CAP_SYS_ADMIN, so it comes first then; otherwise last, so
    // that it need not allow what follows.
    let filter = match &process.seccomp {
        Seccomp::Unconfined => Vec::new(),
        Seccomp::Default => seccomp::default_program(process.capabilities),
        Seccomp::Custom { program, .. } => {
            bpf::from_hex(program).ok_or_else(|| StartError::Failed {
                step: "cannot install the seccomp filter".to_owned(),
                why: "the plan's is broken".to_owned(),
            })?
        }
    };
    let flags = match &process.seccomp {
        Seccomp::Custom { flags, .. } => *flags,
        _ => 0,
    };
    let install = || {
        if filter.is_empty() {
            return Ok(());
        }
        let listener = bpf::install_seccomp(&filter, flags)
            .step(|| "cannot install the seccomp filter".to_owned())?;
        match listener {
            Some(listener) => hand_over(&listener, reports.listener),
            None => Ok(()),
        }
    };
    if let Some(identity) = &process.identity {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(identity.umask & 0o777));
    }
    if process.no_new_privs {
        prctl::set_no_new_privs().step(|| "cannot set no_new_privs".to_owned())?;
    }
    let sets = process.sets.unwrap_or_else(|| CapabilitySets {
        bounding: process.capabilities,
        effective: process.capabilities,
        permitted: process.capabilities,
        ..CapabilitySets::default()
    });
    capability::limit_bounding(sets.bounding)
        .step(|| "cannot limit the bounding set".to_owned())?;
    if !process.no_new_privs {
        install()?;
    }
    become_user(&who, &sets)?;
    if !process.outlives {
        // A change of user clears it, so it comes after that: a monitor that dies takes its container
        // along.
        prctl::set_parent_death_signal(libc::SIGKILL)
            .step(|| "cannot bind to the monitor".to_owned())?;
    }
    if early.is_err() {
        enter_working_dir(&process.working_dir)?;
    }
    if process.no_new_privs {
        install()?;
    }
    let program = process.args.first().cloned().unwrap_or_default();
    if program.is_empty() {
        return Err(StartError::NotFound(
            program,
            "no command specified".to_owned(),
        ));
    }
    let argv = process
        .args
        .iter()
        .map(|a| c_string(a))
        .collect::<Result<_, _>>()?;
    let candidates = candidates(&program, &env)?;
    let env = env.iter().map(|e| c_string(e)).collect::<Result<_, _>>()?;
    Ok(Ready {
        argv,
        env,
        candidates,
        init: process.init,
        descriptors: process.descriptors,
    })
}

impl Ready {
    /// Whether there is a program at all, as far as that can be told without executing it: runc and crun
    /// say so when the container is made, and their callers rely on it.
    fn look(&self) -> Result<(), StartError> {
        use rustix::fs::{Access, AtFlags, CWD};
        let mut refused = None;
        for candidate in &self.candidates {
            // Real and effective ids are the same by now: the plain call will do, which old filters know.
            match rustix::fs::accessat(CWD, candidate, Access::EXEC_OK, AtFlags::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                // The caller's filter does not let us ask: the exec will tell.
                Err(Errno::PERM | Errno::NOSYS) => return Ok(()),
                Err(e) => {
                    refused.get_or_insert(StartError::NotExecutable(self.name(), plain(&e.into())));
                }
                Ok(()) if is_folder(candidate) => {
                    let why = "is a directory".to_owned();
                    refused.get_or_insert(StartError::NotExecutable(self.name(), why));
                }
                Ok(()) => return Ok(()),
            }
        }
        Err(refused.unwrap_or_else(|| self.missing()))
    }

    fn name(&self) -> String {
        let name = self.argv.first().map(|a| a.to_string_lossy().into_owned());
        name.unwrap_or_default()
    }

    fn missing(&self) -> StartError {
        let name = self.name();
        let why = if name.contains('/') {
            "no such file or directory"
        } else {
            "executable file not found in $PATH"
        };
        StartError::NotFound(name, why.to_owned())
    }

    fn exec(self, report: &OwnedFd) -> StartError {
        if self.init
            && let Err(error) = reaper::begin()
        {
            return error;
        }
        // Close-on-exec comes too late: the program's path may lead through /proc/self/fd, and from a
        // folder of the host that is open anywhere on the host (CVE-2024-21626).
        fork::close_all_but(3 + self.descriptors as i32, report.as_raw_fd());
        if let Err(error) = fork::keep_at_exec(3, self.descriptors) {
            return StartError::Failed {
                step: "cannot hand descriptors on".to_owned(),
                why: error.to_string(),
            };
        }
        let name = self.name();
        let mut refused = None;
        for candidate in &self.candidates {
            // PATH may lead into folders that are not there, to files that are no programs: as
            // execvp(3), go on, and remember that something was found.
            let error = fork::execve(candidate, &self.argv, &self.env);
            match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR) => {}
                _ => {
                    let why = if is_folder(candidate) {
                        "is a directory".to_owned()
                    } else {
                        plain(&error)
                    };
                    refused.get_or_insert(StartError::NotExecutable(name.clone(), why));
                    // A path was given, or the file is there and broken: nothing else to try.
                    if Errno::from_io_error(&error) != Some(Errno::ACCESS) {
                        break;
                    }
                }
            }
        }
        refused.unwrap_or_else(|| self.missing())
    }
}

fn is_folder(path: &CStr) -> bool {
    Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())).is_dir()
}

/// The system's words without the number, lower case as docker's.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

/// Where the program may be: itself when it has a slash, else below every folder of PATH.
fn candidates(program: &str, env: &[String]) -> Result<Vec<CString>, StartError> {
    if program.contains('/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = env
        .iter()
        .rev()
        .find_map(|e| e.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|folder| {
            c_string(&format!(
                "{}/{program}",
                if folder.is_empty() { "." } else { folder }
            ))
        })
        .collect()
}

/// docker's PATH for images that set none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// As given, with HOME from the passwd file where it is not set.
fn environment(given: &[String], who: &User) -> Vec<String> {
    let mut env = given.to_vec();
    if !env
        .iter()
        .any(|e| e.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()))
    {
        env.retain(|e| !e.starts_with("HOME="));
        env.push(format!("HOME={}", who.home));
    }
    env
}

/// Writes what concerns a process in /proc: its score, and the profile that begins with the exec
/// (aa_change_onexec(2)). Children inherit both.
///
/// Before anything of the container's user namespace is entered: in mounts that such a namespace owns the
/// kernel makes no proc file system that shows more than the one that is there (mount_too_revealing in
/// fs/namespace.c), and paths are hidden in that.
pub fn mark(process: &Process) -> Result<(), StartError> {
    if process.oom_score_adj.is_none() && process.label == Label::None {
        return Ok(());
    }
    let proc = procfs::open()?;
    if let Some(score) = process.oom_score_adj {
        let what = || format!("cannot set the oom score to {score}");
        procfs::write(&proc, "self/oom_score_adj", &score.to_string(), what)?;
    }
    let Label::AppArmor(profile) = &process.label else {
        return Ok(());
    };
    let what = || format!("cannot apply the AppArmor profile {profile}");
    let value = format!("exec {profile}");
    // Since Linux 5.8 AppArmor has a folder of its own there, which another module cannot take over.
    match procfs::write(&proc, "self/attr/apparmor/exec", &value, what) {
        Ok(()) => Ok(()),
        Err(_) => procfs::write(&proc, "self/attr/exec", &value, what),
    }
}

fn tune(tuning: &Tuning) -> Result<(), StartError> {
    if let Some(scheduler) = &tuning.scheduler {
        schedule::set_scheduler(scheduler).step(|| "cannot set the scheduler".to_owned())?;
    }
    if let Some((class, priority)) = tuning.io_priority {
        schedule::set_io_priority(class, priority)
            .step(|| "cannot set the priority of input and output".to_owned())?;
    }
    if let Some(persona) = tuning.personality {
        schedule::set_personality(persona).step(|| "cannot set the personality".to_owned())?;
    }
    if let Some(processors) = &tuning.processors {
        schedule::set_processors(processors).step(|| "cannot choose processors".to_owned())?;
    }
    Ok(())
}

fn set_limits(process: &Process) -> Result<(), StartError> {
    for limit in &process.rlimits {
        let what = || {
            format!(
                "cannot set resource limit {} to {}:{}",
                limit.resource, limit.soft, limit.hard
            )
        };
        let resource = nix_resource(limit.resource).ok_or_else(|| StartError::Failed {
            step: what(),
            why: "unknown limit".to_owned(),
        })?;
        nix::sys::resource::setrlimit(resource, limit.soft, limit.hard).step(what)?;
    }
    Ok(())
}

/// Lets the user open its streams again by name, as /dev/stdout: they become its own, the group stays
/// (runc, fixStdioPermissions).
fn give_streams(who: &User, entry: Option<Entry<'_>>) -> Result<(), StartError> {
    let uid = match entry {
        Some(Entry::First(user, _) | Entry::Join(user)) => user.uid(who.uid),
        None => Some(who.uid),
    };
    let uid = uid.ok_or_else(|| StartError::Failed {
        step: format!("cannot become user {}", who.uid),
        why: "the container's user namespace has no such user".to_owned(),
    })?;
    let null = rustix::fs::makedev(1, 3);
    let (stdin, stdout, stderr) = (
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    );
    for stream in [stdin, stdout, stderr] {
        let what = || "cannot hand the streams over".to_owned();
        let stat = rustix::fs::fstat(stream).step(what)?;
        if stat.st_uid == uid || stat.st_rdev == null {
            continue;
        }
        match rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(uid)), None) {
            // A file of a file system that knows no owners, or not this one.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(e) => return Err(e).step(what),
        }
    }
    Ok(())
}

fn nix_resource(number: u32) -> Option<nix::sys::resource::Resource> {
    use nix::sys::resource::Resource as R;
    [
        R::RLIMIT_AS,
        R::RLIMIT_CORE,
        R::RLIMIT_CPU,
        R::RLIMIT_DATA,
        R::RLIMIT_FSIZE,
        R::RLIMIT_LOCKS,
        R::RLIMIT_MEMLOCK,
        R::RLIMIT_MSGQUEUE,
        R::RLIMIT_NICE,
        R::RLIMIT_NOFILE,
        R::RLIMIT_NPROC,
        R::RLIMIT_RSS,
        R::RLIMIT_RTPRIO,
        R::RLIMIT_RTTIME,
        R::RLIMIT_SIGPENDING,
        R::RLIMIT_STACK,
    ]
    .into_iter()
    .find(|resource| *resource as u32 == number)
}

/// Enters the working folder and makes sure that it is inside:
/// a folder that was inherited by descriptor from the host would show as "(unreachable)"
/// (CVE-2024-21626).
fn enter_working_dir(path: &str) -> Result<(), StartError> {
    let what = || format!("cannot enter the working directory {path}");
    let path = if path.is_empty() { "/" } else { path };
    let root = rustix::fs::open(
        "/",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .step(what)?;
    let folder =
        super::rootfs::open_inside(&root, path, rustix::fs::OFlags::DIRECTORY).step(what)?;
    rustix::process::fchdir(&folder).step(what)?;
    let now = rustix::process::getcwd(Vec::new()).step(what)?;
    if !now.as_bytes().starts_with(b"/") {
        return Err(StartError::Failed {
            step: what(),
            why: "it is outside of the container".to_owned(),
        });
    }
    Ok(())
}

fn become_user(who: &User, sets: &CapabilitySets) -> Result<(), StartError> {
    let what = || format!("cannot become user {}:{}", who.uid, who.gid);
    prctl::set_keep_capabilities(true).step(what)?;
    let groups: Vec<nix::unistd::Gid> = who
        .groups
        .iter()
        .map(|g| nix::unistd::Gid::from_raw(*g as RawGid))
        .collect();
    nix::unistd::setgroups(&groups).step(what)?;
    let gid = nix::unistd::Gid::from_raw(who.gid);
    nix::unistd::setresgid(gid, gid, gid).step(what)?;
    let uid = nix::unistd::Uid::from_raw(who.uid);
    nix::unistd::setresuid(uid, uid, uid).step(what)?;
    prctl::set_keep_capabilities(false).step(what)?;
    capability::clear_ambient().step(|| "cannot clear the ambient capabilities".to_owned())?;
    // What this host has not to give is not given, as docker.
    let there = capability::bounding();
    let permitted = sets.permitted & there;
    let inheritable = sets.inheritable & there;
    capability::set_each(sets.effective & permitted, permitted, inheritable)
        .step(|| "cannot set the capabilities".to_owned())?;
    capability::raise_ambient(sets.ambient & permitted & inheritable)
        .step(|| "cannot set the ambient capabilities".to_owned())
}

fn c_string(text: &str) -> Result<CString, StartError> {
    CString::new(text).map_err(|_| StartError::Failed {
        step: "cannot pass on an argument or variable".to_owned(),
        why: "it holds a zero byte".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_containers_path() {
        let paths = |program: &str, env: &[&str]| -> Vec<String> {
            let env: Vec<String> = env.iter().map(|e| (*e).to_owned()).collect();
            candidates(program, &env)
                .unwrap()
                .iter()
                .map(|c| c.to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(paths("sh", &["PATH=/bin:/x"]), ["/bin/sh", "/x/sh"]);
        assert_eq!(paths("./sh", &["PATH=/bin"]), ["./sh"]);
        assert_eq!(paths("sh", &[]).len(), 6);
    }

    #[test]
    fn home_comes_from_passwd_unless_it_is_set() {
        let who = User {
            uid: 1,
            gid: 1,
            groups: vec![],
            home: "/h".into(),
        };
        assert_eq!(environment(&["A=b".into()], &who), ["A=b", "HOME=/h"]);
        assert_eq!(environment(&["HOME=/x".into()], &who), ["HOME=/x"]);
    }
}
