//! Who may do what: the least role that each method of every service needs.
//!
//! Roles stand in the certificate of who calls (see [`identity`](crate::identity)) and are ranks: each may
//! what those before it may. `operate` is root on every runtime host that it reaches, since it may start a
//! container that has the host's files; `build` decides what is in the registry, and so what others run.

use std::{fmt, str::FromStr};

/// What a caller may do; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Role {
    /// Look: lists, logs, statistics, events.
    Read,
    /// Fetch images, from an upstream into the registry and out of it.
    Pull,
    /// Build images and change what the registry has.
    Build,
    /// Run containers and have networks and volumes; do builds' steps.
    Operate,
    /// Everything, with the upkeep of the services themselves.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Pull,
        Self::Build,
        Self::Operate,
        Self::Admin,
    ];

    /// As it stands in certificates and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Pull => "pull",
            Self::Build => "build",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not a role.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a role: they are read, pull, build, operate and admin")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let named = Self::ALL.into_iter().find(|role| role.name() == text);
        named.ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

impl TryFrom<String> for Role {
    type Error = UnknownRole;

    fn try_from(text: String) -> Result<Self, UnknownRole> {
        text.parse()
    }
}

/// Whether a call stands in the audit log: it does when something is another than before, or when somebody has what
/// was nobody's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It only looks.
    Reads,
    /// It changes something, lets somebody in, or gives files out.
    Changes,
    /// So it does, and may go on for hours: its beginning is told, too.
    Lasts,
}

/// What is to be known of a method before it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Who calls has this role, or a higher one.
    pub role: Role,
    /// See there.
    pub effect: Effect,
}

/// The rule of a method by its path, `/package.Service/Method`; `None` when no service has it.
pub fn rule(path: &str) -> Option<Rule> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let (_, methods) = TABLE.iter().find(|(name, _)| *name == service)?;
    let found = methods.iter().find(|(name, ..)| *name == method);
    found.map(|&(_, role, effect)| Rule { role, effect })
}

use Effect::{Changes, Lasts, Reads};
use Role::{Admin, Build, Operate, Pull, Read};

type Methods = &'static [(&'static str, Role, Effect)];

