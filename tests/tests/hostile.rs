//! Images made to do harm, pushed over HTTP as anybody could: each is refused with a sentence, leaves
//! nothing behind and touches nothing outside of its root.

use std::{collections::BTreeSet, fs, io::Write as _, path::Path, process::Stdio};

use slipway_image::{Digest, media_type};
use slipway_tests::{Said, Site, eventually, image, ready};

/// registry-svc's default.
const OURS: &str = "127.0.0.1:5000";

/// An archive written by hand: no library that knows better is in the way.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn header(mut self, kind: u8, name: &str, link: &str, size: u64, device: (u32, u32)) -> Self {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, b"0000755\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        if size < 1 << 33 {
            put(124, format!("{size:011o}\0").as_bytes());
        } else {
            // GNU's base-256.
            put(124, &[0x80, 0, 0, 0]);
            put(128, &size.to_be_bytes());
        }
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0", device.0).as_bytes());
        put(337, format!("{:07o}\0", device.1).as_bytes());
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(block);
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        let mut tar = self.header(b'0', name, "", content.len() as u64, (0, 0));
        tar.0.extend(content);
        tar.0.resize(tar.0.len().next_multiple_of(512), 0);
        tar
    }

    fn folder(self, name: &str) -> Self {
        self.header(b'5', name, "", 0, (0, 0))
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.header(b'2', name, target, 0, (0, 0))
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.header(b'1', name, target, 0, (0, 0))
    }

    fn device(self, kind: u8, name: &str, device: (u32, u32)) -> Self {
        self.header(kind, name, "", 0, device)
    }

    /// A PAX header with one record, for the entry after it.
    fn pax(self, key: &str, value: &str) -> Self {
        let body = |n: usize| format!("{n} {key}={value}\n");
        let mut length = body(0).len();
        while body(length).len() != length {
            length = body(length).len();
        }
        let record = body(length);
        let mut tar = self.header(b'x', "pax", "", record.len() as u64, (0, 0));
        tar.0.extend(record.as_bytes());
        tar.0.resize(tar.0.len().next_multiple_of(512), 0);
        tar
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut child = std::process::Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let content = content.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&content).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

/// Sends a request; gives status and body.
fn request(site: &Site, arguments: &[&str]) -> (u16, String) {
    let mut all = vec!["-s", "-w", "\n%{http_code}"];
    all.extend(arguments);
    let output = site.output("curl", &all);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn upload(site: &Site, name: &str, content: &[u8], digest: &str) -> (u16, String) {
    fs::write(site.path("body"), content).unwrap();
    let body = format!("@{}", site.path("body").display());
    let url = format!("http://{OURS}/v2/{name}/blobs/uploads/?digest={digest}");
    let kind = "Content-Type: application/octet-stream";
    request(
        site,
        &["-X", "POST", "-H", kind, "--data-binary", &body, &url],
    )
}

fn put_manifest(site: &Site, name: &str, content: &str) -> (u16, String) {
    let kind = format!("Content-Type: {}", media_type::OCI_MANIFEST);
    let url = format!("http://{OURS}/v2/{name}/manifests/latest");
    request(
        site,
        &["-X", "PUT", "-H", &kind, "--data-binary", content, &url],
    )
}

fn manifest(config: &str, kind: &str, layer: &[u8]) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[{{"mediaType":"{kind}","digest":"{}","size":{}}}]}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_CONFIG,
        Digest::of(config.as_bytes()),
        config.len(),
        Digest::of(layer),
        layer.len(),
    )
}

fn config(diff_id: &Digest) -> String {
    format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["/busybox","true"]}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#,
        slipway_image::Platform::host().architecture
    )
}

/// Pushes an image of one layer; gives its name.
fn push(site: &Site, name: &str, kind: &str, layer: &[u8], diff_id: &Digest) -> String {
    let config = config(diff_id);
    for blob in [layer, config.as_bytes()] {
        let (status, body) = upload(site, name, blob, &Digest::of(blob).to_string());
        assert_eq!(status, 201, "{body}");
    }
    let (status, body) = put_manifest(site, name, &manifest(&config, kind, layer));
    assert_eq!(status, 201, "{body}");
    format!("{OURS}/{name}")
}

fn run(site: &Site, image: &str, command: &[&str]) -> Said {
    let mut all = vec!["run", "--rm", image];
    all.extend(command);
    site.ctl(&all)
}

/// All paths below a folder, with what is in the files.
fn everything(folder: &Path) -> BTreeSet<(String, Vec<u8>)> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        let content = if kind.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        found.insert((path.display().to_string(), content));
        if kind.is_dir() {
            found.extend(everything(&path));
        }
    }
    found
}

fn empty(folder: &Path) -> Option<()> {
    (fs::read_dir(folder).into_iter().flatten().count() == 0).then_some(())
}

