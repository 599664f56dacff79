//! Services that are reached by mutual TLS only, and people with certificates of `ctl pki`, good and bad.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use slipway_tests::{Said, Site, ctl::signal, eventually, image, installed, ready, site::SERVICES};

/// Where the services are, beside their sockets, which the harness itself uses.
const PORTS: [(&str, u16); 4] = [
    ("registry", 7010),
    ("netd", 7011),
    ("runtime", 7012),
    ("builder", 7013),
];

fn pki(site: &Site, arguments: &[&str]) -> Said {
    site.ctl(&[&["pki"], arguments].concat())
}

fn file(site: &Site, name: &str) -> String {
    site.path("xdg/slipway/pki")
        .join(name)
        .display()
        .to_string()
}

/// The settings of a service, all of whose calls to others go by TLS, too.
fn settings(site: &Site, service: &str, port: u16) -> String {
    let [cert, key, ca, crl] =
        ["certs/host.pem", "certs/host.key", "ca.pem", "crl.pem"].map(|name| file(site, name));
    let tls = format!("{{ cert = {cert:?}, key = {key:?}, ca = {ca:?}, crl = {crl:?} }}");
    let mut text = match service {
        "runtime" => format!(
            "registry = \"tcp://127.0.0.1:7010\"\nregistry_tls = {tls}\nnetd = \"tcp://127.0.0.1:7011\"\nnetd_tls = {tls}\n"
        ),
        "builder" => format!(
            "registry = \"tcp://127.0.0.1:7010\"\nregistry_tls = {tls}\n[[workers]]\naddress = \"tcp://127.0.0.1:7012\"\ntls_cert = {cert:?}\ntls_key = {key:?}\ntls_ca = {ca:?}\ntls_crl = {crl:?}\n"
        ),
        _ => String::new(),
    };
    text += &format!(
        "[service]\nlisten = [\"tcp://127.0.0.1:{port}\"]\ntls_cert = {cert:?}\ntls_key = {key:?}\ntls_client_ca = {ca:?}\ntls_crl = {crl:?}\n"
    );
    text
}

/// A context of somebody's own.
fn context(site: &Site, name: &str, host: &str, tls: Option<[String; 3]>) {
    let addresses =
        PORTS.map(|(service, port)| [format!("--{service}"), format!("tcp://{host}:{port}")]);
    let mut words = vec!["context", "create", name];
    words.extend(addresses.iter().flatten().map(String::as_str));
    let shown = tls.unwrap_or_default();
    if !shown[0].is_empty() {
        let flags = ["--ca", "--cert", "--key"].iter().zip(&shown);
        words.extend(flags.flat_map(|(flag, path)| [*flag, path.as_str()]));
    }
    site.ctl(&words).ok();
}

fn shown(site: &Site, name: &str) -> Option<[String; 3]> {
    let [cert, key] = ["pem", "key"].map(|ending| file(site, &format!("certs/{name}.{ending}")));
    Some([file(site, "ca.pem"), cert, key])
}

fn issue(site: &Site, name: &str, role: &str) {
    pki(site, &["issue", name, "--role", role]).ok();
    context(site, name, "127.0.0.1", shown(site, name));
}

fn by(site: &Site, who: &str, arguments: &[&str]) -> Said {
    site.ctl(&[&["--context", who], arguments].concat())
}

