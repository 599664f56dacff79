//! `pull`, `push`, `search` and the lists of images: what they say is what docker says.

use std::{collections::BTreeSet, fs};

use slipway_tests::{Site, dockerd::Dockerd, fixtures::Upstream, image, installed, ready};

/// Where docker-registry listens on a site.
const UPSTREAM: u16 = 5001;

/// A site with busybox, and a docker-registry that its images go to.
async fn beside_a_registry() -> Option<(Site, Upstream)> {
    if !ready() || !installed(&["docker-registry"]) {
        return None;
    }
    let mut site = Site::roomy();
    let upstream = Upstream::empty(&site, UPSTREAM).await;
    let address = &upstream.address;
    site.configure(
        "registry.toml",
        &format!(
            "[[upstream]]\nhost = \"{address}\"\nurl = \"http://{address}\"\ninsecure = true\ntag_ttl = \"0s\"\n"
        ),
    );
    site.start_services().await;
    image::busybox(&site).await;
    Some((site, upstream))
}

/// Lines of what a layer does, and the others in their order; what is another one each time left out.
fn told(text: &str) -> (BTreeSet<String>, Vec<String>) {
    let (mut layers, mut others) = (BTreeSet::new(), Vec::new());
    for line in text.lines() {
        let id = |word: &str| word.len() == 12 && word.bytes().all(|b| b.is_ascii_hexdigit());
        match line.split_once(": ") {
            // They come when there is time for them.
            Some((_, "Waiting" | "Verifying Checksum")) => {}
            Some((first, what)) if id(first) => drop(layers.insert(what.to_owned())),
            _ => {
                let words = line.split(' ').map(|word| match word.split_once(':') {
                    Some(("sha256", _)) => "sha256",
                    _ if word.parse::<u64>().is_ok() => "N",
                    _ => word,
                });
                others.push(words.collect::<Vec<_>>().join(" "));
            }
        }
    }
    (layers, others)
}

#[tokio::test]
async fn pull_and_push_say_what_docker_says() {
    if !installed(&["dockerd", "docker", "containerd"]) {
        return;
    }
    let Some((site, upstream)) = beside_a_registry().await else {
        return;
    };
    let name = |rest: &str| format!("{}/{rest}", upstream.address);
    for tag in ["latest", "v1"] {
        let target = name(&format!("team/app:{tag}"));
        site.ctl(&["tag", "busybox", &target]).ok();
    }
    let pushed = site.ctl(&["push", "-a", &name("team/app")]).ok();
    assert_eq!(pushed.matches(": digest: sha256:").count(), 2, "{pushed}");
    for tag in ["latest", "v1"] {
        site.ctl(&["rmi", &name(&format!("team/app:{tag}"))]).ok();
    }
    site.ctl(&["rmi", "busybox"]).ok();
    let docker = Dockerd::start(&site).await;
    let app = name("team/app");
    let by_tag = name("team/app:v1");
    let (other, another) = (name("team/other"), name("team/other:v2"));
    for (words, how) in [
        (&["pull", &app][..], "the first time"),
        (&["pull", &app], "again"),
        (
            &["pull", "--disable-content-trust", &by_tag],
            "by another tag",
        ),
        (&["pull", "-q", &app], "quietly"),
        (&["pull", "-a", &app], "all tags"),
        (&["pull", "-aq", &app], "all tags, quietly"),
    ] {
        let ours = site.ctl(words);
        let theirs = docker.run(&site, words);
        assert_eq!(told(&ours.ok()), told(&theirs.ok()), "{how}");
    }
    for words in [["tag", &app, &other], ["tag", &app, &another]] {
        site.ctl(&words).ok();
        docker.ok(&site, &words);
    }
    // Each to a place that has nothing of it.
    let push = |words: &[&str], last: &str| {
        let ours = site.ctl(&[words, &[last]].concat());
        let theirs = docker.run(&site, &[words, &[last]].concat());
        (told(&ours.ok()), told(&theirs.ok()))
    };
    let (ours, theirs) = push(&["push"], &other);
    assert_eq!(ours.1, theirs.1);
    assert!(
        ours.0.is_superset(&BTreeSet::from([
            "Preparing".to_owned(),
            "Pushed".to_owned()
        ])) || ours.0.contains("Mounted"),
        "{ours:?}"
    );
    let (ours, theirs) = push(&["push"], &other);
    assert_eq!(ours.1, theirs.1);
    assert_eq!(ours.0, BTreeSet::from(["Layer already exists".to_owned()]));
    let (ours, theirs) = push(&["push", "-a"], &other);
    assert_eq!(ours.1, theirs.1);
    let (ours, theirs) = push(&["push", "-q"], &another);
    assert_eq!(ours, theirs);
    let (pull, push) = (["pull", "-a", &by_tag], ["push", "-a", &by_tag]);
    for words in [&pull, &push] {
        let theirs = docker.run(&site, words).err;
        let ours = site.ctl(words).error(1);
        assert!(
            theirs.contains("tag can't be used with --all-tags/-a"),
            "{theirs}"
        );
        assert!(
            ours.contains("tag can't be used with --all-tags/-a"),
            "{ours}"
        );
    }
}

