//! Programs of the caller's that run at certain moments of a container's life (OCI Runtime Specification,
//! config.md, "POSIX-platform Hooks").
//!
//! They get the container's state as standard input and nothing of what else is open. What they write is
//! kept in memory, by file and not by pipe: something that a hook leaves running must not hold us up.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::MemfdFlags,
    process::{Pid, PidfdFlags},
};

use super::{
    StartError,
    plan::{About, Hook},
};
use crate::sys::signals;

/// Most of what a hook said that is repeated in an error.
const SAID: u64 = 2048;

/// Runs hooks one after the other; the first that fails ends it. `status` is the container's, `pid` its
/// first process as the hooks see it.
pub fn run_all(
    kind: &str,
    hooks: &[Hook],
    about: &About,
    status: &str,
    pid: i32,
) -> Result<(), StartError> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = about.state(status, pid);
    for (number, hook) in hooks.iter().enumerate() {
        run(kind, number, hook, &state)?;
    }
    Ok(())
}

impl About {
    /// A container's state as hooks read it (runtime.md, "State").
    pub fn state(&self, status: &str, pid: i32) -> String {
        let mut state = serde_json::json!({
            "ociVersion": SPEC_VERSION,
            "id": self.id,
            "status": status,
            "pid": pid,
            "bundle": self.bundle,
            "annotations": self.annotations,
        });
        if pid == 0
            && let Some(fields) = state.as_object_mut()
        {
            fields.remove("pid");
        }
        state.to_string()
    }
}

/// The version of the OCI Runtime Specification that is spoken.
pub const SPEC_VERSION: &str = "1.2.0";

/// Runs one hook to its end.
pub fn run(kind: &str, number: usize, hook: &Hook, state: &str) -> Result<(), StartError> {
    let fail = |why: String| StartError::Failed {
        step: format!("error running {kind} hook #{number}: {}", hook.path),
        why,
    };
    let mut said = memory().map_err(|e| fail(e.to_string()))?;
    let mut child = begin(hook, state, &said).map_err(|e| fail(e.to_string()))?;
    let limit = hook
        .timeout
        .map(|seconds| Duration::from_secs(seconds.into()));
    let ended = wait(&mut child, limit).map_err(|e| fail(e.to_string()))?;
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            let mut text = String::new();
            // Bytes that are no text are left out; that it failed is what counts.
            let _ = said
                .rewind()
                .and_then(|()| (&said).take(SAID).read_to_string(&mut text));
            Err(fail(match text.trim() {
                "" => status.to_string(),
                text => format!("{status}: {text}"),
            }))
        }
        None => Err(fail(format!(
            "it did not end within its timeout of {} s and was killed",
            hook.timeout.unwrap_or_default()
        ))),
    }
}

fn memory() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?.into())
}

fn begin(hook: &Hook, state: &str, said: &File) -> io::Result<Child> {
    let mut input = memory()?;
    input.write_all(state.as_bytes())?;
    input.rewind()?;
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    // Who waits for a container takes signals in its own way.
    signals::unblock_in(&mut command);
    let variables = hook.env.iter().filter_map(|entry| entry.split_once('='));
    command
        .env_clear()
        .envs(variables)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(said.try_clone()?))
        .stderr(Stdio::from(said.try_clone()?))
        .spawn()
}

/// `None` = it took too long and was killed.
fn wait(child: &mut Child, limit: Option<Duration>) -> io::Result<Option<ExitStatus>> {
    let Some(limit) = limit else {
        return child.wait().map(Some);
    };
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    let mut polled = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&limit)))?;
    if ready == 0 {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    child.wait().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Option<u32>) -> Result<(), String> {
        let hook = Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", script].map(String::from).into(),
            env: vec!["WORD=yes".into()],
            timeout,
        };
        run("prestart", 0, &hook, "{\"id\":\"x\"}").map_err(|e| e.to_string())
    }

    #[test]
    fn a_hook_reads_the_state_and_has_just_its_environment() {
        shell(
            "test \"$(cat)\" = '{\"id\":\"x\"}' && test $WORD = yes && test -z \"$HOME\"",
            None,
        )
        .unwrap();
    }

    #[test]
    fn failures_say_what_the_hook_said() {
        let error = shell("echo no luck >&2; exit 3", None).unwrap_err();
        assert!(
            error.contains("prestart hook #0") && error.contains("exit status: 3: no luck"),
            "{error}"
        );
        let error = shell("sleep 60", Some(1)).unwrap_err();
        assert!(error.contains("timeout of 1 s"), "{error}");
        let missing = Hook {
            path: "/nowhere".into(),
            ..Hook::default()
        };
        assert!(run("poststop", 1, &missing, "").is_err());
    }

    #[test]
    fn what_a_hook_leaves_running_holds_nobody_up() {
        let begun = std::time::Instant::now();
        shell("sleep 20 & exit 0", Some(10)).unwrap();
        assert!(begun.elapsed().as_secs() < 10);
    }
}
