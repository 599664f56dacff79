//! Python with pip: a virtual environment made in one stage and copied, with pip's cache kept.

use super::{build, site};
use slipway_tests::eventually;

const DOCKERFILE: &str = r#"FROM debian:bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH="/venv/bin:$PATH"
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
COPY certificates.crt /usr/local/share/ca.crt
ENV PIP_CERT=/usr/local/share/ca.crt
RUN python3 -m venv /venv
COPY requirements.txt .
RUN --mount=type=cache,target=/root/.cache/pip pip install --quiet -r requirements.txt

FROM base
WORKDIR /srv/app
RUN groupadd -r web && useradd -r -g web web
COPY --from=build /venv /venv
COPY --chown=web:web app/ .
USER web
EXPOSE 8000
VOLUME /srv/data
STOPSIGNAL SIGINT
CMD ["python3", "server.py"]
"#;

const SERVER: &str = r#"import http.server, itsdangerous, getpass
signer = itsdangerous.Signer("key")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = signer.unsign(signer.sign(self.path)) + b" for " + getpass.getuser().encode() + b"\n"
        self.send_response(200); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): print("asked", self.path)
try:
    http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
except KeyboardInterrupt:
    print("interrupted")
"#;

#[tokio::test]
async fn a_python_application_is_built_and_served() {
    let certificates =
        std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    let files = [
        ("Dockerfile", DOCKERFILE),
        ("requirements.txt", "itsdangerous==2.2.0\n"),
        ("app/server.py", SERVER),
        ("app/__pycache__/old.pyc", "left out\n"),
        (".dockerignore", "**/__pycache__\n"),
        ("certificates.crt", &certificates),
    ];
    let Some((site, _upstream)) = site(&files).await else {
        return;
    };
    let mut options = Vec::new();
    let index = std::env::var("PIP_INDEX_URL").map(|url| format!("PIP_INDEX_URL={url}"));
    if let Ok(index) = &index {
        options.extend(["--build-arg", index]);
    }
    build(&site, &options);
    site.ctl(&["run", "-d", "--name", "web", "-p", "8000:8000", "app"])
        .ok();
    let page = eventually("the page comes", async || {
        site.fetch("http://127.0.0.1:8000/page")
    })
    .await;
    assert_eq!(page, "/page for web\n");
    let left = [
        "exec",
        "web",
        "sh",
        "-c",
        "ls; ls -ld server.py | cut -d' ' -f3",
    ];
    assert_eq!(site.ctl(&left).ok(), "server.py\nweb\n");
    site.ctl(&["stop", "web"]).ok();
    let logs = site.ctl(&["logs", "web"]).ok();
    assert!(logs.ends_with("interrupted\n"), "{logs}");
}
