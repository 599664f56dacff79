//! The same Dockerfile and context built by docker's BuildKit, by buildah and by `ctl build`: every path with
//! type, mode, owner, content, links and attributes, and the configuration must be the same.
//!
//! The builds stand in the folder `cases` beside this file; what differs for a reason stands here.

mod case;
mod image;

use std::{fs, path::Path, thread, time::Duration};

use slipway_tests::{Said, Site, docker::Docker, image as images, installed, ready};

use self::{case::Case, image::Image};

/// For all builds of a test together, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(480);

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/build_parity/cases");
    let only = std::env::var("SLIPWAY_PARITY_ONLY").unwrap_or_default();
    let mut cases: Vec<Case> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .filter(|(name, _)| only.is_empty() || *name == only)
        .map(|(name, path)| Case::parse(&name, &fs::read_to_string(path).unwrap()))
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// The command line; `-f=` names a file of the case.
fn words(case: &Case, verb: &[&str], folder: &str) -> Vec<String> {
    let verb = verb.iter().map(|w| (*w).to_owned());
    let arguments = case.arguments.iter().map(|w| match w.strip_prefix("-f=") {
        Some(name) => format!("-f={folder}/{name}"),
        None => w.clone(),
    });
    let place = if case.stdin { "-" } else { folder };
    let last = ["-t", &case.name, place].map(str::to_owned);
    verb.chain(arguments).chain(last).collect()
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn by_us(site: &Site, case: &Case, folder: &str) -> Result<Image, String> {
    let words = words(case, &["build"], folder);
    let said = match case.stdin {
        false => site.ctl(&borrowed(&words)),
        true => site.ctl_with(&borrowed(&words), &case.archive(folder)),
    };
    if said.code != 0 {
        return Err(said.err);
    }
    let source = format!("docker://127.0.0.1:5000/{}:latest", case.name);
    Ok(Image::read(site, &source, &case.name))
}

fn by_docker(docker: &Docker, site: &Site, case: &Case, folder: &str) -> Result<Image, String> {
    let mut build = docker.build(&borrowed(&words(case, &[], folder)));
    if case.stdin {
        let archive = docker.folder().join(format!("{}-context.tar", case.name));
        fs::write(&archive, case.archive(folder)).unwrap();
        build.stdin(fs::File::open(archive).unwrap());
    }
    let said = Said::from(build.output().unwrap());
    if said.code != 0 {
        return Err(said.err);
    }
    let archive = docker.folder().join(format!("{}.tar", case.name));
    let archive = archive.to_str().unwrap();
    docker.run(&["save", "-o", archive, &case.name]).ok();
    let name = format!("{}-docker", case.name);
    Ok(Image::read(
        site,
        &format!("docker-archive:{archive}"),
        &name,
    ))
}

fn by_buildah(site: &Site, case: &Case, folder: &str) -> Result<Image, String> {
    let (root, run) = (site.path("buildah"), site.path("buildah-run"));
    let storage = [
        "--root",
        root.to_str().unwrap(),
        "--runroot",
        run.to_str().unwrap(),
    ];
    let mut verb = storage.to_vec();
    verb.extend(["bud", "--format", "docker", "--isolation", "chroot"]);
    verb.extend(["--pull-always", "--tls-verify=false"]);
    // Its docker.io is the site's registry.
    let registries = site.path("registries.conf");
    fs::write(&registries, "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n").unwrap();
    let mut build = site.command("buildah", &borrowed(&words(case, &verb, folder)));
    let said = Said::from(
        build
            .env("CONTAINERS_REGISTRIES_CONF", registries)
            .output()
            .unwrap(),
    );
    if said.code != 0 {
        return Err(said.err);
    }
    let archive = site.path(&format!("{}-buildah.tar", case.name));
    let to = format!("docker-archive:{}:{}", archive.display(), case.name);
    let mut push = storage.to_vec();
    push.extend(["push", "-q", &case.name, &to]);
    Said::from(site.output("buildah", &push)).ok();
    let name = format!("{}-buildah", case.name);
    let source = format!("docker-archive:{}", archive.display());
    Ok(Image::read(site, &source, &name))
}

/// What differs, a line each.
fn judge(
    case: &Case,
    who: &str,
    ours: &Result<Image, String>,
    theirs: &Result<Image, String>,
) -> Vec<String> {
    let name = &case.name;
    let (ours, theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) if !case.fails => (ours, theirs),
        (Err(_), Err(_)) if case.fails => return Vec::new(),
        _ => {
            let text = |side: &Result<Image, String>| match side {
                Ok(_) => "builds it".to_owned(),
                Err(said) => format!("refuses it:\n{said}"),
            };
            return vec![format!(
                "{name}: ctl {}\n{name}: {who} {}",
                text(ours),
                text(theirs)
            )];
        }
    };
    let mut wrong = Vec::new();
    for (ours, theirs) in [(&ours.files, &theirs.files), (&ours.config, &theirs.config)] {
        let new = theirs.keys().filter(|key| !ours.contains_key(*key));
        for key in ours.keys().chain(new) {
            let (a, b) = (ours.get(key), theirs.get(key));
            let told = case.differs.contains(key);
            if a != b && !told && !differs_for_a_reason(who, key, a.map(String::as_str)) {
                wrong.push(format!("{name}: {key}\n    ctl    {a:?}\n    {who} {b:?}"));
            }
        }
    }
    wrong
}

