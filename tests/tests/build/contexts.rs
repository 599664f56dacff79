//! Where contexts come from: stdin, URLs, names; and what ADD fetches.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use slipway_tests::{Reply, Server, Site, ready};

use crate::{build, built, cached, shell, site, write};

/// Files as an archive; `how` is tar's option for the compression.
fn archive(site: &Site, files: &[(&str, &str)], how: &str) -> Vec<u8> {
    let folder = site.path("packed");
    let _ = fs::remove_dir_all(&folder);
    write(&folder, files);
    let arguments = ["-C", folder.to_str().unwrap(), how, "-", "."];
    let done = site.output("tar", &arguments);
    assert!(done.status.success());
    done.stdout
}

#[tokio::test]
async fn contexts_come_on_stdin() {
    if !ready() {
        return;
    }
    let site = site().await;
    let files = [
        ("Dockerfile", "FROM busybox\nCOPY a/file /file\n"),
        ("other/Dockerfile", "FROM busybox\nCOPY . /all\n"),
        ("a/file", "from the archive"),
    ];
    for how in ["-cf", "-czf", "-cjf", "-cJf"] {
        let bytes = archive(&site, &files, how);
        let said = site.ctl_with(&["build", "-t", "piped", "-"], &bytes);
        assert_eq!(said.code, 0, "{how}: {}", said.err);
        assert_eq!(shell(&site, "piped", "cat /file"), "from the archive");
    }
    let bytes = archive(&site, &files, "-cf");
    let said = site.ctl_with(
        &["build", "-t", "other", "-f", "other/Dockerfile", "-"],
        &bytes,
    );
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(shell(&site, "other", "ls /all"), "Dockerfile\na\nother\n");
    let said = site.ctl_with(&["build", "-f", "nothere", "-"], &bytes);
    assert!(
        said.err.contains("failed to read dockerfile"),
        "{}",
        said.err
    );
    let said = site.ctl_with(&["build", "-"], &bytes[..700]);
    assert!(said.err.contains("context's archive"), "{}", said.err);

    // A Dockerfile without a context, and one beside a context.
    let said = site.ctl_with(
        &["build", "-t", "alone", "-"],
        b"FROM busybox\nRUN echo 1 > /one\n",
    );
    assert_eq!(said.code, 0, "{}", said.err);
    let said = site.ctl_with(&["build", "-"], b"FROM busybox\nCOPY a /\n");
    assert!(said.err.contains("not found"), "{}", said.err);
    let said = site.ctl_with(&["build", "-f", "-", "-"], b"");
    assert!(
        said.err.contains("can't use stdin for both"),
        "{}",
        said.err
    );
    let said = site.ctl_with(&["build", "-f", "x", "-"], b"FROM busybox\n");
    assert!(
        said.err.contains("ambiguous Dockerfile source"),
        "{}",
        said.err
    );
    let context = site.path("context");
    write(&context, &[("here", "1")]);
    let folder = context.to_str().unwrap();
    let said = site.ctl_with(
        &["build", "-t", "beside", "-f", "-", folder],
        b"FROM busybox\nCOPY here /\n",
    );
    assert_eq!(said.code, 0, "{}", said.err);

    // A Dockerfile from outside brings its own ignore file.
    let outside = site.path("outside");
    write(
        &outside,
        &[
            ("My.Dockerfile", "FROM busybox\nCOPY . /all/\n"),
            ("My.Dockerfile.dockerignore", "here\n"),
        ],
    );
    write(&context, &[("there", "2"), (".dockerignore", "there\n")]);
    let file = outside.join("My.Dockerfile");
    built(&site, "outside", &["-f", file.to_str().unwrap()]);
    assert_eq!(
        shell(&site, "outside", "ls -A /all"),
        ".dockerignore\nthere\n"
    );
}

/// An attribute of a file.
fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 100];
    let length = rustix::fs::getxattr(path, name, &mut value).ok()?;
    value.truncate(length);
    Some(value)
}