/// All there is. What no line names nobody may call.
const TABLE: &[(&str, Methods)] = &[
    (
        "slipway.runtime.v1.Containers",
        &[
            ("Run", Operate, Lasts),
            ("Create", Operate, Changes),
            ("Start", Operate, Changes),
            ("Attach", Operate, Lasts),
            ("Exec", Operate, Lasts),
            ("Stop", Operate, Changes),
            ("Restart", Operate, Changes),
            ("Kill", Operate, Changes),
            ("Pause", Operate, Changes),
            ("Unpause", Operate, Changes),
            ("Remove", Operate, Changes),
            ("Prune", Operate, Changes),
            ("Rename", Operate, Changes),
            ("Update", Operate, Changes),
            ("ConnectNetwork", Operate, Changes),
            ("DisconnectNetwork", Operate, Changes),
            ("ReconcileNetworks", Operate, Changes),
            ("UpdatePorts", Operate, Changes),
            ("Wait", Read, Reads),
            ("List", Read, Reads),
            ("Inspect", Read, Reads),
            ("Logs", Read, Reads),
            ("Top", Read, Reads),
            ("Stats", Read, Reads),
            ("Diff", Read, Reads),
            // Files of a container may be anything: keys, a database.
            ("CopyFrom", Operate, Changes),
            ("CopyTo", Operate, Changes),
            ("StatPath", Operate, Reads),
            ("Export", Operate, Changes),
            ("Commit", Operate, Changes),
        ],
    ),
    (
        "slipway.runtime.v1.Volumes",
        &[
            ("CreateVolume", Operate, Changes),
            ("InspectVolume", Read, Reads),
            ("ListVolumes", Read, Reads),
            ("RemoveVolume", Operate, Changes),
            ("PruneVolumes", Operate, Changes),
        ],
    ),
    (
        "slipway.runtime.v1.Host",
        &[
            ("Info", Read, Reads),
            ("Events", Read, Reads),
            ("DiskUsage", Read, Reads),
            ("PruneLayers", Operate, Changes),
        ],
    ),
    // A step is a container: who may ask for one here is not bound by what builder-svc allows.
    (
        "slipway.runtime.v1.Worker",
        &[
            ("Lease", Operate, Changes),
            ("HoldLease", Operate, Reads),
            ("EndLease", Operate, Changes),
            ("ListLeases", Read, Reads),
            ("Prepare", Operate, Changes),
            ("RunStep", Operate, Changes),
            ("Apply", Operate, Changes),
            ("ReadPath", Operate, Changes),
            ("Resolve", Operate, Reads),
            ("Survey", Operate, Reads),
            ("ImportLayer", Operate, Changes),
            ("Diff", Operate, Reads),
            ("CommitSnapshot", Operate, Changes),
            ("AnswerAgent", Operate, Reads),
            ("ListCaches", Read, Reads),
            ("RemoveCaches", Operate, Changes),
            ("ExportCache", Operate, Changes),
            ("ImportCache", Operate, Changes),
            ("Release", Operate, Changes),
        ],
    ),
    (
        "slipway.netd.v1.Network",
        &[
            ("CreateEndpoint", Operate, Changes),
            ("ReleaseEndpoint", Operate, Changes),
            ("Sync", Operate, Changes),
            ("ListEndpoints", Read, Reads),
            ("AddPorts", Operate, Changes),
            ("RemovePorts", Operate, Changes),
            ("RenameEndpoint", Operate, Changes),
            ("CreateNetwork", Operate, Changes),
            ("RemoveNetwork", Operate, Changes),
            ("ListNetworks", Read, Reads),
            ("InspectNetwork", Read, Reads),
            ("PruneNetworks", Operate, Changes),
            ("Audit", Read, Reads),
            ("Reconcile", Operate, Changes),
            ("Teardown", Admin, Changes),
            ("Info", Read, Reads),
        ],
    ),
    (
        "slipway.registry.v1.Registry",
        &[
            ("Resolve", Pull, Reads),
            ("Pull", Pull, Changes),
            ("Push", Build, Changes),
            ("Login", Pull, Reads),
            ("ReadBlob", Pull, Reads),
            ("WriteBlob", Build, Changes),
            ("StatBlobs", Pull, Reads),
            ("GetManifest", Pull, Reads),
            ("PutManifest", Build, Changes),
            ("ListTags", Read, Reads),
            ("ListImages", Read, Reads),
            ("Search", Read, Reads),
            ("InspectImage", Read, Reads),
            ("TagImage", Build, Changes),
            ("RemoveImage", Build, Changes),
            ("PruneImages", Operate, Changes),
            ("Load", Build, Changes),
            ("Import", Build, Changes),
            ("Save", Pull, Changes),
            ("Events", Read, Reads),
            ("DiskUsage", Read, Reads),
            ("Info", Read, Reads),
        ],
    ),
    (
        "slipway.registry.v1.Upkeep",
        &[
            ("Check", Admin, Changes),
            ("CollectGarbage", Admin, Changes),
            ("Retain", Admin, Changes),
            ("RepositoryUsage", Read, Reads),
        ],
    ),
    (
        "slipway.builder.v1.Builder",
        &[
            ("Build", Build, Lasts),
            ("ListBuilds", Read, Reads),
            ("BuildLogs", Read, Reads),
            ("RemoveBuilds", Operate, Changes),
            ("Prune", Operate, Changes),
            ("DiskUsage", Read, Reads),
            ("Info", Read, Reads),
        ],
    ),
    (
        "grpc.health.v1.Health",
        &[("Check", Read, Reads), ("Watch", Read, Reads)],
    ),
    (
        "grpc.reflection.v1.ServerReflection",
        &[("ServerReflectionInfo", Read, Reads)],
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn served() -> BTreeSet<String> {
        let sets = [
            slipway_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        let mut all = BTreeSet::new();
        for file in sets.map(|set| FileDescriptorSet::decode(set).unwrap().file) {
            for file in file {
                for service in &file.service {
                    for method in &service.method {
                        let names = (file.package(), service.name(), method.name());
                        all.insert(format!("{}.{}/{}", names.0, names.1, names.2));
                    }
                }
            }
        }
        all
    }

    #[test]
    fn every_method_of_every_contract_has_one_rule() {
        let rows = TABLE.iter().flat_map(|(service, methods)| {
            let path = move |(name, ..): &(&str, Role, Effect)| format!("{service}/{name}");
            methods.iter().map(path)
        });
        let rows: Vec<_> = rows.collect();
        let named: BTreeSet<_> = rows.iter().cloned().collect();
        assert_eq!(named.len(), rows.len(), "a method stands there twice");
        assert_eq!(named, served());
        assert!(named.len() > 100, "{}", named.len());
    }

    #[test]
    fn a_rule_is_found_by_the_path_of_a_call_and_by_nothing_else() {
        let found = rule("/slipway.runtime.v1.Containers/Exec").unwrap();
        assert_eq!((found.role, found.effect), (Operate, Lasts));
        for foreign in [
            "",
            "/",
            "slipway.runtime.v1.Containers/Exec",
            "/slipway.runtime.v1.Containers/Exec/",
            "/slipway.runtime.v1.Containers/exec",
            "//Exec",
        ] {
            assert_eq!(rule(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn roles_are_ranks_and_round_trip() {
        assert!(Role::ALL.is_sorted());
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        let unknown = "Admin".parse::<Role>().unwrap_err().to_string();
        assert!(unknown.contains("operate"), "{unknown}");
    }

    #[test]
    fn who_takes_files_out_stands_in_the_log() {
        for path in [
            "runtime.v1.Containers/CopyFrom",
            "runtime.v1.Containers/Export",
            "runtime.v1.Worker/ReadPath",
            "registry.v1.Registry/Save",
        ] {
            let found = rule(&format!("/slipway.{path}")).unwrap();
            assert_eq!(found.effect, Changes, "{path}");
        }
    }

    #[test]
    fn who_only_looks_changes_nothing() {
        for (service, methods) in TABLE {
            for (name, role, effect) in *methods {
                let looks = *role != Read || *effect == Reads;
                assert!(looks, "{service}/{name} changes something");
            }
        }
    }
}
