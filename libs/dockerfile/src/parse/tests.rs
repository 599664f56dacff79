//! Instructions, by the reference's own examples and the rules of BuildKit's `instructions/parse.go`.

use super::*;

fn on(text: &str) -> Result<Instruction, String> {
    parse(text, &[], '\\')
}

#[test]
fn both_forms_of_commands() {
    assert_eq!(
        on("cmd [\"a\", \"b\"]"),
        Ok(Instruction::Cmd(Command::Exec(vec![
            "a".into(),
            "b".into()
        ])))
    );
    assert_eq!(
        on("CMD [a, b]"),
        Ok(Instruction::Cmd(Command::Shell("[a, b]".into())))
    );
    let Ok(Instruction::Run(run)) = on("RUN --network=none echo --x") else {
        panic!("a RUN was expected");
    };
    assert_eq!(
        (run.command, run.network),
        (Command::Shell("echo --x".into()), Some("none".into()))
    );
}

#[test]
fn copies() {
    let Ok(Instruction::Copy(copy)) = on("COPY --from=build --chown=1:2 --link a \"b c\" /d/")
    else {
        panic!("a COPY was expected");
    };
    assert_eq!(copy.sources, ["a", "\"b", "c\""]);
    assert_eq!(
        (copy.from.as_deref(), copy.chown.as_deref(), copy.link),
        (Some("build"), Some("1:2"), true)
    );
    let Ok(Instruction::Copy(copy)) = on("ADD [\"a b\", \"/c\"]") else {
        panic!("an ADD was expected");
    };
    assert!(copy.add);
    assert_eq!(copy.sources, ["a b"]);
}

#[test]
fn pairs_in_both_forms() {
    assert_eq!(
        on("ENV A=1 B=\"two words\""),
        Ok(Instruction::Env(vec![
            ("A".into(), "1".into()),
            ("B".into(), "\"two words\"".into())
        ]))
    );
    assert_eq!(
        on("ENV A b c"),
        Ok(Instruction::Env(vec![("A".into(), "b c".into())]))
    );
    assert_eq!(
        on("ARG X Y=2"),
        Ok(Instruction::Arg(vec![
            ("X".into(), None),
            ("Y".into(), Some("2".into()))
        ]))
    );
}

#[test]
fn health_checks() {
    let Ok(Instruction::Healthcheck(check)) =
        on("HEALTHCHECK --interval=1m30s --retries=3 CMD curl x")
    else {
        panic!("a HEALTHCHECK was expected");
    };
    assert_eq!((check.interval, check.retries), (90_000_000_000, 3));
    assert_eq!(check.command, Some(Command::Shell("curl x".into())));
}

