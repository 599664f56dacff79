//! `RUN --mount`: what a step sees, what it may write to, and that nothing of it stays.

use std::{fs, os::unix::fs::symlink};

use super::{build, built, cached, nothing_is_left, shell, site, write};
use slipway_tests::{Site, ready};

/// Every path of an image's files, without those of busybox and of the run itself.
fn paths(site: &Site, image: &str) -> Vec<String> {
    let script = "busybox find / -xdev -path /proc -prune -o -path /sys -prune -o -path /dev -prune -o -print";
    let all = shell(site, image, script);
    let ours = all.lines().filter(|p| {
        !p.starts_with("/bin")
            && !p.starts_with("/etc")
            && !matches!(*p, "/" | "/proc" | "/sys" | "/dev")
    });
    let mut ours: Vec<String> = ours.map(str::to_owned).collect();
    ours.sort();
    ours
}

const BINDS: &str = r#"FROM busybox AS base
RUN mkdir -p /data/sub && echo stage > /data/sub/file && ln -s /data/sub /link && ln -s /../../../etc/passwd /out
FROM busybox
ARG NAME=sub
WORKDIR /app
RUN --mount=target=ctx \
    --mount=from=base,src=/link/file,dst=/one/two/file \
    --mount=type=bind,from=base,source=/data/${NAME},target=/rw,rw \
    --mount=type=tmpfs,target=/tmp/t,size=64k \
    --mount=type=cache,target=/cache \
    --mount=from=busybox,source=bin,target=/other \
    cat ctx/dir/file /one/two/file > got \
    && ! echo x 2> /dev/null > ctx/new && ! echo x 2> /dev/null > /one/two/file \
    && echo changed > /rw/file && cat /rw/file >> got \
    && echo x > /tmp/t/x && ! busybox dd if=/dev/zero of=/tmp/t/y bs=1k count=128 2> /dev/null \
    && test -x /other/busybox && echo kept > /cache/kept
RUN --mount=from=base,source=/data,target=/data cat /data/sub/file >> got
RUN --mount=type=cache,target=/cache cat /cache/kept >> got
RUN --mount=source=dir/file,target=/etc/file cat /etc/file >> got
"#;

#[tokio::test]
async fn a_step_sees_its_mounts_and_nothing_of_them_stays() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(
        &context,
        &[
            ("Dockerfile", BINDS),
            ("dir/file", "context\n"),
            ("other", "1"),
        ],
    );
    let said = built(&site, "one", &[]);
    assert_eq!(cached(&said).0, 0, "{}", said.err);
    let got = shell(&site, "one", "cat /app/got");
    assert_eq!(got, "context\nstage\nchanged\nstage\nkept\ncontext\n");
    let mut expected = paths(&site, "busybox");
    expected.extend(["/app".to_owned(), "/app/got".to_owned()]);
    expected.sort();
    assert_eq!(paths(&site, "one"), expected);
    nothing_is_left(&site, "after a build with mounts").await;
    // What is bound counts by its content, and only what is bound.
    let again = built(&site, "two", &[]);
    assert_eq!(cached(&again), (6, 6), "{}", again.err);
    fs::write(
        context.join("Dockerfile"),
        BINDS
            .replace("--mount=target=ctx", "--mount=target=ctx,src=dir")
            .replace("ctx/dir/file", "ctx/file"),
    )
    .unwrap();
    built(&site, "three", &[]);
    fs::write(context.join("other"), "2").unwrap();
    let other = built(&site, "three", &[]);
    assert_eq!(cached(&other), (6, 6), "{}", other.err);
    fs::write(context.join("dir/file"), "changed\n").unwrap();
    let changed = built(&site, "three", &[]);
    assert_eq!(cached(&changed).0, 2, "{}", changed.err);
    // Only what was mounted was ever asked for.
    let caches = site.path("state/runtime/caches");
    assert_eq!(fs::read_dir(&caches).unwrap().count(), 1);
    for (line, part) in [
        ("RUN --mount=type=bin,target=/x true", "did you mean bind?"),
        (
            "RUN --mount=type=bind,target=/ true",
            "invalid mount target",
        ),
        (
            "RUN --mount=type=bind,from=$X,target=/x true",
            "define alias stage",
        ),
        (
            "RUN --mount=source=nope,target=/x true",
            "\"/nope\": not found",
        ),
        (
            "RUN --mount=from=busybox,source=/nope,target=/x true",
            "\"/nope\": not found",
        ),
        ("RUN --mount=target=/proc/self true", "inside /proc"),
        (
            "RUN --mount=type=secret,id=a,required=true true",
            "secret a: not found",
        ),
        (
            "RUN --mount=type=ssh,required true",
            "no SSH key \"default\" forwarded from the client",
        ),
        (
            "RUN --security=insecure true",
            "security.insecure is not allowed",
        ),
        ("RUN --network=host true", "network.host is not allowed"),
        ("RUN --device=a=b true", "not supported"),
    ] {
        fs::write(
            context.join("Dockerfile"),
            format!("FROM busybox\n{line}\n"),
        )
        .unwrap();
        let said = build(&site, "four", &[]);
        assert_ne!(said.code, 0, "{line}");
        assert!(said.err.contains(part), "{line}: {}", said.err);
    }
    nothing_is_left(&site, "after refused builds").await;
}

