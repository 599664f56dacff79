//! Compiled languages: tools in one stage, the program alone in the last.

use super::{build, site};

const C: &str = r#"# syntax=docker/dockerfile:1
ARG DEBIAN=bookworm
FROM debian:${DEBIAN} AS build
RUN --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    --mount=type=cache,target=/var/cache/apt,sharing=locked \
    apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make
WORKDIR /src
COPY Makefile *.c ./
ARG VERSION=dev
RUN make CFLAGS="-O2 -static -DVERSION='\"${VERSION}\"'"

FROM build AS test
RUN ./hello | grep -q "hello from"

FROM scratch
COPY --from=build --chown=65532:65532 --chmod=0555 /src/hello /hello
USER 65532
ENTRYPOINT ["/hello"]
CMD ["nobody"]
"#;

const MAKEFILE: &str = "hello: hello.c\n\t$(CC) $(CFLAGS) -o $@ $<\n";

const HELLO: &str = r#"#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    printf("hello from %s to %s as %d\n", VERSION, argc > 1 ? argv[1] : "?", (int)getuid());
    return 0;
}
"#;

#[tokio::test]
async fn a_c_program_stands_alone() {
    let files = [
        ("Dockerfile", C),
        ("Makefile", MAKEFILE),
        ("hello.c", HELLO),
        (".dockerignore", "*\n!Makefile\n!*.c\n"),
        ("secret.key", "not sent\n"),
    ];
    let Some((site, _upstream)) = site(&files).await else {
        return;
    };
    let said = build(&site, &["--build-arg", "VERSION=1.2"]);
    assert!(
        !said.err.contains("grep -q"),
        "the unused stage is not built"
    );
    let run = |words: &[&str]| {
        let mut all = vec!["run", "--rm", "app"];
        all.extend(words);
        site.ctl(&all).ok()
    };
    assert_eq!(run(&[]), "hello from 1.2 to nobody as 65532\n");
    assert_eq!(run(&["you"]), "hello from 1.2 to you as 65532\n");
    // One layer, and nothing but the program in it.
    let layers = ["image", "inspect", "-f", "{{len .RootFS.Layers}}", "app"];
    assert_eq!(site.ctl(&layers).ok(), "1\n");
    build(&site, &["--target", "test"]);
}

const RUST: &str = r#"FROM debian:bookworm AS chef
RUN apt-get update && apt-get install -y --no-install-recommends rustc libc6-dev gcc && rm -rf /var/lib/apt/lists/*
WORKDIR /app

FROM chef AS build
COPY src src
RUN mkdir out && rustc --edition 2021 -C opt-level=1 -o out/count src/main.rs

FROM debian:bookworm
RUN useradd --system --uid 10001 app
COPY --from=build /app/out/count /usr/local/bin/
USER app
HEALTHCHECK --interval=1s CMD ["count", "health"]
ENTRYPOINT ["count"]
"#;

const COUNT: &str = r#"fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!("{} words: {}", words.len(), words.join(" "));
}
"#;

#[tokio::test]
async fn a_rust_program_is_built_in_stages() {
    let files = [("Dockerfile", RUST), ("src/main.rs", COUNT)];
    let Some((site, _upstream)) = site(&files).await else {
        return;
    };
    build(&site, &[]);
    let run = ["run", "--rm", "app", "a", "b"];
    assert_eq!(site.ctl(&run).ok(), "2 words: a b\n");
    let id = ["run", "--rm", "--entrypoint", "id", "app", "-un"];
    assert_eq!(site.ctl(&id).ok(), "app\n");
    // Another source: the tools are not installed again.
    super::write(
        &site.path("project"),
        &[("src/main.rs", "fn main() { println!(\"new\") }\n")],
    );
    let said = build(&site, &[]);
    let cached = said.err.lines().filter(|l| l.ends_with("CACHED")).count();
    assert!(cached >= 3, "{}", said.err);
    assert_eq!(site.ctl(&["run", "--rm", "app"]).ok(), "new\n");
}