#[tokio::test]
async fn layers_that_reach_out_or_lie_are_refused() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    // What an attack would be after, beside the services' own state.
    let outside = site.path("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("victim"), "safe").unwrap();
    let (away, victim) = (
        outside.display().to_string(),
        outside.join("victim").display().to_string(),
    );
    let up = "../".repeat(12);
    let far = |path: &str| format!("{up}{}", path.trim_start_matches('/'));
    let evil = || Tar::default().folder("etc/");
    let plain = media_type::OCI_LAYER;
    let zipped = media_type::OCI_LAYER_GZIP;
    let good = evil().file("etc/passwd", &[b'x'; 3000]).end();
    let cut = {
        let mut cut = gzip(&good);
        cut.truncate(cut.len() / 2);
        cut
    };
    let garbled = {
        let mut garbled = gzip(&good);
        let at = garbled.len() - 6;
        garbled[at] ^= 0xff;
        garbled
    };

    // Name, media type, layer, what the error must speak of: nothing when docker takes it as well, within the
    // layer.
    const INSIDE: &str = "/busybox";
    let cases: Vec<(&str, &str, Vec<u8>, &str)> = vec![
        (
            "dots",
            plain,
            evil().file(&far(&victim), b"evil").end(),
            "leads out with ..",
        ),
        (
            "inner-dots",
            plain,
            evil().file("etc/../../x", b"evil").end(),
            "leads out with ..",
        ),
        (
            "dots-folder",
            plain,
            evil().folder(&far(&away)).end(),
            "leads out with ..",
        ),
        (
            "absolute",
            plain,
            evil().file(&victim, b"evil").end(),
            INSIDE,
        ),
        (
            "pax-path",
            plain,
            evil().pax("path", &victim).file("etc/a", b"evil").end(),
            INSIDE,
        ),
        (
            "link-parent",
            plain,
            evil()
                .symlink("door", &away)
                .file("door/victim", b"evil")
                .end(),
            "as its parent",
        ),
        (
            "link-dots",
            plain,
            evil()
                .symlink("door", &far(&away))
                .file("door/new", b"evil")
                .end(),
            "as its parent",
        ),
        (
            "link-chain",
            plain,
            evil()
                .symlink("a", "b")
                .symlink("b", &away)
                .folder("a/new/")
                .end(),
            "as its parent",
        ),
        (
            "hard-absolute",
            plain,
            evil().hard_link("h", &victim).end(),
            "entry \"h\"",
        ),
        (
            "hard-dots",
            plain,
            evil()
                .hard_link("h", &far(&victim))
                .file("h", b"evil")
                .end(),
            "entry \"h\"",
        ),
        (
            "hard-through-link",
            plain,
            evil()
                .symlink("door", &away)
                .hard_link("h", "door/victim")
                .end(),
            "entry \"h\"",
        ),
        (
            "whiteout-dots",
            plain,
            evil().file("etc/.wh...", b"").end(),
            "hides no name",
        ),
        (
            "forged-whiteout",
            plain,
            evil().device(b'3', "etc/passwd", (0, 0)).end(),
            INSIDE,
        ),
        (
            "root-is-a-link",
            plain,
            evil().symlink("./", &away).end(),
            "would replace the root",
        ),
        (
            "huge-claim",
            plain,
            evil().header(b'0', "big", "", 1 << 42, (0, 0)).end(),
            "cut off",
        ),
        (
            "cut-claim",
            plain,
            evil().header(b'0', "big", "", 1 << 30, (0, 0)).end(),
            "cut off",
        ),
        ("no-archive", plain, vec![0x42; 4096], "archive"),
        ("cut-gzip", zipped, cut, "archive"),
        ("garbled-gzip", zipped, garbled, "archive"),
    ];
    let (before, layers) = (everything(&outside), site.path("state/runtime/layers"));
    for (name, kind, layer, words) in cases {
        // The archive's own digest is right, so that it is the archive that is refused.
        let diff_id = Digest::of(&layer);
        let image = push(&site, &format!("evil/{name}"), kind, &layer, &diff_id);
        eprintln!("--- {name}");
        let said = run(&site, &image, &[]);
        let error = said.error(if words == INSIDE { 127 } else { 125 });
        assert!(error.contains(words), "{name}: {error}");
        assert_eq!(
            everything(&outside),
            before,
            "{name} touched what is not its own"
        );
        if words == INSIDE {
            site.ctl(&["rmi", &image]).ok();
        }
        assert_eq!(site.ctl(&["ps", "-aq"]).ok(), "", "{name}");
        eventually(&format!("nothing is left of {name}"), async || {
            empty(&layers)
        })
        .await;
    }
    // A layer that is whole, but not the one that the config speaks of.
    let image = push(
        &site,
        "evil/other-diff-id",
        zipped,
        &gzip(&good),
        &Digest::of(b"something else"),
    );
    let error = run(&site, &image, &[]).error(125);
    assert!(
        error.contains(Digest::of(b"something else").encoded()),
        "{error}"
    );
    assert_eq!(everything(&outside), before);
    eventually("nothing is left", async || empty(&layers)).await;
}

