//! An rtnetlink client: what links, addresses and routes a namespace has, and changes to them.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use super::fence;
use super::link::{
    IFA_ADDRESS, IFA_LOCAL, IFF_RUNNING, IFF_UP, IFLA_ADDRESS, IFLA_BRPORT_MODE, IFLA_IFALIAS,
    IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA, IFLA_LINKINFO, IFLA_MASTER,
    IFLA_MTU, RTA_DST, RTA_OIF, link_header, octets,
};
use super::mac::Mac;
use super::neigh::{self, Known};
use super::socket::{Family, Socket};
use super::vxlan::{self, Carried};
use super::wire::{DUMP, Message, Received, attributes, number, text};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// What somebody wrote on it.
    pub alias: String,
    /// It is switched on.
    pub up: bool,
    /// It carries frames (RFC 2863's operational state is up).
    pub running: bool,
    /// The largest packet that it takes, in bytes.
    pub mtu: u32,
    /// Its MAC, if it has one.
    pub mac: Option<Mac>,
    /// As a port of a bridge: frames may go back to where they came from.
    pub hairpin: bool,
    /// "bridge", "veth"; "" for a device.
    pub kind: String,
    /// Of a VXLAN link.
    pub vxlan: Option<Carried>,
}

/// An rtnetlink socket of one namespace.
#[derive(Debug)]
pub struct Route {
    socket: Socket,
}

