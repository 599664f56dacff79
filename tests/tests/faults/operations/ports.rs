//! The judges of changes of a container's published ports.

use slipway_tests::{Site, eventually};

use super::{PORT_ADD, PORT_RM, Work, judges::runs};
use crate::told::Cut;

pub(super) fn published<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        agree(site).await;
        cut.told.agrees_with(has(site, 8082));
        assert!(has(site, 8081), "the others stay");
        runs(site, cut).await;
    })
}

pub(super) fn withdrawn<'a>(site: &'a Site, cut: Cut<'a>) -> Work<'a> {
    Box::pin(async move {
        agree(site).await;
        cut.told.agrees_with(!has(site, 8081));
        runs(site, cut).await;
    })
}

pub(super) fn publish_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        site.ctl(&PORT_ADD).ok();
        agree(site).await;
        assert!(has(site, 8082));
        site.ctl(&["port", "rm", "one", "81"]).ok();
        agree(site).await;
        assert!(!has(site, 8082) && has(site, 8081));
        // What its next start says is no other.
        site.ctl(&["restart", "-t", "0", "one"]).ok();
        agree(site).await;
        assert!(!has(site, 8082) && has(site, 8081));
    })
}

pub(super) fn withdraw_again(site: &Site) -> Work<'_> {
    Box::pin(async {
        if has(site, 8081) {
            site.ctl(&PORT_RM).ok();
        }
        agree(site).await;
        assert!(!has(site, 8081));
        site.ctl(&["port", "add", "one", "-p", "8081:80"]).ok();
        publish_again(site).await;
    })
}

/// Whether somebody holds the port of the host for the container.
fn has(site: &Site, port: u16) -> bool {
    site.ctl(&["port", "one"])
        .out
        .contains(&format!(":{port}\n"))
}

/// What is asked for is what is published; what is only exposed is listed with nothing.
async fn agree(site: &Site) {
    eventually("its ports are what its record says", async || {
        let said = site.inspect(
            "one",
            "{{range $p, $b := .HostConfig.PortBindings}}{{$p}} {{end}};{{range $p, $b := .NetworkSettings.Ports}}{{if $b}}{{$p}} {{end}}{{end}}",
        );
        let (asked, published) = said.split_once(';')?;
        (asked.trim() == published.trim()).then_some(())
    })
    .await;
}
