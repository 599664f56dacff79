//! What a table holds in the kernel beside what a batch would put there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::netlink::wire::{DUMP, Message, attributes, messages, text};

use super::client::Client;
use super::expr::{NFTA_DATA_VALUE, NFTA_DATA_VERDICT};
use super::object::{Batch, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM, SUBSYSTEM};

const GETCHAIN: u16 = SUBSYSTEM | 4;
const GETRULE: u16 = SUBSYSTEM | 7;
const GETSET: u16 = SUBSYSTEM | 10;
const GETSETELEM: u16 = SUBSYSTEM | 13;

/// `struct nfgenmsg`.
const HEADER: usize = 4;

/// `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`.
const TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
/// `NFT_SET_EVAL`: rules fill it.
const EVAL: u32 = 0x20;

/// One entry of a set: flags, key, value and last key.
type Entry = [Vec<u8>; 4];
/// The kinds of a rule's expressions, in order.
type Steps = Vec<String>;

/// A chain: where it is hooked in and its policy, as bytes, and its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rules {
    hook: Vec<u8>,
    rules: Vec<Steps>,
}

/// What a table holds, as far as it is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Content {
    chains: BTreeMap<String, Rules>,
    /// Sets with their entries; none of a set that rules fill.
    sets: BTreeMap<String, BTreeSet<Entry>>,
    metered: BTreeSet<String>,
}

impl Content {
    /// Takes in what a message says of `table`, whether it asks for it or answers.
    fn learn(&mut self, table: &str, kind: u16, payload: &[u8]) {
        let rest = payload.get(HEADER..).unwrap_or_default();
        let find = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted);
        let named = |kind| find(kind).map(|(_, data)| text(data)).unwrap_or_default();
        if named(TABLE) != table {
            return;
        }
        match kind {
            NEWCHAIN => {
                let chain = self.chains.entry(named(NFTA_CHAIN_NAME)).or_default();
                if let Some((_, hook)) = find(NFTA_CHAIN_HOOK) {
                    let of_hook = [NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY];
                    let parts = attributes(hook).filter(|(kind, _)| of_hook.contains(kind));
                    let policy = find(NFTA_CHAIN_POLICY).map(|(_, policy)| policy);
                    let all = parts.map(|(_, part)| part).chain(policy);
                    chain.hook = all.flatten().copied().collect();
                }
            }
            NEWRULE => {
                let steps = find(NFTA_RULE_EXPRESSIONS).map(|(_, list)| steps(list));
                let chain = self.chains.entry(named(NFTA_RULE_CHAIN)).or_default();
                chain.rules.push(steps.unwrap_or_default());
            }
            NEWSET => {
                let name = named(NFTA_SET_NAME);
                let flags = find(NFTA_SET_FLAGS).and_then(|(_, data)| data.try_into().ok());
                if flags.map_or(0, u32::from_be_bytes) & EVAL != 0 {
                    self.metered.insert(name.clone());
                }
                self.sets.entry(name).or_default();
            }
            NEWSETELEM => {
                let set = self.sets.entry(named(NFTA_SET_ELEM_LIST_SET)).or_default();
                let list = find(NFTA_SET_ELEM_LIST_ELEMENTS).map(|(_, list)| list);
                set.extend(
                    attributes(list.unwrap_or_default()).map(|(_, entry)| self::entry(entry)),
                );
            }
            _ => {}
        }
    }
}

fn steps(list: &[u8]) -> Steps {
    let name = |expression| {
        let mut parts = attributes(expression);
        parts.find(|(kind, _)| *kind == NFTA_EXPR_NAME)
    };
    let names = attributes(list).filter_map(|(_, expression)| name(expression));
    names.map(|(_, data)| text(data)).collect()
}

fn entry(bytes: &[u8]) -> Entry {
    const FLAGS: u16 = 3;
    const KEY: u16 = 1;
    const DATA: u16 = 2;
    const KEY_END: u16 = 10;
    let find = |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted);
    let plain = |wanted| find(bytes, wanted).map(|(_, data)| data.to_vec());
    let value = |wanted| {
        let (_, data) = find(bytes, wanted)?;
        let said = find(data, NFTA_DATA_VALUE).or_else(|| find(data, NFTA_DATA_VERDICT));
        said.map(|(_, value)| value.to_vec())
    };
    [plain(FLAGS), value(KEY), value(DATA), value(KEY_END)].map(Option::unwrap_or_default)
}