impl Route {
    /// Opens it in the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::open(Family::Route)?,
        })
    }

    /// Sends all requests in one go; the first refusal is the answer (later ones were still done).
    pub fn apply(&mut self, requests: &[Message]) -> io::Result<()> {
        for answer in self.socket.request(requests)? {
            answer?;
        }
        Ok(())
    }

    /// As [`Route::apply`], but what exists already, or is gone already, is fine.
    pub fn apply_idempotent(&mut self, requests: &[Message]) -> io::Result<()> {
        for answer in self.socket.request(requests)? {
            match answer {
                Ok(()) | Err(Errno::EEXIST | Errno::ENODEV | Errno::ENOENT | Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// The link of that name.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut request = Message::new(RTM_GETLINK, 0, &link_header(0, 0, 0));
        request.str(IFLA_IFNAME, name);
        let mut found = None;
        match self
            .socket
            .query(&request, false, |message| found = parse_link(message))
        {
            Ok(()) => Ok(found),
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let request = Message::new(RTM_GETLINK, DUMP, &link_header(0, 0, 0));
        let mut links = Vec::new();
        self.socket
            .query(&request, true, |message| links.extend(parse_link(message)))?;
        Ok(links)
    }

    /// All addresses, of both families, with the index of their link.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, IpNet)>> {
        let header = [0; ADDRESS_HEADER];
        let mut found = Vec::new();
        self.socket
            .query(&Message::new(RTM_GETADDR, DUMP, &header), true, |message| {
                found.extend(parse_address(message.payload));
            })?;
        Ok(found)
    }

    /// The destinations of all routes, of both families, but the default ones, with the index of their link; 0 where
    /// they have none or several.
    pub fn routes(&mut self) -> io::Result<Vec<(u32, IpNet)>> {
        let mut found = Vec::new();
        self.each_route(|payload| found.extend(parse_route(payload)))?;
        Ok(found)
    }

    /// The destinations of routes that lead by a link, of the main table.
    pub fn routes_by(&mut self, index: u32) -> io::Result<Vec<IpNet>> {
        const RT_TABLE_MAIN: u8 = 254;
        let mut found = Vec::new();
        self.each_route(|payload| {
            let route = parse_route(payload).filter(|(by, _)| *by == index);
            let of_main = payload.get(4) == Some(&RT_TABLE_MAIN);
            found.extend(route.filter(|_| of_main).map(|(_, to)| to));
        })?;
        Ok(found)
    }

    /// The subnets that nothing leaves for but by their own routes: see [`fence::raise`].
    pub fn fences(&mut self) -> io::Result<Vec<IpNet>> {
        let mut found = Vec::new();
        self.each_route(|payload| {
            let route = parse_route(payload).filter(|_| fence::is_fence(payload));
            found.extend(route.map(|(_, to)| to));
        })?;
        Ok(found)
    }

    /// Whose Ethernet addresses were told for good on a link, of a version of IP.
    pub fn neighbours(&mut self, index: u32, like: IpAddr) -> io::Result<Vec<Known>> {
        self.each_known(&neigh::all(like), index)
    }

    /// Where a tunnel leads.
    pub fn tunnel_entries(&mut self, index: u32) -> io::Result<Vec<Known>> {
        self.each_known(&neigh::all_entries(), index)
    }

    fn each_known(&mut self, request: &Message, index: u32) -> io::Result<Vec<Known>> {
        let mut found = Vec::new();
        self.socket.query(request, true, |message| {
            found.extend(neigh::known(&message, index));
        })?;
        Ok(found)
    }

    /// Indexes of the links that default routes lead by: those to `everywhere`, `0.0.0.0/0` or `::/0`.
    pub fn default_routes(&mut self, everywhere: IpNet) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        let family = super::link::family(everywhere.addr());
        self.each_route(|payload| found.extend(parse_default_route(family, payload)))?;
        Ok(found)
    }

    /// Whether somebody on a link has said that an address is his.
    pub fn has_answered(&mut self, index: u32, address: IpAddr) -> io::Result<bool> {
        let mut found = false;
        self.socket.query(&neigh::all(address), true, |message| {
            found |= neigh::answered(&message, index, address);
        })?;
        Ok(found)
    }

    /// Whether packets to an address are this namespace's own.
    pub fn is_local(&mut self, address: IpAddr) -> io::Result<bool> {
        const RTN_LOCAL: u8 = 2;
        let mut header = [0; ROUTE_HEADER];
        header[0] = super::link::family(address);
        header[1] = if address.is_ipv4() { 32 } else { 128 };
        let mut request = Message::new(RTM_GETROUTE, 0, &header);
        request.attr(RTA_DST, &octets(address));
        let mut local = false;
        match self.socket.query(&request, false, |message| {
            local = message.payload.get(7) == Some(&RTN_LOCAL);
        }) {
            // There is no way to it at all.
            Err(error) if error.raw_os_error() == Some(Errno::ENETUNREACH as i32) => Ok(false),
            asked => asked.map(|()| local),
        }
    }

    fn each_route(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let request = Message::new(RTM_GETROUTE, DUMP, &[0; ROUTE_HEADER]);
        self.socket
            .query(&request, true, |message| each(message.payload))
    }
}

fn parse_link(message: Received<'_>) -> Option<Link> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let payload = message.payload;
    let flags: u32 = number(payload.get(8..12)?)?;
    let mut link = Link {
        index: number(payload.get(4..8)?)?,
        name: String::new(),
        master: None,
        alias: String::new(),
        up: flags & IFF_UP != 0,
        running: flags & IFF_RUNNING != 0,
        mtu: 0,
        mac: None,
        hairpin: false,
        kind: String::new(),
        vxlan: None,
    };
    for (kind, data) in attributes(payload.get(LINK_HEADER..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(data),
            IFLA_IFALIAS => link.alias = text(data),
            IFLA_MASTER => link.master = number(data),
            IFLA_MTU => link.mtu = number(data).unwrap_or_default(),
            IFLA_ADDRESS => link.mac = data.try_into().ok().map(Mac),
            IFLA_LINKINFO => {
                for (kind, data) in attributes(data) {
                    match kind {
                        IFLA_INFO_KIND => link.kind = text(data),
                        // It comes after the kind.
                        IFLA_INFO_DATA if link.kind == "vxlan" => {
                            link.vxlan = Some(vxlan::carried(data));
                        }
                        IFLA_INFO_SLAVE_DATA => {
                            let mode = (IFLA_BRPORT_MODE, [1].as_slice());
                            link.hairpin = attributes(data).any(|setting| setting == mode);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

/// Four bytes or sixteen.
pub(super) fn address(data: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(data)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(data).map(IpAddr::from))
        .ok()
}

fn parse_address(payload: &[u8]) -> Option<(u32, IpNet)> {
    let prefix = *payload.get(1)?;
    let index = number(payload.get(4..8)?)?;
    let mut found = None;
    for (kind, data) in attributes(payload.get(ADDRESS_HEADER..)?) {
        match kind {
            IFA_LOCAL => found = address(data),
            IFA_ADDRESS => found = found.or_else(|| address(data)),
            _ => {}
        }
    }
    Some((index, IpNet::new(found?, prefix).ok()?))
}

fn parse_default_route(family: u8, payload: &[u8]) -> Option<u32> {
    const RT_TABLE_MAIN: u8 = 254;
    let of_family = *payload.first()? == family;
    if !of_family || *payload.get(1)? != 0 || *payload.get(4)? != RT_TABLE_MAIN {
        return None;
    }
    let (_, data) = attributes(payload.get(ROUTE_HEADER..)?).find(|(kind, _)| *kind == RTA_OIF)?;
    number(data)
}

fn parse_route(payload: &[u8]) -> Option<(u32, IpNet)> {
    const RT_TABLE_LOCAL: u8 = 255;
    let prefix = *payload.get(1)?;
    if prefix == 0 || *payload.get(4)? == RT_TABLE_LOCAL {
        return None;
    }
    let find = |wanted| {
        let mut told = attributes(payload.get(ROUTE_HEADER..)?);
        told.find(|(kind, _)| *kind == wanted).map(|(_, data)| data)
    };
    let by = find(RTA_OIF).and_then(number).unwrap_or_default();
    Some((by, IpNet::new(address(find(RTA_DST)?)?, prefix).ok()?))
}
