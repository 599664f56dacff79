//! What a call is about: names that stand in its first message, and nothing else of it.
//!
//! Fields are listed one by one, by their numbers, so that nothing is told because it happens to be there. A
//! test compares them with the contracts.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use serde_json::{Map, Value};
use tonic::{Status, body::Body};

/// Most bytes of a request that are looked at: the names come first.
const MOST: usize = 8192;

/// Most characters of a name that are told, and most names of a list.
const LONGEST: (usize, usize) = (256, 16);

type Field = (&'static str, &'static [u32]);

const CONTAINER: &[Field] = &[("container", &[1])];
const NAME: &[Field] = &[("name", &[1])];
const REFERENCE: &[Field] = &[("reference", &[1])];
const SNAPSHOT: &[Field] = &[("snapshot_id", &[1])];
const LEASE: &[Field] = &[("lease_id", &[1])];
const ENDPOINT: &[Field] = &[("endpoint_id", &[1])];

/// The names in the first message of a method: each by the numbers of the fields that lead to it.
fn fields(path: &str) -> &'static [Field] {
    match path.strip_prefix("/slipway.").unwrap_or_default() {
        "runtime.v1.Containers/Run" => &[("name", &[1, 1, 1]), ("image", &[1, 1, 2])],
        "runtime.v1.Containers/Create" => &[("name", &[1, 1]), ("image", &[1, 2])],
        "runtime.v1.Containers/Attach" | "runtime.v1.Containers/Exec" => &[("container", &[1, 1])],
        "runtime.v1.Containers/CopyTo" => &[("container", &[1, 1]), ("path", &[1, 2])],
        "runtime.v1.Containers/Start"
        | "runtime.v1.Containers/Stop"
        | "runtime.v1.Containers/Restart"
        | "runtime.v1.Containers/Pause"
        | "runtime.v1.Containers/Unpause"
        | "runtime.v1.Containers/Remove"
        | "runtime.v1.Containers/Update"
        | "runtime.v1.Containers/ConnectNetwork"
        | "runtime.v1.Containers/UpdatePorts"
        | "runtime.v1.Containers/Export"
        | "runtime.v1.Containers/CopyFrom" => CONTAINER,
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

/// The beginning of a request, as far as it has come. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Vec<u8>>>);

impl Seen {
    /// The same request, whose beginning is seen as it passes by; none where nothing of it is told.
    pub(super) fn of(path: &str, body: Body) -> (Self, Body) {
        let seen = Self::default();
        if fields(path).is_empty() {
            return (seen, body);
        }
        let watched = Passing {
            inner: body,
            seen: seen.clone(),
        };
        (seen, Body::new(watched))
    }

    /// The names in it.
    pub(super) fn names(&self, path: &str) -> Map<String, Value> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether it is compressed, and four bytes of length (gRPC over HTTP/2, Length-Prefixed-Message).
        let message = match seen.split_at_checked(5) {
            Some(([0, ..], message)) => message,
            _ => return Map::new(),
        };
        let mut all = Map::new();
        for (name, numbers) in fields(path) {
            let mut found = texts(message, numbers);
            found.retain(|text| !text.is_empty());
            let value = match found.len() {
                0 => continue,
                1 => Value::from(found.remove(0)),
                _ => found.into(),
            };
            all.insert((*name).to_owned(), value);
        }
        all
    }
}

/// The strings of a field (Protocol Buffers, Encoding), as far as the bytes go.
fn texts(mut message: &[u8], numbers: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    let Some((number, below)) = numbers.split_first() else {
        return found;
    };
    while let Some(key) = varint(&mut message) {
        let content = match key & 7 {
            0 if varint(&mut message).is_some() => continue,
            1 => skip(&mut message, 8),
            5 => skip(&mut message, 4),
            2 => varint(&mut message).and_then(|length| skip(&mut message, length)),
            _ => None,
        };
        let Some(content) = content else {
            break;
        };
        if key & 7 != 2 || key >> 3 != u64::from(*number) || found.len() >= LONGEST.1 {
            continue;
        }
        match below {
            [] => found.push(
                String::from_utf8_lossy(content)
                    .chars()
                    .take(LONGEST.0)
                    .collect(),
            ),
            below => found.extend(texts(content, below)),
        }
    }
    found
}

/// So many bytes, or what is there of them.
fn skip<'a>(message: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let length = usize::try_from(length).ok()?.min(message.len());
    let (content, rest) = message.split_at(length);
    *message = rest;
    Some(content)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

struct Passing {
    inner: Body,
    seen: Seen,
}

impl http_body::Body for Passing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MOST.saturating_sub(seen.len()).min(data.len());
            seen.extend_from_slice(&data[..room]);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
    use slipway_proto::{registry::v1 as registry, runtime::v1 as runtime};

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

    fn seen(message: &impl prost::Message) -> Seen {
        let mut bytes = vec![0; 5];
        message.encode(&mut bytes).unwrap();
        bytes.truncate(MOST);
        Seen(Arc::new(Mutex::new(bytes)))
    }

    #[test]
    fn names_are_told_and_what_is_beside_them_is_not() {
        let spec = runtime::ContainerSpec {
            name: "web".into(),
            image: "nginx".into(),
            env: vec!["PASSWORD=secret".repeat(1000)],
            ..Default::default()
        };
        let start = runtime::run_request::Start {
            spec: Some(spec),
            ..Default::default()
        };
        let request = runtime::RunRequest {
            part: Some(runtime::run_request::Part::Start(start)),
        };
        let names = seen(&request).names("/slipway.runtime.v1.Containers/Run");
        let told = Value::from(names).to_string();
        assert_eq!(told, r#"{"image":"nginx","name":"web"}"#);
        let put = registry::PutManifestRequest {
            repository: "app".into(),
            tags: vec!["1".into(), "latest".into()],
            ..Default::default()
        };
        let names = seen(&put).names("/slipway.registry.v1.Registry/PutManifest");
        assert_eq!(names["tags"], serde_json::json!(["1", "latest"]));
        assert_eq!(names["repository"], "app");
    }

    #[test]
    fn bytes_that_are_no_message_are_nobodys_name() {
        let path = "/slipway.runtime.v1.Containers/Remove";
        for bytes in [
            &b""[..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 3, 0x0a, 1, b'x'],
            &[
                0, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
            &[0, 0, 0, 0, 9, 0x0b, 1, 1],
        ] {
            let seen = Seen(Arc::new(Mutex::new(bytes.to_vec())));
            assert!(seen.names(path).is_empty(), "{bytes:?}");
        }
        let long = Seen(Arc::new(Mutex::new(vec![
            0, 0, 0, 0, 9, 0x0a, 200, 1, b'x',
        ])));
        assert_eq!(long.names(path)["container"], "x");
    }
}