/// As with BuildKit, which loses them on the way from a folder (moby/buildkit#2250).
#[tokio::test]
async fn archives_bring_capabilities_and_folders_do_not() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    // The second one is the worker's: it has a file of two names.
    let dockerfile = "FROM busybox\nCOPY able /direct/\nCOPY . /worker/\n";
    write(&context, &[("Dockerfile", dockerfile), ("able", "x")]);
    fs::hard_link(context.join("able"), context.join("again")).unwrap();
    let capability = |number: u8| {
        let mut value = [0; 20];
        (value[0], value[3], value[4]) = (1, 2, number);
        value
    };
    let set = |name: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(context.join("able"), name, value, flags).unwrap();
    };
    let name = "security.capability";
    let out = site.path("out");
    let output = format!("type=local,dest={}", out.display());
    let seen = || {
        let paths = ["direct/able", "worker/able", "worker/again"];
        paths.map(|path| attribute(&out.join(path), name))
    };
    let packed = || {
        let folder = context.to_str().unwrap();
        let all = [
            "--xattrs",
            "--xattrs-include=*",
            "-C",
            folder,
            "-cf",
            "-",
            ".",
        ];
        site.output("tar", &all).stdout
    };
    let archive = |bytes: &[u8]| {
        let _ = fs::remove_dir_all(&out);
        let said = site.ctl_with(&["build", "-o", &output, "-"], bytes);
        assert_eq!(said.code, 0, "{}", said.err);
        cached(&said)
    };
    set("user.x", b"1");
    for (number, expected) in [(1, (0, 2)), (1, (2, 2)), (2, (0, 2))] {
        set(name, &capability(number));
        assert_eq!(archive(&packed()), expected);
        let value = Some(capability(number).to_vec());
        assert_eq!(seen(), [value.clone(), value.clone(), value]);
        assert_eq!(attribute(&out.join("direct/able"), "user.x"), None);
    }
    let folder = || {
        let _ = fs::remove_dir_all(&out);
        let said = site.ctl(&["build", "-o", &output, context.to_str().unwrap()]);
        assert_eq!(said.code, 0, "{}", said.err);
        cached(&said)
    };
    assert_eq!(folder(), (0, 2));
    assert_eq!(seen(), [None, None, None]);
    rustix::fs::removexattr(context.join("able"), name).unwrap();
    assert_eq!(folder(), (2, 2));
}

#[tokio::test]
async fn named_contexts_take_the_place_of_images_and_stages() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    let extra = site.path("extra");
    write(
        &extra,
        &[
            ("bin/tool", "a tool"),
            ("left/out", ""),
            (".dockerignore", "left\n"),
        ],
    );
    write(
        &context,
        &[(
            "Dockerfile",
            "FROM nowhere.invalid/base:1\nCOPY --from=extra /bin /tools\nCOPY --from=built . /built/\n\
             COPY --from=image /bin/busybox /image\n",
        )],
    );
    let named = format!("extra={}", extra.display());
    let replaced = format!("built={}", extra.display());
    let arguments = [
        "--build-context",
        &named,
        "--build-context",
        &replaced,
        "--build-context",
        "nowhere.invalid/base:1=docker-image://busybox",
        "--build-context",
        "image=docker-image://busybox",
    ];
    built(&site, "named", &arguments);
    assert_eq!(
        shell(
            &site,
            "named",
            "cat /tools/tool; ls -A /built; test -x /image && echo there"
        ),
        "a tool.dockerignore\nbin\nthere\n"
    );
    // The files of a folder as a root file system.
    write(
        &context,
        &[("Dockerfile", "FROM extra\nCOPY Dockerfile /\nLABEL a=b\n")],
    );
    built(&site, "rooted", &["--build-context", &named]);
    let said = build(&site, "x", &["--build-context", "nothing"]);
    assert!(said.err.contains("expected key=value"), "{}", said.err);
}

