//! A site on which programs are killed, with a container beside that must not notice.

use std::{
    collections::BTreeSet,
    process::Child,
    time::{Duration, Instant},
};

use slipway_fault::{Action, inventory::Point};
use slipway_tests::{Audit, Said, Site, eventually, eventually_within};

use crate::{
    operations::{self, Operation},
    told::{Cut, Told},
};

/// How long a caller may wait for its answer after somebody was killed.
const ANSWER: Duration = Duration::from_secs(20);

/// A site, and what it looks like when nothing is going on.
pub struct Bench {
    pub site: Site,
    pid: String,
    monitors: BTreeSet<i32>,
    before: Audit,
}

impl Bench {
    /// With the container that is beside; `None` where such a test cannot run.
    pub async fn start() -> Option<Self> {
        if !slipway_tests::ready() {
            return None;
        }
        let mut site = Site::bare();
        site.allow(Duration::from_secs(600));
        site.allow_faults();
        site.start_services().await;
        slipway_tests::image::busybox(&site).await;
        let script = "echo here > /index.html; exec httpd -f -p 80 -h /";
        let words = [
            "run",
            "-d",
            "--name",
            "beside",
            "-p",
            "8080:80",
            "-v",
            "kept:/kept",
            "busybox",
            "sh",
            "-c",
            script,
        ];
        site.ctl(&words).ok();
        let pid = site.inspect("beside", "{{.State.Pid}}");
        answers(&site).await;
        // Once, so that what only the first of its kind makes is there before.
        operations::clear(&site).await;
        site.ctl(&["run", "--rm", "busybox", "true"]).ok();
        // And what is measured once was measured.
        site.ctl(&["system", "df"]).ok();
        let before = settled(&site);
        let monitors = monitors(&site);
        Some(Self {
            site,
            pid,
            monitors,
            before,
        })
    }

    /// Kills the program at one point, and sees that all is as it should be after that.
    pub async fn kill_at(&mut self, point: &Point) {
        let operation = operations::of(point);
        eprintln!("--- {} ({})", point.name, operation.name);
        (operation.prepare)(&self.site);
        self.site.arm(point.name, Action::Kill);
        let caller = self.begin(&operation);
        self.fires(point).await;
        self.dies(point.program()).await;
        let told = Told::by(&self.answered(caller));
        self.restart_dead().await;
        self.judge(&operation, Cut { point, told: &told }).await;
    }

    /// Kills the monitors of all containers but the one beside.
    pub fn kill_other_monitors(&self) {
        for pid in monitors(&self.site).difference(&self.monitors) {
            let pid = rustix::process::Pid::from_raw(*pid).unwrap();
            // One that is about to end may be gone.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// Starts what the operation asks for.
    pub fn begin(&self, operation: &Operation) -> Child {
        let mut caller = self.site.ctl_start(&operation.act);
        caller.stdin = None;
        caller
    }

    pub async fn fires(&self, point: &Point) {
        let what = format!("{} comes by {}", point.program(), point.name);
        let fired = async || self.site.fired(point.name).then_some(());
        eventually_within(ANSWER, &what, fired).await;
    }

    /// Waits for the end of a service that a point has killed.
    pub async fn dies(&mut self, program: &str) {
        if let "runtime" | "netd" = program {
            let what = format!("{program} is gone");
            eventually(&what, async || self.site.has_ended(program).then_some(())).await;
        }
    }

    /// Nobody waits for ever for one that was killed.
    pub fn answered(&self, mut caller: Child) -> Said {
        let begun = Instant::now();
        while caller.try_wait().unwrap().is_none() {
            assert!(
                begun.elapsed() < ANSWER,
                "the caller still waits for its answer"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        caller.stdin = None;
        caller.wait_with_output().unwrap().into()
    }

    /// What `ctl up` does.
    pub async fn restart_dead(&mut self) {
        for service in ["netd", "runtime"] {
            self.site.revive(service).await;
        }
    }

    /// The state is right, the container beside has not noticed, the operation can be done again, and
    /// nothing is left of it all.
    pub async fn judge(&mut self, operation: &Operation, cut: Cut<'_>) {
        let site = &self.site;
        let point = cut.point;
        eprintln!("    told: {:?}", cut.told);
        (operation.judge)(site, cut).await;
        self.nothing_contradicts(point.name);
        self.beside_is_unharmed().await;
        (operation.again)(site).await;
        self.clean(point.name).await;
    }

    pub async fn beside_is_unharmed(&self) {
        let site = &self.site;
        assert_eq!(
            site.inspect("beside", "{{.State.Status}} {{.State.Pid}}"),
            format!("running {}", self.pid)
        );
        answers(site).await;
        assert_eq!(
            site.ctl(&["exec", "beside", "cat", "/index.html"]).ok(),
            "here\n"
        );
    }

    /// What is said of containers is what there is.
    pub fn nothing_contradicts(&self, what: &str) {
        let wrong = self.site.contradictions();
        assert!(wrong.is_empty(), "after {what}:\n{}", wrong.join("\n"));
    }

    /// Takes what is left away as a user would; nothing else may be left then.
    pub async fn clean(&mut self, what: &str) {
        operations::clear(&self.site).await;
        self.site.disarm(what);
        let differences = self.before.differences(&self.site);
        assert!(
            differences.is_empty(),
            "after {what}:\n{}",
            differences.join("\n")
        );
    }
}

async fn answers(site: &Site) {
    eventually("the container beside answers", async || {
        (site.fetch("http://127.0.0.1:8080/index.html").as_deref() == Some("here\n")).then_some(())
    })
    .await;
}

/// Monitors in a site.
fn monitors(site: &Site) -> BTreeSet<i32> {
    site.processes("slipway-monitor")
}

/// What a site looks like when it no longer changes.
fn settled(site: &Site) -> Audit {
    let mut last = Audit::of(site);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(100));
        let now = Audit::of(site);
        if now == last {
            return now;
        }
        last = now;
    }
    panic!("the site does not come to rest");
}
