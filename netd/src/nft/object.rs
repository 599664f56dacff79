//! What a table holds, and the batch of messages that puts it there.

use std::time::Duration;

use crate::netlink::wire::{APPEND, CREATE, Message};

use super::rule::Rule;
use super::set::{DataType, Element, Set, write_element};

pub(super) const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
/// As `DELTABLE`, and no error where there is none (Linux 6.3).
const DESTROYTABLE: u16 = SUBSYSTEM | 26;
pub(super) const NEWCHAIN: u16 = SUBSYSTEM | 3;
pub(super) const NEWRULE: u16 = SUBSYSTEM | 6;
pub(super) const NEWSET: u16 = SUBSYSTEM | 9;
pub(super) const NEWSETELEM: u16 = SUBSYSTEM | 12;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NFPROTO_INET: u8 = 1;
const NFPROTO_BRIDGE: u8 = 7;
/// `struct nfgenmsg` of a batch: the resource id is the subsystem, in network order.
const BATCH: [u8; 4] = [0, 0, 0, 10];

/// Elements in a message: a nest's length has 16 bits, and an element of ours takes at most 100 bytes.
const ELEMENTS_A_MESSAGE: usize = 500;

/// Where a base chain is hooked in (inet and bridge: prerouting 0, input 1, forward 2, output 3, postrouting 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// Hook number.
    pub number: u32,
    /// Smaller is earlier.
    pub priority: i32,
}

/// A chain; without a hook it is only jumped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its place in the packet's way.
    pub hook: Option<Hook>,
}

/// A set that rules fill: keys with what a [`super::Bound`] counts of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    /// Its name.
    pub name: &'static str,
    /// What a key is.
    pub key: DataType,
    /// A key that is not seen for so long is forgotten; none: as soon as nothing is counted of it.
    pub forget: Option<Duration>,
}

/// Messages that the kernel applies all or none, to one table.
#[derive(Debug, Clone)]
pub struct Batch {
    pub(super) table: &'static str,
    /// `nfgen_family` of all of them.
    pub(super) family: u8,
    pub(super) messages: Vec<Message>,
}

impl Batch {
    /// An empty batch for an `inet` table: packets of IP.
    pub fn of(table: &'static str) -> Self {
        Self::of_family(NFPROTO_INET, table)
    }

    /// An empty batch for a `bridge` table: frames that ports give to their bridges.
    pub fn of_bridges(table: &'static str) -> Self {
        Self::of_family(NFPROTO_BRIDGE, table)
    }

    fn of_family(family: u8, table: &'static str) -> Self {
        Self {
            table,
            family,
            messages: vec![Message::new(BATCH_BEGIN, 0, &BATCH)],
        }
    }

    fn begin(&self, kind: u16, flags: u16) -> Message {
        // `struct nfgenmsg`
        let mut message = Message::new(kind, flags, &[self.family, 0, 0, 0]);
        message.str(1, self.table); // NFTA_*_TABLE, NFTA_TABLE_NAME
        message
    }

    /// Makes the table unless it exists.
    pub fn table(&mut self) -> &mut Self {
        self.new_table(0)
    }

    /// Makes the table one that nobody else can change or flush while our socket is open, and that stays when it is
    /// closed (`NFT_TABLE_F_OWNER`, `NFT_TABLE_F_PERSIST`; Linux 6.9). There must be none.
    pub fn own_table(&mut self) -> &mut Self {
        const OWNER: u32 = 0x2;
        const PERSIST: u32 = 0x4;
        self.new_table(OWNER | PERSIST)
    }

    fn new_table(&mut self, flags: u32) -> &mut Self {
        let mut message = self.begin(NEWTABLE, CREATE);
        message.be32(2, flags);
        self.messages.push(message);
        self
    }

    /// Removes the table, if there is one, whoever has it (Linux 6.3).
    pub fn destroy_table(&mut self) -> &mut Self {
        let message = self.begin(DESTROYTABLE, 0);
        self.messages.push(message);
        self
    }

    /// Removes the table with all that it holds.
    pub fn delete_table(&mut self) -> &mut Self {
        let message = self.begin(DELTABLE, 0);
        self.messages.push(message);
        self
    }

    /// Adds a chain.
    pub fn chain(&mut self, chain: Chain<'_>) -> &mut Self {
        let mut message = self.begin(NEWCHAIN, CREATE);
        message.str(3, chain.name);
        if let Some(hook) = chain.hook {
            message.str(7, hook.kind).be32(5, 1); // type; policy accept
            message.nest(4, |nest| {
                nest.be32(1, hook.number)
                    .attr(2, &hook.priority.to_be_bytes());
            });
        }
        self.messages.push(message);
        self
    }

