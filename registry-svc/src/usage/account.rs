//! The account: what each blob takes, who has it, and the sums of it, kept up as blobs come and go.

use std::collections::{BTreeMap, HashMap};

use slipway_image::Digest;

use super::{RepositoryUsage, StoreUsage};
use crate::{blobs::BlobInfo, error::Result, names::Repository};

/// See the module's page. It is made for 300,000 blobs in a few dozen megabytes: names stand once.
#[derive(Debug, Default)]
pub struct Account {
    names: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
    blobs: HashMap<Key, Blob>,
    parts: HashMap<Key, Part>,
    sums: Vec<Sums>,
    shared: u64,
    unneeded: u64,
}

/// The first 128 bits of a digest: as good as all of them.
type Key = u128;

#[derive(Debug)]
struct Blob {
    disk: u64,
    /// In their order, each once.
    owners: Box<[u32]>,
    parts: Box<[Key]>,
}

#[derive(Debug, Default)]
struct Part {
    disk: u64,
    /// Blobs that have it.
    blobs: u32,
    /// By how many blobs each repository has it.
    owners: BTreeMap<u32, u32>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    exclusive: u64,
    shared: u64,
    /// Blobs.
    blobs: u64,
}

impl Account {
    /// What is known of a blob is this from now on; without `info` it is not here. Owners may be told several times.
    pub fn set<'a>(
        &mut self,
        digest: &Digest,
        info: Option<&BlobInfo>,
        owners: impl IntoIterator<Item = &'a str>,
    ) {
        let key = key(digest);
        if let Some(old) = self.blobs.remove(&key) {
            self.charge(&old.owners, old.disk, false);
            for &owner in &old.owners {
                self.sums[owner as usize].blobs -= 1;
            }
            for &part in &old.parts {
                self.change_part(part, &old.owners, None);
            }
        }
        let Some(info) = info else { return };
        let mut owners: Vec<u32> = owners.into_iter().map(|name| self.number(name)).collect();
        owners.sort_unstable();
        owners.dedup();
        self.charge(&owners, info.disk, true);
        for &owner in &owners {
            self.sums[owner as usize].blobs += 1;
        }
        let parts: Box<[Key]> = info.parts.iter().map(|(part, _)| self::key(part)).collect();
        for (part, (_, disk)) in parts.iter().zip(&info.parts) {
            self.change_part(*part, &owners, Some(*disk));
        }
        let blob = Blob {
            disk: info.disk,
            owners: owners.into(),
            parts,
        };
        self.blobs.insert(key, blob);
    }

    /// A blob of these owners has the part now, with what that takes, or has it no more.
    fn change_part(&mut self, key: Key, owners: &[u32], disk: Option<u64>) {
        let mut part = self.parts.remove(&key).unwrap_or_default();
        let of = |part: &Part| part.owners.keys().copied().collect::<Vec<u32>>();
        if part.blobs > 0 {
            self.charge(&of(&part), part.disk, false);
        }
        match disk {
            Some(disk) => {
                part.disk = disk;
                part.blobs += 1;
                for owner in owners {
                    *part.owners.entry(*owner).or_default() += 1;
                }
            }
            None => {
                part.blobs -= 1;
                for owner in owners {
                    let count = part.owners.get_mut(owner).expect("it was counted");
                    *count -= 1;
                    if *count == 0 {
                        part.owners.remove(owner);
                    }
                }
            }
        }
        if part.blobs > 0 {
            self.charge(&of(&part), part.disk, true);
            self.parts.insert(key, part);
        }
    }

    /// Adds to, or takes from, what the owners have.
    fn charge(&mut self, owners: &[u32], disk: u64, add: bool) {
        let change = |sum: &mut u64| match add {
            true => *sum += disk,
            false => *sum -= disk,
        };
        match owners {
            [] => change(&mut self.unneeded),
            [owner] => change(&mut self.sums[*owner as usize].exclusive),
            owners => {
                change(&mut self.shared);
                for owner in owners {
                    change(&mut self.sums[*owner as usize].shared);
                }
            }
        }
    }

    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        self.sums.push(Sums::default());
        number
    }

    /// The sums, without what is no blob.
    pub fn usage(&self) -> Result<StoreUsage> {
        let mut usage = StoreUsage {
            shared: self.shared,
            unneeded: self.unneeded,
            ..StoreUsage::default()
        };
        for (name, sums) in self.names.iter().zip(&self.sums) {
            if sums.blobs > 0 {
                usage.repositories.push(RepositoryUsage {
                    repository: Repository::from_key(name)?,
                    exclusive: sums.exclusive,
                    shared: sums.shared,
                });
            }
        }
        usage
            .repositories
            .sort_by(|a, b| a.repository.cmp(&b.repository));
        Ok(usage)
    }
}