#[tokio::test]
async fn what_may_stay_in_a_layer_does_no_harm() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    let outside = site.path("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("victim"), "safe").unwrap();
    let victim = outside.join("victim").display().to_string();
    let busybox = fs::read("/bin/busybox").unwrap();
    let layer = Tar::default()
        .file("busybox", &busybox)
        // The kernel's log and memory; a disk. In docker's images they may be, and cannot be opened.
        .device(b'3', "kmsg", (1, 11))
        .device(b'4', "disk", (7, 0))
        // Links are only names: they lead to the container's own files.
        .symlink("door", &victim)
        .symlink("proc", "/")
        .symlink("dev", "/")
        .symlink("sys", "/")
        // Marks that only overlayfs itself may set.
        .folder("etc/")
        .pax("SCHILY.xattr.trusted.overlay.redirect", "/")
        .folder("redirected/")
        .end();
    let image = push(
        &site,
        "odd/devices",
        media_type::OCI_LAYER,
        &layer,
        &Digest::of(&layer),
    );
    let script = "for d in /kmsg /disk; do /busybox dd if=$d of=/out count=1 bs=1 2>&1 | /busybox head -1; done; \
        /busybox cat /door 2>&1; /busybox ls /redirected";
    let said = run(&site, &image, &["/busybox", "sh", "-c", script]);
    // Either is right: it is refused for its links in the way of /proc, or it runs and opens nothing.
    if said.code == 125 {
        assert!(said.err.starts_with("Error: "), "{}", said.err);
    } else {
        assert_eq!(
            said.out.matches("Operation not permitted").count(),
            2,
            "{}{}",
            said.out,
            said.err
        );
        assert!(said.out.contains("No such file"), "{}", said.out);
        assert!(!said.out.contains("safe"), "{}", said.out);
    }
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "safe");
    // Without those links it does run.
    let layer = Tar::default()
        .file("busybox", &busybox)
        .device(b'3', "kmsg", (1, 11))
        .device(b'4', "disk", (7, 0))
        .symlink("door", &victim)
        .end();
    let image = push(
        &site,
        "odd/just-devices",
        media_type::OCI_LAYER,
        &layer,
        &Digest::of(&layer),
    );
    let out = run(&site, &image, &["/busybox", "sh", "-c", script]).out;
    assert_eq!(out.matches("Operation not permitted").count(), 2, "{out}");
    assert!(
        out.contains("No such file") && !out.contains("safe"),
        "{out}"
    );
    // A working folder or a volume that leads through a link stays inside, too.
    let inside = [
        "run",
        "--rm",
        "-w",
        "/door/below",
        &image,
        "/busybox",
        "true",
    ];
    site.ctl(&inside);
    assert_eq!(everything(&outside).len(), 1);
}

#[tokio::test]
async fn pushes_that_lie_are_refused() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    let right = Digest::of(b"content").to_string();
    let (status, body) = upload(&site, "liar/app", b"other content", &right);
    assert!(
        status == 400 && body.contains("DIGEST_INVALID"),
        "{status} {body}"
    );
    let (status, body) = upload(&site, "liar/app", b"content", "sha256:short");
    assert!(
        status == 400 && body.contains("DIGEST_INVALID"),
        "{status} {body}"
    );
    let head = |digest: &str| {
        let url = format!("http://{OURS}/v2/liar/app/blobs/{digest}");
        request(&site, &["--head", &url]).0
    };
    assert_eq!(head(&right), 404);
    // A manifest that names what is not there, is none, or is not in this repository.
    let ghost = manifest(&config(&Digest::of(b"d")), media_type::OCI_LAYER, b"ghost");
    let (status, body) = put_manifest(&site, "liar/app", &ghost);
    assert!(
        (400..=404).contains(&status) && body.contains("MANIFEST_BLOB_UNKNOWN"),
        "{status} {body}"
    );
    let (status, body) = put_manifest(&site, "liar/app", "{ no manifest");
    assert!(
        status == 400 && body.contains("MANIFEST_INVALID"),
        "{status} {body}"
    );
    // Names that lead elsewhere.
    for name in [
        "../../../etc",
        "a/%2e%2e/%2e%2e/b",
        "UPPER/case",
        "slipway.internal/build-cache",
    ] {
        let url = format!("http://{OURS}/v2/{name}/blobs/uploads/");
        let (status, body) = request(&site, &["--path-as-is", "-X", "POST", &url]);
        assert!((400..500).contains(&status), "{name}: {status} {body}");
    }
    // A client that promises more than it sends, and goes.
    fs::write(site.path("body"), b"conte").unwrap();
    let body = format!("@{}", site.path("body").display());
    let url = format!("http://{OURS}/v2/liar/app/blobs/uploads/?digest={right}");
    let broken = [
        "-m",
        "1",
        "-X",
        "POST",
        "-H",
        "Content-Length: 7",
        "--data-binary",
        &body,
        &url,
    ];
    let output = site.output("curl", &[&["-s"], &broken[..]].concat());
    assert!(!output.status.success());
    assert_eq!(head(&right), 404);
    assert_eq!(
        upload(&site, "liar/app", b"content", &right).0,
        201,
        "the honest one is taken"
    );
    assert_eq!(head(&right), 200);
    assert_eq!(site.ctl(&["images", "-aq"]).ok(), "");
}

