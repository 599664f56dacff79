//! What must be there at the start, and how it is told when it is not.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::StatusCode;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    between::{Act, Between},
    server::Server,
    service::Service,
    support::TestImage,
};

fn refused(text: &str, told: &str) {
    let said = Service::refusal(&format!("[store]\n{text}"));
    assert!(said.contains(told), "{told:?} is not in {said}");
    // For people, not for machines.
    assert!(!said.contains("<Error>"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_bucket_is_said_at_the_start() {
    let Some(server) = Server::shared() else {
        return;
    };
    let text = server.text("start");
    refused(
        &text.replace("\"slipway\"", "\"nowhere\""),
        "the server has no bucket of that name: make it first",
    );
    let keys = server.folder.join("wrong-keys");
    let right = server.folder.join("keys").display().to_string();
    let with = |id: &str, secret: &str| {
        let content = format!("aws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        std::fs::write(&keys, content).unwrap();
        text.replace(&right, &keys.display().to_string())
    };
    let told = "the server does not accept the keys: see credentials_file";
    refused(&with("somebody", "secret-of-the-tests"), told);
    refused(&with("access", "another"), told);
    refused(
        &text.replace(&format!(":{}\"", server.port), ":1\""),
        "the bucket cannot be used now",
    );
    // As radosgw answers to a request that is an hour old.
    let between = Between::start(server).await;
    between.rule(|_, _| Act::Refuse(403, "RequestTimeTooSkewed"));
    let skewed = between.text(server, "start");
    let told = "this machine's clock and the server's are too far apart";
    tokio::task::spawn_blocking(move || refused(&skewed, told))
        .await
        .unwrap();
}

/// A front that speaks TLS for these names. Writes the certificate of its authority down.
async fn tls_front(server: &Server, names: &[&str], authority: &Path) -> u16 {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(authority, issuer.pem()).unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, behind) = (listener.local_addr().unwrap().port(), server.port);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Who does not believe the certificate hangs up.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut server = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_reached_by_tls_and_by_a_name_of_its_own() {
    let Some(server) = Server::shared() else {
        return;
    };
    let authority = server.folder.join("authority.pem");
    let port = tls_front(server, &["s3.test", "slipway.s3.test"], &authority).await;
    let text = server.text_at("tls", &format!("https://s3.test:{port}"));
    let hosts = |folder: &Path, names: &str| {
        let hosts = format!("127.0.0.1 localhost {names}\n");
        std::fs::write(folder.join("hosts"), hosts).unwrap();
    };
    let start = async |text: &str, names: &str| {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        hosts(folder.path(), names);
        std::fs::create_dir(folder.path().join("faults")).unwrap();
        std::fs::write(folder.path().join("registry.toml"), text).unwrap();
        Service::on(folder).await
    };
    let trusting = format!("[store]\n{text}ca_file = {authority:?}\nredirect = true\n");
    let a = start(&trusting, "s3.test").await;
    // Only the name with the bucket's in front is known: nothing else is asked for.
    let b = format!("{trusting}path_style = false\n");
    let b = start(&b, "slipway.s3.test").await;
    let image = TestImage::new("tls", 9 << 20);
    b.push("team/app", "now", &image).await;
    let tag = a.tag("team/app", "now").await;
    assert_eq!(tag, Some(image.digest().to_string()));
    // Clients are sent to the same name.
    let direct = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let layer = b.url(&format!("team/app/blobs/{}", image.layer_digest()));
    let sent = direct.build().unwrap().get(layer).send().await.unwrap();
    assert_eq!(sent.status(), StatusCode::TEMPORARY_REDIRECT);
    let address = sent.headers()["location"].to_str().unwrap();
    let there = format!("https://slipway.s3.test:{port}/tls/blobs/");
    assert!(address.starts_with(&there), "{address}");
    // Nobody else's certificate is believed.
    let text = text.replace("s3.test", "localhost");
    let told = "its certificate is of an authority that is not known here: set ca_file";
    tokio::task::spawn_blocking(move || refused(&text, told))
        .await
        .unwrap();
}
