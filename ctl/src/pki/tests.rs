use std::os::unix::fs::PermissionsExt as _;

use slipway_service::{roles::Role, tls::subject::Subject};

use super::*;

fn now() -> Timestamp {
    Timestamp::now()
}

fn to(name: &str, role: Option<Role>, hosts: &[&str]) -> Named {
    let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
    Named::new(name.to_owned(), role, hosts).unwrap()
}

fn made(folder: &Path) -> Authority {
    Authority::init(folder, None, 3650, now()).unwrap();
    Authority::open(folder).unwrap()
}

fn subject(path: &Path) -> Subject {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    Subject::of(&CertificateDer::from_pem_file(path).unwrap()).unwrap()
}

#[test]
fn an_authority_is_never_written_over_and_nobody_else_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("pki");
    drop(made(&home));
    let before = fs::read(home.join("ca.key")).unwrap();
    let again = Authority::init(&home, None, 10, now()).unwrap_err();
    assert!(again.text.contains("never written over"), "{}", again.text);
    assert_eq!(fs::read(home.join("ca.key")).unwrap(), before);
    // Nothing half-made is left beside it.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let mode = |name: &str| home.join(name).metadata().unwrap().permissions().mode() & 0o777;
    for name in ["ca.key", "ca.pem", "ca.json", "crl.pem"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    for name in ["", "certs", "issued"] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
    let none = Authority::open(&folder.path().join("other")).err().unwrap();
    assert!(none.text.contains("ctl pki init"), "{}", none.text);
}

#[test]
fn a_certificate_says_who_and_what_and_a_renewed_one_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let authority = made(&folder.path().join("pki"));
    let alice = to("alice", Some(Role::Operate), &[]);
    let (record, files) = authority.issue(alice.clone(), 30, now()).unwrap();
    let said = subject(&files.cert);
    assert_eq!(said.name.as_deref(), Some("alice"));
    assert_eq!(said.organizations, ["operate"]);
    assert_eq!(said.serial, record.serial);
    let again = authority.issue(alice, 30, now()).unwrap_err();
    assert!(again.text.contains("ctl pki renew alice"), "{}", again.text);

    let key = fs::read(&files.key).unwrap();
    let (renewed, same) = authority.renew("alice", 60, now()).unwrap();
    assert_eq!(same, files);
    assert_ne!(fs::read(&files.key).unwrap(), key);
    assert_eq!(renewed.to, record.to);
    assert_ne!(renewed.serial, record.serial);
    assert_eq!(subject(&files.cert).serial, renewed.serial);
    assert_eq!(authority.records().unwrap().len(), 2);
    let unknown = authority.renew("bob", 60, now()).unwrap_err();
    assert!(unknown.text.contains("ctl pki ls"), "{}", unknown.text);
}

#[test]
fn what_was_revoked_stays_so_and_its_name_is_issued_anew_only() {
    let folder = tempfile::tempdir().unwrap();
    let authority = made(&folder.path().join("pki"));
    let role = Some(Role::Read);
    authority.issue(to("eve", role, &[]), 30, now()).unwrap();
    authority.renew("eve", 30, now()).unwrap();
    let (other, _) = authority.issue(to("bob", role, &[]), 30, now()).unwrap();
    let list = fs::read(authority.path("crl.pem")).unwrap();
    assert_eq!(authority.revoke("eve", now()).unwrap().len(), 2);
    assert_ne!(fs::read(authority.path("crl.pem")).unwrap(), list);
    assert_eq!(authority.revoke("eve", now()).unwrap().len(), 0);
    assert!(
        authority
            .renew("eve", 30, now())
            .unwrap_err()
            .text
            .contains("was revoked")
    );
    authority.issue(to("eve", role, &[]), 30, now()).unwrap();
    let by_serial = authority.revoke(&other.serial, now()).unwrap();
    assert_eq!(by_serial[0].to.name, "bob");
    let states: Vec<_> = authority.records().unwrap();
    let states: Vec<_> = states
        .iter()
        .map(|r| (r.to.name.as_str(), r.state(now()).name()))
        .collect();
    let expected = [
        ("bob", "revoked"),
        ("eve", "revoked"),
        ("eve", "revoked"),
        ("eve", "valid"),
    ];
    assert_eq!(states, expected);
    assert!(authority.revoke("nobody", now()).is_err());
}

#[test]
fn what_would_be_no_certificate_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = made(&folder.path().join("pki"));
    let refused = |name: &str, hosts: &[&str]| {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        Named::new(name.to_owned(), Some(Role::Read), hosts)
            .unwrap_err()
            .text
    };
    for name in ["", "../ca", ".hidden", "a b", "a/b", "ä", &"x".repeat(65)] {
        assert!(refused(name, &[]).contains("cannot be a name"), "{name}");
    }
    for host in ["", "a b", "-a", "*.x", "10.0.0.300", "http://x", "a..b"] {
        assert!(refused("x", &[host]).contains("neither"), "{host}");
    }
    for host in [
        "10.0.0.7",
        "fd00::7",
        "host",
        "host-1.example",
        "9front.example",
    ] {
        to("x", None, &[host]);
    }
    assert!(
        Named::new("x".into(), None, Vec::new())
            .unwrap_err()
            .text
            .contains("--role")
    );
    let long = authority
        .issue(to("x", Some(Role::Read), &[]), 4000, now())
        .unwrap_err();
    assert!(long.text.contains("outlast its authority"), "{}", long.text);
    assert!(authority.records().unwrap().is_empty());
}
