//! Who calls: the name and roles of a client certificate, or whoever may open the unix socket.
//!
//! Of a certificate's subject the common name (CN) is the caller's name, and each organization (O) that is
//! the name of a [`Role`] is one of his roles, of which the highest counts: as with Kubernetes, where CN is
//! the user and O the groups. A certificate without a role may do nothing.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    roles::Role,
    tls::{server::Shown, subject::Subject},
};

/// Somebody who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// As others know him.
    pub name: String,
    /// The most that he may do; `None`: nothing.
    pub role: Option<Role>,
    /// How he comes here.
    pub way: Way,
}

/// How a caller comes here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Through a unix socket.
    Unix {
        /// His process, where the kernel tells.
        pid: Option<i32>,
    },
    /// By TCP, with a certificate.
    Certificate {
        /// Where from.
        address: SocketAddr,
        /// The certificate's number at its authority, in hex.
        serial: String,
    },
    /// By TCP without one: anybody who reaches the port.
    Open {
        /// Where from.
        address: SocketAddr,
    },
}

impl Caller {
    pub(crate) const fn new(name: String, role: Option<Role>, way: Way) -> Self {
        Self { name, role, way }
    }

    /// Who has shown a certificate. One without a readable name has no role: nobody could be told apart by it.
    pub fn certified(subject: Option<Subject>, address: SocketAddr) -> Self {
        let (name, organizations, serial) = match subject {
            Some(subject) => (subject.name, subject.organizations, subject.serial),
            None => (None, Vec::new(), String::new()),
        };
        let roles = organizations.iter().filter_map(|o| o.parse().ok());
        let role = name.as_ref().and_then(|_| roles.max());
        let name = name.unwrap_or_else(|| "somebody without a name".to_owned());
        Self::new(name, role, Way::Certificate { address, serial })
    }
}

/// Who is at the other end of a connection; an extension of each request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Known>);

#[derive(Debug)]
struct Known {
    caller: Caller,
    shown: Option<Shown>,
}

impl Peer {
    pub(crate) fn new(caller: Caller, shown: Option<Shown>) -> Self {
        Self(Arc::new(Known { caller, shown }))
    }

    /// Who it was when the connection was made.
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// Whether his certificate, if he has shown one, is still good.
    pub fn is_good(&self) -> Result<(), rustls::Error> {
        self.0.shown.as_ref().map_or(Ok(()), Shown::is_good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_role_of_a_certificate_counts_and_other_organizations_are_none() {
        let role = |name: Option<&str>, organizations: &[&str]| {
            let subject = Subject {
                name: name.map(str::to_owned),
                organizations: organizations.iter().map(|&o| o.to_owned()).collect(),
                serial: "01".to_owned(),
            };
            Caller::certified(Some(subject), "10.0.0.7:5".parse().unwrap()).role
        };
        assert_eq!(
            role(Some("eve"), &["read", "build", "pull"]),
            Some(Role::Build)
        );
        assert_eq!(
            role(Some("eve"), &["Example Inc", "read"]),
            Some(Role::Read)
        );
        assert_eq!(role(Some("eve"), &["Admin", "admins"]), None);
        assert_eq!(role(Some("admin"), &[]), None);
        assert_eq!(role(None, &["admin"]), None);
        let address = "10.0.0.7:5".parse().unwrap();
        assert_eq!(Caller::certified(None, address).role, None);
    }
}
