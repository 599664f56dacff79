//! Errors, and bundles that mean harm.

use super::*;

#[tokio::test]
async fn errors_are_one_line_and_in_the_log() {
    let Some(oci) = Oci::new() else { return };
    let log = oci.site.path("log.json");
    let error = oci.fails(&[
        "--log",
        path(&log),
        "--log-format",
        "json",
        "state",
        "nobody",
    ]);
    assert!(error.contains("does not exist"));
    let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(
        (&line["level"], &line["msg"]),
        (&json!("error"), &json!(error.trim_end()))
    );
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    for words in [
        &["fly"][..],
        &[],
        &["start"],
        &["create", "--nonsense", "x"],
        &["create", "--no-pivot", "--bundle", "/nowhere", "x"],
        &["create", "--bundle", "/nowhere", "x"],
        &["checkpoint", "x"],
        &["restore", "--image-path", "/x", "x"],
        &["--rootless", "true", "state", "x"],
        &["state", "../x"],
        &["kill", "x", "NONSENSE"],
    ] {
        let said = oci.call(words);
        assert_eq!(
            (said.code, said.err.trim_end().lines().count()),
            (1, 1),
            "{words:?}: {}",
            said.err
        );
    }
    let version = oci.ok(&["--version"]);
    assert_eq!(version.lines().count(), 3);
    let features: Value = serde_json::from_str(&oci.ok(&["features"])).unwrap();
    assert_eq!(features["ociVersionMax"], "1.2.0");
    assert_eq!(features["hooks"].as_array().unwrap().len(), 6);
    // The same by the service's own name.
    let program = slipway_tests::site::program_path("runtime-svc");
    let output = oci.site.output(path(&program), &["oci", "features"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap(),
        features
    );
}

#[tokio::test]
async fn hostile_bundles_get_nowhere() {
    let Some(oci) = Oci::new() else { return };
    let outside = oci.site.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "the host's").unwrap();
    // Links of the image's that lead out lead inside.
    let said = oci.run("links", "cat /a/x/new /b; ls /..", |c| {
        let rootfs = oci.site.path("links/rootfs");
        symlink(&outside, rootfs.join("a")).unwrap();
        symlink(outside.join("file"), rootfs.join("b")).unwrap();
        symlink("../../../../../..", rootfs.join("up")).unwrap();
        let data = oci.site.path("links/data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("new"), "new\n").unwrap();
        c["root"]["readonly"] = json!(false);
        c["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/a/x", "type": "bind", "source": data, "options": ["bind"]}),
            json!({"destination": "/b", "type": "bind", "source": data.join("new"), "options": ["bind"]}),
            json!({"destination": "/up/root/../root", "type": "tmpfs", "source": "tmpfs"}),
        ]);
    });
    assert!(
        said.code == 0 && said.out.starts_with("new\nnew\n"),
        "{}{}",
        said.out,
        said.err
    );
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(
        fs::read_to_string(outside.join("file")).unwrap(),
        "the host's"
    );

    type Change = Box<dyn Fn(&mut Value, &Path)>;
    let cases: [(&str, Change); 7] = [
        // What protects a container cannot be mounted away (CVE-2019-16884, CVE-2019-19921).
        (
            "/proc",
            Box::new(|c, _| {
                let mount =
                    json!({"destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs"});
                c["mounts"].as_array_mut().unwrap().push(mount);
            }),
        ),
        (
            "ordinary directory",
            Box::new(|_, rootfs| {
                fs::remove_dir(rootfs.join("proc")).unwrap();
                symlink("/tmp", rootfs.join("proc")).unwrap();
            }),
        ),
        (
            "not allowed",
            Box::new(|c, _| c["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/x"})),
        ),
        (
            "cgroupsPath",
            Box::new(|c, _| c["linux"]["cgroupsPath"] = json!("/../../x")),
        ),
        (
            "working directory",
            Box::new(|c, _| {
                c["root"]["readonly"] = json!(false);
                c["process"]["cwd"] = json!("/proc/self/fd/7");
            }),
        ),
        (
            "zero byte",
            Box::new(|c, _| c["process"]["args"] = json!(["a\u{0}b"])),
        ),
        (
            "too long",
            Box::new(|c, _| c["process"]["args"] = json!(["true", "x".repeat(3 << 20)])),
        ),
    ];
    for (number, (expected, change)) in cases.iter().enumerate() {
        let name = format!("case{number}");
        let said = oci.run(&name, "true", |c| {
            change(c, &oci.site.path(&name).join("rootfs"))
        });
        let error = &said.err;
        assert!(
            said.code != 0 && error.contains(expected),
            "{expected}: {} {}",
            said.code,
            said.err
        );
    }
    // A config.json that is endless, a FIFO, or no JSON.
    let bundle = oci.site.path("bad");
    fs::create_dir(&bundle).unwrap();
    let config = bundle.join("config.json");
    symlink("/dev/zero", &config).unwrap();
    assert!(
        oci.fails(&["run", "--bundle", path(&bundle), "bad"])
            .contains("regular file")
    );
    fs::remove_file(&config).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &config,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert!(
        oci.fails(&["run", "--bundle", path(&bundle), "bad"])
            .contains("regular file")
    );
    fs::remove_file(&config).unwrap();
    let file = fs::File::create(&config).unwrap();
    file.set_len(17 << 20).unwrap();
    assert!(
        oci.fails(&["run", "--bundle", path(&bundle), "bad"])
            .contains("longer than")
    );
    drop(file);
    for text in [
        "",
        "{",
        "[]",
        "{\"ociVersion\":\"1.2.0\"}",
        "{\"ociVersion\":7}",
    ] {
        fs::write(&config, text).unwrap();
        oci.fails(&["run", "--bundle", path(&bundle), "bad"]);
    }
    oci.is_gone("bad");
}