/// Sources that lead out of what they come from, by `..` and by links (CVE-2024-9675, CVE-2024-1753), and
/// mount points that a step exchanges for links before they are taken away (CVE-2024-23652).
const HOSTILE: &str = r#"FROM busybox AS evil
RUN ln -s / /root-link && ln -s ../../../../../../etc /up && ln -s /etc/passwd /passwd && mkdir -p /etc && echo mine > /etc/mark
FROM busybox
RUN --mount=from=evil,source=/root-link/../../../..,target=/a \
    --mount=from=evil,source=/up,target=/b \
    --mount=type=cache,id=c,source=../../../..,target=/c \
    test -e /a/root-link && test -e /b/mark && test ! -e /a/canary && test -z "$(ls /c)" && ln -s / /c/escape
RUN --mount=type=cache,id=c,target=/c ln -s ../../../../../../../../ /c/up && mkdir /c/in && echo in > /c/in/file
RUN ! test -e /c
RUN --mount=type=cache,id=c,source=up,target=/c test -e /c/in/file && test ! -e /c/bin
RUN mkdir -p /victim/keep /victim/empty && echo x > /victim/keep/file
RUN --mount=type=tmpfs,target=/gone/deep/x \
    cd / && busybox umount /gone/deep/x 2> /dev/null; busybox mv /gone /moved 2> /dev/null; ln -s /victim /gone 2> /dev/null; true
RUN test -d /victim/empty && test -f /victim/keep/file && test ! -e /gone/deep
"#;

