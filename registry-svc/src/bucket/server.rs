//! A real S3 server for tests: `tests/fixtures/s3`, one a test program.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

/// The server; it ends when this program does, since that closes its standard input.
pub struct Server {
    _child: Child,
    pub port: u16,
    pub folder: PathBuf,
}

impl Server {
    /// The one that all tests of a program share. None, with a word about it: it is not installed.
    pub fn shared() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        SERVER.get_or_init(Self::start).as_ref()
    }

    /// One for this test alone.
    pub fn start() -> Option<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for program in ["ceph-mon", "ceph-osd", "radosgw"] {
            let found = Command::new(program).arg("--version").output();
            if found.is_err() {
                eprintln!("skipped: {program} is not installed");
                return None;
            }
        }
        let port = free_ports();
        let folder = std::env::temp_dir().join(format!("slipway-s3-{port}"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/s3");
        let mut child = Command::new(script)
            .arg(&folder)
            .arg(port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "see {}/log", folder.display());
        // Once: others read it while this one writes.
        let text = "aws_access_key_id = access\naws_secret_access_key = secret-of-the-tests\n";
        std::fs::write(folder.join("keys"), text).unwrap();
        Some(Self {
            _child: child,
            port,
            folder,
        })
    }

    /// Kills it, and lets nobody start it again.
    #[allow(dead_code)] // as below
    pub fn stop(&self) {
        std::fs::write(self.folder.join("down"), "").unwrap();
        let pid = std::fs::read_to_string(self.folder.join("radosgw.pid")).unwrap();
        let killed = Command::new("kill").args(["-9", pid.trim()]).status();
        assert!(killed.unwrap().success());
    }

    /// Lets it be started again.
    #[allow(dead_code)] // as below
    pub fn go_on(&self) {
        std::fs::remove_file(self.folder.join("down")).unwrap();
    }

    /// `[store]` for a part of the bucket.
    #[allow(dead_code)] // of one of the programs that share this file
    pub fn settings(&self, prefix: &str) -> super::settings::StoreFile {
        toml::from_str(&self.text(prefix)).unwrap()
    }

    /// The same as it stands in a file.
    pub fn text(&self, prefix: &str) -> String {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        format!("allow_http = true\n{}", self.text_at(prefix, &endpoint))
    }

    /// The same, by another way there.
    pub fn text_at(&self, prefix: &str, endpoint: &str) -> String {
        let keys = self.folder.join("keys");
        format!(
            "kind = \"s3\"\nbucket = \"slipway\"\nprefix = {prefix:?}\n\
             endpoint = {endpoint:?}\ncredentials_file = {keys:?}\n"
        )
    }
}

/// Two that follow each other.
fn free_ports() -> u16 {
    loop {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = one.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}
