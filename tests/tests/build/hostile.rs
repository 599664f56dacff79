//! Dockerfiles that ask for too much: each is refused with a sentence, and the builder lives on.

use std::{fs::File, io::Write as _};

use slipway_tests::ready;

use crate::{build, built, site, write};

#[tokio::test]
async fn too_much_is_refused() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    let path = context.join("Dockerfile");
    // 100 MB without room on the disk.
    let file = File::create(&path).unwrap();
    (&file).write_all(b"FROM busybox\n# ").unwrap();
    file.set_len(100 << 20).unwrap();
    let refused = |content: Option<&str>, part: &str| {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let said = build(&site, "hostile", &[]);
        assert_eq!(said.code, 1, "{part}: {}", said.err);
        assert!(said.err.contains(part), "{part}: {}", said.err);
    };
    refused(None, "Dockerfile is larger than 1024 KiB");
    let doubling: String = (0..40)
        .map(|i| format!("ENV V{}=$V{i}$V{i}\n", i + 1))
        .collect();
    let stages = "FROM busybox\n".repeat(10_000);
    let many = format!("FROM busybox\n{}", "RUN x\n".repeat(10_000));
    let bomb = format!("FROM busybox\nENV V0=xxxxxxxxxxxxxxxx\n{doubling}");
    let deep = format!(
        "FROM busybox\nENV A={}{}\n",
        "${A:-".repeat(10_000),
        "}".repeat(10_000)
    );
    for (content, part) in [
        (stages.as_str(), "there are more than 5000 instructions"),
        (&stages[..13 * 2000], "there are more than 1000 stages"),
        (&many, "there are more than 5000 instructions"),
        (&bomb, "a value expands to more than 256 KiB"),
        (&deep, "variables are nested too deep"),
        ("FROM busybox\nRUN <<EOF\nx\n", "unterminated heredoc"),
        ("FROM busybox\nRUN x\0y\n", "holds a NUL byte"),
        ("FROM busybox\nONBUILD ONBUILD RUN x\n", "Chaining ONBUILD"),
        (
            "FROM a AS b\nFROM b\nCOPY --from=1 x y\n",
            "circular dependency",
        ),
    ] {
        refused(Some(content), part);
    }
    std::fs::write(&path, b"FROM busybox\nRUN echo \xff\n").unwrap();
    refused(None, "not UTF-8 text");
    std::fs::write(
        &path,
        b"\xef\xbb\xbfFROM busybox\r\n# caf\xe9\r\nRUN echo x \\\r\n  > /x\r\n",
    )
    .unwrap();
    built(&site, "fine", &[]);
    write(&context, &[("Dockerfile", "FROM busybox\n")]);
    built(&site, "fine", &[]);
}
