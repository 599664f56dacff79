//! Maps of ids in config.json, and those of a user namespace that is there already.

use std::{fs, path::Path};

use oci_spec::runtime::LinuxIdMapping;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::{
    executor::plan::{IdRange, UserMap},
    oci::{Error, error::Tried as _},
    sys::{
        fork::{self, Fork},
        prctl,
    },
};

/// Most lines that the kernel takes (user_namespaces(7)).
const MAX_LINES: usize = 340;

/// A map; `None` when there is none at all.
pub fn map(
    uids: Option<&[LinuxIdMapping]>,
    gids: Option<&[LinuxIdMapping]>,
) -> Result<Option<UserMap>, Error> {
    let (uids, gids) = (uids.unwrap_or_default(), gids.unwrap_or_default());
    if uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::invalid(
            "uidMappings and gidMappings must come together",
        ));
    }
    Ok(Some(UserMap {
        uids: ranges("uidMappings", uids)?,
        gids: ranges("gidMappings", gids)?,
    }))
}

fn ranges(what: &str, mappings: &[LinuxIdMapping]) -> Result<Vec<IdRange>, Error> {
    if mappings.len() > MAX_LINES {
        return Err(Error::Invalid(format!(
            "{what}: the kernel takes {MAX_LINES} lines"
        )));
    }
    let range = |m: &LinuxIdMapping| {
        let ends = [m.container_id(), m.host_id()].map(|first| first.checked_add(m.size()));
        match (m.size(), ends) {
            (1.., [Some(_), Some(_)]) => Ok(IdRange {
                inside: m.container_id(),
                host: m.host_id(),
                size: m.size(),
            }),
            _ => Err(Error::Invalid(format!(
                "{what}: {} ids from {} on are not possible",
                m.size(),
                m.host_id()
            ))),
        }
    };
    mappings.iter().map(range).collect()
}

/// The map of a user namespace: asked of a process that joins it for the purpose.
pub fn of_namespace(path: &Path) -> Result<UserMap, Error> {
    let what = || format!("cannot look into the user namespace {}", path.display());
    let namespace = fs::File::open(path).tried(what)?;
    let (ready, tell) = std::io::pipe().tried(what)?;
    match fork::fork().tried(what)? {
        Fork::Child => {
            use std::os::fd::AsFd as _;
            let joined = prctl::set_parent_death_signal(libc::SIGKILL).is_ok()
                && rustix::thread::move_into_link_name_space(namespace.as_fd(), None).is_ok()
                // Joining clears it.
                && prctl::set_parent_death_signal(libc::SIGKILL).is_ok();
            let _ = rustix::io::write(&tell, if joined { b"y" } else { b"n" });
            loop {
                rustix::event::pause();
            }
        }
        Fork::Parent(child) => {
            drop(tell);
            let mut word = [0; 1];
            let heard = rustix::io::read(&ready, &mut word);
            let map = match heard {
                Ok(1) if &word == b"y" => read(child).tried(what),
                _ => Err(Error::Invalid(format!("{}: it cannot be joined", what()))),
            };
            rustix::process::kill_process(child, Signal::KILL).tried(what)?;
            rustix::process::waitpid(Some(child), WaitOptions::empty()).tried(what)?;
            map
        }
    }
}

fn read(process: Pid) -> std::io::Result<UserMap> {
    let pid = process.as_raw_nonzero();
    let read = |name: &str| -> std::io::Result<Vec<IdRange>> {
        let text = fs::read_to_string(format!("/proc/{pid}/{name}"))?;
        Ok(text.lines().filter_map(line).collect())
    };
    Ok(UserMap {
        uids: read("uid_map")?,
        gids: read("gid_map")?,
    })
}

fn line(text: &str) -> Option<IdRange> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(IdRange {
        inside: numbers.next()?.ok()?,
        host: numbers.next()?.ok()?,
        size: numbers.next()?.ok()?,
    })
}
