//! The life of a container's first process, from clone to exec.

use std::{
    cell::Cell,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::OFlags,
    mount::OpenTreeFlags,
    thread::{LinkNameSpaceType, ThreadNameSpaceType as Kind, UnshareFlags},
};

use super::{
    StartError, Step as _, dev,
    gate::Gate,
    hooks, launch, mounts,
    plan::{ContainerPlan, Namespace, Namespaces, Stdio},
    protect, reaper, rootfs,
    userns::UserNamespace,
};
use crate::{
    cgroup::Group,
    sys::{fdpass, fork, prctl, terminal},
};

/// Flags for clone3: the namespaces that begin with the process. The network and cgroup namespaces
/// come later: one is joined, the other must begin when the process is in its cgroup.
pub fn clone_flags(namespaces: &Namespaces) -> i32 {
    let flag = |namespace: &Namespace, flag: i32| {
        if *namespace == Namespace::New {
            flag
        } else {
            0
        }
    };
    libc::CLONE_NEWNS
        | flag(&namespaces.pid, libc::CLONE_NEWPID)
        | flag(&namespaces.ipc, libc::CLONE_NEWIPC)
        | flag(&namespaces.uts, libc::CLONE_NEWUTS)
        | flag(&namespaces.net, libc::CLONE_NEWNET)
}

/// A process namespace holds for children only: with another container's the monitor joins it itself,
/// before it makes the first process. Returns the way back.
pub fn enter_pid_namespace(
    namespaces: &Namespaces,
    peers: &[OwnedFd],
) -> Result<Option<OwnedFd>, StartError> {
    if !matches!(namespaces.pid, Namespace::Peer(_) | Namespace::Path(_)) {
        return Ok(None);
    }
    let home = rustix::fs::open(
        "/proc/self/ns/pid",
        OFlags::RDONLY | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .step(|| "cannot open the process namespace".to_owned())?;
    match &namespaces.pid {
        Namespace::Peer(number) => join_peer(peers, *number, Kind::PROCESS_ID, "PID")?,
        namespace => join_path(namespace, "PID")?,
    }
    // The new process must not be looked into by those who are there, from its first moment on; the
    // monitor itself stays out of their sight.
    prctl::set_dumpable(false).step(|| "cannot become undumpable".to_owned())?;
    Ok(Some(home))
}

/// Undoes [`enter_pid_namespace`], so that processes that join later are made as everywhere.
pub fn leave_pid_namespace(home: &OwnedFd) -> Result<(), StartError> {
    rustix::thread::move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::ProcessID))
        .step(|| "cannot leave the process namespace".to_owned())
}

fn join_peer(peers: &[OwnedFd], number: u8, kind: Kind, name: &str) -> Result<(), StartError> {
    let what = || format!("cannot join the {name} namespace of another container");
    let peer = peers
        .get(usize::from(number))
        .ok_or_else(|| StartError::Failed {
            step: what(),
            why: "no descriptor came with the request".to_owned(),
        })?;
    match rustix::thread::move_into_thread_name_spaces(peer.as_fd(), kind) {
        // It has ended since its monitor handed out the descriptor (setns(2)).
        Err(rustix::io::Errno::SRCH) => Err(StartError::Failed {
            step: format!("cannot join {name} of a non running container"),
            why: "it has just ended".to_owned(),
        }),
        joined => joined.step(what),
    }
}

/// /dev/shm of the container whose ipc namespace is joined, taken in that container's own mount
/// namespace: a detached mount.
fn shared_memory(
    namespaces: &Namespaces,
    peers: &[OwnedFd],
) -> Result<Option<OwnedFd>, StartError> {
    let Namespace::Peer(number) = namespaces.ipc else {
        return Ok(None);
    };
    let what = || "cannot share /dev/shm of another container".to_owned();
    let home = rustix::fs::open(
        "/proc/self/ns/mnt",
        OFlags::RDONLY | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .step(what)?;
    join_peer(peers, number, Kind::MOUNT, "mount")?;
    let root = rustix::fs::open(
        "/",
        OFlags::PATH | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .step(what)?;
    let folder = rootfs::open_inside(&root, "/dev/shm", OFlags::DIRECTORY).step(what)?;
    let mount = rustix::mount::open_tree(
        &folder,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH,
    )
    .step(what)?;
    rustix::thread::move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))
        .step(what)?;
    Ok(Some(mount))
}

