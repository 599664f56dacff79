//! Each rule by the examples of its page in docker's documentation.

use std::collections::BTreeMap;

use super::{
    stage::{StageLint, Surroundings},
    *,
};
use crate::Dockerfile;

fn found(text: &str) -> Vec<String> {
    let file = Dockerfile::parse("Dockerfile", text.as_bytes()).unwrap();
    let config = Config::parse(&file.check.clone().unwrap_or_default().0).unwrap();
    let config = config.with_comments(&file);
    let mut findings = Findings::new(config);
    file::check(&file, &mut findings);
    let predefined = BTreeMap::from([("TARGETPLATFORM".to_owned(), "linux/amd64".to_owned())]);
    let mut values = predefined.clone();
    values.insert("VERSION".to_owned(), "1".to_owned());
    let globals = froms::Globals {
        predefined: &predefined,
        values: &values,
        is_image: &|name| !name.is_empty() && !name.ends_with(':'),
        platform: &|text| {
            let (os, architecture) = text.split_once('/')?;
            Some((os.to_owned(), architecture.to_owned()))
        },
    };
    froms::check(&file, &globals, &mut findings);
    for stage in &file.stages {
        let mut lint = StageLint::default();
        for located in &stage.instructions {
            let around = Surroundings {
                lookup: &|name| (name == "PATH").then(|| "/bin".to_owned()),
                names: &|| vec!["PATH".to_owned()],
                declares: &|name| name == "DECLARED",
                given: &|_| false,
                own_shell: false,
                ignored: &|path| path == "ignored",
            };
            lint.see(located, &around, file.escape, &mut findings);
        }
    }
    let line = |w: Warning| format!("{} {}: {}", w.place.first, w.rule.name, w.message);
    findings.take().into_iter().map(line).collect()
}

#[test]
fn rules_find_what_their_pages_show() {
    for (text, expected) in [
        (
            "FROM a AS Build",
            "1 StageNameCasing: Stage name 'Build' should be lowercase",
        ),
        (
            "FROM a as b",
            "1 FromAsCasing: 'as' and 'FROM' keywords' casing do not match",
        ),
        (
            "from a AS b",
            "1 FromAsCasing: 'AS' and 'from' keywords' casing do not match",
        ),
        (
            "FROM a\nRUN x && \\\n\n y",
            "4 NoEmptyContinuation: Empty continuation line",
        ),
        (
            "FROM a\nrun b",
            "2 ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase)",
        ),
        (
            "from a\nrun b\nRun c",
            "3 ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (lowercase)",
        ),
        (
            "FROM a AS b\nFROM a AS B",
            "2 StageNameCasing: Stage name 'B' should be lowercase|2 DuplicateStageName: Duplicate stage name \"b\", stage names should be unique",
        ),
        (
            "FROM a AS scratch",
            "1 ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\"",
        ),
        (
            "FROM a\nCMD x",
            "2 JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
        ),
        ("FROM a\nENTRYPOINT [\"x\"]", ""),
        (
            "FROM a\nMAINTAINER x",
            "2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label",
        ),
        (
            "FROM a:$VERSIO",
            "1 UndefinedArgInFrom: FROM argument 'VERSIO' is not declared (did you mean VERSION?)|1 InvalidDefaultArgInFrom: Default value for ARG a:$VERSIO results in empty or invalid base image name",
        ),
        (
            "ARG V\nFROM a:$V",
            "2 InvalidDefaultArgInFrom: Default value for ARG a:$V results in empty or invalid base image name",
        ),
        ("ARG V=1\nFROM a:$V", ""),
        (
            "FROM a\nWORKDIR app\nWORKDIR lib",
            "2 WorkdirRelativePath: Relative workdir \"app\" can have unexpected results if the base image changes",
        ),
        (
            "FROM a\nCOPY $foo .",
            "2 UndefinedVar: Usage of undefined variable '$foo'",
        ),
        (
            "FROM a\nENV P=$PAHT:/x",
            "2 UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?)",
        ),
        ("FROM a\nUSER $DECLARED", ""),
        (
            "FROM a\nCMD [\"x\"]\nCMD [\"y\"]",
            "2 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used",
        ),
        (
            "FROM a\nLABEL a b",
            "2 LegacyKeyValueFormat: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
        ),
        (
            "FROM --platform=$TARGETPLATFORM a",
            "1 RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        ),
        (
            "FROM a\nARG AWS_SECRET_ACCESS_KEY",
            "2 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"AWS_SECRET_ACCESS_KEY\")",
        ),
        ("FROM a\nENV PUBLIC_KEY=1 KEYS=2 PASSWORD_FILE=3", ""),
        (
            "FROM --platform=linux/arm64 a AS b",
            "1 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/arm64\"",
        ),
        ("FROM --platform=linux/arm64 a AS build_arm64", ""),
        ("FROM a\nCOPY ignored /", ""),
        (
            "# check=experimental=CopyIgnoredFile\nFROM a\nADD ignored /",
            "3 CopyIgnoredFile: Attempting to Add file \"ignored\" that is excluded by .dockerignore",
        ),
        (
            "# check=experimental=all\n# bar this is the bar\nARG foo=bar\nFROM a",
            "3 InvalidDefinitionDescription: Comment for ARG should follow the format: `# foo <description>`",
        ),
        (
            "# check=experimental=all\n# b is the stage\nFROM a AS b\n# far\n\nARG x",
            "",
        ),
        (
            "FROM a\nEXPOSE 80/TcP",
            "2 ExposeProtoCasing: Defined protocol '80/TcP' in EXPOSE instruction should be lowercase",
        ),
        (
            "FROM a\nEXPOSE 127.0.0.1:80:80",
            "2 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
        ),
        (
            "# check=skip=StageNameCasing, FromAsCasing\nFROM a as B",
            "",
        ),
        ("# check=skip=all\nfrom a AS B\nMaintainer x", ""),
    ] {
        assert_eq!(found(text).join("|"), expected, "{text}");
    }
}

#[test]
fn configurations() {
    assert!(Config::parse("error=true;skip=A").unwrap().error);
    for text in ["skip", "x=y", "error=maybe"] {
        assert!(Config::parse(text).is_err(), "{text}");
    }
    assert_eq!(
        rules::JSON_ARGS_RECOMMENDED.url(),
        "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    );
    assert_eq!(
        rules::FROM_AS_CASING.url(),
        "https://docs.docker.com/go/dockerfile/rule/from-as-casing/"
    );
}

#[test]
fn a_comment_above_an_instruction_is_for_that_one() {
    let text = "FROM a\n# check=skip=MaintainerDeprecated\nMAINTAINER x\nMAINTAINER y\n\
                # why\n# Check = skip=SecretsUsedInArgOrEnv,JSONArgsRecommended\nENV TOKEN=1\nARG PSW\n\
                # check=skip=all\n\nCMD x\n# check=nonsense\nENTRYPOINT x\n";
    let all = found(text);
    let of = |rule: &str| all.iter().filter(|f| f.contains(rule)).count();
    assert_eq!(of("Maintainer instruction"), 1, "{all:#?}");
    assert_eq!(of("sensitive data"), 1, "{all:#?}");
    assert_eq!(of("JSON arguments"), 2, "{all:#?}");
    let file = Dockerfile::parse("D", b"# check=skip=all\n# a x\nFROM a AS a\n").unwrap();
    assert_eq!(file.stages[0].around.comments, ["a x"]);
}
