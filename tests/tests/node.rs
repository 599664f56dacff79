//! A node application, as its author would build and run it: `FROM node`, `npm install`, a published port.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use slipway_tests::{
    Neighbour, Said, Site, eventually,
    fixtures::{self, Upstream},
    installed, tree,
};

const DOCKERFILE: &str = r#"FROM node
WORKDIR /app
COPY ./app-code /app
RUN npm install
CMD ["node","server.js"]
"#;

const PACKAGE: &str = r#"{"name": "goals", "version": "1.0.0", "private": true, "dependencies": {"is-odd": "3.0.1"}}
"#;

const SERVER: &str = r#"const isOdd = require("is-odd");
let asked = 0;
require("http").createServer((request, response) => {
  asked += 1;
  console.log(`request ${asked} from ${request.socket.remoteAddress.replace("::ffff:", "")}`);
  response.end(`goal ${asked} is ${isOdd(asked) ? "odd" : "even"}\n`);
}).listen(80, () => console.log("listening"));
process.on("SIGTERM", () => { console.log("good bye"); process.exit(0); });
"#;

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// A site with a way to the npm registry, docker.io as a docker-registry, and the application's folder.
async fn site() -> Option<(Site, Upstream)> {
    fixtures::images()?;
    if !installed(&["slirp4netns", "curl"]) {
        return None;
    }
    let mut site = Site::roomy();
    site.connect();
    let upstream = Upstream::of_images(&site, 5001).await;
    site.configure("registry.toml", &upstream.as_docker_io("5m"));
    site.start_services().await;
    let files = [
        ("Dockerfile", DOCKERFILE),
        ("app-code/package.json", PACKAGE),
        ("app-code/server.js", SERVER),
        ("README", "not copied\n"),
    ];
    write(&site.path("goals"), &files);
    Some((site, upstream))
}

fn build(site: &Site) -> Said {
    let mut arguments = vec!["build".to_owned(), "-t".into(), "goals".into()];
    // As docker's users behind a proxy do.
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ] {
        if let Ok(value) = std::env::var(name) {
            arguments.extend(["--build-arg".to_owned(), format!("{name}={value}")]);
        }
    }
    arguments.push(site.path("goals").display().to_string());
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let said = site.ctl(&arguments);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    said
}

/// "n of m steps cached"
fn cached(said: &Said) -> (u32, u32) {
    let line = said.err.lines().find(|l| l.contains("steps cached"));
    let mut numbers = line.unwrap().split(' ').filter_map(|w| w.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn id(site: &Site) -> String {
    site.ctl(&["image", "inspect", "-f", "{{.Id}}", "goals"])
        .ok()
}

#[tokio::test]
async fn a_node_application_is_built_run_and_reached() {
    let Some((mut site, _upstream)) = site().await else {
        return;
    };
    let neighbour = Neighbour::of(&mut site);
    build(&site);

    let run = [
        "run", "-d", "--rm", "--name", "web", "-p", "3000:80", "goals",
    ];
    assert_eq!(site.ctl(&run).ok().trim().len(), 64);
    let page = eventually("the page comes", async || {
        site.fetch("http://127.0.0.1:3000/")
    })
    .await;
    assert_eq!(page, "goal 1 is odd\n");
    let url = format!("http://{}:3000/", neighbour.site_address);
    assert_eq!(neighbour.fetch(&url).as_deref(), Some("goal 2 is even\n"));
    let ps = site
        .ctl(&["ps", "--format", "{{.Names}} {{.Image}} {{.Ports}}"])
        .ok();
    assert!(ps.starts_with("web goals 0.0.0.0:3000->80/tcp"), "{ps}");

    // Its log, followed: what was said, what is said now, and the end.
    let mut follow = site.ctl_start(&["logs", "-f", "web"]);
    let (sender, lines) = mpsc::channel();
    let stdout = follow.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            // The test may have failed and gone meanwhile.
            let _ = sender.send(line.unwrap());
        }
    });
    let next = || lines.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(next(), "listening");
    assert!(next().starts_with("request 1 from "));
    assert_eq!(
        next(),
        format!("request 2 from {}", neighbour.address),
        "its real address is seen"
    );
    assert_eq!(
        site.fetch("http://127.0.0.1:3000/").as_deref(),
        Some("goal 3 is odd\n")
    );
    assert!(
        next().starts_with("request 3 from "),
        "a follower is told at once"
    );

    let version = site
        .ctl(&["exec", "web", "node", "-p", "process.version"])
        .ok();
    assert!(version.starts_with('v'), "{version}");
    assert_eq!(site.ctl(&["exec", "web", "pwd"]).ok(), "/app\n");
    assert!(
        site.ctl(&["exec", "web", "ls", "node_modules"])
            .ok()
            .contains("is-odd")
    );
    assert_eq!(site.ctl(&["exec", "web", "sh", "-c", "exit 9"]).code, 9);

    let begun = Instant::now();
    assert_eq!(site.ctl(&["stop", "-t", "60", "web"]).ok(), "web\n");
    assert!(
        begun.elapsed() < Duration::from_secs(50),
        "it ended by itself, it was not killed"
    );
    assert_eq!(next(), "good bye");
    assert!(
        follow.wait().unwrap().success(),
        "the log ends with its container"
    );
    reader.join().unwrap();
    eventually("--rm removes it", async || {
        site.ctl(&["ps", "-aq"]).ok().is_empty().then_some(())
    })
    .await;
    assert_eq!(site.fetch("http://127.0.0.1:3000/"), None);
    assert_eq!(neighbour.fetch(&url), None);
}

