//! A host, its LAN and its containers, as network namespaces of the test's own.

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::{io, thread};

use ipnet::IpNet;
use netd::netlink::{Mac, Netns, Route, link};
use nix::sched::{CloneFlags, unshare};
use slipway_fault::Action;
use slipway_proto::netd::v1::network_client::NetworkClient;
use slipway_proto::netd::v1::*;
use slipway_service::{Address, client};
use tonic::Status;
use tonic::transport::Channel;

pub use crate::patience::*;

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// A host with netd on it and a neighbour on its LAN.
pub struct World {
    folder: tempfile::TempDir,
    daemon: Child,
    runtime: tokio::runtime::Runtime,
    pub neighbour: Netns,
}

/// Runs a test on a host of its own, or says why not.
pub fn on_a_host(test: impl FnOnce(&mut World) + Send) {
    on_a_host_with("", test);
}

/// The same with further settings in its `netd.toml`.
pub fn on_a_host_with(settings: &str, test: impl FnOnce(&mut World) + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: making network namespaces needs root");
        return;
    }
    thread::scope(|scope| {
        let done = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut world = World::new(settings);
            test(&mut world);
        });
        if let Err(panic) = done.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl World {
    fn new(more: &str) -> Self {
        let folder = folder();
        // A new namespace has what the machine has.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let mut route = Route::open().unwrap();
        let net: IpNet = "192.0.2.0/24".parse().unwrap();
        let neighbour = Netns::create().unwrap();
        let pair = link::Veth {
            host: "lan0",
            bridge: None,
            peer: "lan0",
            peer_mac: Mac::of(NEIGHBOUR.into()),
            netns: neighbour.as_fd(),
            mtu: 1500,
        };
        route.apply(&[pair.create()]).unwrap();
        let up = || {
            let mut inside = Route::open()?;
            let index = inside.link("lan0")?.unwrap().index;
            inside.apply(&[
                link::set_up(1),
                link::set_up(index),
                link::add_address(index, NEIGHBOUR.into(), net),
                link::add_route("0.0.0.0/0".parse().unwrap(), HOST.into(), index),
            ])
        };
        neighbour.inside(up).unwrap();
        let index = route.link("lan0").unwrap().unwrap().index;
        route
            .apply(&[link::set_up(1), link::add_address(index, HOST.into(), net)])
            .unwrap();

        let runtime = runtime();
        configure(&folder, more);
        let daemon = start(&folder);
        let world = Self {
            folder,
            daemon,
            runtime,
            neighbour,
        };
        world.wait_until_ready();
        world
    }

    /// A netd on the neighbour, whose neighbour this host is.
    pub fn on_the_neighbour(&self) -> Self {
        let folder = folder();
        configure(&folder, "");
        let daemon = self.neighbour.inside(|| Ok(start(&folder))).unwrap();
        let world = Self {
            folder,
            daemon,
            runtime: runtime(),
            neighbour: Netns::current().unwrap(),
        };
        world.wait_until_ready();
        world
    }

    /// Gives the LAN IPv6 as well; the host is the neighbour's router.
    pub fn with_ipv6(&self) {
        let net = IpNet::new(HOST6.into(), 64).unwrap();
        let address = |route: &mut Route, own: Ipv6Addr| {
            let index = route.link("lan0")?.unwrap().index;
            route.apply(&[link::add_address(index, own.into(), net)])?;
            io::Result::Ok(index)
        };
        let far = || {
            let mut inside = Route::open()?;
            let index = address(&mut inside, NEIGHBOUR6)?;
            inside.apply(&[link::add_route(
                "::/0".parse().unwrap(),
                HOST6.into(),
                index,
            )])
        };
        self.neighbour.inside(far).unwrap();
        address(&mut Route::open().unwrap(), HOST6).unwrap();
    }

    /// Makes a network.
    pub fn network(&self, request: CreateNetworkRequest) -> Result<NetworkDetails, Status> {
        self.call(async |mut netd| netd.create_network(request).await)
    }

    pub fn call<T>(
        &self,
        work: impl AsyncFnOnce(NetworkClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Status> {
        let address = Address::Unix(self.socket());
        self.runtime.block_on(async {
            let channel = client::connect(&address, None).unwrap();
            work(NetworkClient::new(channel))
                .await
                .map(tonic::Response::into_inner)
        })
    }

    /// Two calls at the same time.
    pub fn beside<A, B>(
        &self,
        one: impl AsyncFnOnce(NetworkClient<Channel>) -> Result<tonic::Response<A>, Status>,
        other: impl AsyncFnOnce(NetworkClient<Channel>) -> Result<tonic::Response<B>, Status>,
    ) -> (Result<A, Status>, Result<B, Status>) {
        let address = Address::Unix(self.socket());
        self.runtime.block_on(async {
            let netd = NetworkClient::new(client::connect(&address, None).unwrap());
            let (one, other) = tokio::join!(one(netd.clone()), other(netd));
            (
                one.map(tonic::Response::into_inner),
                other.map(tonic::Response::into_inner),
            )
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/netd.sock")
    }

    /// Where netd keeps the record of a network.
    pub fn network_record(&self, id: &str) -> PathBuf {
        self.folder
            .path()
            .join(format!("state/netd/networks/{id}.json"))
    }

    /// Where netd keeps the record of an endpoint.
    pub fn record(&self, endpoint: &str) -> PathBuf {
        let name = format!("run/netd/endpoints/{endpoint}.json");
        self.folder.path().join(name)
    }

    pub fn wait_until_ready(&self) {
        eventually("netd answers", || {
            self.call(async |mut netd| netd.info(InfoRequest {}).await)
                .is_ok()
        });
    }

    /// Another `netd.toml`, for a netd that is started from now on.
    pub fn configure(&self, more: &str) {
        configure(&self.folder, more);
    }

    /// The key that other hosts know this one by.
    pub fn key(&self) -> String {
        let info = self.call(async |mut netd| netd.info(InfoRequest {}).await);
        info.unwrap().facts["wireguard key"].clone()
    }

    /// A file or folder of netd's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What netd says about this host.
    pub fn warnings(&self) -> Vec<String> {
        let info = self.call(async |mut netd| netd.info(InfoRequest {}).await);
        info.unwrap().warnings
    }

    /// Has netd stand still or die when it next comes by a point.
    pub fn arm(&self, point: &str, action: Action) {
        let file = self.folder.path().join("faults").join(point);
        let temporary = file.with_extension("arming");
        std::fs::write(&temporary, action.to_string()).unwrap();
        std::fs::rename(temporary, file).unwrap();
    }

    /// Whether it came by.
    pub fn fired(&self, point: &str) -> bool {
        self.fired_file(point).exists()
    }

    /// Whoever waits at a point goes on.
    pub fn let_go(&self, point: &str) {
        std::fs::remove_file(self.fired_file(point)).unwrap();
    }

    fn fired_file(&self, point: &str) -> PathBuf {
        self.folder.path().join(format!("faults/{point}.fired"))
    }

    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    /// kill -9, and a new netd.
    pub fn restart(&mut self) {
        self.kill();
        self.restart_dead();
    }

    /// A new netd in the place of one that was killed.
    pub fn restart_dead(&mut self) {
        self.begin();
        self.wait_until_ready();
    }

    /// The same, which may not get as far as to answer.
    pub fn begin(&mut self) {
        self.daemon = start(&self.folder);
    }

    /// Waits until it has ended by itself.
    pub fn ends(&mut self) -> std::process::ExitStatus {
        self.daemon.wait().unwrap()
    }

    pub fn attach(&self, request: CreateEndpointRequest) -> Result<Container, Status> {
        let endpoint = self.call(async |mut netd| netd.create_endpoint(request).await)?;
        let netns = Netns::open(endpoint.netns_path.as_ref()).unwrap();
        Ok(Container { endpoint, netns })
    }

    /// Attaches all at the same time; nobody holds the namespaces afterwards but netd.
    pub fn at_once(&self, requests: impl Iterator<Item = CreateEndpointRequest>) -> Vec<Endpoint> {
        let address = Address::Unix(self.socket());
        self.runtime.block_on(async {
            let netd = NetworkClient::new(client::connect(&address, None).unwrap());
            let mut calls = tokio::task::JoinSet::new();
            for request in requests {
                let mut netd = netd.clone();
                calls.spawn(async move { netd.create_endpoint(request).await.unwrap() });
            }
            let done = calls.join_all().await;
            done.into_iter().map(tonic::Response::into_inner).collect()
        })
    }

    /// A container with published ports, each as `[address:]host:container[/udp]`.
    pub fn run(&self, name: &str, ports: &[&str]) -> Container {
        self.attach(request(name, ports)).unwrap()
    }

    pub fn release(&self, container: &str) {
        let request = ReleaseEndpointRequest {
            container_id: container_id(container),
            ..ReleaseEndpointRequest::default()
        };
        let done = self
            .call(async |mut netd| netd.release_endpoint(request).await)
            .unwrap();
        assert_eq!(done.released, 1);
    }

    pub fn links(&self) -> Vec<String> {
        Route::open()
            .unwrap()
            .links()
            .unwrap()
            .into_iter()
            .map(|link| link.name)
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // It may have been killed by the test.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        if thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            eprintln!("netd said:\n{}", log.unwrap_or_default());
        }
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("etc")).unwrap();
    std::fs::create_dir(folder.path().join("faults")).unwrap();
    let conf = folder.path().join("resolv.conf");
    std::fs::write(&conf, "nameserver 127.0.0.1\nsearch site.example\n").unwrap();
    folder
}

fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap()
}

fn configure(folder: &tempfile::TempDir, more: &str) {
    let conf = folder.path().join("resolv.conf");
    let settings = format!("resolv_conf = {:?}\n{more}", conf.display().to_string());
    std::fs::write(folder.path().join("etc/netd.toml"), settings).unwrap();
}

fn start(folder: &tempfile::TempDir) -> Child {
    let at = |name: &str| folder.path().join(name);
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(at("log"))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_netd"))
        .arg("--state-dir")
        .arg(at("state"))
        .arg("--run-dir")
        .arg(at("run"))
        .arg("--config-dir")
        .arg(at("etc"))
        .env(slipway_fault::VARIABLE, at("faults"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

pub fn container_id(name: &str) -> String {
    let mut id = hex::encode(name);
    id.push_str(&"0".repeat(64 - id.len()));
    id
}

pub fn request(name: &str, ports: &[&str]) -> CreateEndpointRequest {
    CreateEndpointRequest {
        container_id: container_id(name),
        container_name: name.to_owned(),
        ports: ports.iter().map(|port| binding(port)).collect(),
        ..CreateEndpointRequest::default()
    }
}

pub fn binding(text: &str) -> PortBinding {
    let (text, protocol) = match text.strip_suffix("/udp") {
        Some(text) => (text, Protocol::Udp),
        None => (text, Protocol::Tcp),
    };
    let (rest, container) = text.rsplit_once(':').unwrap();
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    PortBinding {
        protocol: protocol.into(),
        container_port: container.parse().unwrap(),
        host_address: address.to_owned(),
        host_port: host.parse().unwrap(),
        ..PortBinding::default()
    }
}

/// An attached namespace; what a container's processes would do is done by threads.
pub struct Container {
    pub endpoint: Endpoint,
    pub netns: Netns,
}

impl Container {
    pub fn address(&self) -> Ipv4Addr {
        self.endpoint.ipv4_address.parse().unwrap()
    }

    pub fn address6(&self) -> Ipv6Addr {
        self.endpoint.ipv6_address.parse().unwrap()
    }

    /// Serves tcp: tells every client its address as seen here.
    pub fn serve(&self, port: u16) -> &Self {
        let bind = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
        let listener = self.netns.inside(bind).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream: TcpStream = stream.unwrap();
                let client = stream.peer_addr().unwrap().ip();
                let text = client.to_canonical().to_string();
                // A client that hangs up first is its own business.
                let _ = stream.write_all(text.as_bytes());
            }
        });
        self
    }

    /// The same over udp.
    pub fn serve_udp(&self, port: u16) -> &Self {
        let bind = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port));
        let socket = self.netns.inside(bind).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((_, client)) = socket.recv_from(&mut buffer) {
                let text = client.ip().to_canonical().to_string();
                let _ = socket.send_to(text.as_bytes(), client);
            }
        });
        self
    }
}
