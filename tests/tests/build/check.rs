//! `--check` and `--call`: what is said about a Dockerfile without a build, and as warnings of one.

use slipway_tests::{Said, ready};

use crate::{build, built, site, write};

const FILE: &str = "FROM busybox AS Base\nENV A=$PAHT\nWORKDIR app\nFROM base\nCMD echo\n";

#[tokio::test]
async fn findings_are_told_as_docker_tells_them() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(&context, &[("Dockerfile", FILE)]);
    let check = |arguments: &[&str]| -> Said { build(&site, "c", arguments) };
    let said = check(&["--check"]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(said.out.starts_with("Check complete, 4 warnings have been found!\n\nWARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\nStage name 'Base' should be lowercase\nDockerfile:1\n--------------------\n   1 | >>> FROM busybox AS Base\n"), "{}", said.out);
    for part in [
        "Usage of undefined variable '$PAHT' (did you mean $PATH?)\nDockerfile:2\n",
        "WARNING: WorkdirRelativePath",
        "WARNING: JSONArgsRecommended",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    assert_eq!(check(&["--call", "check,ignorestatus=true"]).code, 0);
    let json = check(&["--call", "check,format=json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["warnings"][1]["ruleName"], "UndefinedVar");
    let clean = check(&[
        "--check",
        "--build-arg",
        "BUILDKIT_DOCKERFILE_CHECK=skip=all",
    ]);
    assert_eq!(
        (clean.code, clean.out.as_str()),
        (0, "Check complete, no warnings found.\n")
    );
    let targets = check(&["--call=targets"]);
    assert_eq!(targets.out, "TARGET       DESCRIPTION\nbase\n(default)\n");
    assert_eq!(check(&["--call=nothing"]).code, 1);

    let said = built(&site, "warned", &[]);
    for part in [
        " - StageNameCasing: Stage name 'Base' should be lowercase (line 1)",
        " - WorkdirRelativePath: Relative workdir \"app\" can have unexpected results if the base image changes (line 3)",
    ] {
        assert!(said.err.contains(part), "{}", said.err);
    }
    write(
        &context,
        &[("Dockerfile", &format!("# check=error=true\n{FILE}"))],
    );
    let said = check(&[]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("lint violation found for rules: JSONArgsRecommended, StageNameCasing, UndefinedVar, WorkdirRelativePath"), "{}", said.err);
    write(
        &context,
        &[
            ("Dockerfile", "FROM busybox\nCOPY ignored /\n"),
            (".dockerignore", "ignored\n"),
        ],
    );
    let said = check(&[
        "--check",
        "--build-arg",
        "BUILDKIT_DOCKERFILE_CHECK=experimental=all",
    ]);
    assert!(
        said.out
            .contains("Attempting to Copy file \"ignored\" that is excluded by .dockerignore"),
        "{}",
        said.out
    );
}

const OUTLINED: &str = "# BASE what it is built upon\nARG BASE=busy$REST\nARG REST=box\nARG UNUSED=1\nFROM ${BASE:-x}box AS first\nRUN --mount=type=secret,id=token,required true\n# stage the whole\nFROM busybox AS stage\nARG REST\n# COLOUR of it all\nARG COLOUR=red$REST\nRUN --mount=type=ssh --mount=type=secret,target=/x/key true\nCOPY --from=first /etc /e\nFROM scratch\n";

#[tokio::test]
async fn what_a_target_takes_is_told() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(&context, &[("Dockerfile", OUTLINED)]);
    let of = |call: &str, more: &[&str]| {
        let said = build(
            &site,
            "o",
            &[&["--call", call, "--target", "stage"], more].concat(),
        );
        assert_eq!(said.code, 0, "{}", said.err);
        said.out
    };
    assert_eq!(
        of("outline", &["--build-arg", "BASE=busy"]),
        "TARGET:      stage\nDESCRIPTION: the whole\n\nBUILD ARG   VALUE    DESCRIPTION\nBASE        busy     what it is built upon\nREST        box\nCOLOUR      redbox   of it all\n\nSECRET   REQUIRED\ntoken    true\nkey\n\nSSH       REQUIRED\ndefault\n"
    );
    let json = of("outline,format=json", &["--build-arg", "BASE=busy"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["args"][2]["value"], "redbox");
    assert_eq!(
        json["args"][2]["location"]["ranges"][0]["start"]["line"],
        11
    );
    assert_eq!(json["secrets"][0]["required"], true);
    assert_eq!(json["ssh"][0]["name"], "default");
    assert_eq!(json["name"], "stage");
    let path = context.display().to_string();
    let said = site.ctl(&["build", "--print", "targets", &path]);
    assert_eq!(
        said.out,
        "TARGET       DESCRIPTION\nfirst\nstage        the whole\n(default)\n"
    );
    // A named context takes the place of an image that is nowhere.
    let other = context.join("other");
    write(
        &other,
        &[("Dockerfile", "FROM nowhere.example/x\nARG A=1\n")],
    );
    let (named, other) = (
        format!("nowhere.example/x={path}"),
        other.display().to_string(),
    );
    let said = site.ctl(&["build", "--call=outline", "--build-context", &named, &other]);
    assert_eq!(
        said.out, "BUILD ARG   VALUE   DESCRIPTION\nA           1\n",
        "{}",
        said.err
    );
    let said = build(&site, "x", &["--call=outline", "--target=nothing"]);
    assert!(
        said.err
            .contains("target stage \"nothing\" could not be found"),
        "{}",
        said.err
    );
}