fn key(digest: &Digest) -> Key {
    u128::from_str_radix(&digest.encoded()[..32], 16).expect("digests are hex")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 3] = ["docker.io/a/a", "docker.io/b/b", "ghcr.io/c/c"];

    fn digest(number: u8) -> Digest {
        Digest::of([number])
    }

    fn part(number: u8) -> (Digest, u64) {
        (digest(100 + number), 1000 * u64::from(number))
    }

    /// A blob: its number, who has it, its parts; `None` = it goes.
    type Change = (u8, Option<(u64, Vec<usize>, Vec<u8>)>);

    fn of(usage: &mut StoreUsage, owner: usize) -> &mut RepositoryUsage {
        let mut all = usage.repositories.iter_mut();
        all.find(|r| r.repository.as_str() == NAMES[owner]).unwrap()
    }

    /// By looking at everything.
    fn walk(blobs: &HashMap<u8, (u64, Vec<usize>, Vec<u8>)>) -> StoreUsage {
        let mut units: HashMap<(bool, u8), (u64, Vec<usize>)> = HashMap::new();
        for (number, (disk, owners, parts)) in blobs {
            units.insert((false, *number), (*disk, owners.clone()));
            for number in parts {
                let unit = units
                    .entry((true, *number))
                    .or_insert((part(*number).1, Vec::new()));
                unit.1.extend(owners);
            }
        }
        let mut usage = StoreUsage::default();
        for (place, name) in NAMES.iter().enumerate() {
            if blobs.values().any(|(_, owners, _)| owners.contains(&place)) {
                usage.repositories.push(RepositoryUsage {
                    repository: Repository::from_key(name).unwrap(),
                    exclusive: 0,
                    shared: 0,
                });
            }
        }
        for (disk, mut owners) in units.into_values() {
            owners.sort_unstable();
            owners.dedup();
            match &owners[..] {
                [] => usage.unneeded += disk,
                [owner] => of(&mut usage, *owner).exclusive += disk,
                owners => {
                    for owner in owners {
                        of(&mut usage, *owner).shared += disk;
                    }
                    usage.shared += disk;
                }
            }
        }
        usage
    }

    proptest! {
        #[test]
        fn what_is_kept_up_is_what_a_walk_finds(
            changes in prop::collection::vec(
                (
                    0..6_u8,
                    prop::option::of((
                        1..9_u64,
                        prop::collection::vec(0..3_usize, 0..4),
                        prop::collection::btree_set(0..4_u8, 0..4),
                    )),
                ),
                0..40,
            )
        ) {
            let (mut account, mut blobs) = (Account::default(), HashMap::new());
            for (number, change) in changes {
                let change: Change = (
                    number,
                    change.map(|(disk, owners, parts)| (disk, owners, parts.into_iter().collect())),
                );
                let info = change.1.as_ref().map(|(disk, _, parts)| BlobInfo {
                    digest: digest(number),
                    size: 1,
                    disk: *disk,
                    parts: parts.iter().map(|p| part(*p)).collect(),
                });
                let owners = change.1.iter().flat_map(|(_, owners, _)| owners);
                let owners: Vec<_> = owners.map(|owner| NAMES[*owner]).collect();
                account.set(&digest(number), info.as_ref(), owners);
                match change.1 {
                    Some(change) => drop(blobs.insert(number, change)),
                    None => drop(blobs.remove(&number)),
                }
                prop_assert_eq!(account.usage().unwrap(), walk(&blobs));
            }
        }
    }
}
