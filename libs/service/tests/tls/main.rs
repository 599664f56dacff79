//! Mutual TLS between a service and its clients, with good certificates and with bad ones.

mod audit;
mod authority;

use std::{
    error::Error as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use authority::{Authority, Wanted};
use slipway_service::{
    Address,
    authorize::{Audit, AuthorizeLayer, CERTIFICATE_REFUSED},
    client,
    error::reason,
    tls::{TlsFiles, accept, server::Acceptor},
};
use tokio::net::{TcpListener, TcpStream};
use tonic::{
    Code, Status,
    transport::{Channel, Server},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
    server::HealthReporter,
};
use tracing_subscriber::util::SubscriberInitExt as _;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn server() -> Wanted<'static> {
    Wanted {
        host: Some(LOOPBACK),
        serial: 1,
        ..Wanted::default()
    }
}

fn person(role: &str, serial: u8) -> Wanted<'_> {
    Wanted {
        organization: Some(role),
        serial,
        ..Wanted::default()
    }
}

/// A service that answers health.
async fn serve(files: TlsFiles) -> SocketAddr {
    serve_with(files, None).await.0
}

async fn serve_with(files: TlsFiles, audit: Option<Audit>) -> (SocketAddr, HealthReporter) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = Arc::new(Acceptor::open(files).unwrap());
    let (reporter, health) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .layer(AuthorizeLayer { audit })
        .add_service(health);
    tokio::spawn(server.serve_with_incoming(accept::incoming(listener, acceptor)));
    (address, reporter)
}

fn client(address: SocketAddr, files: &TlsFiles) -> HealthClient<Channel> {
    client_of(&address.ip().to_string(), address.port(), Some(files))
}

fn client_of(host: &str, port: u16, files: Option<&TlsFiles>) -> HealthClient<Channel> {
    let host = host.to_owned();
    let channel = client::connect(&Address::Tcp { host, port }, files).unwrap();
    HealthClient::new(channel)
}

async fn ask(client: &mut HealthClient<Channel>) -> Result<(), Status> {
    let asked = client.check(HealthCheckRequest::default()).await;
    asked.map(drop)
}

/// All that an error says, with what is behind it.
fn words(status: &Status) -> String {
    let mut all = status.to_string();
    let mut source = status.source();
    while let Some(error) = source {
        all = format!("{all}: {error}");
        source = error.source();
    }
    all
}

async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let all = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(60);
    assert!(tokio::time::timeout(limit, all).await.is_ok(), "{what}");
}

#[tokio::test]
async fn only_certificates_that_are_good_are_let_in_and_others_are_told_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(&folder.path().join("ours"));
    let theirs = Authority::new(&folder.path().join("theirs"));
    ours.issue("server", &server());
    ours.issue("reader", &person("read", 2));
    ours.issue("nobody", &person("Example Inc", 3));
    ours.issue("thief", &person("admin", 4));
    ours.issue(
        "old",
        &Wanted {
            expired: true,
            ..person("admin", 5)
        },
    );
    theirs.issue("reader", &person("admin", 2));
    ours.revoke(&[4]);
    let address = serve(ours.files("server")).await;

    ask(&mut client(address, &ours.files("reader")))
        .await
        .unwrap();
    let refused = ask(&mut client(address, &ours.files("nobody"))).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused
            .message()
            .contains("nobody has a certificate without a role")
    );
    let foreign = TlsFiles {
        ca: ours.files("server").ca,
        crl: None,
        ..theirs.files("reader")
    };
    for (files, word) in [
        (ours.files("thief"), "thief.pem, which was revoked"),
        (ours.files("old"), "old.pem, which has expired"),
        (foreign, "not from an authority that it knows"),
        // And the other way round: who is there is not who is meant.
        (
            theirs.files("reader"),
            "not from the authority that is trusted here",
        ),
    ] {
        let refused = ask(&mut client(address, &files)).await.unwrap_err();
        let said = words(&refused);
        assert!(said.contains(word), "{said}");
    }
    let mut other = client_of("localhost", address.port(), Some(&ours.files("reader")));
    let said = words(&ask(&mut other).await.unwrap_err());
    assert!(
        said.contains("is for 127.0.0.1, and not for localhost"),
        "{said}"
    );
    let mut plain = client_of("127.0.0.1", address.port(), None);
    assert!(ask(&mut plain).await.is_err());
}

#[tokio::test]
async fn a_certificate_that_is_refused_stands_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("server", &server());
    authority.issue("thief", &person("admin", 4));
    authority.revoke(&[4]);
    let path = folder.path().join("log");
    let log = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(fs::File::create(&path).unwrap());
    // Of this thread, which is the runtime's only one.
    let _guard = log.set_default();
    let address = serve(authority.files("server")).await;
    ask(&mut client(address, &authority.files("thief")))
        .await
        .unwrap_err();
    eventually("it is told", async || {
        let text = fs::read_to_string(&path).unwrap();
        text.contains("refused a connection") && text.contains("Revoked")
    })
    .await;
}