#[tokio::test]
async fn nothing_leads_out_of_what_a_mount_shows() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(
        &context,
        &[("Dockerfile", HOSTILE), ("in/file", "inside\n")],
    );
    fs::write(site.path("canary"), "beyond\n").unwrap();
    symlink("../../canary", context.join("in/out")).unwrap();
    symlink(site.path("canary"), context.join("in/abs")).unwrap();
    built(&site, "hostile", &[]);
    for (source, part) in [
        ("in/out", "not found"),
        ("in/abs", "not found"),
        ("../canary", "not found"),
        ("../../../../../../../../etc/passwd", "not found"),
    ] {
        let file = format!("FROM busybox\nRUN --mount=source={source},target=/x cat /x\n");
        fs::write(context.join("Dockerfile"), file).unwrap();
        let said = build(&site, "no", &[]);
        assert_ne!(said.code, 0, "{source}");
        assert!(said.err.contains(part), "{source}: {}", said.err);
        assert!(
            !said.err.contains("beyond") && !said.err.contains("root:x"),
            "{}",
            said.err
        );
    }
    // A mount point through a link of the image stays inside it, and what it made there goes.
    let file = "FROM busybox\nRUN ln -s /../../../../there /l\nRUN --mount=type=tmpfs,target=/l/a/b touch /l/a/b/x\nRUN test ! -e /there && test -L /l\n";
    fs::write(context.join("Dockerfile"), file).unwrap();
    built(&site, "links", &[]);
    assert!(!site.path("there").exists() && !std::path::Path::new("/there").exists());
    nothing_is_left(&site, "after hostile mounts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_builds_that_race_in_a_cache_stay_inside_it() {
    if !ready() {
        return;
    }
    let site = site().await;
    // CVE-2024-23651: one build exchanges a folder of the cache for a link while another mounts it.
    let swap = "FROM busybox\nRUN --mount=type=cache,id=r,target=/c mkdir -p /c/sub && i=0; while [ $i -lt 400 ]; do busybox mv -T /c/sub /c/real; ln -s /../../../../../../.. /c/sub; busybox mv -T /c/sub /c/link; busybox mv -T /c/real /c/sub; rm /c/link; i=$((i+1)); done\n";
    let mut look =
        String::from("FROM busybox\nRUN --mount=type=cache,id=r,target=/c mkdir -p /c/sub\n");
    for number in 0..15 {
        look.push_str(&format!(
            "RUN --mount=type=cache,id=r,source=sub,target=/s test ! -e /s/bin && test ! -e /s/canary && echo {number}\n"
        ));
    }
    for (name, file) in [("swap", swap), ("look", &look)] {
        write(&site.path(name), &[("Dockerfile", file)]);
    }
    fs::write(site.path("canary"), "x").unwrap();
    let (one, two) = std::thread::scope(|scope| {
        let run = |name: &str| site.ctl(&["build", site.path(name).to_str().unwrap()]);
        let one = scope.spawn(move || run("swap"));
        let two = scope.spawn(move || run("look"));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(one.code, 0, "{}", one.err);
    // At a bad moment there is no folder: an honest error. Never the host's files.
    assert!(
        two.code == 0 || two.err.contains("not found"),
        "{}",
        two.err
    );
    assert!(!two.err.contains("exit code: 1"), "{}", two.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_are_kept_and_shared_as_they_say() {
    if !ready() {
        return;
    }
    let mut site = site().await;
    let context = site.path("context");
    let run = |site: &Site, options: &str, script: &str| {
        let file = format!("FROM busybox\nRUN --mount=type=cache,{options} {script}\n");
        write(&context, &[("Dockerfile", &file)]);
        built(site, "cache", &["--no-cache"])
    };
    run(&site, "id=a,target=/c", "echo one > /c/f");
    run(
        &site,
        "id=a,target=/elsewhere,ro",
        "test \"$(cat /elsewhere/f)\" = one && ! touch /elsewhere/x 2> /dev/null",
    );
    run(&site, "id=b,target=/c", "test ! -e /c/f");
    run(
        &site,
        "target=/c,mode=0700,uid=12,gid=34",
        "test \"$(busybox stat -c %a:%u:%g /c)\" = 700:12:34",
    );
    run(
        &site,
        "id=f,target=/c,from=busybox,source=/bin",
        "test -x /c/busybox && touch /c/new",
    );
    run(&site, "id=f,target=/c,from=busybox", "test -e /c/bin/new");
    // The content does not count: only that there is one of this name.
    write(
        &context,
        &[(
            "Dockerfile",
            "FROM busybox\nRUN --mount=type=cache,id=a,target=/c cat /c/f\n",
        )],
    );
    built(&site, "cache", &[]);
    run(&site, "id=a,target=/c", "echo two > /c/f");
    write(
        &context,
        &[(
            "Dockerfile",
            "FROM busybox\nRUN --mount=type=cache,id=a,target=/c cat /c/f\n",
        )],
    );
    assert_eq!(cached(&built(&site, "cache", &[])), (1, 1));
    // They survive their service.
    site.kill_and_restart("runtime").await;
    run(&site, "id=a,target=/c", "test \"$(cat /c/f)\" = two");
    // Two that lock it come one after the other; of two that want it for themselves one gets another.
    let both = "i=0; until [ $(ls /c | grep -c x) = 2 ] || [ $i = 400 ]; do i=$((i+1)); busybox usleep 50000; done; [ $i != 400 ]";
    for (mode, script) in [
        (
            "locked",
            "mkdir /c/lock && busybox usleep 300000 && rm -r /c/lock",
        ),
        (
            "private",
            "touch /c/$N && busybox usleep 300000 && test $(ls /c | grep -c x) = 1 && rm /c/$N",
        ),
        ("shared", both),
    ] {
        for name in ["x1", "x2"] {
            let file = format!(
                "FROM busybox\nENV N={name}\nRUN --mount=type=cache,id={mode},sharing={mode},target=/c touch /c/$N && {script}\n"
            );
            let file = if mode == "shared" {
                file
            } else {
                file.replace("touch /c/$N && mkdir", "mkdir")
            };
            write(&site.path(name), &[("Dockerfile", &file)]);
        }
        let said: Vec<_> = std::thread::scope(|scope| {
            let site = &site;
            let run = move |name: &'static str| {
                site.ctl(&[
                    "build",
                    "--no-cache",
                    "-t",
                    name,
                    site.path(name).to_str().unwrap(),
                ])
            };
            let (one, two) = (
                scope.spawn(move || run("x1")),
                scope.spawn(move || run("x2")),
            );
            vec![one.join().unwrap(), two.join().unwrap()]
        });
        said.iter()
            .for_each(|s| assert_eq!(s.code, 0, "{mode}: {}", s.err));
    }
    nothing_is_left(&site, "after builds with caches").await;
}

#[tokio::test]
async fn caches_are_counted_and_kept_within_their_room() {
    if !ready() {
        return;
    }
    let site = Site::bare();
    site.configure("runtime.toml", "cache_mounts_max_bytes = \"3m\"\n");
    let mut site = site;
    site.start_services().await;
    slipway_tests::image::busybox(&site).await;
    fs::create_dir_all(site.path("context")).unwrap();
    let caches = || {
        fs::read_dir(site.path("state/runtime/caches"))
            .unwrap()
            .count()
    };
    for id in ["one", "two", "three"] {
        let file = format!(
            "FROM busybox\nRUN --mount=type=cache,id={id},target=/c busybox dd if=/dev/zero of=/c/f bs=1M count=2\n"
        );
        write(&site.path("context"), &[("Dockerfile", &file)]);
        built(&site, "x", &[]);
        slipway_tests::eventually("the oldest cache goes", async || {
            (caches() == 1).then_some(())
        })
        .await;
    }
    let told = site
        .worker()
        .list_caches(slipway_proto::runtime::v1::ListCachesRequest {})
        .await
        .unwrap()
        .into_inner()
        .caches;
    assert_eq!((told.len(), &*told[0].id), (1, "/three"));
    assert!(told[0].size >= 2 << 20 && !told[0].in_use, "{told:?}");
    let request = slipway_proto::runtime::v1::RemoveCachesRequest {
        names: vec![told[0].name.clone(), "no".to_owned()],
    };
    let removed = site.worker().remove_caches(request).await.unwrap();
    assert_eq!(removed.into_inner().removed.len(), 1);
    slipway_tests::eventually("all caches are gone", async || {
        (caches() == 0).then_some(())
    })
    .await;
}

/// Unmounting another overlay writes everything on the file system below to the disk, in the middle of a build.
#[tokio::test]
async fn the_root_of_a_step_is_not_synced_when_it_ends() {
    let site = site().await;
    let context = site.path("context");
    let look = "grep -q ' / overlay .*volatile' /proc/mounts";
    let file = format!("FROM busybox\nRUN {look}\nRUN --mount=type=cache,target=/c {look}\n");
    write(&context, &[("Dockerfile", &file)]);
    built(&site, "steps", &[]);
    // A container is: what it wrote is wanted after a power loss.
    let run = ["run", "busybox", "sh", "-c", look];
    assert_eq!(site.ctl(&run).code, 1);
}