/// What the new process gets from the monitor.
pub struct Inherited<'a> {
    /// The network namespace to join.
    pub net: Option<&'a OwnedFd>,
    /// The network namespace that a path names was made for it: nobody else switches its loopback device on.
    pub fresh_net: bool,
    /// First processes of other containers, whose namespaces are joined.
    pub peers: &'a [OwnedFd],
    /// Mounts that came along, for [`super::plan::MountSource::Given`].
    pub given: &'a [OwnedFd],
    /// Its ends of the pipes: stdin (absent = /dev/null), stdout, stderr. None with a terminal.
    pub pipes: Option<(Option<OwnedFd>, OwnedFd, OwnedFd)>,
    /// To the monitor: sends the terminal, reports an error; closes with the exec.
    pub report: OwnedFd,
    /// Its cgroups: the v1 ones are for itself to join.
    pub group: &'a Group,
    /// The namespace that it enters last.
    pub user: Option<&'a UserNamespace>,
    /// What [`super::plan::Mount::mapping`] counts.
    pub mappings: &'a [UserNamespace],
    /// Where it stops before the exec.
    pub gate: Option<Gate<'a>>,
}

/// Runs the whole life. Never returns.
pub fn run(plan: &ContainerPlan, mut inherited: Inherited<'_>) -> ! {
    let gate = inherited.gate.take();
    let report = match rustix::io::fcntl_dupfd_cloexec(&inherited.report, 3) {
        Ok(report) => report,
        Err(_) => fork::exit_now(125),
    };
    let entry = inherited
        .user
        .map(|user| launch::Entry::First(user, &plan.namespaces));
    let ready = become_container(plan, inherited, gate.is_some())
        .and_then(|()| launch::mark(&plan.process));
    let (error, report) = match (ready, gate) {
        (Ok(()), Some(gate)) => launch::become_program_at(gate, &plan.process, entry, report),
        (Ok(()), None) => {
            slipway_fault::point("init.start.ready");
            let error = launch::become_first_program(&plan.process, entry, &report);
            (error, report)
        }
        (Err(error), _) => (error, report),
    };
    send_error(&report, &error);
    fork::exit_now(125)
}

/// Tells the monitor why it did not work.
pub fn send_error(report: &OwnedFd, error: &StartError) {
    // Serialising a plain enum cannot fail, and when the monitor is gone nobody is left to tell.
    let message = serde_json::to_vec(error).unwrap_or_default();
    // write(2) and not sendmsg(2): a filter of system calls may be in force, and it may be a FIFO.
    let _ = rustix::io::write(report, &message);
}

