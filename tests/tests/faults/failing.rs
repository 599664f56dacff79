//! Steps that fail for want of room: the caller is told so, nothing is left of it, and it can be done
//! again.

use slipway_fault::{
    Action,
    inventory::{self, Point},
};

use crate::{
    bench::Bench,
    operations::{self, state},
    wanted,
};

/// `ENOSPC`
const NO_SPACE: i32 = 28;

/// Nobody has to let a container run on because its record cannot be written: that is done later.
const ENDS_ALL_THE_SAME: &str = "runtime.stop.recorded";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_a_step_and_nothing_else() {
    let Some(mut bench) = Bench::start().await else {
        return;
    };
    // Those of builds fail where they are killed.
    let here = |point: &&Point| crate::DRIVEN.contains(&crate::operation(point));
    let can_fail = inventory::all().filter(|point| point.can_fail && wanted(point.name));
    for point in can_fail.filter(here) {
        let operation = operations::of(point);
        eprintln!("--- {} ({})", point.name, operation.name);
        (operation.prepare)(&bench.site);
        let before = state(&bench.site, "one");
        bench.site.arm(point.name, Action::Fail(NO_SPACE));
        let caller = bench.begin(&operation);
        bench.fires(point).await;
        let said = bench.answered(caller);
        if point.name == ENDS_ALL_THE_SAME {
            assert_eq!(said.code, 0, "{}: {said:?}", point.name);
        } else {
            assert_ne!(said.code, 0, "{}: {said:?}", point.name);
            assert!(
                said.err.contains("No space left on device"),
                "{}: {said:?}",
                point.name
            );
            assert_eq!(state(&bench.site, "one"), before, "{}", point.name);
        }
        (operation.again)(&bench.site).await;
        bench.clean(point.name).await;
    }
}
