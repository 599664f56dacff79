//! COPY: links, owners, layers that repeat.

use std::fs;

use slipway_tests::ready;

use crate::{built, shell, site, write};

const AWKWARD: &str = r#"FROM busybox AS first
ARG INHERITED=yes
RUN mkdir /real && ln -s /real /link && ln -s /real/sub /sub && mkdir /real/sub
COPY tree /
COPY private /private
COPY --chown=${NONE:-7} one /owned
USER 1000
WORKDIR /home/of/user
FROM first
USER 0
COPY one /a
COPY two /a
COPY one /a
COPY --from=first /sub /copied
RUN echo $INHERITED > /inherited
"#;

#[tokio::test]
async fn links_owners_and_repeated_layers() {
    if !ready() {
        return;
    }
    let site = site().await;
    let context = site.path("context");
    write(
        &context,
        &[
            ("Dockerfile", AWKWARD),
            ("tree/link/file", "through the link"),
            ("tree/sub/deep", "deeper"),
            ("private/x", ""),
            ("one", "1"),
            ("two", "2"),
        ],
    );
    let mode = |name: &str, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(context.join(name), permissions).unwrap();
    };
    mode("tree/link", 0o777);
    mode("private", 0o700);
    built(&site, "awkward", &[]);
    let listing = "cat /real/file /real/sub/deep /copied/deep /a /inherited";
    let out = shell(&site, "awkward", listing);
    assert!(
        out.starts_with("through the linkdeeperdeeper1yes\n"),
        "{out}"
    );
    let owner = |path: &str| {
        let script = format!("ls -lnd {path}");
        let line = shell(&site, "awkward", &script);
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {} {}", words[0], words[2], words[3])
    };
    assert_eq!(
        owner("/real"),
        "drwxrwxrwx 0 0",
        "the folder that the link leads to"
    );
    assert!(owner("/link").starts_with('l'));
    assert_eq!(
        owner("/private"),
        "drwxr-xr-x 0 0",
        "a target that the copy makes has no mode of its source, as with BuildKit"
    );
    assert_eq!(owner("/owned"), "-rw-r--r-- 7 7");
    assert_eq!(owner("/home/of/user"), "drwxr-xr-x 1000 1000");
}
