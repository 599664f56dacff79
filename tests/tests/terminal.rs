//! Terminals, streams and signals of containers, through the command line.

use slipway_tests::{Site, Terminal, ctl::signal, eventually, image, ready};

#[tokio::test]
async fn a_shell_on_a_terminal() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let mut shell = Terminal::ctl(&site, &["run", "-it", "--rm", "--name", "box", "busybox"]);
    shell.expect("/ # ").await;
    shell.ask("echo $((40 + 2))", "42").await;
    assert!(
        shell.shown().contains("echo $((40 + 2))"),
        "what is typed is echoed once: {:?}",
        shell.shown()
    );
    shell.ask("stty size", "24 80").await;
    shell.ask("tty; echo $TERM", "xterm").await;
    shell.resize(50, 132);
    eventually("the container hears of the new size", async || {
        let said = site.ctl(&["exec", "box", "stty", "-F", "/dev/console", "size"]);
        (said.out == "50 132\n").then_some(())
    })
    .await;
    shell.ask("stty size", "50 132").await;
    // Ctrl-C is the container's to see.
    shell
        .ask("sh -c 'echo st\"\"art; sleep 1000'", "start")
        .await;
    shell.ask("\x03", "/ # ").await;
    shell.send("exit 3\r");
    assert_eq!(shell.end().await, 3);
    eventually("--rm removes it", async || {
        site.ctl(&["ps", "-aq"]).out.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn detaching_leaves_it_running_and_attach_comes_back() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let mut shell = Terminal::ctl(&site, &["run", "-it", "--name", "box", "busybox"]);
    shell.expect("/ # ").await;
    shell.ask("mine=kept; echo se''t", "set").await;
    shell.send("\x10\x11");
    shell.expect("read escape sequence").await;
    assert_eq!(shell.end().await, 0);
    let status = site.ctl(&["ps", "--format", "{{.Names}} {{.State}}"]).out;
    assert_eq!(status, "box running\n");

    let mut again = Terminal::ctl(&site, &["attach", "--detach-keys", "ctrl-x,y", "box"]);
    again.ask("echo still-$mine", "still-kept").await;
    again.ask("stty size", "24 80").await;
    again.send("\x18y");
    assert_eq!(again.end().await, 0);

    let mut last = Terminal::ctl(&site, &["attach", "box"]);
    last.ask("echo $mine-again", "kept-again").await;
    last.send("exit 4\r");
    assert_eq!(last.end().await, 4);

    let mut started = Terminal::ctl(&site, &["start", "-ai", "box"]);
    started.ask("echo ne''w$mine", "new\r\n").await;
    started.send("exit 5\r");
    assert_eq!(started.end().await, 5);
}

#[tokio::test]
async fn a_client_that_dies_gives_the_terminal_back_and_leaves_the_container() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let shell = Terminal::ctl(&site, &["run", "-dit", "--name", "box", "busybox"]);
    assert_eq!(shell.end().await, 0);
    let mut attached = Terminal::ctl(&site, &["attach", "box"]);
    attached.ask("echo he''re", "here").await;
    signal(attached.child(), rustix::process::Signal::TERM);
    assert_eq!(attached.end().await, 143);
    assert_eq!(site.ctl(&["ps", "-q"]).out.len(), 13);
}

