//! A static site: made in one stage by a script in the Dockerfile itself, served by nginx in the last.

use super::{build, site};
use slipway_tests::eventually;

const DOCKERFILE: &str = r#"# syntax=docker/dockerfile:1
FROM debian:bookworm AS pages
WORKDIR /pages
COPY content/*.md ./
ARG TITLE="A site"
RUN <<EOF
set -e
for page in *.md; do
  { echo "<title>$TITLE</title>"; sed 's/^# \(.*\)/<h1>\1<\/h1>/' "$page"; } > "${page%.md}.html"
  rm "$page"
done
EOF

FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends nginx-light && rm -rf /var/lib/apt/lists/* \
 && ln -sf /dev/stdout /var/log/nginx/access.log && ln -sf /dev/stderr /var/log/nginx/error.log
COPY <<EOF /etc/nginx/conf.d/site.conf
server {
    listen 8080;
    root /usr/share/site;
    location / { try_files \$uri \$uri.html =404; }
}
EOF
COPY --from=pages /pages /usr/share/site
LABEL org.opencontainers.image.title="$TITLE"
EXPOSE 8080
CMD ["nginx", "-g", "daemon off;"]
"#;

#[tokio::test]
async fn a_static_site_is_made_and_served() {
    let files = [
        ("Dockerfile", DOCKERFILE),
        ("content/index.md", "# Welcome\ntext\n"),
        ("content/about.md", "# About\n"),
    ];
    let Some((site, _upstream)) = site(&files).await else {
        return;
    };
    build(&site, &["--build-arg", "TITLE=Harbour"]);
    site.ctl(&["run", "-d", "--name", "web", "-p", "8080:8080", "app"])
        .ok();
    let page = eventually("the page comes", async || {
        site.fetch("http://127.0.0.1:8080/about")
    })
    .await;
    assert_eq!(page, "<title>Harbour</title>\n<h1>About</h1>\n");
    let logs = eventually("the request is in the log", async || {
        let logs = site.ctl(&["logs", "web"]).out;
        logs.contains("GET /about").then_some(logs)
    })
    .await;
    assert!(logs.contains("200"), "{logs}");
    site.ctl(&["rm", "-f", "web"]).ok();
}