#[test]
fn what_is_wrong_is_said() {
    for (text, part) in [
        ("FORM a", "did you mean FROM?"),
        ("GREETINGS", "one of ADD, ARG"),
        ("FROM a b", "one or three arguments"),
        ("FROM a AS 1", "invalid name for build stage"),
        (
            "COPY a",
            "at least two arguments, but only one was provided. Destination could not be determined",
        ),
        ("COPY", "at least two arguments"),
        ("RUN [1, 2]", "comprised of strings only"),
        ("RUN []", "the list is empty"),
        ("VOLUME [\"\"]", "can not be an empty string"),
        ("VOLUME []", "at least one argument"),
        ("SHELL []", "at least one argument"),
        ("ARG =x", "names can not be blank"),
        ("ENV =x", "names can not be blank"),
        ("WORKDIR", "exactly one argument"),
        ("EXPOSE", "at least one argument"),
        ("ONBUILD", "at least one argument"),
        ("ONBUILD onbuild RUN x", "Chaining ONBUILD"),
        ("ONBUILD MAINTAINER x", "isn't allowed"),
        ("ONBUILD RUNN x", "did you mean RUN?"),
        ("CMD --x y", "unknown flag: --x"),
        ("HEALTHCHECK NONE x", "takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command"),
        ("HEALTHCHECK CMD []", "Missing command"),
        ("HEALTHCHECK --retries=-1 CMD x", "cannot be negative"),
        ("HEALTHCHECK --timeout=1us CMD x", "cannot be less than 1ms"),
        (
            "HEALTHCHECK --timeout=1s --timeout=2s CMD x",
            "duplicate flag",
        ),
        ("RUN --network=x y", "invalid network mode"),
        ("COPY --frm=x a b", "unknown flag"),
        ("COPY --from a b", "missing a value"),
        ("ENV A", "two arguments"),
        ("ENV A=1 B", "can't find ="),
        ("SHELL sh", "JSON form"),
        ("ONBUILD FROM x", "isn't allowed"),
        ("HEALTHCHECK FOO", "unknown type"),
        ("HEALTHCHECK --interval=x CMD y", "invalid duration"),
    ] {
        let error = on(text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn any_line_is_parsed_or_refused(keyword in "(FROM|RUN|COPY|ENV|ARG|HEALTHCHECK|VOLUME)", rest in "[ -~]{0,60}") {
        let _ = on(&format!("{keyword} {rest}"));
    }
}

#[test]
fn commands_without_words_are_a_shells() {
    assert_eq!(
        on("CMD"),
        Ok(Instruction::Cmd(Command::Shell(String::new())))
    );
    assert_eq!(
        on("ENTRYPOINT []"),
        Ok(Instruction::Entrypoint(Command::Exec(vec![])))
    );
    // The second one is no JSON: single quotes.
    assert_eq!(
        on("CMD ['a']"),
        Ok(Instruction::Cmd(Command::Shell("['a']".into())))
    );
    assert_eq!(
        on("CMD [\"a\"] b"),
        Ok(Instruction::Cmd(Command::Shell("[\"a\"] b".into())))
    );
}

fn line(text: &str) -> Instruction {
    let lexed = crate::lex::lex(text).unwrap();
    parse(&lexed.lines[0].text, &lexed.lines[0].heredocs, '\\').unwrap()
}

#[test]
fn here_documents_of_run() {
    let run = |text: &str| match line(text) {
        Instruction::Run(run) => run,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        run("RUN <<E\na\nb\nE").command,
        Command::Shell("a\nb\n".into())
    );
    assert_eq!(
        run("RUN <<-\"E\"\n\ta\n\tE").command,
        Command::Shell("a\n".into())
    );
    assert_eq!(
        run("RUN cat <<A <<-B\n1\nA\n\t2\n\tB").command,
        Command::Shell("cat <<A <<-B\n1\nA\n\t2\nB".into())
    );
    let script = run("RUN <<go\n#!/usr/bin/env python\nprint(1)\ngo");
    assert_eq!(script.command, Command::Shell("/dev/pipes/go".into()));
    assert_eq!(
        script.script.unwrap().content,
        "#!/usr/bin/env python\nprint(1)\n"
    );
}

#[test]
fn here_documents_of_copy() {
    let Instruction::Copy(copy) = line("COPY --chmod=755 <<A file <<-'B' /d/\n$x\nA\n\t$y\nB")
    else {
        panic!("a COPY was expected");
    };
    assert_eq!(copy.sources, ["file"]);
    let contents: Vec<_> = copy
        .contents
        .iter()
        .map(|c| (c.name.as_str(), c.body.as_str(), c.expand))
        .collect();
    assert_eq!(contents, [("A", "$x\n", true), ("B", "$y\n", false)]);
}

#[test]
fn triggers_come_whole() {
    let Instruction::OnBuild(text) = line("ONBUILD RUN cat <<A\nx\nA\n") else {
        panic!("an ONBUILD was expected");
    };
    assert_eq!(text, "RUN cat <<A\nx\nA");
    let (shown, instruction) = trigger(&text).unwrap();
    assert_eq!(shown, "RUN cat <<A");
    let Instruction::Run(run) = instruction else {
        panic!("a RUN was expected");
    };
    assert_eq!(run.command, Command::Shell("cat <<A\nx\nA".into()));
    for (text, part) in [
        ("FROM x", "isn't allowed"),
        ("RUN a\nRUN b", "single expression"),
        ("", "single expression"),
        ("RUNN x", "did you mean RUN?"),
    ] {
        assert!(trigger(text).unwrap_err().contains(part), "{text}");
    }
}