#[tokio::test]
async fn exec_on_a_terminal_and_with_pipes() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let run = site.ctl(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    assert_eq!(run.code, 0, "{}", run.err);
    let mut shell = Terminal::ctl(&site, &["exec", "-it", "box", "sh"]);
    shell.expect("/ # ").await;
    shell.ask("stty size", "24 80").await;
    shell.resize(30, 90);
    eventually("the exec hears of the new size", async || {
        shell.send("stty size\r");
        shell.shown().contains("30 90").then_some(())
    })
    .await;
    shell.send("exit 6\r");
    assert_eq!(shell.end().await, 6);

    let cat = site.ctl_with(&["exec", "-i", "box", "cat"], b"one\ntwo\n");
    assert_eq!(
        (cat.code, cat.out.as_str()),
        (0, "one\ntwo\n"),
        "{}",
        cat.err
    );
    let large = vec![b'x'; 3 << 20];
    let cat = site.ctl_with(&["exec", "-i", "box", "cat"], &large);
    assert_eq!((cat.code, cat.out.len()), (0, large.len()), "{}", cat.err);
    // Half-close: the answer comes after the end of the input.
    let count = site.ctl_with(
        &[
            "exec",
            "-i",
            "box",
            "sh",
            "-c",
            "cat > /f; grep -c . /f; exit 9",
        ],
        b"a\nb\nc\n",
    );
    assert_eq!(
        (count.code, count.out.as_str()),
        (9, "3\n"),
        "{}",
        count.err
    );
    let missing = site.ctl(&["exec", "box", "nonsense"]);
    assert_eq!(missing.code, 127, "{}", missing.err);
    let no_terminal = site.ctl(&["exec", "-it", "box", "sh"]);
    assert!(
        no_terminal.code == 1 && no_terminal.err.contains("not a terminal"),
        "{} {}",
        no_terminal.code,
        no_terminal.err
    );
}

#[tokio::test]
async fn a_pipe_into_run() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let cat = site.ctl_with(&["run", "-i", "--rm", "busybox", "cat"], b"x\n");
    assert_eq!((cat.code, cat.out.as_str()), (0, "x\n"), "{}", cat.err);
    let large = vec![b'x'; 3 << 20];
    let cat = site.ctl_with(&["run", "-i", "--rm", "busybox", "cat"], &large);
    assert_eq!((cat.code, cat.out.len()), (0, large.len()), "{}", cat.err);
    // Without -i the input is not the container's.
    let cat = site.ctl_with(&["run", "--rm", "busybox", "cat"], b"x\n");
    assert_eq!((cat.code, cat.out.as_str()), (0, ""), "{}", cat.err);
    let both = site.ctl(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "echo out; echo err >&2",
    ]);
    assert_eq!((both.out.as_str(), both.err.as_str()), ("out\n", "err\n"));
}

/// A script that says which signals it gets and ends with one of them.
const LISTENS: &str = "trap 'echo got-term; exit 15' TERM; trap 'echo got-int; exit 2' INT; \
    trap 'echo got-usr1' USR1; echo ready; while true; do usleep 20000; done";

/// Lines of a child's output as they come.
fn lines(child: &mut std::process::Child) -> impl Iterator<Item = String> + use<> {
    use std::io::BufRead as _;
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    out.lines().map_while(Result::ok)
}

fn code(mut child: std::process::Child) -> i32 {
    child.wait().unwrap().code().unwrap_or(-1)
}

#[tokio::test]
async fn signals_reach_the_container_through_run() {
    use rustix::process::Signal;
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    for (sent, said, exit) in [(Signal::TERM, "got-term", 15), (Signal::INT, "got-int", 2)] {
        let mut run = site.ctl_start(&["run", "--rm", "busybox", "sh", "-c", LISTENS]);
        let mut out = lines(&mut run);
        assert_eq!(out.next().as_deref(), Some("ready"));
        signal(&run, Signal::USR1);
        assert_eq!(out.next().as_deref(), Some("got-usr1"));
        signal(&run, sent);
        assert_eq!(out.next().as_deref(), Some(said));
        assert_eq!((out.next(), code(run)), (None, exit));
    }
    // A signal does not wait behind input that nobody reads.
    let mut run = site.ctl_start(&["run", "-i", "--rm", "busybox", "sh", "-c", LISTENS]);
    let mut stdin = run.stdin.take().unwrap();
    std::thread::spawn(move || {
        use std::io::Write as _;
        // Until ctl is gone.
        while stdin.write_all(&[b'x'; 65536]).is_ok() {}
    });
    let mut out = lines(&mut run);
    assert_eq!(out.next().as_deref(), Some("ready"));
    signal(&run, Signal::TERM);
    assert_eq!(out.next().as_deref(), Some("got-term"));
    let ended = run.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(15), "{ended:?}");
    // Not passed on when that is asked for: the container goes on.
    let mut run = site.ctl_start(&[
        "run",
        "--sig-proxy=false",
        "--name",
        "on",
        "busybox",
        "sh",
        "-c",
        LISTENS,
    ]);
    assert_eq!(lines(&mut run).next().as_deref(), Some("ready"));
    signal(&run, Signal::TERM);
    assert_eq!(code(run), 143);
    assert_eq!(site.ctl(&["ps", "--format", "{{.Names}}"]).out, "on\n");
    assert_eq!(site.ctl(&["kill", "-s", "USR1", "on"]).out, "on\n");
    assert_eq!(site.ctl(&["stop", "on"]).out, "on\n");
    assert_eq!(site.ctl(&["wait", "on"]).out, "15\n");
}

