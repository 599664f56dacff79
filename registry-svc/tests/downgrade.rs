//! The program itself before an upstream that it speaks https with, and that sends it on to http.

mod support;

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, extract::Request, http::Response, serve::Listener};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};
use slipway_image::media_type;
use support::{TestImage, client};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Longer than anything takes here.
const LIMIT: Duration = Duration::from_secs(60);

/// Path and authorization of what a server was asked.
type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// Connections by TLS.
struct Secured(TcpListener, TlsAcceptor);

impl Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            // Whoever does not believe the certificate hangs up.
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// What notes all that it is asked before it answers.
fn noting(
    play: impl Fn(&str, Option<&str>) -> Response<Body> + Clone + Send + Sync + 'static,
) -> (Router, Seen) {
    let seen = Seen::default();
    let all = Arc::clone(&seen);
    let app = Router::new().fallback(async move |request: Request| {
        let path = request.uri().to_string();
        let header = request.headers().get("authorization");
        let header = header.map(|value| value.to_str().unwrap().to_owned());
        let answer = play(&path, header.as_deref());
        all.lock().unwrap().push((path, header));
        answer
    });
    (app, seen)
}

fn answer(status: u16, header: (&str, &str)) -> Response<Body> {
    let response = Response::builder()
        .status(status)
        .header(header.0, header.1);
    response.body(Body::empty()).unwrap()
}

struct Service {
    child: Child,
    address: SocketAddr,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    async fn status(&self, path: &str) -> u16 {
        let url = format!("http://{}/v2/up.example/team/{path}", self.address);
        client().get(url).send().await.unwrap().status().as_u16()
    }
}

#[tokio::test]
async fn from_https_nobody_is_led_to_http_neither_with_an_account_nor_without() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = format!("http://{}", plain.local_addr().unwrap());
    let token = r#"{"token":"t","access_token":"t"}"#;
    let (app, stolen) = noting(move |_, _| Response::new(token.into()));
    tokio::spawn(async move { axum::serve(plain, app).await });

    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let named = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = named.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let tls = ServerConfig::builder().with_no_client_auth();
    let tls = tls.with_single_cert(vec![certificate.der().clone()], key);
    let image = TestImage::new("image", 1000);
    let layer = image.layer_digest();
    let (app, asked) = noting(move |path, authorization| match authorization {
        _ if path.ends_with("/manifests/realm") => {
            let bearer = format!("Bearer realm=\"{elsewhere}/token\"");
            answer(401, ("www-authenticate", &bearer))
        }
        None => answer(401, ("www-authenticate", "Basic realm=\"x\"")),
        Some(_) if path.contains("/blobs/") || path.ends_with("/manifests/away") => {
            answer(307, ("location", &format!("{elsewhere}/stolen")))
        }
        Some(_) => Response::builder()
            .header("content-type", media_type::OCI_MANIFEST)
            .header("docker-content-digest", image.digest().to_string())
            .body(Body::from(image.manifest.clone()))
            .unwrap(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let listener = Secured(listener, TlsAcceptor::from(Arc::new(tls.unwrap())));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("ca.pem"), authority.pem()).unwrap();
    fs::write(at("password"), "secret").unwrap();
    let settings = format!(
        "[[upstream]]\nhost = 'up.example'\nurl = 'https://{upstream}'\nprivate = true\n\
         username = 'ann'\npassword_file = {:?}\n",
        at("password")
    );
    fs::write(at("registry.toml"), settings).unwrap();
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let child = Command::new(env!("CARGO_BIN_EXE_registry-svc"))
        .args(["--http", &address.to_string()])
        .args(["--state-dir".into(), at("state")])
        .args(["--run-dir".into(), at("run")])
        .args(["--config-dir".into(), folder.path().to_owned()])
        .env("SSL_CERT_FILE", at("ca.pem"))
        .stdin(Stdio::null())
        .stderr(fs::File::create(at("log")).unwrap())
        .spawn()
        .unwrap();
    let service = Service { child, address };
    let began = Instant::now();
    while client()
        .get(format!("http://{address}/v2/"))
        .send()
        .await
        .is_err()
    {
        assert!(
            began.elapsed() < LIMIT,
            "{:?}",
            fs::read_to_string(at("log"))
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // The account is the upstream's own, and it gets it.
    assert_eq!(service.status("app/manifests/latest").await, 200);
    let account = asked.lock().unwrap().last().unwrap().1.clone();
    assert_eq!(account.as_deref(), Some("Basic YW5uOnNlY3JldA=="));
    for path in [
        format!("app/blobs/{layer}"),
        "app/manifests/away".to_owned(),
        "realm/manifests/realm".to_owned(),
    ] {
        asked.lock().unwrap().clear();
        // A tag that cannot be asked about is not found.
        let status = service.status(&path).await;
        assert!(matches!(status, 404 | 502), "{path}: {status}");
        // It stays refused: nobody tries again.
        let asked = asked.lock().unwrap();
        let asked = asked.iter().filter(|(seen, _)| seen.ends_with(&path));
        assert_eq!(asked.count(), 1, "{path}");
    }
    assert!(stolen.lock().unwrap().is_empty(), "{stolen:?}");
}
