//! A database in the manner of the official images: an entrypoint script that makes the data folder at the
//! first start, gives its privileges away, and becomes the server.

use super::{build, site};
use slipway_tests::{eventually, eventually_within};

const DOCKERFILE: &str = r#"FROM debian:bookworm
RUN set -eux; \
    groupadd -r postgres --gid=999; \
    useradd -r -g postgres --uid=999 --home-dir=/var/lib/postgresql --shell=/bin/bash postgres; \
    install --verbose --directory --owner postgres --group postgres --mode 1777 /var/lib/postgresql
ENV PG_MAJOR=15
ENV PATH=$PATH:/usr/lib/postgresql/$PG_MAJOR/bin PGDATA=/var/lib/postgresql/data
RUN set -ex; \
    apt-get update; \
    mkdir -p /etc/postgresql-common; \
    echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-$PG_MAJOR; \
    rm -rf /var/lib/apt/lists/*; \
    postgres --version
RUN mkdir /docker-entrypoint-initdb.d; \
    install --directory --owner postgres --group postgres --mode 3777 /var/run/postgresql "$PGDATA"
VOLUME /var/lib/postgresql/data
COPY --chmod=755 docker-entrypoint.sh /usr/local/bin/
COPY init/ /docker-entrypoint-initdb.d/
ENTRYPOINT ["docker-entrypoint.sh"]
STOPSIGNAL SIGINT
EXPOSE 5432
HEALTHCHECK --interval=1s --retries=60 CMD pg_isready -U postgres
CMD ["postgres"]
"#;

const ENTRYPOINT: &str = r#"#!/usr/bin/env bash
set -Eeo pipefail
if [ "$1" = postgres ] && [ "$(id -u)" = 0 ]; then
    chown postgres "$PGDATA"
    chmod 700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$BASH_SOURCE" "$@"
fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username=postgres --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") --no-sync >/dev/null
    pg_ctl -D "$PGDATA" -o "-c listen_addresses=" -w start >/dev/null
    for file in /docker-entrypoint-initdb.d/*.sql; do psql -v ON_ERROR_STOP=1 -U postgres -f "$file"; done
    pg_ctl -D "$PGDATA" -m fast -w stop >/dev/null
    echo "init process complete"
fi
exec "$@"
"#;

const INIT: &str = "CREATE TABLE ships (name text);\nINSERT INTO ships VALUES ('Fram');\n";

#[tokio::test]
async fn a_database_keeps_its_data() {
    let files = [
        ("Dockerfile", DOCKERFILE),
        ("docker-entrypoint.sh", ENTRYPOINT),
        ("init/01.sql", INIT),
    ];
    let Some((site, _upstream)) = site(&files).await else {
        return;
    };
    build(&site, &[]);
    let run = |name: &str| {
        let secret = "POSTGRES_PASSWORD=secret";
        let volume = "data:/var/lib/postgresql/data";
        let words = [
            "run", "-d", "--name", name, "-e", secret, "-v", volume, "app",
        ];
        site.ctl(&words).ok();
    };
    let healthy = async |name: &str| {
        let patience = std::time::Duration::from_secs(60);
        let status = ["inspect", "-f", "{{.State.Health.Status}}", name];
        eventually_within(patience, "the database is healthy", async || {
            (site.ctl(&status).out == "healthy\n").then_some(())
        })
        .await;
    };
    let query = |name: &str, sql: &str| {
        site.ctl(&["exec", "-u", "postgres", name, "psql", "-Atc", sql])
            .ok()
    };
    run("first");
    healthy("first").await;
    // The server that the first start fills the database with answers, too, and ends: it is the next one's turn.
    eventually("the database is there to stay", async || {
        let said = site.ctl(&["logs", "first"]).out;
        let asked = [
            "exec", "-u", "postgres", "first", "psql", "-Atc", "SELECT 1",
        ];
        (said.contains("init process complete") && site.ctl(&asked).code == 0).then_some(())
    })
    .await;
    assert_eq!(query("first", "SELECT name FROM ships"), "Fram\n");
    query("first", "INSERT INTO ships VALUES ('Gjoa')");
    site.ctl(&["stop", "first"]).ok();
    let code = ["inspect", "-f", "{{.State.ExitCode}}", "first"];
    assert_eq!(site.ctl(&code).ok(), "0\n");
    // Another container upon the same volume goes on where that one ended.
    run("second");
    healthy("second").await;
    assert_eq!(query("second", "SELECT count(*) FROM ships"), "2\n");
    let logs = site.ctl(&["logs", "second"]).out;
    assert!(!logs.contains("init process"), "{logs}");
    site.ctl(&["rm", "-f", "first", "second"]).ok();
}
