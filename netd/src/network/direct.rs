//! Networks whose containers are on the wire of one of the host's links, each as a host of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::netlink::macvlan::{Ipvlan, Macvlan, Share};

const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";

/// What such a network is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direct {
    /// The link whose wire it is.
    pub parent: String,
    /// How containers' links share it.
    pub share: Share,
}

impl Direct {
    /// Takes what is asked for macvlan out of the options.
    pub fn macvlan(options: &mut BTreeMap<String, String>) -> Result<Self, Error> {
        let mode = match options.remove(MACVLAN_MODE).as_deref() {
            None | Some("bridge") => Macvlan::Bridge,
            Some("private") => Macvlan::Private,
            Some("vepa") => Macvlan::Vepa,
            Some("passthru") => Macvlan::Passthru,
            Some(other) => {
                return Err(Error::Invalid(format!(
                    "\"{other}\" is no mode of macvlan: use bridge, private, vepa or passthru"
                )));
            }
        };
        Self::of(Share::Macvlan(mode), options)
    }

    /// The same for ipvlan.
    pub fn ipvlan(options: &mut BTreeMap<String, String>) -> Result<Self, Error> {
        if let Some(mode) = options.remove(IPVLAN_MODE).filter(|mode| mode != "l2") {
            return Err(Error::Unsupported(format!(
                "mode {mode} of ipvlan is not supported: use l2"
            )));
        }
        let flag = match options.remove(IPVLAN_FLAG).as_deref() {
            None | Some("bridge") => Ipvlan::Bridge,
            Some("private") => Ipvlan::Private,
            Some("vepa") => Ipvlan::Vepa,
            Some(other) => {
                return Err(Error::Invalid(format!(
                    "\"{other}\" is no flag of ipvlan: use bridge, private or vepa"
                )));
            }
        };
        Self::of(Share::Ipvlan(flag), options)
    }

    fn of(share: Share, options: &mut BTreeMap<String, String>) -> Result<Self, Error> {
        let driver = share.kind();
        if options.contains_key(BRIDGE_NAME) {
            return Err(Error::Invalid(format!(
                "{BRIDGE_NAME}: a {driver} network has no bridge"
            )));
        }
        match options.remove(PARENT) {
            Some(parent) => Ok(Self { parent, share }),
            None => Err(Error::Invalid(format!(
                "a {driver} network needs the link of this host whose wire its containers are on: --opt parent=eth0"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        all.iter().map(text).collect()
    }

    #[test]
    fn docker_s_options_are_understood() {
        let mut asked = options(&[("parent", "eth0"), ("macvlan_mode", "private"), ("x", "y")]);
        let direct = Direct::macvlan(&mut asked).unwrap();
        assert_eq!(direct.parent, "eth0");
        assert_eq!(direct.share, Share::Macvlan(Macvlan::Private));
        assert_eq!(asked, options(&[("x", "y")]), "the rest is for others");
        let mut asked = options(&[
            ("parent", "eth0"),
            ("ipvlan_mode", "l2"),
            ("ipvlan_flag", "vepa"),
        ]);
        let direct = Direct::ipvlan(&mut asked).unwrap();
        assert_eq!(direct.share, Share::Ipvlan(Ipvlan::Vepa));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        type Parse = fn(&mut BTreeMap<String, String>) -> Result<Direct, Error>;
        for (parse, asked, reason) in [
            (Direct::macvlan as Parse, &[][..], "--opt parent=eth0"),
            (
                Direct::macvlan,
                &[("parent", "e"), ("macvlan_mode", "x")],
                "no mode of macvlan",
            ),
            (
                Direct::macvlan,
                &[("parent", "e"), (BRIDGE_NAME, "b")],
                "has no bridge",
            ),
            (
                Direct::ipvlan,
                &[("parent", "e"), ("ipvlan_mode", "l3")],
                "mode l3 of ipvlan is not supported",
            ),
            (
                Direct::ipvlan,
                &[("parent", "e"), ("ipvlan_flag", "x")],
                "no flag of ipvlan",
            ),
        ] {
            let said = parse(&mut options(asked)).unwrap_err().to_string();
            assert!(said.contains(reason), "{reason}: {said}");
        }
    }
}