#[tokio::test]
async fn a_second_build_does_only_what_changed() {
    let Some((site, upstream)) = site().await else {
        return;
    };
    let first = build(&site);
    assert_eq!(cached(&first), (0, 3), "{}", first.err);
    let image = id(&site);
    let (layers, asked) = (layers(&site), upstream.requests("GET").len());

    // Nothing changed: answered at once, no root filesystem is touched, the very same image.
    assert_eq!(cached(&build(&site)), (3, 3));
    assert_eq!(id(&site), image);
    assert_eq!(self::layers(&site), layers);
    assert_eq!(
        upstream.requests("GET").len(),
        asked,
        "upstream is not asked"
    );

    // The same content with other times, and a file that no COPY speaks of.
    let old = std::time::SystemTime::now() - Duration::from_secs(86_400);
    for name in ["app-code/server.js", "app-code/package.json"] {
        let file = fs::File::options()
            .write(true)
            .open(site.path("goals").join(name))
            .unwrap();
        file.set_modified(old).unwrap();
    }
    write(&site.path("goals"), &[("README", "changed\n")]);
    assert_eq!(cached(&build(&site)), (3, 3));
    assert_eq!(id(&site), image);

    // Another content: what comes after its COPY, and nothing before.
    let changed = SERVER.replace("goal", "target");
    write(&site.path("goals"), &[("app-code/server.js", &changed)]);
    let third = build(&site);
    assert_eq!(cached(&third), (1, 3), "{}", third.err);
    assert_ne!(id(&site), image);
    site.ctl(&["run", "-d", "--name", "web", "-p", "3000:80", "goals"])
        .ok();
    let page = eventually("the page comes", async || {
        site.fetch("http://127.0.0.1:3000/")
    })
    .await;
    assert_eq!(page, "target 1 is odd\n");

    // Other programs see in its layers what ours see.
    let layout = site.path("layout");
    let target = format!("oci:{}:goals", layout.display());
    let copy = [
        "copy",
        "-q",
        "--insecure-policy",
        "--src-tls-verify=false",
        "docker://127.0.0.1:5000/library/goals",
        &target,
    ];
    assert!(site.output("skopeo", &copy).status.success());
    let ours = tree::seen(&site, "goals");
    assert!(ours.contains_key("app/node_modules/is-odd/index.js"));
    tree::assert_same(&ours, &tree::unpacked_by_umoci(&site, &layout, "goals"));

    // And back again: all of that is still known.
    write(&site.path("goals"), &[("app-code/server.js", SERVER)]);
    assert_eq!(cached(&build(&site)), (3, 3));
    assert_eq!(id(&site), image);
}

#[tokio::test]
async fn an_install_that_fails_says_so() {
    let Some((site, _upstream)) = site().await else {
        return;
    };
    let package = PACKAGE.replace("is-odd", "@slipway-dev/there-is-no-such-package");
    write(&site.path("goals"), &[("app-code/package.json", &package)]);
    let folder = site.path("goals").display().to_string();
    let said = site.ctl(&["build", "-t", "goals", &folder]);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("E404") && said.err.contains("Dockerfile:4:"),
        "{}",
        said.err
    );
    said.error(1);
    assert_eq!(site.ctl(&["images", "-q", "goals"]).ok(), "");
    assert_eq!(site.ctl(&["ps", "-aq"]).ok(), "");
}

/// Unpacked layers.
fn layers(site: &Site) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(site.path("state/runtime/layers"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