    /// Adds a set or map.
    pub fn set(&mut self, set: Set<'_>) -> &mut Self {
        const INTERVAL: u32 = 0x4;
        const MAP: u32 = 0x8;
        const CONCAT: u32 = 0x80;
        // Concatenated types are numbered by six bits a part.
        let kind = |parts: &[DataType]| parts.iter().fold(0, |sum, part| sum << 6 | part.number());
        let len = |parts: &[DataType]| parts.iter().map(|part| part.len()).sum();
        let mut flags = if set.interval { INTERVAL } else { 0 };
        if !set.value.is_empty() {
            flags |= MAP;
        }
        let in_parts = set.interval && set.key.len() > 1;
        if in_parts {
            flags |= CONCAT;
        }
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        let mut message = self.begin(NEWSET, CREATE);
        message
            .str(2, set.name)
            .be32(3, flags)
            .be32(4, kind(set.key))
            .be32(5, len(set.key));
        if !set.value.is_empty() {
            message.be32(6, kind(set.value)).be32(7, len(set.value));
        }
        if in_parts {
            // NFTA_SET_DESC, NFTA_SET_DESC_CONCAT, a list of NFTA_SET_FIELD_LEN.
            message.nest(9, |desc| {
                desc.nest(2, |parts| {
                    for part in set.key {
                        parts.nest(1, |field| {
                            field.be32(1, part.bytes());
                        });
                    }
                });
            });
        }
        message.be32(10, id);
        // NFTA_SET_USERDATA, for `nft list` only: the key's byte order (type 0, length 4; 1 = the
        // host's, 2 = big endian), without which it prints link names as nothing.
        let order = if set.key == [DataType::LinkName] {
            1
        } else {
            2
        };
        message.attr(13, &[0, 4, order, 0, 0, 0]);
        self.messages.push(message);
        self
    }

    /// Adds a set for rules to fill.
    pub fn meter(&mut self, meter: Meter) -> &mut Self {
        const TIMEOUT: u32 = 0x10;
        const EVAL: u32 = 0x20;
        const MOST: u32 = 65535;
        let flags = match meter.forget {
            Some(_) => TIMEOUT | EVAL,
            None => EVAL,
        };
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        let mut message = self.begin(NEWSET, CREATE);
        message
            .str(2, meter.name)
            .be32(3, flags)
            .be32(4, meter.key.number())
            .be32(5, meter.key.len())
            // NFTA_SET_DESC, NFTA_SET_DESC_SIZE
            .nest(9, |desc| {
                desc.be32(1, MOST);
            })
            .be32(10, id);
        if let Some(forget) = meter.forget {
            let forget = u64::try_from(forget.as_millis()).unwrap_or(u64::MAX);
            message.attr(11, &forget.to_be_bytes());
        }
        message.attr(13, &[0, 4, 2, 0, 0, 0]);
        self.messages.push(message);
        self
    }

    /// Adds entries.
    pub fn add(&mut self, set: &'static str, elements: &[Element]) -> &mut Self {
        self.elements(NEWSETELEM, CREATE, set, elements)
    }

    /// Removes entries by their keys.
    pub fn remove(&mut self, set: &'static str, elements: &[Element]) -> &mut Self {
        self.elements(DELSETELEM, 0, set, elements)
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) -> &mut Self {
        for chunk in elements.chunks(ELEMENTS_A_MESSAGE) {
            let mut message = self.begin(kind, flags);
            message.str(2, set).nest(3, |list| {
                for element in chunk {
                    list.nest(1, |entry| write_element(element, entry));
                }
            });
            self.messages.push(message);
        }
        self
    }

    /// Adds a rule at the end of its chain.
    pub fn rule(&mut self, rule: Rule) -> &mut Self {
        let mut message = self.begin(NEWRULE, CREATE | APPEND);
        message.str(2, &rule.chain).nest(4, |list| {
            for expression in &rule.expressions {
                expression.write(list);
            }
        });
        self.messages.push(message);
        self
    }

    /// Whether it would change anything.
    pub fn is_empty(&self) -> bool {
        self.messages.len() == 1
    }

    pub(super) fn end(mut self) -> Vec<Message> {
        self.messages.push(Message::new(BATCH_END, 0, &BATCH));
        self.messages
    }
}