#[tokio::test]
async fn archives_and_links_of_a_build_stay_inside() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let outside = site.path("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("victim"), "safe").unwrap();
    let before = everything(&outside);
    let (away, victim) = (
        outside.display().to_string(),
        outside.join("victim").display().to_string(),
    );
    let far = format!("{}{}", "../".repeat(12), victim.trim_start_matches('/'));
    let context = site.path("context");
    fs::create_dir_all(&context).unwrap();
    fs::write(context.join("file"), "evil").unwrap();
    let build = |dockerfile: &str, archive: Option<&[u8]>| {
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        fs::write(context.join("evil.tar"), archive.unwrap_or_default()).unwrap();
        site.ctl(&["build", "-t", "evil", context.to_str().unwrap()])
    };

    // Archives that ADD unpacks: refused, or kept inside.
    let archives = [
        ("dots", Tar::default().file(&far, b"evil").end()),
        ("absolute", Tar::default().file(&victim, b"evil").end()),
        (
            "hard link",
            Tar::default()
                .hard_link("h", &victim)
                .file("h", b"evil")
                .end(),
        ),
        (
            "link as parent",
            Tar::default()
                .symlink("door", &away)
                .file("door/victim", b"evil")
                .end(),
        ),
        (
            "link with dots",
            Tar::default()
                .symlink(
                    "door",
                    &format!("{}{}", "../".repeat(12), away.trim_start_matches('/')),
                )
                .folder("door/new/")
                .end(),
        ),
        (
            "claims",
            Tar::default()
                .header(b'0', "big", "", 1 << 42, (0, 0))
                .end(),
        ),
    ];
    for (what, archive) in &archives {
        for file in [
            "FROM busybox\nADD evil.tar /\n",
            "FROM busybox\nRUN true\nADD evil.tar /deep/er/\n",
        ] {
            let said = build(file, Some(archive));
            if said.code != 0 {
                let error = said.error(1);
                assert!(error.len() > 20, "{what}: {error}");
            }
            assert_eq!(everything(&outside), before, "ADD of an archive: {what}");
        }
    }
    assert_eq!(
        build("FROM busybox\nADD evil.tar /\n", Some(&archives[0].1)).code,
        1,
        "dots are refused"
    );

    // Links of the image in the way of what is copied.
    for file in [
        format!("FROM busybox\nRUN ln -s {away} /door\nCOPY file /door/victim\n"),
        format!("FROM busybox\nRUN ln -s {away} /door\nCOPY file /door/new/\n"),
        format!("FROM busybox\nRUN ln -s {away} /door\nADD evil.tar /door/\n"),
        format!("FROM busybox\nRUN ln -s {away} /door\nWORKDIR /door/made\nRUN touch here\n"),
        format!(
            "FROM busybox\nRUN ln -s {away} /door\nFROM busybox\nCOPY --from=0 /door/victim /got\n"
        ),
    ] {
        let inner = Tar::default().file("victim", b"evil").end();
        let said = build(&file, Some(&inner));
        assert!(said.code == 0 || said.code == 1, "{file}: {}", said.err);
        assert_eq!(everything(&outside), before, "{file}");
        if said.code == 0 && file.contains("/got") {
            let got = site.ctl(&["run", "--rm", "evil", "cat", "/got"]).out;
            assert!(!got.contains("safe"), "a build read the host's files");
        }
    }
    // And the context itself: a link in it is a link, whatever it names.
    std::os::unix::fs::symlink(&victim, context.join("link")).unwrap();
    let said = build("FROM busybox\nCOPY link /got\n", None);
    if said.code == 0 {
        let got = site.ctl(&["run", "--rm", "evil", "cat", "/got"]);
        assert!(!got.out.contains("safe"), "{}", got.out);
    }
    let said = build("FROM busybox\nCOPY --chmod=777 link /got\n", None);
    assert!(said.code == 0 || said.code == 1, "{}", said.err);
    assert_eq!(everything(&outside), before);
    assert_eq!(site.ctl(&["ps", "-aq"]).ok(), "");
}
