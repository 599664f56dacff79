//! All fault points, by the process that comes by them.
//!
//! A name has three parts: the program, what is asked of it, and the step that is done. The tests
//! know by the second part what to do to come by a point.

/// A fault point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// `<program>.<operation>.<step>`.
    pub name: &'static str,
    /// The step can be made to fail: it is a [`fallible`](crate::fallible) one.
    pub can_fail: bool,
}

impl Point {
    /// The process that comes by it.
    pub fn program(&self) -> &'static str {
        self.part(0)
    }

    /// What is asked for when it does.
    pub fn operation(&self) -> &'static str {
        self.part(1)
    }

    fn part(&self, number: usize) -> &'static str {
        self.name.split('.').nth(number).unwrap_or_default()
    }
}

const fn step(name: &'static str) -> Point {
    Point {
        name,
        can_fail: false,
    }
}

const fn fails(name: &'static str) -> Point {
    Point {
        name,
        can_fail: true,
    }
}

/// runtime-svc.
pub const RUNTIME: &[Point] = &[
    step("runtime.create.named"),
    step("runtime.create.pinned"),
    step("runtime.create.held"),
    step("runtime.create.filled"),
    step("runtime.create.folder"),
    step("runtime.create.upper"),
    fails("runtime.create.record"),
    step("runtime.create.renamed"),
    step("runtime.create.inserted"),
    step("runtime.start.begun"),
    step("runtime.start.endpoint"),
    fails("runtime.start.etc"),
    step("runtime.start.run-folder"),
    fails("runtime.start.recorded"),
    step("runtime.start.forgotten"),
    step("runtime.start.asked"),
    step("runtime.start.running"),
    step("runtime.start.supervised"),
    step("runtime.exec.connected"),
    step("runtime.exec.asked"),
    step("runtime.exec.started"),
    step("runtime.exec.ended"),
    fails("runtime.stop.recorded"),
    step("runtime.stop.signalled"),
    step("runtime.stop.killed"),
    step("runtime.end.heard"),
    step("runtime.end.cleaned"),
    step("runtime.end.released"),
    step("runtime.end.recorded"),
    step("runtime.end.known"),
    step("runtime.rm.renamed"),
    step("runtime.rm.cleaned"),
    step("runtime.rm.forgotten"),
    step("runtime.rm.volumes"),
    step("runtime.rm.gone"),
    step("runtime.commit.frozen"),
    step("runtime.commit.layer"),
    step("runtime.commit.config"),
    step("runtime.commit.tagged"),
    fails("runtime.rename.recorded"),
    step("runtime.rename.renamed"),
    fails("runtime.update.recorded"),
    step("runtime.update.asked"),
    step("runtime.update.limited"),
    fails("runtime.connect.begun"),
    step("runtime.connect.recorded"),
    step("runtime.connect.connected"),
    step("runtime.connect.followed"),
    fails("runtime.ports.begun"),
    step("runtime.ports.recorded"),
    step("runtime.ports.withdrawn"),
    step("runtime.ports.told"),
    step("runtime.ports.settled"),
    fails("runtime.disconnect.begun"),
    step("runtime.disconnect.recorded"),
    step("runtime.disconnect.left"),
    step("runtime.disconnect.followed"),
    step("runtime.restart.waiting"),
    step("runtime.restart.due"),
    fails("runtime.volume.made"),
    step("runtime.volume.named"),
    step("runtime.unvolume.aside"),
    step("runtime.unvolume.gone"),
    step("runtime.fetch.begun"),
    step("runtime.fetch.checked"),
    fails("runtime.fetch.noted"),
    fails("runtime.keep.noted"),
    step("runtime.keep.named"),
    step("runtime.settle.worn"),
    step("runtime.settle.done"),
    step("runtime.measure.measured"),
    step("runtime.collect.aside"),
    step("runtime.collect.swept"),
    step("runtime.sweep.begun"),
    step("runtime.sweep.gone"),
    step("runtime.sync.synced"),
    step("runtime.sync.written"),
    step("runtime.reboot.aside"),
    step("runtime.reboot.noted"),
    step("runtime.recover.spawner"),
    step("runtime.recover.read"),
    step("runtime.recover.synced"),
    step("runtime.recover.settled"),
    step("runtime.recover.done"),
    step("runtime.recover.orphans"),
    step("runtime.recover.snapshots"),
];

/// registry-svc.
pub const REGISTRY: &[Point] = &[
    step("registry.upload.opened"),
    step("registry.upload.written"),
    step("registry.upload.verified"),
    step("registry.upload.linked"),
    fails("registry.store.sync"),
    step("registry.store.renamed"),
    fails("registry.store.named"),
    step("registry.upload.stored"),
    step("registry.mount.linked"),
    fails("registry.compose.part"),
    step("registry.compose.placed"),
    step("registry.compose.written"),
    step("registry.compose.renamed"),
    step("registry.manifest.stored"),
    fails("registry.manifest.link"),
    step("registry.manifest.linked"),
    step("registry.manifest.named"),
    fails("registry.tag.write"),
    step("registry.tag.written"),
    step("registry.untag.removed"),
    step("registry.delete.unlinked"),
    step("registry.collect.deleted"),
    step("registry.fetch.written"),
    step("registry.fetch.verified"),
    step("registry.fetch.stored"),
    step("registry.aside.moved"),
    step("registry.aside.missing"),
    step("registry.aside.reported"),
    step("registry.open.cleared"),
    step("registry.open.rebuilt"),
    step("registry.close.flushed"),
    step("registry.bucket.begun"),
    step("registry.bucket.noted"),
    step("registry.bucket.put"),
    step("registry.bucket.written"),
    step("registry.bucket.gone"),
    step("registry.bucket.kept"),
    step("registry.bucket.dumped"),
    step("registry.bucket.sent"),
    step("registry.bucket.cleared"),
];

