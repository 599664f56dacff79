//! Further processes in a running container, and which there are.

use std::{os::fd::BorrowedFd, path::PathBuf};

use rustix::process::Pid;

use super::{
    confinement::{self, Modules},
    manager::Manager,
    merge::check_working_dir,
    plan::{self, Places},
    state::{Container, Status},
};
use crate::{
    cgroup::Group,
    error::{Error, Tried as _},
    executor::{
        capabilities,
        plan::{ExecPlan, Seccomp},
        seccomp,
    },
    monitor::{
        client::{self, Connection},
        protocol::Request,
    },
};

/// A process to run in a container.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Further variables.
    pub env: Vec<String>,
    /// Instead of the container's.
    pub user: String,
    /// Instead of the container's.
    pub working_dir: String,
    /// All capabilities.
    pub privileged: bool,
    /// With a terminal of this many lines and columns.
    pub terminal: Option<(u16, u16)>,
    /// It is killed when the connection that asked for it goes.
    pub ends_with_client: bool,
}

impl Manager {
    /// Runs a further process. `fds` are its three streams, or nothing with a terminal. The events of
    /// the returned connection tell how it goes.
    pub async fn exec(
        &self,
        container: &Container,
        exec: ExecSpec,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Connection, Error> {
        let record = container.record();
        let name = &record.name;
        match container.status() {
            Status::Running { paused: true, .. } => {
                return Err(Error::Conflict(format!(
                    "Container {name} is paused, unpause the container before exec"
                )));
            }
            Status::Running { .. } => {}
            Status::Restarting { .. } => {
                return Err(Error::Conflict(format!(
                    "Container {name} is restarting, wait until the container is running"
                )));
            }
            _ => {
                return Err(Error::Conflict(format!(
                    "container {} is not running",
                    container.id
                )));
            }
        }
        if exec.command.is_empty() {
            return Err(Error::Invalid("No exec command specified".to_owned()));
        }
        check_working_dir(&exec.working_dir)?;
        let places = Places {
            folder: &container.folder,
            run_folder: &container.run_folder,
            lower: Vec::new(),
            volatile: false,
            volume: &|_| PathBuf::new(),
            layer: &|_| PathBuf::new(),
        };
        let mut process = plan::plan(&record, &places, false)?.process;
        process.args = exec.command;
        process.init = false;
        process.env.extend(exec.env);
        if exec.terminal.is_some() && !process.env.iter().any(|e| e.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        if !exec.user.is_empty() {
            process.user = exec.user;
        }
        if !exec.working_dir.is_empty() {
            process.working_dir = exec.working_dir;
        }
        process.label = confinement::label(&record.spec, &Modules::now())?;
        if exec.privileged {
            // Nothing else, as docker: profile and filter are those of the container's other processes
            // (moby, daemon/exec_linux.go).
            if process.seccomp == Seccomp::Default {
                let program = seccomp::default_program(process.capabilities);
                process.seccomp = Seccomp::Custom {
                    program: crate::sys::bpf::to_hex(&program),
                    flags: 0,
                };
            }
            process.capabilities = capabilities::all();
        }
        let what = || format!("cannot reach the monitor of container {name}");
        let connection = match Connection::open(&container.socket()) {
            // It has just ended, and that is about to be noticed.
            Err(e) if client::is_none(&e) => {
                return Err(Error::Conflict(format!(
                    "container {} is not running",
                    container.id
                )));
            }
            opened => opened.tried(what)?,
        };
        let plan = ExecPlan {
            process,
            terminal: exec.terminal,
            ends_with_client: exec.ends_with_client,
            user: record.user_map.clone(),
            time: false,
        };
        slipway_fault::point("runtime.exec.connected");
        connection
            .request(&Request::Exec(Box::new(plan)), fds)
            .await
            .tried(what)?;
        slipway_fault::point("runtime.exec.asked");
        Ok(connection)
    }

    /// Processes of a running container, by their numbers on the host.
    pub fn processes(&self, container: &Container) -> Result<Vec<Pid>, Error> {
        let name = container.name();
        if container.running().is_none() {
            return Err(Error::Conflict(format!(
                "container {} is not running",
                container.id
            )));
        }
        Group::open(&self.0.hierarchies, &container.record().cgroup())
            .processes()
            .tried(|| format!("cannot list the processes of container {name}"))
    }
}