#[tokio::test]
async fn names_of_one_file_stay_that() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(
        &context,
        &[
            (
                "Dockerfile",
                "FROM busybox\nCOPY . /all/\nCOPY a sub/b /files/\n",
            ),
            ("a", "one file"),
            ("sub/other", "another"),
        ],
    );
    fs::hard_link(context.join("a"), context.join("sub/b")).unwrap();
    fs::hard_link(context.join("a"), context.join("z")).unwrap();
    let packed = site.output("tar", &["-C", context.to_str().unwrap(), "-cf", "-", "."]);
    assert!(packed.status.success());
    let seen = |image: &str| {
        let script = "cd /all; stat -c %h a sub/b z sub/other /files/a /files/b; test a -ef z && test a -ef sub/b && cat z";
        shell(&site, image, script)
    };
    let expected = "3\n3\n3\n1\n1\n1\none file";
    built(&site, "folder", &[]);
    assert_eq!(seen("folder"), expected);
    let said = site.ctl_with(&["build", "-t", "archive", "-"], &packed.stdout);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(seen("archive"), expected);
    // A name that became a file of its own is a change.
    fs::remove_file(context.join("z")).unwrap();
    fs::write(context.join("z"), "one file").unwrap();
    let (some, all) = cached(&built(&site, "folder", &[]));
    assert!(some < all);
    assert_eq!(shell(&site, "folder", "stat -c %h /all/a /all/z"), "2\n1\n");
}

#[tokio::test]
async fn named_contexts_are_images_of_layouts() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(
        &context,
        &[(
            "Dockerfile",
            "FROM busybox\nENV A=1\nRUN echo base > /base\n",
        )],
    );
    let layout = site.path("layout");
    let output = format!("type=oci,tar=false,name=here:v1,dest={}", layout.display());
    let said = site.ctl(&["build", "-o", &output, &context.display().to_string()]);
    assert_eq!(said.code, 0, "{}", said.err);
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    write(
        &context,
        &[(
            "Dockerfile",
            "FROM base\nRUN test $A = 1 && cat /base > /mine\nCOPY --from=other /base /copied\n",
        )],
    );
    let at = |what: &str| format!("oci-layout://{}{what}", layout.display());
    for (n, (base, other)) in [
        (at(":v1"), at("")),
        (at(&format!("@{digest}")), at(&format!(":v1@{digest}"))),
    ]
    .iter()
    .enumerate()
    {
        let (base, other) = (format!("base={base}"), format!("other={other}"));
        let given = ["--build-context", &base, "--build-context", &other];
        let said = built(&site, "upon", &given);
        assert_eq!(cached(&said).0 == cached(&said).1, n > 0, "{}", said.err);
        assert_eq!(shell(&site, "upon", "cat /mine /copied"), "base\nbase\n");
    }
    // What was put there for the build is there no longer.
    assert!(!site.ctl(&["images", "-a"]).out.contains("slipway.internal"));
    let said = site.ctl(&[
        "image",
        "inspect",
        &format!("slipway.internal/oci-layout@{digest}"),
    ]);
    assert_ne!(said.code, 0, "{}", said.out);
    fs::write(layout.join("blobs/sha256").join(&digest[7..]), "{}").unwrap();
    for (what, part) in [
        (at(&format!("@{digest}")), "is not what its name says"),
        (at("@sha256:1"), "could not be resolved"),
        (
            "oci-layout:///not/there".to_owned(),
            "cannot read /not/there/index.json",
        ),
        ("target:x".to_owned(), "target is not supported"),
    ] {
        let said = build(&site, "x", &["--build-context", &format!("base={what}")]);
        assert!(said.code != 0 && said.err.contains(part), "{}", said.err);
    }
}

/// Lets the builder fetch from the site itself.
pub async fn allow(site: &mut Site, networks: &str) {
    fs::create_dir_all(site.path("etc")).unwrap();
    fs::write(
        site.path("etc/builder.toml"),
        format!("fetch_allow = [{networks}]\nfetch_max_bytes = 100000\n"),
    )
    .unwrap();
    site.kill_and_restart("builder").await;
}

