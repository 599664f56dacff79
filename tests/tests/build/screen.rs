//! What a build shows, on a terminal and elsewhere.

use slipway_tests::{ready, terminal::Terminal};

use crate::{site, write};

const FILE: &str = "FROM busybox\nRUN echo a word that is long enough for any narrow terminal; while ! test -e /end/now; do sleep 0.1; done\nRUN busybox printf '\\033[2Jthe end\\n'; exit 3\n";

#[tokio::test]
async fn a_terminal_shows_a_build() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    // The step ends when the file is there, which is a cache mount's: nothing else changes under its feet.
    let file = FILE.replacen("RUN ", "RUN --mount=type=cache,target=/end ", 1);
    write(&context, &[("Dockerfile", &file)]);
    let folder = context.to_str().unwrap();
    let shell = Terminal::ctl(&site, &["build", "-t", "shown", folder]);
    shell.expect("[+] Building").await;
    shell.expect(" => => # a word that is long enough").await;
    shell.resize(24, 30);
    shell.expect("a word that is lo...").await;
    shell.expect("[2/3] RUN --m").await;
    let end = ["FROM busybox\nRUN --mount=type=cache,target=/end touch /end/now\n"];
    let other = site.path("other");
    write(&other, &[("Dockerfile", end[0])]);
    let said = site.ctl(&["build", "--progress", "none", other.to_str().unwrap()]);
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (0, "", "")
    );
    shell.expect("ERROR [3/3]").await;
    shell.expect("exit code: 3").await;
    let shown = shell.shown();
    // No colours, and nothing of what a step says moves the cursor.
    let colours = shown.split("\x1b[").skip(1).any(|rest| {
        rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';')
            .starts_with('m')
    });
    assert!(!colours && !shown.contains("\x1b[2J"), "{shown:?}");
    assert_eq!(shell.end().await, 1);
    for (words, code) in [
        (&["--progress", "tty"][..], 1),
        (&["--progress", "loud"], 1),
    ] {
        let all = [&["build"], words, &[other.to_str().unwrap()]].concat();
        let error = site.ctl(&all).error(code);
        assert!(error.contains("--progress"), "{error}");
    }
}
