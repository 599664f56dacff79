//! A LAN with several sites on it: a switch with a port for each, and an ear.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, recv, socket},
};

use crate::site::{Site, number, succeed};

const SWITCH: &str = "br0";

/// See the module's page.
pub struct Lan {
    namespace: String,
}

impl Lan {
    /// Connects sites; the first one's address ends in 1, and so on.
    pub fn of(sites: &mut [Site]) -> Self {
        let lan = Self {
            namespace: format!("swn-{}-{}", std::process::id(), number()),
        };
        succeed(Command::new("ip").args(["netns", "add", &lan.namespace]));
        lan.ip(&["link", "add", SWITCH, "type", "bridge"]);
        lan.ip(&["link", "set", SWITCH, "up"]);
        for (place, site) in sites.iter_mut().enumerate() {
            let (port, theirs) = (port(place), site.new_link());
            let there = site.namespace_path().display().to_string();
            lan.ip(&[
                "link", "add", &port, "type", "veth", "peer", &theirs, "netns", &there,
            ]);
            lan.ip(&["link", "set", &port, "master", SWITCH]);
            lan.ip(&["link", "set", &port, "up"]);
            let address = format!("{}/24", Self::address(place));
            succeed(&mut site.command("ip", &["address", "add", &address, "dev", &theirs]));
            // Packets are what they would be on a wire: large ones are cut before they are sent.
            let cut = ["link", "set", &theirs, "gso_max_segs", "1", "up"];
            succeed(&mut site.command("ip", &cut));
        }
        lan
    }

    /// The address of a site on it.
    pub fn address(place: usize) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, u8::try_from(place + 1).unwrap())
    }

    /// Cuts a site off.
    pub fn cut(&self, place: usize) {
        self.ip(&["link", "set", &port(place), "down"]);
    }

    /// Connects it again.
    pub fn mend(&self, place: usize) {
        self.ip(&["link", "set", &port(place), "up"]);
    }

    fn ip(&self, arguments: &[&str]) {
        succeed(
            Command::new("ip")
                .args(["-n", &self.namespace])
                .args(arguments),
        );
    }

    /// Hears every frame from now on.
    pub fn capture(&self) -> Capture {
        let stop = Arc::new(AtomicBool::new(false));
        let namespace = File::open(format!("/run/netns/{}", self.namespace)).unwrap();
        let (tell, ready) = std::sync::mpsc::channel();
        let ending = Arc::clone(&stop);
        let listening = std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let kind = SockType::Raw;
            let ear = socket(AddressFamily::Packet, kind, flags, SockProtocol::EthAll).unwrap();
            tell.send(()).unwrap();
            listen(&ear, &ending)
        });
        ready.recv().unwrap();
        Capture { stop, listening }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        // Its links go with it, the sites' ends too.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .output();
    }
}

fn port(place: usize) -> String {
    format!("port{place}")
}

/// What is being heard.
pub struct Capture {
    stop: Arc<AtomicBool>,
    listening: JoinHandle<Vec<Packet>>,
}

impl Capture {
    /// All packets of IPv4 that went by.
    pub fn end(self) -> Vec<Packet> {
        self.stop.store(true, Ordering::Relaxed);
        self.listening.join().unwrap()
    }
}

/// A packet of IPv4 on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub from: Ipv4Addr,
    /// To whom.
    pub to: Ipv4Addr,
    /// 17 = UDP.
    pub protocol: u8,
    /// Of UDP and TCP.
    pub port: u16,
    /// Bytes, with its header.
    pub length: u16,
    /// Part of a larger one.
    pub fragment: bool,
}

fn listen(ear: &OwnedFd, stop: &AtomicBool) -> Vec<Packet> {
    let mut heard = Vec::new();
    let mut frame = vec![0; 65536];
    loop {
        match recv(
            ear.as_raw_fd(),
            &mut frame,
            nix::sys::socket::MsgFlags::empty(),
        ) {
            Ok(read) => heard.extend(frame.get(..read).and_then(packet)),
            Err(Errno::EAGAIN) if stop.load(Ordering::Relaxed) => return heard,
            Err(Errno::EAGAIN) => std::thread::sleep(std::time::Duration::from_millis(1)),
            Err(error) => panic!("cannot listen: {error}"),
        }
    }
}

fn packet(frame: &[u8]) -> Option<Packet> {
    const ETHERNET: usize = 14;
    let two = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let four = |at: usize| Some(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?.into());
    if two(12)? != 0x0800 {
        return None;
    }
    let header = usize::from(frame.get(ETHERNET)? & 0xf) * 4;
    Some(Packet {
        from: four(ETHERNET + 12)?,
        to: four(ETHERNET + 16)?,
        protocol: *frame.get(ETHERNET + 9)?,
        port: two(ETHERNET + header + 2)?,
        length: two(ETHERNET + 2)?,
        // More fragments, or not the first one.
        fragment: two(ETHERNET + 6)? & 0x3fff != 0,
    })
}
