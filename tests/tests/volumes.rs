//! Volumes, through the command line.

use slipway_image::{config::RunConfig, layer::Kind};
use slipway_tests::{Said, Site, image, ready};

fn ok(said: Said) -> String {
    assert_eq!(said.code, 0, "{}", said.err);
    said.out
}

/// busybox, and an image `app` with content at /data, which it declares as a volume.
async fn site() -> Option<Site> {
    if !ready() {
        return None;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let program = std::fs::read("/bin/busybox").unwrap();
    let mut secret = image::entry("data/sub/secret", Kind::File, 7);
    (secret.mode, secret.uid) = (0o640, 33);
    let mut data = image::entry("data", Kind::Folder, 0);
    (data.mode, data.uid) = (0o750, 33);
    let link = |name: &str| image::entry(name, Kind::Symlink(b"busybox".to_vec()), 0);
    let entries = vec![
        (image::entry("bin", Kind::Folder, 0), vec![]),
        (
            image::entry("bin/busybox", Kind::File, program.len() as u64),
            program,
        ),
        (link("bin/sh"), vec![]),
        (link("bin/cat"), vec![]),
        (link("bin/stat"), vec![]),
        (data, vec![]),
        (image::entry("data/sub", Kind::Folder, 0), vec![]),
        (secret, b"secret\n".to_vec()),
    ];
    let run = RunConfig {
        cmd: Some(vec!["sh".into()]),
        volumes: [("/data".to_owned(), serde_json::json!({}))].into(),
        ..RunConfig::default()
    };
    image::store(&site, "app", run, &entries).await;
    Some(site)
}

#[tokio::test]
async fn named_volumes_outlive_containers() {
    let Some(mut site) = site().await else { return };
    assert_eq!(
        ok(site.ctl(&["volume", "create", "--label", "a=b", "db"])),
        "db\n"
    );
    assert_eq!(
        ok(site.ctl(&["volume", "create", "db"])),
        "db\n",
        "there already"
    );
    assert_eq!(
        ok(site.ctl(&["volume", "ls"])),
        "DRIVER    VOLUME NAME\nlocal     db\n"
    );
    ok(site.ctl(&[
        "run",
        "--rm",
        "-v",
        "db:/x",
        "busybox",
        "sh",
        "-c",
        "echo kept > /x/f",
    ]));
    site.kill_and_restart("runtime").await;
    let said = ok(site.ctl(&[
        "run",
        "--name",
        "user",
        "-v",
        "db:/y:ro",
        "busybox",
        "sh",
        "-c",
        "cat /y/f; touch /y/g || echo read-only",
    ]));
    assert_eq!(said, "kept\nread-only\n");
    let place = ok(site.ctl(&[
        "volume",
        "inspect",
        "-f",
        "{{.Mountpoint}} {{.Driver}} {{.Scope}} {{.Labels.a}}",
        "db",
    ]));
    let expected = site.path("state/runtime/volumes/db/_data");
    assert_eq!(place, format!("{} local local b\n", expected.display()));
    let mounts = ok(site.ctl(&[
        "inspect",
        "-f",
        "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}",
        "user",
    ]));
    assert_eq!(mounts, "volume db /y false\n");
    let busy = site.ctl(&["volume", "rm", "db"]);
    assert!(
        busy.code == 1 && busy.err.contains("volume is in use - ["),
        "{}",
        busy.err
    );
    assert_eq!(
        ok(site.ctl(&["volume", "ls", "-q", "--filter", "dangling=true"])),
        ""
    );
    ok(site.ctl(&["rm", "-v", "user"]));
    assert_eq!(
        ok(site.ctl(&["volume", "ls", "-q"])),
        "db\n",
        "rm -v takes anonymous ones only"
    );
    assert!(!ok(site.ctl(&["volume", "prune", "-f"])).contains("db"));
    assert!(ok(site.ctl(&["volume", "prune", "-af"])).contains("Deleted Volumes:\ndb\n"));
    let gone = site.ctl(&["volume", "inspect", "db"]);
    assert!(
        gone.code == 1 && gone.err.contains("no such volume"),
        "{}",
        gone.err
    );
    assert_eq!(site.ctl(&["volume", "rm", "db"]).code, 1);
    ok(site.ctl(&["volume", "rm", "-f", "db"]));
    let short = site.ctl(&["volume", "create", "v"]);
    assert!(
        short.code == 1 && short.err.contains("too short"),
        "{}",
        short.err
    );
    let driver = site.ctl(&["volume", "create", "-d", "nfs", "x1"]);
    assert!(
        driver.code == 1 && driver.err.contains("driver nfs"),
        "{}",
        driver.err
    );
}

#[tokio::test]
async fn what_the_image_has_goes_into_an_empty_volume() {
    let Some(site) = site().await else { return };
    let look =
        "cat /data/sub/secret; stat -c '%a %u' /data /data/sub/secret; echo mine > /data/mine";
    let expected = "secret\n750 33\n640 33\n";
    assert_eq!(
        ok(site.ctl(&["run", "--rm", "app", "sh", "-c", look])),
        expected
    );
    assert_eq!(
        ok(site.ctl(&["volume", "ls", "-q"])),
        "",
        "--rm takes its anonymous volume along"
    );
    assert_eq!(
        ok(site.ctl(&["run", "--rm", "-v", "vol:/data", "app", "sh", "-c", look])),
        expected
    );
    // Filled once: what is there stays.
    let said = ok(site.ctl(&[
        "run",
        "--rm",
        "-v",
        "vol:/x",
        "busybox",
        "sh",
        "-c",
        "cat /x/mine; rm /x/sub/secret; ls /x/sub",
    ]));
    assert_eq!(said, "mine\n");
    assert_eq!(
        ok(site.ctl(&[
            "run",
            "--rm",
            "-v",
            "vol:/data",
            "app",
            "sh",
            "-c",
            "cat /data/mine"
        ])),
        "mine\n"
    );
    let empty = ok(site.ctl(&[
        "run",
        "--rm",
        "-v",
        "bare:/data:nocopy",
        "app",
        "sh",
        "-c",
        "cat /data/sub/secret 2>/dev/null || echo empty",
    ]));
    assert_eq!(empty, "empty\n");
}

#[tokio::test]
async fn containers_share_volumes_and_failures_leave_none() {
    let Some(site) = site().await else { return };
    ok(site.ctl(&[
        "run",
        "--name",
        "first",
        "app",
        "sh",
        "-c",
        "echo shared > /data/f",
    ]));
    let volumes = ok(site.ctl(&["volume", "ls", "-q"]));
    assert_eq!(volumes.trim().len(), 64);
    let said = ok(site.ctl(&[
        "run",
        "--rm",
        "--volumes-from",
        "first:ro",
        "busybox",
        "sh",
        "-c",
        "cat /data/f; touch /data/g || echo read-only",
    ]));
    assert_eq!(said, "shared\nread-only\n");
    assert_eq!(
        ok(site.ctl(&["volume", "ls", "-q"])),
        volumes,
        "somebody else's volume stays"
    );
    let failed = site.ctl(&["run", "-v", "fresh:/x", "-m", "1m", "app", "true"]);
    assert_eq!(failed.code, 125);
    assert_eq!(
        ok(site.ctl(&["volume", "ls", "-q"])),
        volumes,
        "what failed leaves no volume"
    );
    ok(site.ctl(&["rm", "-v", "first"]));
    assert_eq!(ok(site.ctl(&["volume", "ls", "-q"])), "");
}
