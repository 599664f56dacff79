//! Gathering what an audit is about.

use crate::audit::{self, Facts, Reach};
use crate::error::{Doing as _, Error};
use crate::firewall::policy;
use crate::nft::IpVersion;

use super::{Host, Live};

impl Host {
    /// Who reaches what, and what is to be said of it.
    pub fn audit(&self) -> Result<(Vec<Reach>, Vec<String>), Error> {
        let state = self.state();
        let foreign = self.kernel().nft.base_chains();
        let foreign = foreign.doing(|| "list chains of nftables".to_owned())?;
        let has_legacy = |version: &IpVersion| policy::has_legacy_filter(*version);
        let facts = Facts {
            networks: state.networks.values().map(Live::network).collect(),
            endpoints: state.endpoints.values().collect(),
            clients: state.publish_from(),
            closed: self.closed(&foreign),
            foreign,
            legacy: [IpVersion::V4, IpVersion::V6]
                .into_iter()
                .filter(has_legacy)
                .collect(),
        };
        let mut warnings = audit::warnings(&facts);
        warnings.extend(state.ignored.iter().cloned());
        warnings.extend(self.store.warnings());
        Ok((audit::reaches(&facts), warnings))
    }
}
