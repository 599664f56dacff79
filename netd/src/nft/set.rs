//! What sets and maps consist of.

use crate::netlink::wire::Message;

use super::expr::{NFTA_DATA_VALUE, NFTA_DATA_VERDICT, Verdict, write_verdict};

/// Types of keys and values, as `nft` numbers them so that it can print what we wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// `ifname`, 16 bytes.
    LinkName,
    /// `ipv4_addr`, 4 bytes.
    Ipv4,
    /// `ipv6_addr`, 16 bytes.
    Ipv6,
    /// `ether_addr`, 6 bytes, in a concatenation 8.
    Mac,
    /// `inet_proto`, 1 byte.
    Layer4,
    /// `inet_service`, 2 bytes.
    Port,
    /// A [`Verdict`], as a value only.
    Verdict,
}

impl DataType {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::LinkName => 41,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Mac => 9,
            Self::Layer4 => 12,
            Self::Port => 13,
            // NFT_DATA_VERDICT
            Self::Verdict => 0xffff_ff00,
        }
    }

    pub(super) fn bytes(self) -> u32 {
        match self {
            // Of a verdict the kernel knows it (`struct nft_verdict`).
            Self::LinkName | Self::Ipv6 | Self::Verdict => 16,
            Self::Mac => 6,
            Self::Ipv4 => 4,
            Self::Port => 2,
            Self::Layer4 => 1,
        }
    }

    /// In whole registers.
    pub(super) fn len(self) -> u32 {
        self.bytes().next_multiple_of(4)
    }
}

/// A named set, or a map if it has values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set<'a> {
    /// Its name.
    pub name: &'static str,
    /// What a key consists of.
    pub key: &'a [DataType],
    /// What a value consists of; empty for a set.
    pub value: &'a [DataType],
    /// Keys are ranges; of several parts each part is one (Linux 5.6).
    pub interval: bool,
}

/// One entry of a set or map; every part padded to whole 32-bit registers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// The last key of a range whose first one is `key`, in sets of several parts; empty elsewhere.
    pub key_end: Vec<u8>,
    /// The value; empty for a set, and where it is a verdict.
    pub value: Vec<u8>,
    /// The value, if it is one.
    pub verdict: Option<Verdict>,
    /// Marks the first key after a range.
    pub range_end: bool,
}

impl Element {
    /// An entry of a set.
    pub fn member(key: Vec<u8>) -> Self {
        Self {
            key,
            key_end: Vec::new(),
            value: Vec::new(),
            verdict: None,
            range_end: false,
        }
    }

    /// An entry of a map of verdicts.
    pub fn decided(key: Vec<u8>, verdict: Verdict) -> Self {
        Self {
            verdict: Some(verdict),
            ..Self::member(key)
        }
    }
}

impl Element {
    /// As it is removed: by its key.
    pub fn without_value(mut self) -> Self {
        self.value.clear();
        self.verdict = None;
        self
    }
}

/// One part of a value in its own register: padded with zeroes to four bytes.
pub fn register(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

pub(super) fn write_element(element: &Element, entry: &mut Message) {
    if element.range_end {
        entry.be32(3, 1); // NFTA_SET_ELEM_FLAGS: NFT_SET_ELEM_INTERVAL_END
    }
    entry.nest(1, |key| {
        key.attr(NFTA_DATA_VALUE, &element.key);
    });
    if !element.key_end.is_empty() {
        entry.nest(10, |key| {
            key.attr(NFTA_DATA_VALUE, &element.key_end);
        });
    }
    if !element.value.is_empty() {
        entry.nest(2, |value| {
            value.attr(NFTA_DATA_VALUE, &element.value);
        });
    }
    if let Some(verdict) = &element.verdict {
        entry.nest(2, |value| {
            value.nest(NFTA_DATA_VERDICT, |inner| write_verdict(verdict, inner));
        });
    }
}