/// `at_once` says that it is not worth waiting for the cgroups: they are there already.
fn become_container(
    plan: &ContainerPlan,
    inherited: Inherited<'_>,
    at_once: bool,
) -> Result<(), StartError> {
    // Nobody in a joined namespace may look into us while we still hold the host's things.
    prctl::set_dumpable(false).step(|| "cannot become undumpable".to_owned())?;
    reset_signals()?;
    // Until it is the program, whose own comes with it: the monitor may be killed at any step. One that
    // was killed before this is missed by `wait_until_placed`.
    if !plan.process.outlives {
        prctl::set_parent_death_signal(libc::SIGKILL)
            .step(|| "cannot bind to the monitor".to_owned())?;
    }
    if plan.process.init {
        // While /proc is the host's. At worst `ps` shows the spawner's words.
        let _ = prctl::set_command_line(&reaper::command_line(&plan.process.args));
    }
    rustix::process::setsid().step(|| "cannot begin a session".to_owned())?;
    slipway_fault::point("init.start.cloned");
    let placing = Placing {
        done: Cell::new(false),
        report: &inherited.report,
        group: inherited.group,
        new_namespace: plan.namespaces.cgroup == Namespace::New,
    };
    let early = at_once
        || inherited.user.is_some()
        || !matches!(plan.namespaces.cgroup, Namespace::New | Namespace::Host);
    if early {
        // Afterwards it may not any more.
        placing.finish()?;
    }
    if plan.new_keyring {
        crate::sys::keyring::begin_session()
            .step(|| "cannot begin a session keyring".to_owned())?;
    }
    let shm = shared_memory(&plan.namespaces, inherited.peers)?;
    join_namespaces(&plan.namespaces, inherited.net, inherited.peers)?;
    join_path(&plan.time.namespace, "time")?;
    set_names(plan)?;
    if plan.namespaces.net == Namespace::New || inherited.fresh_net {
        // Nobody else will: netd knows nothing of this namespace.
        crate::sys::loopback::up().step(|| "cannot switch the loopback device on".to_owned())?;
    }

    slipway_fault::point("init.start.joined");
    if let Some(user) = inherited.user {
        user.own_files()?;
    }
    let connected = mounts::open_connected(&plan.mounts)?;
    let connected_root = rootfs::open_connected(&plan.root, plan.root_propagation)?;
    rootfs::make_private()?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let stage = &plan.files.mount_point;
    let root = rootfs::mount_root(&plan.root, stage, inherited.user, connected_root)?;
    slipway_fault::point("init.start.rooted");
    let context = mounts::Context {
        stage,
        shm: shm.as_ref(),
        user: inherited.user,
        host_cgroups: plan.namespaces.cgroup == Namespace::Host,
        group: inherited.group,
        mappings: inherited.mappings,
        sysctls: &plan.sysctls,
        given: inherited.given,
        placing: &placing,
    };
    mounts::make(&root, &plan.mounts, connected, &context)?;
    placing.finish()?;
    slipway_fault::point("init.start.mounted");
    if plan.own_dev {
        let user = plan.user.as_ref();
        dev::populate(&root, &plan.devices, plan.host_devices, user)?;
    }
    if plan.hooks.ask {
        ask(&inherited.report)?;
    }
    let run = &plan.hooks.create_container;
    let pid = rustix::process::getpid().as_raw_pid();
    hooks::run_all("createContainer", run, &plan.hooks.about, "creating", pid)?;
    // While the root can be written to, as runc.
    let folder = &plan.process.working_dir;
    rootfs::make_folder_inside(&root, folder, 0o755)
        .step(|| format!("cannot make the working directory {folder}"))?;
    let stdio = match plan.stdio {
        Stdio::Terminal { rows, columns, .. } => {
            let opened = dev::open_terminal(&root)?;
            dev::mount_console(&root, &opened)?;
            set_size(&opened.master, rows, columns)?;
            fdpass::send(
                &inherited.report,
                b"terminal",
                &[opened.master.as_fd()],
                rustix::net::SendFlags::empty(),
            )
            .step(|| "cannot hand over the terminal".to_owned())?;
            terminal::make_controlling(&opened.peer)
                .step(|| "cannot take the terminal".to_owned())?;
            let again = |fd: &OwnedFd| {
                rustix::io::fcntl_dupfd_cloexec(fd, 3)
                    .step(|| "cannot copy the terminal".to_owned())
            };
            (again(&opened.peer)?, again(&opened.peer)?, opened.peer)
        }
        Stdio::Pipes { .. } => {
            let (stdin, stdout, stderr) = inherited.pipes.ok_or_else(|| StartError::Failed {
                step: "cannot set up the streams".to_owned(),
                why: "the monitor gave none".to_owned(),
            })?;
            let null = || open_null(plan.own_dev.then_some(&root));
            (stdin.map_or_else(null, Ok)?, stdout, stderr)
        }
    };
    protect::read_only(&root, &plan.readonly_paths)?;
    protect::mask(&root, &plan.masked_paths)?;
    if plan.readonly_root {
        mounts::make_read_only(&root)?;
    }
    rootfs::pivot(&root)?;
    slipway_fault::point("init.start.pivoted");
    drop(root);
    if matches!(plan.root_propagation, libc::MS_SHARED | libc::MS_UNBINDABLE) {
        mounts::propagate_root(plan.root_propagation)?;
    }
    install_stdio(stdio)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    fork::cloexec_from(3).step(|| "cannot close what is not the container's".to_owned())
}

/// An ignored or blocked signal survives exec: the program must begin with all of them as usual.
pub fn reset_signals() -> Result<(), StartError> {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    crate::sys::signals::reset_all().step(|| "cannot reset the signals".to_owned())?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .step(|| "cannot unblock the signals".to_owned())
}

/// Message of a container whose mounts are made, and that has not pivoted yet.
pub const MOUNTED: &[u8] = b"mounted";

/// Lets the maker of the container run programs of its own, and waits until it has.
fn ask(report: &OwnedFd) -> Result<(), StartError> {
    fdpass::send(report, MOUNTED, &[], rustix::net::SendFlags::empty())
        .step(|| "cannot report the mounts".to_owned())?;
    wait_until_placed(report)
}

/// The first process's way into its cgroups. The monitor makes them while it makes its mounts, of which
/// only those of the cgroups themselves need it to be there.
#[derive(Debug)]
pub struct Placing<'a> {
    done: Cell<bool>,
    report: &'a OwnedFd,
    group: &'a Group,
    new_namespace: bool,
}

impl Placing<'_> {
    /// The group that is the root of the container's view of the cgroups.
    pub fn shown(&self) -> Option<&Group> {
        (self.done.get() && self.new_namespace).then_some(self.group)
    }

    /// Is there, once for all: in the cgroups, and in a namespace of them where that is wanted.
    pub fn finish(&self) -> Result<(), StartError> {
        if self.done.replace(true) {
            return Ok(());
        }
        wait_until_placed(self.report)?;
        self.group
            .join()
            .step(|| "cannot join the cgroups".to_owned())?;
        if self.new_namespace {
            crate::sys::namespaces::unshare(UnshareFlags::NEWCGROUP)
                .step(|| "cannot begin a cgroup namespace".to_owned())?;
        }
        slipway_fault::point("init.start.placed");
        Ok(())
    }
}

