//! What must be true of an operation that was cut off, given what its caller was told; and that it can be
//! done again.

use slipway_tests::{Site, eventually};

use super::{CREATE, Work, is_said_to_be_without_monitor, is_well, run, state, wait_for_log};
use crate::told::{Cut, Told};

pub(super) fn created<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        let state = state(site, "one");
        cut.told.agrees_with(state.is_some());
        let Some(state) = state else { return };
        assert_eq!(state.status, "created", "{state:?}");
        if let Told::Done(id) = cut.told {
            assert_eq!(id, &site.inspect("one", "{{.Id}}"));
        }
    })
}

pub(super) fn create_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").is_none() {
            site.ctl(&CREATE).ok();
        }
        site.ctl(&["start", "one"]).ok();
        wait_for_log(site);
        is_well(site, "one").await;
    })
}

pub(super) fn started<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        let point = cut.point;
        if point.program() == "monitor" {
            eventually("its end is noticed", async || {
                state(site, "one").filter(|s| s.status != "running")
            })
            .await;
        }
        let state = state(site, "one").expect("it was there before");
        match (state.status.as_str(), point.program()) {
            // It was never asked for, or nobody got so far.
            ("created", _) => assert_eq!(state.error, "", "{state:?}"),
            ("running", "runtime" | "netd" | "spawner" | "taker") => {}
            ("exited", "init") => {
                assert_eq!(state.code, 128, "{state:?}");
                assert!(state.error.contains("on its way"), "{state:?}");
            }
            ("exited", "netd") => {}
            ("exited", _) => is_said_to_be_without_monitor(&state),
            _ => panic!("{state:?}"),
        }
        match cut.told {
            Told::Done(_) | Told::Ended(..) => assert_ne!(state.status, "created"),
            // As docker: one that could not begin has ended with that, and says the same.
            Told::Refused(why) => assert!(
                state.status == "created" || !state.error.is_empty() && why.contains(&state.error),
                "{why:?} was told, and it is {state:?}"
            ),
            Told::Unknown => {}
        }
    })
}

pub(super) fn start_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").is_some_and(|s| s.status != "running" && s.status != "restarting") {
            site.ctl(&["start", "one"]).ok();
        }
        wait_for_log(site);
        if !site
            .inspect("one", "{{.HostConfig.RestartPolicy.Name}}")
            .contains("always")
        {
            is_well(site, "one").await;
        }
    })
}

pub(super) fn execed<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        match cut.told {
            Told::Done(text) => assert_eq!(text, "hello"),
            // It was killed before it was the program, or went with the monitor.
            Told::Ended(code, text) => {
                assert!(["join", "monitor"].contains(&cut.point.program()));
                assert_eq!(*code, 137);
                assert!(text.is_empty() || cut.point.program() == "monitor");
            }
            Told::Refused(_) | Told::Unknown => {}
        }
        runs(site, cut).await;
    })
}

pub(super) fn committed<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        let id = site.ctl(&["image", "inspect", "-f", "{{.Id}}", "committed"]);
        cut.told.agrees_with(id.code == 0);
        if id.code == 0 {
            if let Told::Done(told) = cut.told {
                assert_eq!(told, id.out.trim_end());
            }
            let whole = ["run", "--rm", "committed", "test", "-e", "/written"];
            site.ctl(&whole).ok();
        }
        runs(site, cut).await;
    })
}

pub(super) fn updated<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        let limit = site.inspect("one", "{{.HostConfig.PidsLimit}}");
        cut.told.agrees_with(limit == "50");
        runs(site, cut).await;
    })
}

pub(super) fn runs<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        if cut.point.program() == "monitor" {
            eventually("its end is noticed", async || {
                state(site, "one").filter(|s| s.status == "exited")
            })
            .await;
            is_said_to_be_without_monitor(&state(site, "one").unwrap());
            return;
        }
        assert_eq!(state(site, "one").unwrap().status, "running");
        is_well(site, "one").await;
    })
}

pub(super) fn exec_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").unwrap().status == "exited" {
            site.ctl(&["start", "one"]).ok();
        }
        assert_eq!(site.ctl(&["exec", "one", "echo", "hello"]).ok(), "hello\n");
        eventually("no process of an exec is left", async || {
            (site.ctl(&["top", "one"]).ok().lines().count() == 3).then_some(())
        })
        .await;
    })
}

pub(super) fn stopped<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        let point = cut.point;
        // What was promised may take a moment, what was not must not come true later.
        if let Told::Done(_) = cut.told {
            assert_eq!(state(site, "one").unwrap().status, "exited");
        }
        if point.name != "runtime.stop.killed" {
            assert_eq!(state(site, "one").unwrap().status, "running");
            return is_well(site, "one").await;
        }
        let state = eventually("it has ended", async || {
            state(site, "one").filter(|s| s.status == "exited")
        })
        .await;
        assert_eq!((state.code, state.error.as_str()), (137, ""));
    })
}

pub(super) fn stop_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").unwrap().status == "exited" {
            site.ctl(&["start", "one"]).ok();
        }
        site.ctl(&["stop", "-t", "0", "one"]).ok();
        let state = state(site, "one").unwrap();
        assert_eq!(
            (state.status.as_str(), state.code, state.error.as_str()),
            ("exited", 137, "")
        );
        assert_eq!(site.ctl(&["wait", "one"]).ok(), "137\n");
    })
}

