//! Which links of ours send as whom: known from before they are there until after they are gone.

use std::collections::BTreeMap;
use std::io;

use crate::antispoof::{self, Station};
use crate::error::Error;
use crate::nft::Refused;

use super::{Host, Kernel};

/// All links that containers send by, by name.
#[derive(Debug, Default)]
pub(super) struct Stations {
    all: BTreeMap<String, Station>,
    kept: Kept,
    /// Whether there is a table.
    written: bool,
}

/// What becomes of what they send as somebody else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kept {
    /// It is dropped.
    #[default]
    Apart,
    /// `anti_spoofing = false`.
    Free,
    /// Nothing: this kernel has no nftables for bridges.
    Unable,
}

impl Stations {
    pub fn new(anti_spoofing: bool) -> Self {
        Self {
            all: BTreeMap::new(),
            kept: match anti_spoofing {
                true => Kept::Apart,
                false => Kept::Free,
            },
            written: false,
        }
    }

    /// One that is there already; the table is written afterwards.
    pub fn know(&mut self, station: Station) {
        self.all.insert(station.link.clone(), station);
    }

    /// Whether it is somebody's: an endpoint's, prepared, being made, or about to go.
    pub fn has(&self, link: &str) -> bool {
        self.all.contains_key(link)
    }
}

impl Kernel {
    /// Writes the whole table.
    pub(super) fn write_stations(&mut self) -> Result<(), Refused> {
        let ownership = self.ownership;
        match self.stations.kept {
            Kept::Unable => Ok(()),
            Kept::Free => self.nft.apply(antispoof::remove(ownership)),
            Kept::Apart => {
                let all = self.stations.all.values();
                let written = self.nft.replace(&antispoof::replace(all, ownership));
                self.stations.written |= written.is_ok();
                match written {
                    // Where there are no chains for bridges, theirs is a type of chain that nobody knows.
                    Err(refused) if refused.is_missing() || refused.is_unsupported() => {
                        self.stations.kept = Kept::Unable;
                        tracing::warn!(%refused,
                            "this kernel has no nftables for bridges (CONFIG_NF_TABLES_BRIDGE): containers can send \
                             as others of their network");
                        Ok(())
                    }
                    other => other,
                }
            }
        }
    }

    /// How the table differs from what it should be, each as the end of a sentence.
    pub(super) fn wrong_with_stations(&mut self) -> io::Result<Vec<String>> {
        let all = self.stations.all.values();
        match self.stations.kept {
            Kept::Apart => self
                .nft
                .differences(&antispoof::replace(all, self.ownership)),
            Kept::Free | Kept::Unable => Ok(Vec::new()),
        }
    }

    /// Takes the table away.
    pub(super) fn remove_stations(&mut self) -> Result<(), Refused> {
        self.stations.written = false;
        self.nft.apply(antispoof::remove(self.ownership))
    }
}

impl Host {
    /// Before its link is there.
    pub(super) fn admit(&self, station: Station) -> Result<(), Error> {
        let mut kernel = self.kernel();
        let admit = antispoof::admit(&station);
        let link = station.link.clone();
        kernel.stations.know(station);
        if !kernel.stations.written {
            return Ok(());
        }
        let admitted = match kernel.nft.apply(admit) {
            // Somebody has flushed the table.
            Err(refused) if refused.needs_all() => kernel.write_stations(),
            other => other,
        };
        if admitted.is_err() {
            kernel.stations.all.remove(&link);
        }
        Ok(admitted?)
    }

    /// After their links are gone: before, what they send would be let through as a stranger's.
    pub(super) fn dismiss<'a>(&self, links: impl Iterator<Item = &'a str>) {
        let mut kernel = self.kernel();
        let gone: Vec<Station> = links
            .filter_map(|link| kernel.stations.all.remove(link))
            .collect();
        if gone.is_empty() || !kernel.stations.written {
            return;
        }
        let dismissed = match kernel.nft.apply(antispoof::dismiss(gone.iter())) {
            Err(refused) if refused.needs_all() => kernel.write_stations(),
            other => other,
        };
        if let Err(refused) = dismissed {
            tracing::warn!(%refused, "cannot forget who sent by links that are gone");
        }
    }

    /// For people: whether containers can send as others.
    pub fn anti_spoofing(&self) -> &'static str {
        match self.kernel().stations.kept {
            Kept::Apart => "on",
            Kept::Free => "off",
            Kept::Unable => "not by this kernel (CONFIG_NF_TABLES_BRIDGE)",
        }
    }
}