#[tokio::test]
async fn start_attached_and_killed_meanwhile() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let made = site.ctl(&["create", "--name", "box", "busybox", "sh", "-c", LISTENS]);
    assert_eq!(made.code, 0, "{}", made.err);
    // Several times: a lost signal shows as a test that hangs.
    for _ in 0..10 {
        let mut start = site.ctl_start(&["start", "-a", "box"]);
        assert_eq!(lines(&mut start).next().as_deref(), Some("ready"));
        assert_eq!(site.ctl(&["kill", "box"]).out, "box\n");
        assert_eq!(code(start), 137);
    }
    let mut start = site.ctl_start(&["start", "-a", "box"]);
    let mut out = lines(&mut start);
    assert_eq!(out.next().as_deref(), Some("ready"));
    signal(&start, rustix::process::Signal::TERM);
    assert_eq!(out.next().as_deref(), Some("got-term"));
    assert_eq!(code(start), 15);

    let made = site.ctl(&["create", "-i", "--name", "cat", "busybox", "cat"]);
    assert_eq!(made.code, 0, "{}", made.err);
    for _ in 0..3 {
        let cat = site.ctl_with(&["start", "-ai", "cat"], b"through\n");
        assert_eq!(
            (cat.code, cat.out.as_str()),
            (0, "through\n"),
            "{}",
            cat.err
        );
    }
}

#[tokio::test]
async fn stop_kills_what_ignores_it() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let deaf = "trap '' TERM; echo ready; while true; do usleep 20000; done";
    let run = site.ctl(&["run", "-d", "--name", "deaf", "busybox", "sh", "-c", deaf]);
    assert_eq!(run.code, 0, "{}", run.err);
    eventually("it is deaf", async || {
        (site.ctl(&["logs", "deaf"]).out == "ready\n").then_some(())
    })
    .await;
    let wait = site.ctl_start(&["wait", "deaf"]);
    let begun = std::time::Instant::now();
    assert_eq!(site.ctl(&["stop", "-t", "1", "deaf"]).out, "deaf\n");
    let took = begun.elapsed().as_millis();
    assert!((1000..5000).contains(&took), "{took} ms");
    let waited = wait.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&waited.stdout), "137\n");
    // Stopped already: docker says its name again.
    assert_eq!(site.ctl(&["stop", "deaf"]).out, "deaf\n");
    let kill = site.ctl(&["kill", "deaf"]);
    assert!(
        kill.code == 1 && kill.err.contains("is not running"),
        "{}",
        kill.err
    );
    let both = site.ctl(&["wait", "deaf", "nosuch"]);
    assert_eq!((both.code, both.out.as_str()), (1, "137\n"), "{}", both.err);
}