pub(super) fn ended<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        let point = cut.point;
        // Somebody has got the signal.
        cut.told.agrees_with(true);
        let state = eventually("it has ended", async || {
            state(site, "one").filter(|s| s.status == "exited")
        })
        .await;
        match point.name {
            "monitor.end.reaped" | "monitor.end.killed" | "monitor.end.drained" => {
                is_said_to_be_without_monitor(&state);
                assert!(site.ctl(&["wait", "one"]).error(1).contains("monitor"));
            }
            _ => {
                assert_eq!((state.code, state.error.as_str()), (7, ""), "{state:?}");
                assert_eq!(site.ctl(&["wait", "one"]).ok(), "7\n");
            }
        }
        assert_eq!(site.ctl(&["logs", "one"]).ok(), "up\n");
    })
}

pub(super) fn end_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        site.ctl(&["start", "one"]).ok();
        eventually("it is up again", async || {
            (site.ctl(&["logs", "one"]).out == "up\nup\n").then_some(())
        })
        .await;
        is_well(site, "one").await;
        site.ctl(&["kill", "-s", "USR1", "one"]).ok();
        assert_eq!(site.ctl(&["wait", "one"]).ok(), "7\n");
    })
}

pub(super) fn removed<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        let left = state(site, "one");
        cut.told.agrees_with(left.is_none());
        if let Some(state) = left {
            assert_eq!(
                (state.status.as_str(), state.code),
                ("exited", 137),
                "{state:?}"
            );
        }
    })
}

pub(super) fn remove_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").is_some() {
            site.ctl(&["rm", "-f", "-v", "one"]).ok();
        }
        run(site);
        site.ctl(&["rm", "-f", "-v", "one"]).ok();
        assert_eq!(state(site, "one"), None);
    })
}

pub(super) fn commit_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        site.ctl(&["commit", "one", "committed"]).ok();
        site.ctl(&["run", "--rm", "committed", "test", "-e", "/written"])
            .ok();
    })
}

pub(super) fn renamed<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        let (old, new) = (state(site, "one"), state(site, "two"));
        let (name, state) = match (old, new) {
            (Some(state), None) => ("one", state),
            (None, Some(state)) => ("two", state),
            both => panic!("it has not exactly one name: {both:?}"),
        };
        cut.told.agrees_with(name == "two");
        assert_eq!(state.status, "running");
        is_well(site, name).await;
        is_found(site, name).await;
    })
}

pub(super) fn rename_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if state(site, "one").is_some() {
            site.ctl(&["rename", "one", "two"]).ok();
        }
        assert!(state(site, "one").is_none() && state(site, "two").is_some());
        is_found(site, "two").await;
    })
}

/// Under its name by another container.
pub(super) async fn is_found(site: &Site, name: &str) {
    eventually("it is found by its name", async || {
        let ping = ["exec", "beside", "ping", "-c", "1", "-W", "5", name];
        (site.ctl(&ping).code == 0).then_some(())
    })
    .await;
}

pub(super) fn update_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        let held = || {
            let id = site.inspect("one", "{{.Id}}");
            let tree =
                |root: &str| std::fs::read_to_string(format!("{root}/slipway/{id}/pids.max"));
            let limit = tree("/sys/fs/cgroup/pids").or_else(|_| tree("/sys/fs/cgroup"));
            limit.unwrap().trim().to_owned()
        };
        let known = site.inspect("one", "{{.HostConfig.PidsLimit}}");
        match known.as_str() {
            "50" => assert_eq!(held(), "50"),
            _ => assert_eq!(held(), "max", "the kernel holds what nobody knows of"),
        }
        site.ctl(&["update", "--pids-limit", "50", "one"]).ok();
        assert_eq!(
            (
                site.inspect("one", "{{.HostConfig.PidsLimit}}").as_str(),
                held().as_str()
            ),
            ("50", "50")
        );
    })
}

pub(super) fn restarts<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        // It began, whatever comes of it.
        cut.told.agrees_with(true);
        let count = || {
            site.inspect("one", "{{.RestartCount}}")
                .parse::<u32>()
                .unwrap()
        };
        let before = count();
        eventually("it is brought back", async || {
            (count() > before).then_some(())
        })
        .await;
    })
}

pub(super) fn is_there(site: &Site, kind: &str, name: &str) -> bool {
    site.ctl(&[kind, "inspect", name]).code == 0
}

pub(super) fn made_volume<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move { cut.told.agrees_with(is_there(site, "volume", "data")) })
}

pub(super) fn removed_volume<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move { cut.told.agrees_with(!is_there(site, "volume", "data")) })
}

pub(super) fn made_network<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move { cut.told.agrees_with(is_there(site, "network", "net")) })
}

pub(super) fn removed_network<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move { cut.told.agrees_with(!is_there(site, "network", "net")) })
}

pub(super) fn volume_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        site.ctl(&["volume", "create", "data"]).ok();
        let uses = [
            "run",
            "--rm",
            "-v",
            "data:/data",
            "busybox",
            "touch",
            "/data/file",
        ];
        site.ctl(&uses).ok();
    })
}

pub(super) fn remove_volume_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if site.ctl(&["volume", "inspect", "data"]).code == 0 {
            site.ctl(&["volume", "rm", "data"]).ok();
        }
        volume_again(site).await;
    })
}

pub(super) fn network_again(site: &Site) -> Work<'_> {
    made_again(site, &["network", "create", "net"])
}

pub(super) fn made_again<'a>(site: &'a Site, create: &'a [&'a str]) -> Work<'a> {
    Box::pin(async move {
        if site.ctl(&["network", "inspect", "net"]).code != 0 {
            site.ctl(create).ok();
        }
        let script =
            "ping -c 1 -W 5 $(ip route | grep default | { read a b gateway c; echo $gateway; })";
        site.ctl(&[
            "run",
            "--rm",
            "--network",
            "net",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    })
}

pub(super) fn remove_network_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if site.ctl(&["network", "inspect", "net"]).code == 0 {
            site.ctl(&["network", "rm", "net"]).ok();
        }
        network_again(site).await;
    })
}
