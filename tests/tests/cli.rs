//! The command line, as somebody with `docker` in the fingers uses it.

use slipway_tests::{Said, Site, eventually, image, ready};

fn ctl(site: &Site, arguments: &[&str]) -> Said {
    site.ctl(arguments)
}

#[tokio::test]
async fn run_streams_and_exits_as_docker_does() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let hello = ctl(&site, &["run", "--rm", "busybox", "echo", "hello"]);
    assert_eq!(
        (hello.code, hello.out.as_str(), hello.err.as_str()),
        (0, "hello\n", "")
    );
    assert_eq!(
        ctl(&site, &["run", "--rm", "busybox", "sh", "-c", "exit 7"]).code,
        7
    );
    let missing = ctl(&site, &["run", "--rm", "busybox", "nonsense"]);
    assert_eq!(missing.code, 127, "{}", missing.err);
    assert!(
        missing.err.starts_with("Error: ") && missing.err.lines().count() == 1,
        "{}",
        missing.err
    );
    assert_eq!(ctl(&site, &["run", "--rm", "busybox", "/etc"]).code, 126);
    let unknown = ctl(&site, &["run", "--no-such-option", "busybox"]);
    assert_eq!(unknown.code, 125, "{}", unknown.err);
    let refused = ctl(&site, &["run", "--init", "busybox", "true"]);
    assert!(
        refused.code == 125 && refused.err.contains("--init is not supported yet"),
        "{}",
        refused.err
    );
    assert_eq!(ctl(&site, &["ps", "-aq"]).out, "", "nothing is left behind");
}

#[tokio::test]
async fn a_server_in_the_background() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let script = "mkdir /w; echo page > /w/index.html; echo started; httpd -f -p 80 -h /w";
    let run = ctl(
        &site,
        &[
            "run", "-d", "--name", "web", "-p", "3000:80", "busybox", "sh", "-c", script,
        ],
    );
    assert_eq!((run.code, run.out.trim().len()), (0, 64), "{}", run.err);
    eventually("the page comes", async || {
        site.fetch("http://127.0.0.1:3000/")
            .filter(|p| p == "page\n")
    })
    .await;
    let ps = ctl(
        &site,
        &["ps", "--format", "{{.Names}} {{.Image}} {{.Ports}}"],
    )
    .out;
    assert!(ps.starts_with("web busybox 0.0.0.0:3000->80/tcp"), "{ps}");
    assert_eq!(ctl(&site, &["logs", "web"]).out, "started\n");
    assert_eq!(
        ctl(&site, &["exec", "web", "hostname"]).out.trim(),
        &run.out[..12]
    );
    assert_eq!(ctl(&site, &["exec", "web", "sh", "-c", "exit 4"]).code, 4);
    let running = ctl(&site, &["rm", "web"]);
    assert!(
        running.code == 1 && running.err.contains("container is running"),
        "{}",
        running.err
    );
    assert_eq!(ctl(&site, &["stop", "-t", "0", "web"]).out, "web\n");
    assert_eq!(ctl(&site, &["wait", "web"]).out, "137\n");
    assert_eq!(
        ctl(
            &site,
            &[
                "inspect",
                "-f",
                "{{.State.Status}} {{.State.ExitCode}}",
                &run.out[..5]
            ]
        )
        .out,
        "exited 137\n"
    );
    assert_eq!(ctl(&site, &["rm", "web"]).out, "web\n");
    let gone = ctl(&site, &["inspect", "web"]);
    assert!(
        gone.code == 1 && gone.err.contains("web"),
        "{} {}",
        gone.out,
        gone.err
    );
}

#[tokio::test]
async fn images_by_name_and_id() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    let id = image::busybox(&site).await;
    assert_eq!(ctl(&site, &["images", "-q"]).out.trim(), id.short());
    assert_eq!(ctl(&site, &["tag", "busybox", "other:v1"]).code, 0);
    let names = ctl(&site, &["images", "--format", "{{.Repository}}:{{.Tag}}"]).out;
    assert!(
        names.contains("busybox:latest") && names.contains("other:v1"),
        "{names}"
    );
    assert_eq!(
        ctl(&site, &["run", "--rm", &id.encoded()[..8], "echo", "by id"]).out,
        "by id\n"
    );
    assert!(
        ctl(&site, &["rmi", "other:v1"])
            .out
            .contains("Untagged: other:v1")
    );
    let missing = ctl(&site, &["rmi", "nosuch"]);
    assert!(
        missing.code == 1 && missing.err.contains("No such image"),
        "{}",
        missing.err
    );
}