async fn site() -> Option<Site> {
    if !ready() {
        return None;
    }
    let mut site = Site::bare();
    pki(&site, &["init"]).ok();
    pki(
        &site,
        &["issue", "host", "--host", "127.0.0.1", "--role", "operate"],
    )
    .ok();
    for (service, port) in PORTS {
        site.configure(&format!("{service}.toml"), &settings(&site, service, port));
    }
    for service in SERVICES {
        site.start_service(service).await;
    }
    image::busybox(&site).await;
    issue(&site, "alice", "operate");
    Some(site)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_by_tls_and_everybody_may_what_stands_in_his_certificate() {
    let Some(site) = site().await else {
        return;
    };
    let said = by(
        &site,
        "alice",
        &[
            "run", "--name", "one", "-p", "8080:80", "busybox", "echo", "hello",
        ],
    );
    assert_eq!(said.ok(), "hello\n");
    assert_eq!(by(&site, "alice", &["ps", "-aq"]).ok().lines().count(), 1);
    fs::create_dir(site.path("context")).unwrap();
    let dockerfile = "FROM busybox\nCOPY file /copied\nRUN cat /copied > /made\n";
    fs::write(site.path("context/Dockerfile"), dockerfile).unwrap();
    fs::write(site.path("context/file"), "content").unwrap();
    let folder = site.path("context").display().to_string();
    by(&site, "alice", &["build", "-t", "app", &folder]).ok();
    assert_eq!(
        by(&site, "alice", &["run", "--rm", "app", "cat", "/made"]).ok(),
        "content"
    );

    issue(&site, "bob", "read");
    assert!(by(&site, "bob", &["ps", "-a"]).ok().contains("one"));
    assert!(by(&site, "bob", &["images"]).ok().contains("app"));
    let refused = by(&site, "bob", &["run", "busybox", "true"]).error(125);
    assert!(
        refused.contains("bob has the role read, and Containers.Run needs operate"),
        "{refused}"
    );
    let refused = by(&site, "bob", &["build", &folder]).error(1);
    assert!(refused.contains("Builder.Build needs build"), "{refused}");
    let refused = by(&site, "bob", &["rmi", "app"]).error(1);
    assert!(
        refused.contains("Registry.RemoveImage needs build"),
        "{refused}"
    );
    issue(&site, "carol", "build");
    by(&site, "carol", &["tag", "app", "mine"]).ok();
    // Who may build may not reach out of a build by what its operators allow.
    by(&site, "carol", &["build", &folder]).ok();
    let refused = by(&site, "carol", &["build", "--network", "host", &folder]).error(1);
    let expected = "granting entitlement network.host needs the role operate, which carol has not";
    assert!(refused.contains(expected), "{refused}");
    by(&site, "alice", &["build", "--network", "host", &folder]).ok();
    let refused = by(&site, "carol", &["rm", "one"]).error(1);
    assert!(
        refused.contains("Containers.Remove needs operate"),
        "{refused}"
    );
    // A service that calls nobody needs no role, and may do nothing.
    pki(&site, &["issue", "silent", "--host", "silent.example"]).ok();
    context(&site, "silent", "127.0.0.1", shown(&site, "silent"));
    let refused = by(&site, "silent", &["ps"]).error(1);
    assert!(refused.contains("was it issued for clients?"), "{refused}");

    // What somebody types is no name of anything, though it may look like a field of the call.
    by(
        &site,
        "alice",
        &["run", "-d", "--name", "web", "busybox", "sleep", "1000"],
    )
    .ok();
    let typed = "\n}\n}my-password-x";
    let words = ["--context", "alice", "exec", "-i", "web", "cat"];
    assert_eq!(site.ctl_with(&words, typed.as_bytes()).ok(), typed);
    by(&site, "alice", &["rm", "-f", "web"]).ok();

    // Who did it is written down, by each service.
    let lines = |service: &str| {
        fs::read_to_string(site.path("state").join(service).join("audit.log")).unwrap()
    };
    let told = |service: &'static str, parts: &'static [&'static str]| {
        let lines = &lines;
        eventually("it is written down", async move || {
            let text = lines(service);
            let fits = |line: &str| parts.iter().all(|part| line.contains(part));
            text.lines().any(fits).then_some(())
        })
    };
    told(
        "runtime",
        &["Containers/Run", "\"who\":\"alice\"", "\"result\":\"OK\""],
    )
    .await;
    told(
        "runtime",
        &["Containers/Run", "\"who\":\"bob\"", "ROLE_REQUIRED"],
    )
    .await;
    told(
        "builder",
        &[
            "Builder/Build",
            "\"who\":\"alice\"",
            "\"from\":\"127.0.0.1:",
        ],
    )
    .await;
    told(
        "registry",
        &[
            "Registry/TagImage",
            "\"who\":\"carol\"",
            "\"role\":\"build\"",
        ],
    )
    .await;
    told("netd", &["Network/CreateEndpoint", "\"who\":\"host\""]).await;
    told(
        "runtime",
        &["Containers/Exec", "\"web\"", "\"result\":\"OK\""],
    )
    .await;
    assert!(!lines("runtime").contains("password"));
    assert!(
        !lines("runtime").contains("Containers/List"),
        "who only looks is not told of"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_are_not_good_are_refused_with_what_to_do() {
    let Some(site) = site().await else {
        return;
    };
    let refused = |who: &str| by(&site, who, &["ps"]).error(1);
    // Of another authority, which says that she is an admin.
    let other = site.path("other").display().to_string();
    pki(&site, &["--dir", &other, "init"]).ok();
    pki(
        &site,
        &["--dir", &other, "issue", "mallory", "--role", "admin"],
    )
    .ok();
    let own = ["pem", "key"].map(|ending| format!("{other}/certs/mallory.{ending}"));
    let [cert, key] = own;
    context(
        &site,
        "mallory",
        "127.0.0.1",
        Some([file(&site, "ca.pem"), cert.clone(), key.clone()]),
    );
    let said = refused("mallory");
    assert!(
        said.contains("mallory.pem, which is not from an authority that it knows"),
        "{said}"
    );
    // And whoever trusts that one believes none of ours.
    context(
        &site,
        "fooled",
        "127.0.0.1",
        Some([format!("{other}/ca.pem"), cert, key]),
    );
    let said = refused("fooled");
    assert!(
        said.contains("not from the authority that is trusted here"),
        "{said}"
    );

    pki(&site, &["issue", "old", "--role", "admin", "--days", "0"]).ok();
    context(&site, "old", "127.0.0.1", shown(&site, "old"));
    eventually("it has expired", async || {
        let said = by(&site, "old", &["ps"]);
        said.err
            .contains("old.pem, which has expired: renew it")
            .then_some(())
    })
    .await;

    issue(&site, "eve", "operate");
    by(&site, "eve", &["ps"]).ok();
    pki(&site, &["revoke", "eve"]).ok();
    let said = refused("eve");
    assert!(said.contains("eve.pem, which was revoked"), "{said}");
    by(&site, "alice", &["ps"]).ok();

    context(&site, "elsewhere", "localhost", shown(&site, "alice"));
    let said = refused("elsewhere");
    assert!(
        said.contains("is for 127.0.0.1, and not for localhost"),
        "{said}"
    );
    context(&site, "plain", "127.0.0.1", None);
    let said = refused("plain");
    assert!(!said.contains("panicked"), "{said}");
    let gone = site.path("gone.pem").display().to_string();
    context(
        &site,
        "lost",
        "127.0.0.1",
        Some([file(&site, "ca.pem"), gone.clone(), gone.clone()]),
    );
    let said = refused("lost");
    assert!(said.contains(&gone), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_exchanged_while_everything_runs() {
    let Some(site) = site().await else {
        return;
    };
    if !installed(&["openssl"]) {
        return;
    }
    let script = "echo before; while [ ! -e /go ]; do sleep 0.1; done; echo after; sleep 1000";
    by(
        &site,
        "alice",
        &[
            "run", "-d", "--name", "talks", "busybox", "sh", "-c", script,
        ],
    )
    .ok();
    let mut logs = site.ctl_start(&["--context", "alice", "logs", "-f", "talks"]);
    let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "before");

    let serial = || {
        let shown = site
            .command("openssl", &["s_client", "-connect", "127.0.0.1:7012"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let path = site.path("shown.pem");
        fs::write(&path, shown.stdout).unwrap();
        let path = path.display().to_string();
        let said: Said = site
            .output("openssl", &["x509", "-noout", "-serial", "-in", &path])
            .into();
        said.ok()
    };
    let before = serial();
    // Both sides' own, of the services and of who calls.
    for name in ["host", "alice"] {
        pki(&site, &["renew", name]).ok();
    }
    let after = serial();
    assert_ne!(before, after, "the certificate of before is shown");
    by(&site, "alice", &["exec", "talks", "touch", "/go"]).ok();
    // The stream of before goes on, and what is new works with the new ones.
    assert_eq!(lines.next().unwrap().unwrap(), "after");
    by(&site, "alice", &["run", "--rm", "busybox", "true"]).ok();
    // What is damaged changes nothing.
    let path = file(&site, "certs/host.pem");
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert_eq!(serial(), after);
    by(&site, "alice", &["ps"]).ok();
    fs::write(&path, good).unwrap();
    signal(&logs, rustix::process::Signal::KILL);
    logs.wait().unwrap();
    let log = fs::read_to_string(site.path("runtime.log")).unwrap();
    assert!(log.contains("was read again"), "{log}");
    assert!(log.contains("stays as it was"), "{log}");
}
