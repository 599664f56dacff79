//! Where the names of what a call is about stand in its first message.
//!
//! Fields are listed one by one, by their numbers, so that nothing is told because it happens to be there. A
//! test compares them with the contracts.

/// A name, and the numbers of the fields that lead to it.
pub(super) type Field = (&'static str, &'static [u32]);

const CONTAINER: &[Field] = &[("container", &[1])];
const NAME: &[Field] = &[("name", &[1])];
const REFERENCE: &[Field] = &[("reference", &[1])];
const SNAPSHOT: &[Field] = &[("snapshot_id", &[1])];
const LEASE: &[Field] = &[("lease_id", &[1])];
const ENDPOINT: &[Field] = &[("endpoint_id", &[1])];

/// The names in the first message of a method.
pub(super) fn fields(path: &str) -> &'static [Field] {
    match path.strip_prefix("/slipway.").unwrap_or_default() {
        "runtime.v1.Containers/Run" => &[("name", &[1, 1, 1]), ("image", &[1, 1, 2])],
        "runtime.v1.Containers/Create" => &[("name", &[1, 1]), ("image", &[1, 2])],
        "runtime.v1.Containers/Attach" | "runtime.v1.Containers/Exec" => &[("container", &[1, 1])],
        "runtime.v1.Containers/CopyTo" => &[("container", &[1, 1]), ("path", &[1, 2])],
        "runtime.v1.Containers/CopyFrom" => &[("container", &[1]), ("path", &[2])],
        "runtime.v1.Containers/Start"
        | "runtime.v1.Containers/Stop"
        | "runtime.v1.Containers/Restart"
        | "runtime.v1.Containers/Pause"
        | "runtime.v1.Containers/Unpause"
        | "runtime.v1.Containers/Remove"
        | "runtime.v1.Containers/Update"
        | "runtime.v1.Containers/ConnectNetwork"
        | "runtime.v1.Containers/UpdatePorts"
        | "runtime.v1.Containers/Export" => CONTAINER,
        "runtime.v1.Containers/Kill" => &[("container", &[1]), ("signal", &[2])],
        "runtime.v1.Containers/Rename" => &[("container", &[1]), ("name", &[2])],
        "runtime.v1.Containers/DisconnectNetwork" => &[("container", &[1]), ("network", &[2])],
        "runtime.v1.Containers/Commit" => &[("container", &[1]), ("reference", &[2])],
        "runtime.v1.Volumes/CreateVolume" | "runtime.v1.Volumes/RemoveVolume" => NAME,
        "runtime.v1.Worker/EndLease"
        | "runtime.v1.Worker/Prepare"
        | "runtime.v1.Worker/ImportLayer" => LEASE,
        "runtime.v1.Worker/RunStep"
        | "runtime.v1.Worker/CommitSnapshot"
        | "runtime.v1.Worker/Release" => SNAPSHOT,
        "runtime.v1.Worker/ReadPath" => &[("snapshot_id", &[1]), ("path", &[2])],
        "netd.v1.Network/CreateEndpoint" => &[("network", &[1]), ("container_id", &[2])],
        "netd.v1.Network/ReleaseEndpoint"
        | "netd.v1.Network/AddPorts"
        | "netd.v1.Network/RemovePorts" => ENDPOINT,
        "netd.v1.Network/CreateNetwork" => NAME,
        "netd.v1.Network/RemoveNetwork" => &[("network", &[1])],
        "registry.v1.Registry/Pull" | "registry.v1.Registry/Push" => REFERENCE,
        "registry.v1.Registry/WriteBlob" => &[("repository", &[1, 1]), ("digest", &[1, 2])],
        "registry.v1.Registry/PutManifest" => &[("repository", &[1]), ("tags", &[2])],
        "registry.v1.Registry/TagImage" => &[("source", &[1]), ("target", &[2])],
        "registry.v1.Registry/RemoveImage" => &[("image", &[1])],
        "registry.v1.Registry/Import" => &[("reference", &[1, 1])],
        "registry.v1.Registry/Save" => &[("images", &[1])],
        "builder.v1.Builder/Build" => &[("tags", &[1, 3])],
        "builder.v1.Builder/RemoveBuilds" => &[("ids", &[1])],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

    use super::*;

    /// The full name of the field that the numbers lead to, and whether it is a string.
    fn named(all: &[(String, DescriptorProto)], message: &str, numbers: &[u32]) -> (String, bool) {
        let (_, descriptor) = all.iter().find(|(name, _)| name == message).unwrap();
        let number = i32::try_from(numbers[0]).unwrap();
        let mut fields = descriptor.field.iter();
        let field = fields.find(|field| field.number() == number).unwrap();
        match &numbers[1..] {
            [] => (field.name().to_owned(), field.r#type() == Type::String),
            below => named(all, field.type_name(), below),
        }
    }

    fn flatten(scope: &str, message: &DescriptorProto, all: &mut Vec<(String, DescriptorProto)>) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            flatten(&name, nested, all);
        }
        all.push((name, message.clone()));
    }

    #[test]
    fn every_field_that_is_told_is_a_string_of_that_name() {
        let set = FileDescriptorSet::decode(slipway_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut all = Vec::new();
        for file in &set.file {
            for message in &file.message_type {
                flatten(&format!(".{}", file.package()), message, &mut all);
            }
        }
        let mut told = 0;
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    for (name, numbers) in fields(&path) {
                        let found = named(&all, method.input_type(), numbers);
                        assert_eq!(found, ((*name).to_owned(), true), "{path}");
                        told += 1;
                    }
                }
            }
        }
        // What is listed under a path that no service has would be told of nothing.
        assert!(told > 50, "{told}");
    }
}
