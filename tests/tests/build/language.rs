//! The language: what its forms do in a build.

use slipway_tests::ready;

use crate::{build, built, shell, site, write};

const HEREDOCS: &str = r#"FROM busybox
ARG WHO=world
COPY --chmod=751 <<-RUN.sh <<"PLAIN" kept /docs/
	#!/bin/sh
	echo hello $WHO \$1
	RUN.sh
it's $WHO
PLAIN
RUN <<A cat > /both && cat >> /both <<B
first
A
second $WHO
B
RUN ["/bin/sh", "-c", "echo <<EOF"]
SHELL ["/bin/sh", "-ec"]
RUN <<EOF
false || echo "$WHO" > /who
EOF
ENV A=1
ENV A=2 B=$A
ARG A=3
RUN echo "$A $B" > /ab
STOPSIGNAL sigint
ENTRYPOINT []
CMD echo bare
"#;

#[tokio::test]
async fn documents_variables_and_shells() {
    if !ready() {
        return;
    }
    let site = site().await;
    write(
        &site.path("context"),
        &[("Dockerfile", HEREDOCS), ("kept", "x")],
    );
    built(&site, "h", &["--build-arg", "WHO=you"]);
    assert_eq!(
        shell(&site, "h", "cd /docs; ls; cat RUN.sh PLAIN; ./RUN.sh"),
        "PLAIN\nRUN.sh\nkept\n#!/bin/sh\necho hello you $1\nit's $WHO\nhello you\n"
    );
    assert_eq!(
        shell(&site, "h", "cat /both /who /ab"),
        "first\nsecond you\nyou\n3 1\n"
    );
    assert_eq!(site.ctl(&["run", "--rm", "h"]).ok(), "bare\n");
}

const BASE: &str = "FROM busybox\nONBUILD ARG GIVEN\nONBUILD RUN <<EOF\necho \"trigger $GIVEN\" > /made\nEOF\nONBUILD COPY --from=files /f /f\n";
const USER: &str = "FROM busybox AS files\nRUN echo f > /f\nFROM base\nCOPY --from=files /f /g\nRUN cat /made /f /g > /all\n";

#[tokio::test]
async fn triggers_of_a_base() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(&context, &[("Dockerfile", BASE)]);
    built(&site, "base", &[]);
    write(&context, &[("Dockerfile", USER)]);
    let said = built(&site, "user", &["--build-arg", "GIVEN=x"]);
    assert!(said.err.contains("ONBUILD RUN <<EOF"), "{}", said.err);
    assert_eq!(shell(&site, "user", "cat /all"), "trigger x\nf\nf\n");
    let inspected: serde_json::Value =
        serde_json::from_str(&site.ctl(&["inspect", "user"]).out).unwrap();
    assert!(
        inspected[0]["Config"]["OnBuild"]
            .as_array()
            .is_none_or(Vec::is_empty)
    );
    // Without them there is nothing to copy.
    let without = ["--build-arg", "BUILDKIT_DISABLE_ONBUILD=1"];
    let said = build(&site, "user", &without);
    assert!(!said.err.contains("ONBUILD"), "{}", said.err);
    assert!(said.err.contains("can't open '/made'"), "{}", said.err);
}