/// Waits until the monitor has put us into our cgroups.
pub fn wait_until_placed(report: &OwnedFd) -> Result<(), StartError> {
    let mut word = [0; 1];
    let what = || "the monitor went away".to_owned();
    let (length, _) =
        fdpass::receive(report, &mut word, rustix::net::RecvFlags::empty()).step(what)?;
    if length == 0 {
        return Err(StartError::Failed {
            step: what(),
            why: "end of file".to_owned(),
        });
    }
    Ok(())
}

fn join_namespaces(
    namespaces: &Namespaces,
    net: Option<&OwnedFd>,
    peers: &[OwnedFd],
) -> Result<(), StartError> {
    let join = |fd: BorrowedFd<'_>, name: &str| {
        rustix::thread::move_into_link_name_space(fd, None)
            .step(|| format!("cannot join the {name} namespace"))
    };
    match (&namespaces.net, net) {
        (Namespace::Fd, Some(fd)) => join(fd.as_fd(), "network")?,
        (Namespace::Fd, None) => {
            return Err(StartError::Failed {
                step: "cannot join the network namespace".to_owned(),
                why: "no descriptor came with the request".to_owned(),
            });
        }
        _ => {}
    }
    for (namespace, name, kind) in [
        (&namespaces.net, "network", Kind::NETWORK),
        (&namespaces.ipc, "ipc", Kind::INTER_PROCESS_COMMUNICATION),
        (&namespaces.uts, "uts", Kind::HOST_NAME_AND_NIS_DOMAIN_NAME),
        (&namespaces.cgroup, "cgroup", Kind::CONTROL_GROUP),
    ] {
        if let Namespace::Peer(number) = namespace {
            join_peer(peers, *number, kind, name)?;
        }
        join_path(namespace, name)?;
    }
    Ok(())
}

fn join_path(namespace: &Namespace, name: &str) -> Result<(), StartError> {
    let Namespace::Path(path) = namespace else {
        return Ok(());
    };
    let fd = open_namespace(path, name)?;
    rustix::thread::move_into_link_name_space(fd.as_fd(), None)
        .step(|| format!("cannot join the {name} namespace"))
}

fn open_namespace(path: &Path, name: &str) -> Result<OwnedFd, StartError> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .step(|| format!("cannot open the {name} namespace {}", path.display()))
}

fn set_names(plan: &ContainerPlan) -> Result<(), StartError> {
    // Only in a namespace of our own: never the host's name.
    if !matches!(plan.namespaces.uts, Namespace::New | Namespace::Path(_)) {
        return Ok(());
    }
    if !plan.hostname.is_empty() {
        rustix::system::sethostname(plan.hostname.as_bytes())
            .step(|| format!("cannot set the hostname {}", plan.hostname))?;
    }
    if !plan.domainname.is_empty() {
        rustix::system::setdomainname(plan.domainname.as_bytes())
            .step(|| format!("cannot set the domain name {}", plan.domainname))?;
    }
    Ok(())
}

/// The container's /dev/null; the host's where /dev is a mount of somebody's, who may have put a FIFO there.
fn open_null(own_dev: Option<&OwnedFd>) -> Result<OwnedFd, StartError> {
    let (flags, mode) = (OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty());
    let opened = match own_dev {
        Some(root) => rustix::fs::openat2(root, "dev/null", flags, mode, rootfs::INSIDE),
        None => rustix::fs::open("/dev/null", flags, mode),
    };
    opened.step(|| "cannot open /dev/null".to_owned())
}

/// Sets a terminal's size, unless it is unknown.
pub fn set_size(master: &OwnedFd, rows: u16, columns: u16) -> Result<(), StartError> {
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size).step(|| "cannot set the terminal's size".to_owned())
}

/// Makes three descriptors standard input, output and error.
pub fn install_stdio(
    (stdin, stdout, stderr): (OwnedFd, OwnedFd, OwnedFd),
) -> Result<(), StartError> {
    let what = || "cannot set up the streams".to_owned();
    // All three are above 2 (the spawner keeps 0 to 2 occupied), so none overwrites another.
    rustix::stdio::dup2_stdin(&stdin).step(what)?;
    rustix::stdio::dup2_stdout(&stdout).step(what)?;
    rustix::stdio::dup2_stderr(&stderr).step(what)
}
