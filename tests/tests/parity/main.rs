//! The same command lines to docker and to `ctl`: exit codes, output, errors, and `inspect` key by key.
//!
//! What differs for a reason stands in the scripts, and in docs/reference/docker-differences.md.

mod json;
mod lines;

use std::{fs, thread};

use slipway_image::config::RunConfig;
use slipway_tests::{Said, Site, docker::Docker, image, ready};

/// Answers of one side.
fn answers(
    lines: &[lines::Line],
    here: &std::path::Path,
    run: impl Fn(&[&str]) -> Said,
) -> Vec<Said> {
    fs::create_dir_all(here).unwrap();
    let mut all = Vec::new();
    for line in lines {
        let said = match line.text.strip_prefix('!') {
            Some(script) => local(script, here),
            None => {
                let words = line.words(here);
                run(&words.iter().map(String::as_str).collect::<Vec<_>>())
            }
        };
        all.push(lines::plain(said, here));
    }
    all
}

/// What the caller does with files of its own.
fn local(script: &str, here: &std::path::Path) -> Said {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script]).current_dir(here);
    shell.output().unwrap().into()
}

fn compare(site: &Site, docker: &Docker, name: &str, script: &str) -> Vec<String> {
    let lines = lines::parse(script);
    let (theirs, ours) = thread::scope(|scope| {
        let theirs =
            scope.spawn(|| answers(&lines, &docker.folder().join(name), |w| docker.run(w)));
        let ours = answers(&lines, &site.path("here").join(name), |w| site.ctl(w));
        (theirs.join().unwrap(), ours)
    });
    let mut wrong = Vec::new();
    for ((line, theirs), ours) in lines.iter().zip(&theirs).zip(&ours) {
        wrong.extend(line.judge(theirs, ours, docker.version));
    }
    wrong
}

/// An image that says something about everything.
async fn wordy(site: &Site) {
    let text = |t: &str| t.to_owned();
    let program = fs::read("/bin/busybox").unwrap();
    let size = program.len() as u64;
    use slipway_image::layer::Kind;
    let link = Kind::Symlink(b"busybox".to_vec());
    let entries = vec![
        (image::entry("bin", Kind::Folder, 0), vec![]),
        (image::entry("data", Kind::Folder, 0), vec![]),
        (image::entry("bin/busybox", Kind::File, size), program),
        (image::entry("bin/sh", link.clone(), 0), vec![]),
        (image::entry("bin/sleep", link, 0), vec![]),
    ];
    let run = RunConfig {
        user: text("33:33"),
        exposed_ports: [(text("80/tcp"), serde_json::json!({}))].into(),
        env: vec![text("PATH=/bin"), text("OF=image")],
        entrypoint: Some(vec![text("/bin/sh"), text("-c")]),
        cmd: Some(vec![text("sleep 1000")]),
        volumes: [(text("/data"), serde_json::json!({}))].into(),
        working_dir: text("/data"),
        labels: [(text("of"), text("image"))].into(),
        stop_signal: text("SIGKILL"),
        ..RunConfig::default()
    };
    image::store(site, "wordy", run, &entries).await;
}

/// Scripts in the folder `scripts` beside this file.
const SCRIPTS: [&str; 5] = ["life", "refused", "looks", "inspect", "copy"];

fn script(name: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/scripts");
    fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_and_ctl_answer_the_same() {
    if !ready() {
        return;
    }
    let Some(docker) = Docker::start().await else {
        return;
    };
    let site = Site::start().await;
    image::busybox(&site).await;
    wordy(&site).await;
    for name in ["busybox", "wordy"] {
        docker.take(&site, name);
    }
    let only = std::env::var("SLIPWAY_PARITY_ONLY").unwrap_or_default();
    let mut wrong = Vec::new();
    for name in SCRIPTS {
        if only.is_empty() || only == name {
            wrong.extend(compare(&site, &docker, name, &script(name)));
        }
    }
    drop(docker);
    assert!(
        wrong.is_empty(),
        "{} answers differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