/// How one differs from the other, each as the end of a sentence.
fn differences(wanted: &Content, there: &Content) -> Vec<String> {
    let mut told = Vec::new();
    for (name, chain) in &wanted.chains {
        match there.chains.get(name) {
            None => told.push(format!("lacks chain {name}")),
            Some(other) if other.hook != chain.hook => {
                told.push(format!("has chain {name} hooked in otherwise"));
            }
            Some(other) if other != chain => told.push(format!("has other rules in chain {name}")),
            Some(_) => {}
        }
    }
    let foreign = |name: &&String| !wanted.chains.contains_key(*name);
    let chains = there.chains.keys().filter(foreign);
    told.extend(chains.map(|name| format!("has a chain {name} that is not ours")));
    for (name, entries) in &wanted.sets {
        let Some(others) = there.sets.get(name) else {
            told.push(format!("lacks set {name}"));
            continue;
        };
        let (lacks, more) = (entries.difference(others), others.difference(entries));
        for (count, what) in [
            (lacks.count(), format!("lacks of set {name}")),
            (more.count(), format!("has what is not ours in set {name}")),
        ] {
            match count {
                0 => {}
                1 => told.push(format!("{what}: 1 entry")),
                count => told.push(format!("{what}: {count} entries")),
            }
        }
    }
    let foreign = |name: &&String| !wanted.sets.contains_key(*name);
    let sets = there.sets.keys().filter(foreign);
    told.extend(sets.map(|name| format!("has a set {name} that is not ours")));
    told
}

impl Batch {
    /// How many rules it puts into a chain.
    #[cfg(test)]
    pub fn rules_of(&self, chain: &str) -> usize {
        let content = self.content();
        content
            .chains
            .get(chain)
            .map_or(0, |chain| chain.rules.len())
    }

    fn content(&self) -> Content {
        let mut bytes = Vec::new();
        for message in &self.messages {
            message.finish(0, false, &mut bytes);
        }
        let mut content = Content::default();
        for message in messages(&bytes) {
            content.learn(self.table, message.kind, message.payload);
        }
        content
    }
}

impl Client {
    /// How the table that a batch would write differs from the one that is there, each as the end of a sentence that
    /// begins with the table. Entries are compared by what they say, rules by what they consist of, sets that rules fill
    /// by their names.
    pub fn differences(&mut self, batch: &Batch) -> io::Result<Vec<String>> {
        let there = self.content(batch)?;
        if there == Content::default() {
            return Ok(vec!["is gone".to_owned()]);
        }
        Ok(differences(&batch.content(), &there))
    }

    fn content(&mut self, batch: &Batch) -> io::Result<Content> {
        let table = batch.table;
        let request = |kind, set: Option<&str>| {
            let mut message = Message::new(kind, DUMP, &[batch.family, 0, 0, 0]);
            message.str(TABLE, table);
            if let Some(set) = set {
                message.str(NFTA_SET_ELEM_LIST_SET, set);
            }
            message
        };
        let mut content = Content::default();
        for kind in [GETCHAIN, GETRULE, GETSET] {
            let asked = self.query(&request(kind, None), |message| {
                content.learn(table, message.kind, message.payload);
            });
            missing_is_empty(asked)?;
        }
        let filled = |name: &&String| !content.metered.contains(*name);
        let names: Vec<String> = content.sets.keys().filter(filled).cloned().collect();
        for name in names {
            let asked = self.query(&request(GETSETELEM, Some(&name)), |message| {
                content.learn(table, message.kind, message.payload);
            });
            missing_is_empty(asked)?;
        }
        Ok(content)
    }
}

fn missing_is_empty(asked: io::Result<()>) -> io::Result<()> {
    match asked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{Chain, DataType, Element, Set, Verdict};

    fn batch(entries: &[u8], more: bool) -> Batch {
        let mut batch = Batch::of("ours");
        batch.table().chain(Chain {
            name: "one",
            hook: None,
        });
        batch.set(Set {
            name: "ports",
            key: &[DataType::Port],
            value: &[],
            interval: false,
        });
        let entries = entries.iter().map(|e| Element::member(vec![0, *e, 0, 0]));
        let entries: Vec<_> = entries.collect();
        batch.add("ports", &entries);
        if more {
            batch.chain(Chain {
                name: "two",
                hook: None,
            });
        }
        batch
    }

    #[test]
    fn another_verdict_is_another_entry() {
        let decided = |verdict| {
            let mut batch = Batch::of("ours");
            let entry = Element::decided(vec![0; 16], verdict);
            batch.table().set(Set {
                name: "doors",
                key: &[DataType::LinkName],
                value: &[DataType::Verdict],
                interval: false,
            });
            batch.add("doors", &[entry]);
            batch.content()
        };
        let to = |chain: &'static str| decided(Verdict::Jump(chain.into()));
        assert_eq!(differences(&to("one"), &to("one")), [""; 0]);
        for other in [to("two"), decided(Verdict::Accept)] {
            let told = differences(&to("one"), &other);
            assert!(
                told.contains(&"lacks of set doors: 1 entry".to_owned()),
                "{told:?}"
            );
        }
    }

    #[test]
    fn what_differs_is_told_and_what_is_equal_is_not() {
        let wanted = batch(&[1, 2, 3], false).content();
        assert!(differences(&wanted, &batch(&[3, 2, 1], false).content()).is_empty());
        let other = differences(&wanted, &batch(&[1, 4], true).content());
        let said = [
            "has a chain two that is not ours",
            "lacks of set ports: 2 entries",
            "has what is not ours in set ports: 1 entry",
        ];
        assert_eq!(other, said);
        let less = differences(&batch(&[], true).content(), &wanted);
        assert!(less.contains(&"lacks chain two".to_owned()), "{less:?}");
    }
}
