//! Builds that nobody waits for any more.

use std::fs;

use slipway_tests::{eventually, ready};

use crate::{nothing_is_left, site, write};

#[tokio::test]
async fn a_build_whose_caller_dies_stops_and_leaves_nothing() {
    if !ready() {
        return;
    }
    let site = site().await;
    write(
        &site.path("context"),
        &[("Dockerfile", "FROM busybox\nRUN echo x > /x; sleep 1000\n")],
    );
    let program = slipway_tests::site::program_path("ctl");
    let context = site.path("context");
    let arguments = ["build", context.to_str().unwrap()];
    let mut ctl = site
        .command(program.to_str().unwrap(), &arguments)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let run = site.path("run/runtime/containers");
    let running = |wanted: bool| {
        let run = run.clone();
        async move || {
            let monitors = fs::read_dir(&run).unwrap().count();
            ((monitors > 0) == wanted).then_some(())
        }
    };
    eventually("the step runs", running(true)).await;
    ctl.kill().unwrap();
    ctl.wait().unwrap();
    eventually("the step has stopped", running(false)).await;
    nothing_is_left(&site, "of the build").await;
}