/// Tells at once: whoever stops a long test has seen what came before.
fn said(wrong: Vec<String>) -> Vec<String> {
    for line in &wrong {
        eprintln!("{line}");
    }
    wrong
}

/// Both leave in the image what their steps' mounts needed where it was missing. ArgsEscaped means something on
/// Windows alone. Older BuildKits leave the working directory out where it is the root, tell of the default of
/// an ARG rather than of what it was given, and show Go's structs and no --chown in the history; buildah has
/// another history and labels what it makes.
fn differs_for_a_reason(who: &str, key: &str, ours: Option<&str>) -> bool {
    let stubs = [
        "/dev",
        "/proc",
        "/sys",
        "/run",
        "/etc",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
    ];
    let left = ours.is_none() && stubs.contains(&key);
    let root = key == "WorkingDir" && ours == Some("\"/\"");
    let history = key.starts_with("history");
    let worded = ["ARG ", "EXPOSE ", "HEALTHCHECK ", "COPY --ch", "ADD --ch"];
    let worded = history
        && worded
            .iter()
            .any(|w| ours.is_some_and(|o| o.starts_with(w)));
    let buildahs = who == "buildah" && (history || key == "Labels");
    left || root || worded || buildahs || key == "ArgsEscaped"
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_and_ctl_build_the_same() {
    if !ready() || !installed(&["skopeo", "umoci"]) {
        return;
    }
    let Some(docker) = Docker::start_builder().await else {
        return;
    };
    let site = Site::start().await;
    site.allow(PATIENCE);
    docker.allow(PATIENCE);
    images::busybox(&site).await;
    docker.take(&site, "busybox");
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| case.needs <= docker.version) {
        let folder = docker.folder().join(&case.name);
        case.write(&folder);
        let folder = folder.to_str().unwrap();
        let (ours, theirs) = thread::scope(|scope| {
            let theirs = scope.spawn(|| by_docker(&docker, &site, case, folder));
            (by_us(&site, case, folder), theirs.join().unwrap())
        });
        wrong.extend(said(judge(case, "docker", &ours, &theirs)));
    }
    drop(docker);
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn buildah_and_ctl_build_the_same() {
    if !ready() || !installed(&["skopeo", "umoci", "buildah"]) {
        return;
    }
    let site = Site::start().await;
    site.allow(PATIENCE);
    images::busybox(&site).await;
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|case| case.buildah) {
        let folder = site.path("builds").join(&case.name);
        case.write(&folder);
        let folder = folder.to_str().unwrap();
        let ours = by_us(&site, case, folder);
        let theirs = by_buildah(&site, case, folder);
        wrong.extend(said(judge(case, "buildah", &ours, &theirs)));
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
