//! An authority of a test's own, and the certificates that it gives, by openssl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A folder with `ca.pem`, and `<name>.pem` and `<name>.key` of everybody.
pub struct Authority(PathBuf);

impl Authority {
    /// A new one in a folder of its own.
    pub fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let new = Self(folder);
        new.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test -days 2 \
             -keyout ca.key -out ca.pem",
        );
        new
    }

    fn openssl(&self, arguments: &str) {
        let done = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.0)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    /// A certificate for an address, as `<name>.pem` and `<name>.key`; of a service that may do what services do.
    pub fn certify(&self, name: &str, address: &str) {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=operate/CN={name} \
             -addext subjectAltName=IP:{address} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -copy_extensions copyall -out {name}.pem"
        ));
    }

    /// Where a file of it is.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}
