//! A host whose registry lets in by name only, and by TLS: as one has to be that others can reach.

use std::fs;

use crate::{Said, Site, authority::Authority};

/// Off loopback: a listener there starts with TLS and a policy only.
const IP: &str = "192.0.2.1";

/// Where it listens.
pub const ADDRESS: &str = "192.0.2.1:5443";

/// From the tests of crypt_blowfish, by Solar Designer: other people's hashes are right here, too.
const USERS: &str = "alice:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW
bob:$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK\n";

/// The password of `alice`.
pub const ALICES: &str = "U*U";
/// The password of `bob`.
pub const BOBS: &str = "U*U*";

/// See the module's page.
pub struct Secured {
    /// The host; nothing is started on it.
    pub site: Site,
    /// It vouches for the registry, and for the client `ci`.
    pub authority: Authority,
}

impl Secured {
    /// With these rules, and whatever else `registry.toml` is to say.
    pub fn new(site: Site, settings: &str) -> Self {
        let line = ["address", "add", &format!("{IP}/32"), "dev", "lo"];
        Said::from(site.output("ip", &line)).ok();
        let authority = Authority::new(site.path("pki"));
        authority.certify("registry", IP);
        authority.certify("ci", IP);
        let users = site.path("users");
        fs::write(&users, USERS).unwrap();
        let [cert, key, ca] = ["registry.pem", "registry.key", "ca.pem"].map(|f| authority.file(f));
        let settings = format!(
            "http = [{ADDRESS:?}]\nhtpasswd = {users:?}\n[http_tls]\ncert = {cert:?}\nkey = {key:?}\n\
             client_ca = {ca:?}\n{settings}"
        );
        site.configure("registry.toml", &settings);
        Self { site, authority }
    }

    /// The authority, as a PEM file.
    pub fn ca(&self) -> String {
        self.authority.file("ca.pem")
    }
}
