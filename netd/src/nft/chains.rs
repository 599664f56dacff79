//! What other programs hook into the packets' way: read, never written.

use std::{fmt, io};

use crate::netlink::wire::{DUMP, Message, Received, attributes, text};

use super::client::Client;
use super::expr::IpVersion;

const SUBSYSTEM: u16 = 10;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const DELCHAIN: u16 = 5;
const NFPROTO_INET: u8 = 1;

/// A chain that packets come by without being sent there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// `NFPROTO_*` of its table.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// As [`Hook::number`](super::Hook::number).
    pub hook: u32,
    /// Smaller is earlier.
    pub priority: i32,
    /// What none of its rules decides about is dropped.
    pub drops: bool,
}

impl BaseChain {
    /// Whether packets of that version come by.
    pub fn sees(&self, version: IpVersion) -> bool {
        self.family == NFPROTO_INET || self.family == version.number()
    }
}

impl fmt::Display for BaseChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            1 => "inet",
            2 => "ip",
            10 => "ip6",
            _ => "other",
        };
        write!(f, "chain {} of table {family} {}", self.name, self.table)
    }
}

impl Client {
    /// The base chains of all tables of this network namespace.
    pub fn base_chains(&mut self) -> io::Result<Vec<BaseChain>> {
        /// `struct nfgenmsg` of all families.
        const ALL: [u8; 4] = [0; 4];
        let request = Message::new(SUBSYSTEM << 8 | GETCHAIN, DUMP, &ALL);
        let mut chains = Vec::new();
        self.query(&request, |message| chains.extend(base_chain(&message)))?;
        Ok(chains)
    }
}

fn base_chain(message: &Received<'_>) -> Option<BaseChain> {
    // NFTA_CHAIN_TABLE, NAME, HOOK { HOOKNUM, PRIORITY }, POLICY (NF_DROP = 0)
    let (header, rest) = message.payload.split_first_chunk::<4>()?;
    let find = |bytes, kind| attributes(bytes).find(|(k, _)| *k == kind).map(|(_, d)| d);
    let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    let hook = find(rest, 4)?;
    Some(BaseChain {
        family: header[0],
        table: text(find(rest, 1)?),
        name: text(find(rest, 3)?),
        hook: number(find(hook, 1)?)?,
        priority: number(find(hook, 2)?)?.cast_signed(),
        drops: find(rest, 5).and_then(number) == Some(0),
    })
}

/// Whether a notification tells that somebody made, changed or deleted a chain of a table that is not called so.
pub fn is_foreign_chain(own: &str, event: &Received<'_>) -> bool {
    let of_own = |rest| attributes(rest).any(|(kind, data)| kind == 1 && text(data) == own);
    event.kind >> 8 == SUBSYSTEM
        && matches!(event.kind & 0xff, NEWCHAIN | DELCHAIN)
        && !event.payload.get(4..).is_some_and(of_own)
}