#[tokio::test]
async fn a_new_certificate_is_used_at_once_and_a_damaged_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let old = Authority::new(&folder.path().join("old"));
    let new = Authority::new(&folder.path().join("new"));
    for authority in [&old, &new] {
        authority.issue("server", &server());
        authority.issue("me", &person("read", 2));
    }
    // What the programs are told of: files that become others.
    let copy = |from: &Authority, name: &str| {
        let part = folder.path().join("part");
        fs::copy(from.path(name), &part).unwrap();
        fs::rename(part, folder.path().join(name)).unwrap();
    };
    let files = |name: &str| TlsFiles {
        cert: folder.path().join(format!("{name}.pem")),
        key: folder.path().join(format!("{name}.key")),
        ca: Some(folder.path().join("ca.pem")),
        crl: None,
    };
    let all = ["ca.pem", "server.key", "server.pem", "me.key", "me.pem"];
    all.iter().for_each(|name| copy(&old, name));
    let (address, health) = serve_with(files("server"), None).await;
    let mut long = client(address, &files("me"));
    let mut watch = long
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().is_some());

    fs::write(folder.path().join("server.pem"), "half of a certif").unwrap();
    ask(&mut client(address, &files("me"))).await.unwrap();
    all.iter().for_each(|name| copy(&new, name));
    // The pause after the damaged one is over when the files have changed again.
    ask(&mut client(address, &files("me"))).await.unwrap();
    let past = TlsFiles {
        crl: None,
        ..old.files("me")
    };
    assert!(ask(&mut client(address, &past)).await.is_err());
    // A stream of before goes on.
    health
        .set_service_status("", ServingStatus::NotServing)
        .await;
    let told = watch.message().await.unwrap().unwrap();
    assert_eq!(told.status, ServingStatus::NotServing as i32);
}

#[tokio::test]
async fn who_is_revoked_is_refused_on_a_connection_of_before_too() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("server", &server());
    authority.issue("eve", &person("admin", 7));
    authority.issue("me", &person("read", 8));
    let address = serve(authority.files("server")).await;
    let mut eve = client(address, &authority.files("eve"));
    let mut me = client(address, &authority.files("me"));
    ask(&mut eve).await.unwrap();
    ask(&mut me).await.unwrap();
    authority.revoke(&[7]);
    eventually("she is refused", async || match ask(&mut eve).await {
        Ok(()) => false,
        Err(status) => {
            assert_eq!(status.code(), Code::Unauthenticated, "{status}");
            assert_eq!(reason(&status), CERTIFICATE_REFUSED);
            assert!(status.message().contains("eve was revoked"), "{status}");
            true
        }
    })
    .await;
    ask(&mut me).await.unwrap();
}

#[tokio::test]
async fn half_a_pair_of_the_services_own_keeps_nobody_from_being_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("server", &server());
    authority.issue("eve", &person("admin", 7));
    authority.issue("me", &person("read", 8));
    let address = serve(authority.files("server")).await;
    let mut eve = client(address, &authority.files("eve"));
    ask(&mut eve).await.unwrap();
    fs::copy(authority.path("me.key"), authority.path("server.key")).unwrap();
    authority.revoke(&[7]);
    let new = ask(&mut client(address, &authority.files("eve"))).await;
    let said = words(&new.unwrap_err());
    assert!(said.contains("eve.pem, which was revoked"), "{said}");
    eventually("the connection of before is refused, too", async || {
        ask(&mut eve).await.is_err()
    })
    .await;
    ask(&mut client(address, &authority.files("me")))
        .await
        .unwrap();
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("server", &server());
    authority.issue("me", &person("read", 2));
    let address = serve(authority.files("server")).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    ask(&mut client(address, &authority.files("me")))
        .await
        .unwrap();
}

#[test]
fn files_that_are_none_are_told_with_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue("server", &server());
    let open = |files: TlsFiles| Acceptor::open(files).unwrap_err().to_string();
    let empty = folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    let good = || authority.files("server");
    let told = |files, name: &Path| {
        let said = open(files);
        assert!(said.contains(&name.display().to_string()), "{said}");
    };
    told(
        TlsFiles {
            cert: empty.clone(),
            ..good()
        },
        &empty,
    );
    told(
        TlsFiles {
            key: empty.clone(),
            ..good()
        },
        &empty,
    );
    told(
        TlsFiles {
            ca: Some(empty.clone()),
            ..good()
        },
        &empty,
    );
    told(
        TlsFiles {
            crl: Some(empty.clone()),
            ..good()
        },
        &empty,
    );
    let missing = folder.path().join("missing");
    told(
        TlsFiles {
            crl: Some(missing.clone()),
            ..good()
        },
        &missing,
    );
}