#[tokio::test]
async fn files_and_contexts_are_fetched() {
    if !ready() {
        return;
    }
    let mut site = site().await;
    allow(&mut site, "\"127.0.0.1/32\"").await;
    let packed = archive(
        &site,
        &[
            ("Dockerfile", "FROM busybox\nCOPY x /x\n"),
            ("x", "fetched"),
        ],
        "-czf",
    );
    let downloads = Arc::new(AtomicUsize::new(0));
    let (count, tgz) = (downloads.clone(), packed.clone());
    let server = Server::start(&site, move |_, path| {
        let reply = |body: &[u8]| Reply {
            status: 200,
            headers: vec![
                ("ETag", "\"one\"".into()),
                ("Last-Modified", "Thu, 01 Jan 2015 00:00:00 GMT".into()),
            ],
            body: body.to_vec(),
            length: None,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match path {
            "/file.txt" => reply(b"content"),
            "/context.tgz" => reply(&tgz),
            "/Dockerfile.web" => reply(b"FROM busybox\nRUN echo web > /web\n"),
            "/large" => reply(&vec![b'x'; 200_000]),
            "/moved" => Reply {
                status: 302,
                headers: vec![("Location", "/file.txt".into())],
                ..Reply::default()
            },
            "/inside" => Reply {
                status: 302,
                headers: vec![("Location", "http://[::ffff:169.254.169.254]/latest".into())],
                ..Reply::default()
            },
            "/loop" => Reply {
                status: 302,
                headers: vec![("Location", "/loop".into())],
                ..Reply::default()
            },
            _ => Reply {
                status: 404,
                ..Reply::default()
            },
        }
    });
    let base = format!("http://{}", server.address);
    let digest = slipway_image::Digest::of("content");
    let context = site.path("context");
    write(
        &context,
        &[(
            "Dockerfile",
            &format!(
                "FROM busybox\nADD {base}/file.txt {base}/moved /got/\nADD --checksum={digest} {base}/file.txt /sum\n\
                 ADD --chmod=644 {base}/context.tgz /kept.tgz\nADD --unpack {base}/context.tgz /unpacked/\n"
            ),
        )],
    );
    built(&site, "added", &[]);
    assert_eq!(
        shell(
            &site,
            "added",
            "cat /got/file.txt /got/moved /sum /unpacked/x; stat -c '%a %Y' /got/file.txt; wc -c < /kept.tgz"
        ),
        format!(
            "contentcontentcontentfetched600 1420070400\n{}\n",
            packed.len()
        )
    );
    for (url, part) in [
        ("/missing", "404"),
        ("/inside", "inside of this host"),
        ("/loop", "from one address to the next"),
        ("/large", "more than 100000 bytes"),
    ] {
        write(
            &context,
            &[("Dockerfile", &format!("FROM busybox\nADD {base}{url} /x\n"))],
        );
        let said = build(&site, "refused", &[]);
        assert!(
            said.code != 0 && said.err.contains(part),
            "{url}: {}",
            said.err
        );
    }
    let other = slipway_image::Digest::of("other");
    write(
        &context,
        &[(
            "Dockerfile",
            &format!("FROM busybox\nADD --checksum={other} {base}/file.txt /x\n"),
        )],
    );
    let said = build(&site, "refused", &[]);
    assert!(said.err.contains("digest mismatch"), "{}", said.err);

    // Contexts behind URLs: an archive, and a Dockerfile.
    let url = format!("{base}/context.tgz");
    let said = site.ctl(&["build", "-t", "remote", &url]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(shell(&site, "remote", "cat /x"), "fetched");
    let said = site.ctl(&["build", "-t", "web", &format!("{base}/Dockerfile.web")]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(shell(&site, "web", "cat /web"), "web\n");
    assert!(downloads.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn nothing_inside_is_fetched_from() {
    if !ready() {
        return;
    }
    let site = site().await;
    let server = Server::start(&site, |_, _| Reply {
        status: 200,
        body: b"secret".to_vec(),
        ..Reply::default()
    });
    let port = server.address.port();
    let context = site.path("context");
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0.0.0.0",
        "169.254.169.254",
        "10.0.0.1",
    ] {
        let url = format!("http://{host}:{port}/x");
        write(
            &context,
            &[("Dockerfile", &format!("FROM busybox\nADD {url} /x\n"))],
        );
        let said = build(&site, "inside", &[]);
        assert!(
            said.code != 0 && said.err.contains("inside of this host"),
            "{url}: {}",
            said.err
        );
        let said = site.ctl(&["build", &url]);
        assert!(
            said.code != 0 && said.err.contains("inside of this host"),
            "{url}: {}",
            said.err
        );
    }
    assert_eq!(server.requests().len(), 0);
}
