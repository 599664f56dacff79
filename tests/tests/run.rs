//! Running containers over gRPC: registry-svc, netd and runtime-svc together.

use slipway_proto::{
    netd::v1::{PortBinding, Protocol},
    runtime::v1::{ContainerSpec, NetworkConfig, StreamInput, WaitRequest, stream_input::Input},
};
use slipway_service::error::reason;
use slipway_tests::{Site, eventually, image, ready};

fn sh(name: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        image: "busybox".into(),
        command: vec!["sh".into(), "-c".into(), script.into()],
        ..ContainerSpec::default()
    }
}

fn publish(spec: ContainerSpec, host: u32, container: u32) -> ContainerSpec {
    let port = PortBinding {
        protocol: Protocol::Tcp.into(),
        container_port: container,
        host_port: host,
        ..PortBinding::default()
    };
    let network = NetworkConfig {
        ports: vec![port],
        ..NetworkConfig::default()
    };
    ContainerSpec {
        network: Some(network),
        ..spec
    }
}

#[tokio::test]
async fn a_container_runs_and_says_how_it_ended() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let ran = site
        .run(sh("", "echo out; echo err >&2; exit 3"), vec![])
        .await
        .unwrap();
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (3, "out\n", "err\n")
    );

    let mut spec = sh("", "cat; echo end");
    spec.open_stdin = true;
    spec.stdin_once = true;
    spec.auto_remove = true;
    let input = [Input::Stdin("hello\n".into()), Input::StdinClose(true)];
    let input = input
        .into_iter()
        .map(|i| StreamInput { input: Some(i) })
        .collect();
    let ran = site.run(spec, input).await.unwrap();
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "hello\nend\n"));
    eventually("--rm removes it", async || {
        site.list()
            .await
            .iter()
            .all(|c| c.id != ran.id)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_run_says_why() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let mut spec = sh("", "");
    spec.command = vec!["nonsense".into()];
    let error = site.run(spec, vec![]).await.unwrap_err();
    assert_eq!(reason(&error), "COMMAND_NOT_FOUND", "{error}");
    let mut spec = sh("", "");
    spec.command = vec!["/etc".into()];
    let error = site.run(spec, vec![]).await.unwrap_err();
    assert_eq!(reason(&error), "COMMAND_NOT_EXECUTABLE", "{error}");
    let mut spec = sh("", "");
    spec.runtime = "other".into();
    assert_eq!(
        reason(&site.run(spec, vec![]).await.unwrap_err()),
        "OPTION_UNSUPPORTED"
    );
    site.run_detached(sh("web", "sleep 100")).await.unwrap();
    let error = site.run_detached(sh("web", "true")).await.unwrap_err();
    assert_eq!(reason(&error), "NAME_IN_USE", "{error}");
}

#[tokio::test]
async fn two_containers_of_an_image_see_only_their_own_files() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let one = site
        .run(
            sh("one", "echo one > /mine; ls /mine; test ! -e /yours"),
            vec![],
        )
        .await
        .unwrap();
    let two = site
        .run(sh("two", "echo two > /yours; test ! -e /mine"), vec![])
        .await
        .unwrap();
    assert_eq!((one.code, two.code), (0, 0));
    let upper = |id: &str| {
        site.path("state/runtime/containers")
            .join(id)
            .join("upper/mine")
    };
    assert!(upper(&one.id).exists());
    site.remove("one").await;
    assert!(
        !site.path("state/runtime/containers").join(&one.id).exists(),
        "rm gives the space back"
    );
}

#[tokio::test]
async fn containers_find_each_other_and_ports_are_published() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    let server = publish(
        sh(
            "web",
            "mkdir /www; echo a page > /www/index.html; httpd -f -p 80 -h /www",
        ),
        3000,
        80,
    );
    site.run_detached(server.clone()).await.unwrap();
    let page = eventually("the published port answers", async || {
        site.fetch("http://127.0.0.1:3000/")
    })
    .await;
    assert_eq!(page, "a page\n");
    let ran = site
        .run(sh("", "wget -q -O - http://web/"), vec![])
        .await
        .unwrap();
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "a page\n"),
        "{}",
        ran.stderr
    );
    let again = ContainerSpec {
        name: "again".into(),
        ..server
    };
    let error = site.run_detached(again).await.unwrap_err();
    assert!(
        error.message().contains("port is already allocated"),
        "{error}"
    );
    site.remove("web").await;
    assert_eq!(site.fetch("http://127.0.0.1:3000/"), None);
}

#[tokio::test]
async fn nothing_is_lost_when_services_are_killed() {
    if !ready() {
        return;
    }
    let mut site = Site::start().await;
    image::busybox(&site).await;
    let script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; usleep 10000; done; \
        mkdir /www; echo still here > /www/index.html; httpd -p 80 -h /www; cat; exit 5";
    let mut spec = publish(sh("count", script), 3000, 80);
    spec.open_stdin = true;
    site.run_detached(spec).await.unwrap();
    for service in slipway_tests::site::SERVICES {
        site.kill_and_restart(service).await;
        let count = site.list().await;
        assert!(
            count[0].state.as_ref().is_some_and(|s| s.pid > 0),
            "it still runs after {service} was killed"
        );
        assert_eq!(count[0].ports[0].host_port, 3000);
    }
    let page = eventually("its port still answers", async || {
        site.fetch("http://127.0.0.1:3000/")
    })
    .await;
    assert_eq!(page, "still here\n");
    let expected: String = (1..=300).map(|n| format!("line {n}\n")).collect();
    assert_eq!(site.logs("count").await, expected);
    let kill = slipway_proto::runtime::v1::KillRequest {
        container: "count".into(),
        signal: "KILL".into(),
    };
    site.containers().kill(kill).await.unwrap();
    let wait = WaitRequest {
        container: "count".into(),
        ..WaitRequest::default()
    };
    assert_eq!(
        site.containers()
            .wait(wait)
            .await
            .unwrap()
            .into_inner()
            .exit_code,
        137
    );
}

#[tokio::test]
async fn output_of_what_ends_and_removes_itself_at_once_is_not_lost() {
    if !ready() {
        return;
    }
    let site = Site::start().await;
    image::busybox(&site).await;
    // Many at once, so that some end before anybody looks.
    for _ in 0..6 {
        let runs: Vec<_> = (0..12)
            .map(|n| {
                let said = format!("said {n}");
                site.ctl_start(&["run", "--rm", "busybox", "echo", &said])
            })
            .collect();
        for (n, run) in runs.into_iter().enumerate() {
            let output = run.wait_with_output().unwrap();
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                format!("said {n}\n")
            );
        }
    }
}
