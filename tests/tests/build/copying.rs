//! COPY and ADD with all their options, and where the files come from.

use std::{fs, os::unix::fs::symlink};

use slipway_tests::ready;

use crate::{build, built, shell, site, write};

const OPTIONS: &str = r#"FROM busybox AS tree
RUN mkdir -p /t/a/b /t/c && chmod 750 /t/a && chown 3:4 /t/a && echo 1 > /t/a/b/one.txt \
    && echo 2 > /t/a/b/two.md && echo 3 > /t/c/three.txt && ln /t/c/three.txt /t/c/again
FROM busybox
ARG WHO=you
COPY --parents src/./deep/*/x.txt src/top.txt /parents/
COPY --parents --from=tree /t/./a/b/one.txt /t/c /from/
COPY --exclude=*.md --exclude=deep --chmod=u=rwX,go=rX src /plain/
COPY --from=tree --exclude=**/*.md --chmod=700 /t /layers
COPY nothing* /empty/
COPY src/*.txt /existing
COPY <<one <<"two" /docs/
hello ${WHO} "quoted"
one
raw $WHO
two
COPY --chmod=755 <<-EOT /run.sh
	#!/bin/sh
	echo ran
EOT
ADD packed.tar.bz2 packed.xz /added/
ADD --unpack=false packed.xz /kept.xz
"#;

#[tokio::test]
async fn options_of_copy_and_add() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(
        &context,
        &[
            ("Dockerfile", OPTIONS),
            ("src/top.txt", "top"),
            ("src/top.md", "md"),
            ("src/deep/one/x.txt", "x"),
            ("src/deep/one/y.txt", "y"),
            ("src/deep/two/x.txt", "x2"),
            ("pack/in.txt", "packed"),
        ],
    );
    let file = OPTIONS.replace(
        "COPY src/*.txt /existing\n",
        "RUN mkdir /existing\nCOPY src/*.txt /existing\n",
    );
    fs::write(context.join("Dockerfile"), file).unwrap();
    for (name, how) in [("packed.tar.bz2", "-cjf"), ("packed.xz", "-cJf")] {
        let path = context.join(name);
        let arguments = [
            "-C",
            context.to_str().unwrap(),
            how,
            path.to_str().unwrap(),
            "pack",
        ];
        assert!(site.output("tar", &arguments).status.success());
    }
    built(&site, "options", &[]);
    let list = |folder: &str| shell(&site, "options", &format!("cd {folder} && find . | sort"));
    assert_eq!(
        list("/parents"),
        ".\n./deep\n./deep/one\n./deep/one/x.txt\n./deep/two\n./deep/two/x.txt\n./src\n./src/top.txt\n"
    );
    assert_eq!(
        list("/from"),
        ".\n./a\n./a/b\n./a/b/one.txt\n./t\n./t/c\n./t/c/again\n./t/c/three.txt\n"
    );
    assert!(shell(&site, "options", "ls -lnd /from/a").starts_with("drwxr-x---    3 3        4"));
    assert_eq!(list("/plain"), ".\n./top.txt\n");
    assert!(shell(&site, "options", "ls -l /plain/top.txt").starts_with("-rw-r--r--"));
    assert_eq!(
        list("/layers"),
        ".\n./a\n./a/b\n./a/b/one.txt\n./c\n./c/again\n./c/three.txt\n"
    );
    assert!(shell(&site, "options", "ls -l /layers/a/b/one.txt").starts_with("-rwx------"));
    assert_eq!(list("/empty"), ".\n");
    assert_eq!(list("/existing"), ".\n./top.txt\n");
    assert_eq!(
        shell(
            &site,
            "options",
            "cat /docs/one /docs/two; /run.sh; cat /added/pack/in.txt"
        ),
        "hello you \"quoted\"\nraw $WHO\nran\npacked"
    );
    assert_eq!(
        shell(&site, "options", "wc -c < /kept.xz").trim(),
        fs::metadata(context.join("packed.xz"))
            .unwrap()
            .len()
            .to_string()
    );
}

#[tokio::test]
async fn nothing_is_copied_from_outside() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    fs::write(site.path("secret"), "secret").unwrap();
    write(
        &context,
        &[
            ("Dockerfile", "FROM busybox\nCOPY out /x\n"),
            ("a/file", "inside"),
        ],
    );
    symlink("../secret", context.join("out")).unwrap();
    symlink("/", context.join("root")).unwrap();
    for (line, part) in [
        ("COPY out /x", "not found"),
        ("COPY root/etc/passwd /x", "not found"),
        ("COPY ../secret /x", "not found"),
        ("COPY --parents ../secret /x/", "not found"),
        ("COPY --parents a/./../../secret /x/", "not found"),
        ("COPY --from=nobody /x /y", "nobody"),
        ("COPY --chmod=abc a /x", "invalid chmod"),
        ("COPY https://localhost/x /y", "can't be a URL"),
        (
            "ADD https://localhost/r.git#--upload-pack=x /y",
            "invalid git reference",
        ),
        ("ADD --checksum=sha256:00 a /y", "requires HTTP(S) or Git"),
    ] {
        fs::write(
            context.join("Dockerfile"),
            format!("FROM busybox\n{line}\n"),
        )
        .unwrap();
        let said = build(&site, "hostile", &[]);
        assert!(
            said.code != 0 && said.err.contains(part),
            "{line}: {}",
            said.err
        );
    }
    // Links of another stage lead to that stage's own files.
    write(
        &context,
        &[(
            "Dockerfile",
            "FROM busybox AS a\nRUN mkdir -p /etc && echo mine > /etc/mine && ln -s /../../../../etc/mine /l && ln -s / /up && echo own > /own\n\
             FROM busybox\nCOPY --from=a /l /mine\nCOPY --from=a /up/../own /own\nRUN ln -s /target /link && mkdir /target\n\
             COPY a/file /link/../link/file\n",
        )],
    );
    built(&site, "links", &[]);
    assert_eq!(
        shell(&site, "links", "cat /own /mine /target/file"),
        "own\nmine\ninside"
    );
}

/// A layer is made straight from the context, upon nothing with `--link`, and upon what is there; by the worker
/// where a link is on the way.
#[tokio::test]
async fn the_same_files_with_and_without_a_worker() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    // Trees of chance: the same ones each time.
    let mut state = 12345_u64;
    let mut next = |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    for i in 0..120 {
        let depth = next(4);
        let mut path = String::from("tree");
        for _ in 0..depth {
            path.push_str(&format!(
                "/d{}{}",
                next(3),
                ["", "-x", ".y"][next(3) as usize]
            ));
        }
        let path = context.join(format!("{path}/f{i}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match next(5) {
            0 => symlink(format!("../f{}", next(100)), &path).unwrap(),
            _ => {
                fs::write(&path, "x".repeat(next(3000) as usize)).unwrap();
                let mode = [0o644, 0o755, 0o600, 0o4755][next(4) as usize];
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                    .unwrap();
            }
        }
    }
    let lines = [
        "COPY %tree @/to/here/",
        "COPY %tree/d* @/several/",
        "COPY %--chown=3:4 --chmod=go-rwx tree tree/f* @/owned/",
        "COPY %--parents --exclude=**/f1* tree/**/f* @/parents/",
        "COPY %tree/nothing* @/empty/",
        "COPY %<<EOF @/one/document\ntext\nEOF",
    ];
    fs::write(context.join("tree/.wh.odd"), "no whiteout").unwrap();
    // What is there already stays as it is, but for files that are replaced.
    let there = [
        "COPY tree/ @/set/below/",
        "COPY --chown=web tree/ @/set/owned/",
        "COPY tree/f* @/kept/",
        "COPY tree/nothing* @/kept/",
        "COPY tree @/kept/as",
    ];
    let base = "FROM busybox\nRUN ln -s . /via && mkdir -m 2775 /set && chgrp 50 /set && mkdir -m 711 /kept && \
                for i in $(seq 120); do echo old > /kept/f$i; done && touch -d 2001-01-01 /kept && \
                echo web:x:7:8::/: > /etc/passwd\n";
    let (mut listings, mut upon, mut fetched) = (Vec::new(), Vec::new(), Vec::new());
    for (link, way) in [("--link ", ""), ("", ""), ("", "/via")] {
        let text = lines.join("\n").replace('%', link).replace('@', way);
        let there = there.join("\n").replace('@', way);
        fs::write(
            context.join("Dockerfile"),
            format!("{base}{text}\n{there}\n"),
        )
        .unwrap();
        fs::write(context.join(".dockerignore"), "Dockerfile\n").unwrap();
        // tree/f* may be none: that is no error.
        built(&site, "tree", &["--no-cache"]);
        let script = "cd / && find to several owned parents empty one | sort | while read f; do \
                      stat -c '%n %A %u %g %s' $f; readlink $f; done; find to several owned parents -type f | sort | xargs md5sum; \
                      find to/here several owned parents -type f | sort | xargs stat -c %Y";
        listings.push(shell(&site, "tree", script));
        let script = "cd / && find set kept | sort | while read f; do stat -c '%n %A %u %g %s' $f; done; \
                      find kept set -type f | sort | xargs md5sum";
        upon.push(shell(&site, "tree", script));
        let log = fs::read_to_string(site.path("runtime.log")).unwrap();
        fetched.push(log.matches("unpacked layer").count());
    }
    // The worker gets what it needs while it is made; at most the last layer is fetched, to run the image.
    assert!(fetched[1] - fetched[0] <= 1, "{fetched:?}");
    assert!(listings[0].lines().count() > 300, "{}", listings[0]);
    assert_eq!(listings[0], listings[1]);
    assert_eq!(listings[1], listings[2]);
    assert!(upon[0].contains(".wh.odd"), "{}", upon[0]);
    assert_eq!(upon[1], upon[2]);
    // Upon nothing, with a fixed time, it is the same bytes each time.
    fs::write(
        context.join("Dockerfile"),
        "FROM scratch\nCOPY tree /to/here/\n",
    )
    .unwrap();
    let id = |tag: &str| {
        built(
            &site,
            tag,
            &["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000"],
        );
        site.ctl(&["inspect", "-f", "{{.Id}}", tag]).out
    };
    assert_eq!(id("first"), id("second"));
}
