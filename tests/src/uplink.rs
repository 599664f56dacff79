//! A site's ways out: to the package registries, and to a neighbour on the LAN.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use crate::site::{Site, number, succeed};

/// A site's way to the outside world: slirp4netns, which speaks for it through the host's own sockets.
///
/// Nothing of the host's network is touched, neither its forwarding nor its firewall, and everything goes
/// with the process.
pub(crate) struct Uplink(Child);

/// The link that it makes in the site.
pub(crate) const LINK: &str = "tap0";

impl Uplink {
    pub(crate) fn start(namespace: &str) -> Self {
        // It writes a byte to a descriptor of ours when it is ready; its standard input is one that
        // it has no other use for.
        let (mut ready, writer) = std::io::pipe().unwrap();
        let child = Command::new("slirp4netns")
            .args(["--configure", "--mtu=1500", "--netns-type=path"])
            .args(["--ready-fd=0", &format!("/run/netns/{namespace}"), LINK])
            .stdin(writer)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("slirp4netns: {e}: tests/run installs it"));
        let mut byte = [0];
        assert_eq!(
            ready.read(&mut byte).unwrap(),
            1,
            "slirp4netns gives no uplink: is there /dev/net/tun?"
        );
        Self(child)
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another host on the site's LAN.
pub struct Neighbour {
    namespace: String,
    /// The site's address on that LAN.
    pub site_address: String,
    /// Its own.
    pub address: String,
}

impl Neighbour {
    /// Connects a new host with the site.
    pub fn of(site: &mut Site) -> Self {
        let namespace = format!("swn-{}-{}", std::process::id(), number());
        let (ours, theirs) = (site.new_link(), "lan0");
        succeed(Command::new("ip").args(["netns", "add", &namespace]));
        let neighbour = Self {
            site_address: "198.51.100.1".into(),
            address: "198.51.100.2".into(),
            namespace,
        };
        let netns = format!("/run/netns/{}", neighbour.namespace);
        let veth = [
            "link", "add", &ours, "type", "veth", "peer", theirs, "netns", &netns,
        ];
        succeed(&mut site.command("ip", &veth));
        let address = format!("{}/24", neighbour.site_address);
        succeed(&mut site.command("ip", &["address", "add", &address, "dev", &ours]));
        succeed(&mut site.command("ip", &["link", "set", &ours, "up"]));
        let address = format!("{}/24", neighbour.address);
        for arguments in [
            &["address", "add", &address, "dev", theirs][..],
            &["link", "set", theirs, "up"],
            &["link", "set", "lo", "up"],
        ] {
            succeed(&mut neighbour.command("ip", arguments));
        }
        neighbour
    }

    /// A command on that host.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .arg(program)
            .args(arguments);
        command
    }

    /// Runs a command on that host to its end.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    /// Fetches a page from there; `None` when that fails.
    pub fn fetch(&self, url: &str) -> Option<String> {
        let output = self.output("curl", &["-sf", "-m", "5", url]);
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let path = PathBuf::from("/run/netns").join(&self.namespace);
        // The link goes with the namespace, the site's end with it.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .output();
        debug_assert!(!path.exists());
    }
}

/// A cable between two sites.
pub struct Cable {
    /// The address of the second site's end; the first one's ends in 1.
    pub address: String,
    link: String,
}

impl Cable {
    /// Connects them.
    pub fn between(one: &mut Site, other: &mut Site) -> Self {
        let (ours, theirs) = (one.new_link(), other.new_link());
        let there = other.namespace_path().display().to_string();
        let veth = [
            "link", "add", &ours, "type", "veth", "peer", &theirs, "netns", &there,
        ];
        succeed(&mut one.command("ip", &veth));
        for (site, link, address) in [
            (&*one, &ours, "198.51.100.1/24"),
            (&*other, &theirs, "198.51.100.2/24"),
        ] {
            succeed(&mut site.command("ip", &["address", "add", address, "dev", link]));
            succeed(&mut site.command("ip", &["link", "set", link, "up"]));
        }
        Self {
            address: "198.51.100.2".to_owned(),
            link: theirs,
        }
    }

    /// Pulls it out at the second site: what is sent gets lost, and nobody is told.
    pub fn cut(&self, other: &Site) {
        succeed(&mut other.command("ip", &["link", "set", &self.link, "down"]));
    }

    /// Plugs it in again.
    pub fn mend(&self, other: &Site) {
        succeed(&mut other.command("ip", &["link", "set", &self.link, "up"]));
    }
}
