use super::*;
use slipway_dockerfile::parse::parse;

fn state() -> StageState {
    StageState::new(ImageConfig::default(), Inherited::default(), '\\')
}

fn read(state: &mut StageState, lines: &str) -> Vec<(Action, String)> {
    let given = Given {
        build_args: [("B", "given"), ("HTTP_PROXY", "p")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        global: [("G".to_owned(), "global".to_owned())].into(),
    };
    lines
        .lines()
        .map(|line| {
            state
                .read(&parse(line, &[], '\\').unwrap(), &given)
                .unwrap()
        })
        .collect()
}

#[test]
fn no_password_of_a_url_is_shown() {
    let text = "ADD https://me:word@h/x /d/";
    let instruction = parse(text, &[], '\\').unwrap();
    assert_eq!(
        state().shown(text, &instruction),
        "ADD https://xxxxx:xxxxx@h/x /d/"
    );
}

#[test]
fn the_config_is_dockers() {
    let mut state = state();
    let done = read(
        &mut state,
        "ENV A=1 B2=\"two words\"\nENV A=x$A C=$B2\nLABEL l=$C\nEXPOSE 80 8000-8001/udp\nUSER node\n\
         VOLUME /data\nCMD [\"a\"]\nENTRYPOINT run it\nSTOPSIGNAL SIGINT\nWORKDIR app\nWORKDIR ../b/./c",
    );
    let config = &state.config.config;
    assert_eq!(config.env[1..], ["A=x1", "B2=two words", "C=two words"]);
    assert_eq!(config.labels["l"], "two words");
    assert_eq!(
        config.exposed_ports.keys().collect::<Vec<_>>(),
        ["80/tcp", "8000/udp", "8001/udp"]
    );
    assert_eq!(config.cmd, Some(vec!["a".to_owned()]));
    assert_eq!(config.entrypoint.as_ref().unwrap()[2], "run it");
    assert_eq!(config.working_dir, "/b/c");
    let (path, user) = ("/app".to_owned(), "node".to_owned());
    assert_eq!(done[9].0, Action::MakeFolder { path, user });
    assert_eq!(done[6].1, "CMD [\"a\"]");
}

#[test]
fn a_workdir_is_told_as_it_is_written() {
    let mut state = state();
    let done = read(&mut state, "WORKDIR /a//b/\nRUN x\nWORKDIR c/");
    let path = "/a/b".to_owned();
    let user = String::new();
    assert_eq!(done[0].0, Action::MakeFolder { path, user });
    assert_eq!(done[0].1, "WORKDIR /a//b/");
    assert!(matches!(&done[1].0, Action::Run(run) if run.working_dir == "/a/b"));
    assert_eq!(state.config.config.working_dir, "/a/b/c");
}

#[test]
fn an_env_counts_again_in_the_next_stage() {
    let mut state = state();
    read(&mut state, "ENV A=env\nARG A=later\nARG C=kept");
    assert_eq!(state.lookup("A").as_deref(), Some("later"));
    let (config, inherited) = state.finish();
    let next = StageState::new(config, inherited, '\\');
    assert_eq!(next.lookup("A").as_deref(), Some("env"));
    assert_eq!(next.lookup("C").as_deref(), Some("kept"));
}

#[test]
fn an_entrypoint_drops_the_bases_cmd_only() {
    let mut base = ImageConfig::default();
    base.config.cmd = Some(vec!["base".to_owned()]);
    let mut state = StageState::new(base, Inherited::default(), '\\');
    read(&mut state, "ENTRYPOINT [\"x\"]");
    assert_eq!(state.config.config.cmd, None);
}

#[test]
fn arguments_reach_runs_and_not_the_config() {
    let mut state = state();
    let done = read(
        &mut state,
        "ARG B=default\nARG G\nARG D=d$B\nENV D=env\nRUN x",
    );
    let Action::Run(run) = &done[4].0 else {
        panic!("a RUN was expected");
    };
    assert_eq!(run.env[1..], ["B=given", "G=global", "D=env"]);
    assert_eq!(run.hidden_env, ["HTTP_PROXY=p", "http_proxy=p"]);
    assert_eq!(run.args, ["/bin/sh", "-c", "x"]);
    assert_eq!(done[4].1, "RUN |3 B=given G=global D=env /bin/sh -c x");
    assert_eq!(state.config.config.env.len(), 2);
}

#[test]
fn a_config_has_an_end() {
    let mut state = state();
    let given = Given::default();
    let ports = format!("EXPOSE{}", " 1-65535".repeat(4));
    assert!(
        state
            .read(&parse(&ports, &[], '\\').unwrap(), &given)
            .is_err()
    );
    let mut grew = Ok(());
    for i in 0..100 {
        let line = format!("ENV V{i}={}", "x".repeat(100_000));
        grew = state
            .read(&parse(&line, &[], '\\').unwrap(), &given)
            .map(drop);
        if grew.is_err() {
            break;
        }
    }
    assert!(grew.unwrap_err().contains("larger than 2048 KiB"));
}

#[test]
fn copies_know_where_they_go() {
    let mut state = state();
    let done = read(
        &mut state,
        "WORKDIR /app\nCOPY a .\nCOPY a b/\nCOPY a /x\nCOPY --chmod=750 --chown=$B:1 a b c/",
    );
    let copies: Vec<_> = done
        .iter()
        .filter_map(|(a, _)| match a {
            Action::Copy(copy) => Some(copy.destination.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(copies, ["/app/", "/app/b/", "/x", "/app/c/"]);
    for line in [
        "COPY --chmod=u+q a b",
        "STOPSIGNAL x",
        "VOLUME $NONE",
        "EXPOSE a",
        "EXPOSE 1/x",
    ] {
        let instruction = parse(line, &[], '\\').unwrap();
        assert!(
            state.read(&instruction, &Given::default()).is_err(),
            "{line}"
        );
    }
}