#[tokio::test]
async fn logs_follow_to_the_end_and_are_cut_as_asked() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let script = "echo one; echo two >&2; usleep 300000; cat > /dev/null; echo three; echo four";
    let run = site.ctl(&["run", "-di", "--name", "box", "busybox", "sh", "-c", script]);
    assert_eq!(run.code, 0, "{}", run.err);
    let mut follow = site.ctl_start(&["logs", "-f", "box"]);
    assert_eq!(lines(&mut follow).next().as_deref(), Some("one"));
    let follow_tail = site.ctl_start(&["logs", "-f", "--tail", "0", "box"]);
    let said = site.ctl_with(&["attach", "box"], b"x\n");
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(code(follow), 0, "it ends when the container ends");
    let tail = follow_tail.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&tail.stdout), "three\nfour\n");

    let all = site.ctl(&["logs", "box"]);
    assert_eq!(
        (all.out.as_str(), all.err.as_str()),
        ("one\nthree\nfour\n", "two\n")
    );
    assert_eq!(site.ctl(&["logs", "-n", "1", "box"]).out, "four\n");
    assert_eq!(
        site.ctl(&["logs", "--tail", "2", "box"]).out,
        "three\nfour\n"
    );
    let stamped = site.ctl(&["logs", "-t", "box"]);
    let times: Vec<&str> = stamped
        .out
        .lines()
        .filter_map(|l| l.split(' ').next())
        .collect();
    assert_eq!(times.len(), 3);
    assert!(times[0].ends_with('Z') && times[0].len() == 30, "{times:?}");
    assert!(stamped.out.lines().next().unwrap().ends_with("Z one"));
    let since = site.ctl(&["logs", "--since", times[1], "box"]);
    assert_eq!(
        (since.out.as_str(), since.err.as_str()),
        ("three\nfour\n", "")
    );
    let until = site.ctl(&["logs", "--until", times[0], "box"]);
    assert_eq!(until.out, "one\n");
    assert_eq!(site.ctl(&["logs", "--since", "1h", "box"]).out, all.out);
    assert_eq!(site.ctl(&["logs", "--until", "1h", "box"]).out, "");
    let bad = site.ctl(&["logs", "--since", "yesterday", "box"]);
    assert_eq!(bad.code, 1);
}

#[tokio::test]
async fn rm_also_when_the_client_was_killed() {
    let Some(site) = Site::with_busybox().await else {
        return;
    };
    let mut run = site.ctl_start(&[
        "run",
        "--rm",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "echo ready; usleep 500000",
    ]);
    assert_eq!(lines(&mut run).next().as_deref(), Some("ready"));
    signal(&run, rustix::process::Signal::KILL);
    code(run);
    eventually("it is removed without its client", async || {
        site.ctl(&["ps", "-aq"]).out.is_empty().then_some(())
    })
    .await;
    assert_eq!(
        site.ctl(&["run", "--rm", "--name", "box", "busybox", "true"])
            .code,
        0
    );
}

#[tokio::test]
async fn a_run_that_is_interrupted_while_it_pulls_leaves_nothing() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    // An upstream that thinks until the test is over.
    let (over, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = slipway_tests::Server::start(&site, move |_, _| {
        // Nothing is ever sent: it ends with its sender.
        let _ = wait.lock().unwrap().recv();
        slipway_tests::Reply::default()
    });
    let settings = format!(
        "[[upstream]]\nhost = \"docker.io\"\nurl = \"http://{}\"\ninsecure = true\n",
        upstream.address
    );
    site.configure("registry.toml", &settings);
    site.start_services().await;
    image::busybox(&site).await;
    let run = site.ctl_start(&["run", "--name", "box", "slow", "true"]);
    eventually("the upstream is asked", async || {
        (!upstream.requests().is_empty()).then_some(())
    })
    .await;
    signal(&run, rustix::process::Signal::INT);
    let ended = run.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    eventually("its name is free", async || {
        let said = site.ctl(&["run", "--rm", "--name", "box", "busybox", "true"]);
        (said.code == 0).then_some(())
    })
    .await;
    assert_eq!(site.ctl(&["ps", "-aq"]).out, "");
    drop(over);
}