#[tokio::test]
async fn all_platforms_are_pulled_when_they_are_asked_for() {
    let Some((site, upstream)) = beside_a_registry().await else {
        return;
    };
    fs::create_dir(site.path("context")).unwrap();
    let file = "FROM scratch\nARG TARGETARCH\nCOPY file-$TARGETARCH /file\nENV ARCH=$TARGETARCH\n";
    for (path, content) in [
        ("Dockerfile", file),
        ("file-amd64", "a"),
        ("file-arm64", "b"),
    ] {
        fs::write(site.path("context").join(path), content).unwrap();
    }
    let (name, context) = (format!("{}/multi", upstream.address), site.path("context"));
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    let build = [
        &["build", "-q", "-t", &name][..],
        &platforms,
        &[context.to_str().unwrap()],
    ];
    site.ctl(&build.concat()).ok();
    site.ctl(&["push", "-q", &name]).ok();
    let gone = || {
        site.ctl(&["rmi", &name]).ok();
        site.ctl(&["builder", "prune", "-af"]).ok();
        site.ctl(&["image", "prune", "-af"]).ok();
        site.ctl(&["registry", "gc"]).ok();
    };
    gone();
    let arch = |platform: &str, format: &str| {
        site.ctl(&[
            "image",
            "inspect",
            "--platform",
            platform,
            "-f",
            format,
            &name,
        ])
    };
    let env = "{{.Architecture}} {{index .Config.Env 1}}";
    site.ctl(&["pull", "-q", "--all-platforms", &name]).ok();
    assert_eq!(arch("linux/amd64", env).ok(), "amd64 ARCH=amd64\n");
    assert_eq!(arch("linux/arm64", env).ok(), "arm64 ARCH=arm64\n");
    let history = |platform: &str| {
        let words = [
            "history",
            "--no-trunc",
            "--format",
            "{{.CreatedBy}}",
            "--platform",
        ];
        site.ctl(&[&words[..], &[platform, &name]].concat())
    };
    assert!(history("linux/arm64").ok().contains("ARCH=arm64"));
    assert!(history("linux/amd64").ok().contains("ARCH=amd64"));
    gone();
    site.ctl(&["pull", "-q", "--platform", "linux/arm64", &name])
        .ok();
    assert_eq!(arch("linux/arm64", env).ok(), "arm64 ARCH=arm64\n");
    assert!(arch("linux/amd64", env).error(1).contains("multi"));
    history("linux/amd64").error(1);
    let both = [
        "pull",
        "--all-platforms",
        "--platform",
        "linux/arm64",
        &name,
    ];
    let said = site.ctl(&both);
    assert!(
        said.code != 0 && said.err.contains("cannot be used with"),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn a_push_of_a_part_of_an_index_says_what_it_was() {
    let Some((site, upstream)) = beside_a_registry().await else {
        return;
    };
    fs::create_dir(site.path("context")).unwrap();
    fs::write(
        site.path("context/Dockerfile"),
        "FROM scratch\nARG TARGETARCH\nENV ARCH=$TARGETARCH\nCOPY Dockerfile /\n",
    )
    .unwrap();
    // This host's, and two others in the order of the index.
    let host = &*slipway_image::Platform::host().architecture;
    let all = ["amd64", "arm64", "s390x"];
    let others: Vec<&str> = all.into_iter().filter(|name| *name != host).collect();
    let [host, near, far] = [host, others[0], others[1]].map(|name| format!("linux/{name}"));
    let name = |rest: &str| format!("{}/{rest}", upstream.address);
    let (multi, some) = (name("multi"), name("some"));
    let context = site.path("context");
    let build = |platforms: &str| {
        site.ctl(&[
            "build",
            "-q",
            "--platform",
            platforms,
            "-t",
            &multi,
            context.to_str().unwrap(),
        ])
        .ok();
    };
    let pull = |platform: &str| {
        site.ctl(&["pull", "-q", "--platform", platform, &multi])
            .ok()
    };
    let gone = || {
        for words in [
            &["rmi", &multi, &some][..],
            &["builder", "prune", "-af"],
            &["image", "prune", "-af"],
            &["registry", "gc"],
        ] {
            site.ctl(words);
        }
    };
    let is_there = |name: &str, platform: &str| {
        gone();
        site.ctl(&["pull", "-q", "--platform", platform, name])
    };
    build(&all.map(|name| format!("linux/{name}")).join(","));
    let whole = site.ctl(&["push", "-q", &multi]);
    assert_eq!((whole.out, &*whole.err), (format!("{multi}:latest\n"), ""));
    gone();

    // One that is not this host's.
    pull(&near);
    site.ctl(&["tag", &multi, &some]).ok();
    let said = site.ctl(&["push", &some]);
    let note: Vec<&str> = said.err.lines().collect();
    let [first, which, missing] = note[..] else {
        panic!("{said:?}");
    };
    assert!(
        first.starts_with("Not all multiplatform-content"),
        "{first}"
    );
    assert!(which.ends_with(&format!(" ({near})")), "{which}");
    let digests: Vec<&str> = which
        .split(' ')
        .filter(|w| w.starts_with("sha256:"))
        .collect();
    assert!(
        said.out
            .contains(&format!("latest: digest: {} ", digests[1]))
    );
    assert_ne!(digests[0], digests[1]);
    assert!(
        missing.starts_with("Not here: ") && missing.contains(&host) && missing.contains(&far),
        "{missing}"
    );
    is_there(&some, &near).ok();
    is_there(&some, &host).error(1);

    // Several that are not this host's, then its own beside them.
    gone();
    pull(&near);
    pull(&far);
    site.ctl(&["tag", &multi, &some]).ok();
    let error = site.ctl(&["push", &some]).error(1);
    assert!(
        error.contains(&format!("{near}, {far}; say which one")),
        "{error}"
    );
    let one = site.ctl(&["push", "--platform", &far, &some]);
    assert_eq!(one.err, "");
    is_there(&some, &far).ok();
    gone();
    pull(&host);
    pull(&far);
    site.ctl(&["tag", &multi, &some]).ok();
    let said = site.ctl(&["push", "-q", &some]);
    assert!(
        said.err.contains(&format!(" ({host})\nNot here: {near}. ")),
        "{said:?}"
    );
    is_there(&some, &host).ok();
}

#[tokio::test]
async fn the_catalog_is_searched_by_name() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let text = "A box of tools that are all of them in one program of some size";
    let label = format!("LABEL org.opencontainers.image.description='{text}'");
    for name in ["team/boxes:v1", "quay.io/org/box:v1", "team/other"] {
        site.ctl(&["tag", "busybox", name]).ok();
    }
    let id = site.ctl(&["create", "busybox"]).ok();
    site.ctl(&["commit", "-c", &label, id.trim(), "quay.io/org/box:v2"])
        .ok();
    assert_eq!(
        site.ctl(&["search", "box"]).ok(),
        "NAME              DESCRIPTION                                     STARS     OFFICIAL\n\
         busybox                                                           0         [OK]\n\
         quay.io/org/box   A box of tools that are all of them in one p…   0         \n\
         team/boxes                                                        0         \n"
    );
    let names = |words: &[&str]| {
        let search = ["search", "--format", "{{.Name}}"];
        site.ctl(&[&search[..], words].concat()).ok()
    };
    assert_eq!(names(&["busybox"]), "busybox\n");
    assert_eq!(names(&["docker.io/library/busybox"]), "busybox\n");
    assert_eq!(names(&["localhost:5000/BUSY"]), "busybox\n");
    assert_eq!(names(&["quay.io/"]), "quay.io/org/box\n");
    assert_eq!(
        names(&["--filter", "is-official=false", "--limit", "1", "box"]),
        "quay.io/org/box\n"
    );
    assert_eq!(names(&["nosuch"]), "");
    let json = site
        .ctl(&["search", "--no-trunc", "--format", "json", "org/box"])
        .ok();
    assert!(
        json.contains(text) && json.contains("\"IsOfficial\":\"false\""),
        "{json}"
    );
    for (words, why) in [
        (
            &["--limit", "101"][..],
            "limit 101 is outside the range of [1, 100]",
        ),
        (
            &["--limit", "-1"],
            "limit -1 is outside the range of [1, 100]",
        ),
        (&["--filter", "stars=3"], "no meaning here"),
        (&["--filter", "colour=red"], "invalid filter 'colour'"),
    ] {
        let said = site.ctl(&[&["search"], words, &["box"]].concat()).error(1);
        assert!(said.contains(why), "{said}");
    }
}

#[tokio::test]
async fn names_are_filtered_by_classes_and_what_is_not_there_is_refused() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    for name in ["team/app:v1", "team/app:v2", "team/bpp:v1"] {
        site.ctl(&["tag", "busybox", name]).ok();
    }
    let names = |filter: &str| {
        let filter = format!("reference={filter}");
        let words = [
            "images",
            "--format",
            "{{.Repository}}:{{.Tag}}",
            "--filter",
            &filter,
        ];
        let said = site.ctl(&words).ok();
        said.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let set = |names: &[&str]| {
        names
            .iter()
            .map(|n| (*n).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(names("team/[a]pp:v[2-9]"), set(&["team/app:v2"]));
    assert_eq!(names("team/[^a]*"), set(&["team/bpp:v1"]));
    assert_eq!(names("bus[x-z]box"), set(&["busybox:latest"]));
    for (words, why) in [
        (&["images", "--tree"][..], "--tree is not supported"),
        (
            &["images", "--filter", "reference=team/[a"],
            "syntax error in pattern",
        ),
        (
            &["rmi", "--platform", "linux/amd64", "busybox"],
            "--platform is not supported",
        ),
        (
            &["pull", "--disable-content-trust=false", "x"],
            "not supported: signatures",
        ),
        (
            &["push", "--disable-content-trust=false", "x"],
            "not supported: signatures",
        ),
        (
            &["save", "--platform", "linux/amd64,linux/arm64", "busybox"],
            "platform",
        ),
        (&["load", "--platform", "nonsense/a/b/c/d"], "platform"),
    ] {
        let said = site.ctl(words).error(1);
        assert!(said.contains(why), "{words:?}: {said}");
    }
    assert_eq!(names("busybox"), set(&["busybox:latest"]));
}
