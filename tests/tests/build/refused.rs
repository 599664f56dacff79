//! What is wrong in a Dockerfile or asked for in vain: each with its place and its sentence.

use std::fs;

use slipway_tests::ready;

use crate::{build, nothing_is_left, site, write};

#[tokio::test]
async fn bad_input_is_refused_with_its_place() {
    if !ready() {
        return;
    }
    let site = site().await;
    write(
        &site.path("context"),
        &[
            ("kept", "x"),
            ("folder/sub/file", "x"),
            ("ignored", "x"),
            (".dockerignore", "ignored\n"),
        ],
    );
    let table: [(&str, &[&str], i32, &[&str]); 15] = [
        (
            "FROM busybox\nRUN mkdir /to && touch /to/sub\nCOPY folder /to/\n",
            &[],
            1,
            &["Dockerfile:3:", "cannot copy to non-directory: /to/sub"],
        ),
        (
            "FROM busybox\nRUN touch /file\nCOPY folder /file\n",
            &[],
            1,
            &["Dockerfile:3:", "cannot copy to non-directory: /file"],
        ),
        (
            "FROM busybox\nRUNN x\n",
            &[],
            1,
            &[
                "Dockerfile:2:",
                "unknown instruction: RUNN (did you mean RUN?)",
                ">>> RUNN x",
            ],
        ),
        (
            "FROM busybox\n\nCOPY nothere /x\n",
            &[],
            1,
            &[
                "Dockerfile:3:",
                "\"/nothere\": not found",
                ">>> COPY nothere",
            ],
        ),
        (
            "FROM busybox AS one\nFROM busybox\nCOPY --from=one /nothere /x\n",
            &[],
            1,
            &["Dockerfile:3:", "\"/nothere\": not found in one"],
        ),
        (
            "FROM busybox\nCOPY ignored /x\n",
            &[],
            1,
            &["\"/ignored\": not found"],
        ),
        (
            "FROM busybox\nCOPY ../../etc/passwd /x\n",
            &[],
            1,
            &["\"/../../etc/passwd\": not found"],
        ),
        (
            "FROM busybox\nRUN echo the output; exit 7\n",
            &[],
            1,
            &["Dockerfile:2:", "exit code: 7", "the output"],
        ),
        (
            "FROM busybox\nRUN [\"/nonexistent\"]\n",
            &[],
            1,
            &["/nonexistent", "no such file or directory"],
        ),
        (
            "FROM busybox\nUSER nobody-here\nRUN true\n",
            &[],
            1,
            &["Dockerfile:3:", "nobody-here"],
        ),
        (
            "FROM busybox\nRUN --mount=type=cache,sharing=x,target=/x true\n",
            &[],
            1,
            &["Dockerfile:2:", "unsupported sharing value"],
        ),
        (
            "FROM busybox\nRUN --network=host true\n",
            &[],
            1,
            &["Dockerfile:2:", "network.host is not allowed"],
        ),
        (
            "FROM busybox\nRUN true\n",
            &["--target", "x"],
            1,
            &["target stage \"x\" could not be found"],
        ),
        (
            "FROM busybox\nRUN true\n",
            &["--cgroup-parent", "x"],
            1,
            &["is not supported: steps have cgroups of their own"],
        ),
        ("", &[], 1, &["has no build stage"]),
    ];
    for (file, arguments, code, parts) in table {
        fs::write(site.path("context/Dockerfile"), file).unwrap();
        let said = build(&site, "bad", arguments);
        assert_eq!(said.code, code, "{file}: {}", said.err);
        let last = said.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("Error: "), "{file}: {}", said.err);
        for part in parts {
            assert!(
                said.err.contains(part),
                "{file}: {part:?} is missing in {}",
                said.err
            );
        }
    }
    assert_eq!(site.ctl(&["images", "-q", "bad"]).out, "");
    assert_eq!(site.ctl(&["ps", "-aq"]).out, "");
    nothing_is_left(&site, "of refused builds").await;
}

#[tokio::test]
async fn a_long_script_that_fails_is_still_told_with_its_place() {
    if !ready() {
        return;
    }
    let site = site().await;
    let line = format!("echo {}\n", "a word, \"quoted\", é ".repeat(30));
    let file = format!("FROM busybox\nRUN <<EOF\n{}exit 3\nEOF\n", line.repeat(60));
    write(&site.path("context"), &[("Dockerfile", &file)]);
    let error = build(&site, "long", &[]).err;
    let last = error.lines().last().unwrap();
    assert!(last.starts_with("Error: Dockerfile:2: process"), "{last}");
    assert!(
        last.ends_with("did not complete successfully: exit code: 3"),
        "{last}"
    );
    assert!(error.contains("   2 | >>> RUN <<EOF"), "{error}");
}
