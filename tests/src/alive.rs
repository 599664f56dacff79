//! Whether what is said of containers is what there is: their processes, cgroups, monitors and sockets
//! beside what `ps` and `inspect` tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::FileTypeExt as _,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Site, leaks};

/// How long somebody who was cut off may take to settle.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a container has of the host.
#[derive(Debug, Default)]
struct Found {
    cgroups: usize,
    processes: BTreeSet<String>,
    run_folder: bool,
    sockets: usize,
}

impl Site {
    /// Waits until what is said and what there is agree; gives what stays wrong.
    pub fn contradictions(&self) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let wrong = self.look_for_contradictions();
            if wrong.is_empty() || begun.elapsed() > PATIENCE {
                return wrong;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn look_for_contradictions(&self) -> Vec<String> {
        let listed = self.ctl(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}"]);
        let listed: BTreeMap<String, String> = listed
            .ok()
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(id, state)| (id.to_owned(), state.to_owned()))
            .collect();
        let mut found = self.found();
        let mut wrong = Vec::new();
        let mut words = vec!["container", "inspect"];
        words.extend(listed.keys().map(String::as_str));
        if listed.is_empty() {
            words.clear();
        }
        let told = match words.is_empty() {
            true => Vec::new(),
            false => {
                let said = self.ctl(&words);
                if said.code != 0 {
                    return vec![format!("inspect: {}", said.err.trim_end())];
                }
                serde_json::from_str::<Vec<Value>>(&said.out).unwrap()
            }
        };
        let mut up = 0;
        for container in &told {
            let id = container["Id"].as_str().unwrap();
            let found = found.remove(id).unwrap_or_default();
            up += usize::from(self.judge(container, &listed[id], &found, &mut wrong));
        }
        for (id, found) in found {
            wrong.push(format!("nobody knows {id}, which has {found:?}"));
        }
        let monitors = self.processes("slipway-monitor").len();
        if monitors != up {
            wrong.push(format!("{monitors} monitors of {up} that run"));
        }
        wrong
    }

    /// Whether it is said to run.
    fn judge(
        &self,
        container: &Value,
        listed: &str,
        found: &Found,
        wrong: &mut Vec<String>,
    ) -> bool {
        let name = container["Name"].as_str().unwrap_or_default();
        let state = &container["State"];
        let status = state["Status"].as_str().unwrap_or_default();
        let pid = state["Pid"].as_i64().unwrap_or_default();
        let mut refuse = |why: String| wrong.push(format!("{name} is {status}: {why}"));
        if status != listed {
            refuse(format!("ps says {listed}"));
        }
        let up = matches!(status, "running" | "paused");
        for (flag, is) in [
            ("Running", up || status == "restarting"),
            ("Paused", status == "paused"),
            ("Restarting", status == "restarting"),
        ] {
            if state[flag] != is {
                refuse(format!("{flag} is {}", state[flag]));
            }
        }
        let began = !is_never(&state["StartedAt"]);
        match status {
            "created" => {
                if state["ExitCode"] != 0 || began {
                    refuse(format!("it began or ended: {state}"));
                }
            }
            "exited" | "restarting" => {
                if is_never(&state["FinishedAt"]) {
                    refuse("nobody knows when it ended".to_owned());
                }
                self.exit_is_recorded(container, &mut refuse);
            }
            "running" | "paused" if !began => refuse("nobody knows since when".to_owned()),
            "running" | "paused" => {}
            _ => refuse("that is no state to rest in".to_owned()),
        }
        let address = &container["NetworkSettings"]["IPAddress"];
        let network = container["HostConfig"]["NetworkMode"].as_str();
        if matches!(network, Some("bridge" | "default")) && (address != "") != up {
            refuse(format!("its address is {address}"));
        }
        if up {
            if !found.processes.contains(&pid.to_string()) || !is_alive(pid) {
                refuse(format!("{pid} is none of its processes: {found:?}"));
            }
            if found.sockets != 1 {
                refuse(format!("it has {} sockets", found.sockets));
            }
        } else if pid != 0 || found.cgroups > 0 || found.run_folder {
            refuse(format!("pid {pid}, {found:?}"));
        }
        up
    }

    /// What its monitor, or who found it gone, wrote of its end is what is told.
    fn exit_is_recorded(&self, container: &Value, refuse: &mut impl FnMut(String)) {
        let id = container["Id"].as_str().unwrap();
        let file = self.path(&format!("state/runtime/containers/{id}/exit.json"));
        let Ok(text) = fs::read(&file) else {
            return refuse("how it ended is written nowhere".to_owned());
        };
        let record: Value = serde_json::from_slice(&text).unwrap();
        let told = &container["State"]["ExitCode"];
        if &record["code"] != told {
            refuse(format!("{told} is told and {} written", record["code"]));
        }
    }

    fn found(&self) -> BTreeMap<String, Found> {
        let mut all: BTreeMap<String, Found> = BTreeMap::new();
        let known = self.known_containers();
        for group in leaks::cgroups(&known) {
            let name = group.file_name().unwrap().to_string_lossy().into_owned();
            let Some(id) = known.iter().find(|id| name.contains(id.as_str())) else {
                continue;
            };
            let found = all.entry(id.clone()).or_default();
            found.cgroups += 1;
            let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found
                .processes
                .extend(processes.split_whitespace().map(str::to_owned));
        }
        let folder = self.path("run/runtime/containers");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            let found = all.entry(id).or_default();
            found.run_folder = true;
            let files = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            let sockets = files.filter(|f| f.file_type().is_ok_and(|t| t.is_socket()));
            found.sockets += sockets.count();
        }
        all
    }
}

fn is_never(time: &Value) -> bool {
    time.as_str().is_none_or(|t| t.starts_with("0001-01-01"))
}

/// Not a zombie either.
fn is_alive(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