/// runtime-svc as the worker of builds.
pub const WORKER: &[Point] = &[
    step("runtime.prepare.held"),
    fails("runtime.prepare.made"),
    step("runtime.prepare.upon"),
    step("runtime.prepare.given"),
    step("runtime.step.ready"),
    step("runtime.step.run-folder"),
    step("runtime.step.endpoint"),
    fails("runtime.step.etc"),
    step("runtime.step.asked"),
    step("runtime.step.running"),
    step("runtime.step.ended"),
    step("runtime.step.cleaned"),
    step("runtime.step.unfoldered"),
    step("runtime.step.released"),
    step("runtime.step.bared"),
    step("runtime.cache.begun"),
    fails("runtime.cache.filled"),
    step("runtime.cache.recorded"),
    step("runtime.cache.named"),
    step("runtime.count.counted"),
    step("runtime.count.written"),
    step("runtime.uncache.aside"),
    step("runtime.carry.sent"),
    step("runtime.uncarry.begun"),
    step("runtime.uncarry.made"),
    step("runtime.apply.opened"),
    step("runtime.apply.entry"),
    step("runtime.apply.entries"),
    step("runtime.diff.read"),
    step("runtime.send.packed"),
    step("runtime.pack.stored"),
    step("runtime.pack.taken"),
    step("runtime.pack.begun"),
    step("runtime.pack.moved"),
    step("runtime.import.begun"),
    step("runtime.import.checked"),
    fails("runtime.import.noted"),
    step("runtime.release.ended"),
    step("runtime.unlease.taken"),
];

/// The spawner, and the process that it forks to take a request and become its monitor.
pub const SPAWNER: &[Point] = &[step("spawner.start.ready"), step("taker.start.read")];

/// A monitor.
pub const MONITOR: &[Point] = &[
    step("monitor.start.begun"),
    step("monitor.start.listening"),
    step("monitor.start.log"),
    step("monitor.start.cgroup"),
    step("monitor.start.cloned"),
    step("monitor.start.placed"),
    step("monitor.start.launched"),
    step("monitor.start.told"),
    step("monitor.exec.forked"),
    step("monitor.exec.started"),
    step("monitor.exec.ended"),
    step("monitor.end.reaped"),
    step("monitor.end.killed"),
    step("monitor.end.drained"),
    step("monitor.end.recorded"),
    step("monitor.end.uncgrouped"),
    step("monitor.end.closed"),
];

/// A container's first process on its way in, and those of an exec.
pub const INIT: &[Point] = &[
    step("init.start.cloned"),
    step("init.start.placed"),
    step("init.start.joined"),
    step("init.start.rooted"),
    step("init.start.mounted"),
    step("init.start.pivoted"),
    step("init.start.ready"),
    step("join.exec.begun"),
    step("join.exec.joined"),
    step("join.exec.cloned"),
    step("join.exec.ready"),
];

/// netd.
pub const NETD: &[Point] = &[
    step("netd.attach.addressed"),
    step("netd.attach.admitted"),
    step("netd.attach.paired"),
    step("netd.attach.prepared"),
    step("netd.attach.reserved"),
    fails("netd.attach.recorded"),
    step("netd.attach.published"),
    step("netd.attach.known"),
    step("netd.ports.taken"),
    fails("netd.ports.recorded"),
    step("netd.ports.published"),
    step("netd.unports.recorded"),
    step("netd.unports.withdrawn"),
    step("netd.unports.flushed"),
    step("netd.settle.taken"),
    step("netd.settle.moved"),
    step("netd.settle.routed"),
    step("netd.release.begun"),
    step("netd.release.withdrawn"),
    step("netd.release.forgotten"),
    step("netd.release.deleted"),
    step("netd.network.recorded"),
    fails("netd.network.up"),
    step("netd.network.allowed"),
    step("netd.network.ruled"),
    step("netd.direct.linked"),
    step("netd.direct.named"),
    step("netd.overlay.linked"),
    step("netd.overlay.led"),
    step("netd.unoverlay.unlinked"),
    step("netd.key.written"),
    step("netd.encrypt.fenced"),
    step("netd.encrypt.told"),
    step("netd.peers.recorded"),
    step("netd.peers.ruled"),
    fails("netd.peers.allowed"),
    step("netd.peers.led"),
    step("netd.unnetwork.forgotten"),
    fails("netd.unnetwork.begun"),
    step("netd.unnetwork.unruled"),
    step("netd.unnetwork.deleted"),
    step("netd.rename.recorded"),
    step("netd.guard.heard"),
    step("netd.rebuild.linked"),
    step("netd.rebuild.routed"),
    step("netd.settings.recorded"),
    step("netd.settings.followed"),
    step("netd.settings.resized"),
    step("netd.sync.released"),
    step("netd.sync.settled"),
    step("netd.recover.networks"),
    step("netd.recover.endpoints"),
    step("netd.recover.orphans"),
    step("netd.recover.table"),
];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Point> {
    [RUNTIME, WORKER, SPAWNER, MONITOR, INIT, NETD, REGISTRY]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_three_parts_and_are_used_once() {
        let mut seen = std::collections::BTreeSet::new();
        for point in all() {
            assert_eq!(point.name.split('.').count(), 3, "{}", point.name);
            assert!(seen.insert(point.name), "{} is listed twice", point.name);
        }
    }
}
