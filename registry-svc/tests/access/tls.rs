//! TLS: the certificate of the day, HTTP of both versions, and clients known by theirs.

use std::{fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use registry_svc::{
    access::Access,
    http::{Front, Limits, Tls, TlsFiles},
};
use reqwest::{Certificate, Client, Identity, Version};

use crate::{rules, support::Site};

/// An authority of its own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    fn certify(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn install(&self, folder: &Path) {
        let (certificate, key) = self.certify("registry");
        fs::write(folder.join("cert.pem"), certificate).unwrap();
        fs::write(folder.join("key.pem"), key).unwrap();
    }

    /// A client that believes it, with a certificate of that name.
    fn client(&self, shown: Option<(&Self, &str)>) -> Client {
        let trusted = Certificate::from_pem(self.pem().as_bytes()).unwrap();
        let builder = Client::builder().tls_certs_only([trusted]);
        let builder = match shown {
            None => builder,
            Some((by, name)) => {
                let (certificate, key) = by.certify(name);
                let both = format!("{certificate}{key}");
                builder.identity(Identity::from_pem(both.as_bytes()).unwrap())
            }
        };
        builder.build().unwrap()
    }
}

const RULES: &str = r#"
[[access]]
prefix = "*"
who = ["cert:CN=ci"]
may = ["pull", "push"]
[[access]]
prefix = "public"
who = ["anonymous"]
may = ["pull"]
"#;

async fn secured(authority: &Authority) -> Site {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let state = folder.path().to_owned();
    authority.install(&state);
    fs::write(state.join("ca.pem"), authority.pem()).unwrap();
    Site::behind(folder, None, 0, |own| {
        let access = Access::open(&rules(RULES), None, true, own, &state, None).unwrap();
        let files = TlsFiles {
            cert: state.join("cert.pem"),
            key: state.join("key.pem"),
            client_ca: Some(state.join("ca.pem")),
        };
        Front::new(access, Some(Tls::open(files).unwrap()), Limits::default())
    })
    .await
}

fn url(site: &Site, path: &str) -> String {
    format!("https://{}/v2/{path}", site.address)
}

#[tokio::test]
async fn clients_are_known_by_their_certificates() {
    let authority = Authority::new();
    let site = secured(&authority).await;
    let stranger = Authority::new();
    for (shown, version, base, start, tags) in [
        (Some("ci"), Version::HTTP_2, 200, 202, 404),
        (Some("other"), Version::HTTP_2, 200, 403, 403),
        (None, Version::HTTP_2, 401, 401, 401),
    ] {
        let client = authority.client(shown.map(|name| (&authority, name)));
        let got = client.get(url(&site, "")).send().await.unwrap();
        assert_eq!(
            (got.status().as_u16(), got.version()),
            (base, version),
            "{shown:?}"
        );
        let got = client
            .post(url(&site, "a/blobs/uploads/"))
            .send()
            .await
            .unwrap();
        assert_eq!(got.status(), start, "{shown:?}");
        let got = client.get(url(&site, "a/tags/list")).send().await.unwrap();
        assert_eq!(got.status(), tags, "{shown:?}");
        let got = client
            .get(url(&site, "public/tags/list"))
            .send()
            .await
            .unwrap();
        assert_eq!(got.status(), 404, "{shown:?}");
    }
    let challenged = authority
        .client(None)
        .get(url(&site, ""))
        .send()
        .await
        .unwrap();
    let realm = format!("Bearer realm=\"https://{}/token\"", site.address);
    assert!(crate::header(&challenged, "www-authenticate").starts_with(&realm));
    // Nobody comes in with a certificate of somebody else's authority.
    let strange = authority.client(Some((&stranger, "ci")));
    assert!(strange.get(url(&site, "")).send().await.is_err());
    // Plain HTTP is not spoken.
    let plain = Client::new().get(url(&site, "").replace("https", "http"));
    assert!(plain.send().await.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_used_from_then_on() {
    let old = Authority::new();
    let site = secured(&old).await;
    let get = async |authority: &Authority| {
        authority
            .client(None)
            .get(url(&site, ""))
            .send()
            .await
            .map(|got| got.status().as_u16())
    };
    assert_eq!(get(&old).await.unwrap(), 401);
    let staying = old.client(None);
    staying.get(url(&site, "")).send().await.unwrap();
    let new = Authority::new();
    assert!(get(&new).await.is_err());
    // Half of it is not used: the old one goes on.
    let (certificate, key) = new.certify("registry");
    fs::write(site.dir.path().join("cert.pem"), certificate).unwrap();
    assert_eq!(get(&old).await.unwrap(), 401);
    fs::write(site.dir.path().join("key.pem"), key).unwrap();
    assert_eq!(get(&new).await.unwrap(), 401);
    assert!(get(&old).await.is_err());
    // Who was connected stays so.
    assert_eq!(
        staying.get(url(&site, "")).send().await.unwrap().status(),
        401
    );
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let authority = Authority::new();
    authority.install(folder.path());
    fs::write(at("empty.pem"), "").unwrap();
    fs::write(at("other.pem"), authority.certify("x").1).unwrap();
    let open = |cert: &str, key: &str, ca: &str| {
        let client_ca = (!ca.is_empty()).then(|| at(ca));
        let (cert, key) = (at(cert), at(key));
        let files = TlsFiles {
            cert,
            key,
            client_ca,
        };
        Tls::open(files)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert_eq!(open("cert.pem", "key.pem", ""), "");
    for (cert, key, ca, named) in [
        ("none.pem", "key.pem", "", "none.pem"),
        ("empty.pem", "key.pem", "", "empty.pem"),
        ("cert.pem", "empty.pem", "", "empty.pem"),
        ("cert.pem", "other.pem", "", "cert.pem"),
        ("cert.pem", "key.pem", "empty.pem", "empty.pem"),
    ] {
        let error = open(cert, key, ca);
        assert!(error.contains(named), "{named}: {error}");
    }
}
