//! A typed encoder for nftables over netlink: tables, chains, sets, maps and rules as values, sent
//! as one atomic batch (`linux/netfilter/nf_tables.h`).
//!
//! It knows nothing of networks or ports; `firewall/` decides what to say with it.

mod chains;
mod client;
mod compare;
mod expr;
mod object;
mod rule;
mod set;

pub use chains::{BaseChain, is_foreign_chain};
pub use client::{Client, Refused, TABLE_EVENTS, is_event_of};
pub use expr::{Bound, Compare, IpVersion, Verdict};
pub use object::{Batch, Chain, Hook, Meter};
pub use rule::{Rule, link_name};
pub use set::{DataType, Element, Set, register};
