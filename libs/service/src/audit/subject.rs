//! What a call is about: names that stand in its first message, and nothing else of it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use serde_json::{Map, Value};
use tonic::{Status, body::Body};

use super::fields::{Field, fields};

/// Most bytes of a message that are looked at: the names come first.
const MOST: usize = 8192;

/// Bytes in front of a message.
const PREFIX: usize = 5;

/// Most characters of a name that are told, and most names of a list.
const LONGEST: (usize, usize) = (256, 16);

/// What is told of a message.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Told {
    pub(super) names: Map<String, Value>,
    /// Not all of it was looked at or could be told: the name that counts may be another one.
    pub(super) truncated: bool,
}

/// The first message of a request, as far as it has come. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    fields: &'static [Field],
    first: Arc<Mutex<First>>,
}

#[derive(Debug)]
enum First {
    /// What has come of it, with its prefix.
    Coming(Vec<u8>),
    /// All that is looked at has come. What follows is nobody's name: it is what is typed into a container.
    Come(Told),
}

impl Default for First {
    fn default() -> Self {
        Self::Coming(Vec::new())
    }
}

impl Seen {
    /// The same request, whose beginning is seen as it passes by; none where nothing of it is told.
    pub(super) fn of(path: &str, body: Body) -> (Self, Body) {
        let seen = Self {
            fields: fields(path),
            first: Arc::default(),
        };
        if seen.fields.is_empty() {
            return (seen, body);
        }
        let watched = Passing {
            inner: body,
            seen: seen.clone(),
        };
        (seen, Body::new(watched))
    }

    /// The names in it.
    pub(super) fn told(&self) -> Told {
        match &*self.first.lock().unwrap_or_else(PoisonError::into_inner) {
            First::Coming(bytes) => told(bytes, self.fields),
            First::Come(told) => told.clone(),
        }
    }

    fn pass(&self, mut data: &[u8]) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        while let First::Coming(bytes) = &mut *first {
            let missing = looked_at(bytes) - bytes.len();
            if missing == 0 {
                *first = First::Come(told(bytes, self.fields));
                return;
            }
            if data.is_empty() {
                return;
            }
            let (now, rest) = data.split_at(missing.min(data.len()));
            bytes.extend_from_slice(now);
            data = rest;
        }
    }
}

/// The length of a message that is not compressed, and as much of it as has come (gRPC over HTTP/2,
/// Length-Prefixed-Message: whether it is compressed, and four bytes of length).
fn message(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let [0, a, b, c, d, rest @ ..] = bytes else {
        return None;
    };
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
    Some((length, &rest[..length.min(rest.len())]))
}

/// How many bytes of a request are looked at, as far as these tell.
fn looked_at(bytes: &[u8]) -> usize {
    PREFIX + message(bytes).map_or(0, |(length, _)| length.min(MOST))
}

fn told(bytes: &[u8], fields: &[Field]) -> Told {
    let Some((length, message)) = message(bytes) else {
        return Told::default();
    };
    let mut all = Told {
        truncated: length > message.len(),
        ..Told::default()
    };
    for (name, numbers) in fields {
        let mut found = Vec::new();
        all.truncated |= !texts(message, numbers, &mut found);
        found.retain(|text| !text.is_empty());
        let value = match found.len() {
            0 => continue,
            1 => Value::from(found.remove(0)),
            _ => found.into(),
        };
        all.names.insert((*name).to_owned(), value);
    }
    all
}

/// Adds the strings of a field (Protocol Buffers, Encoding), as far as the bytes go; `false` when that is not all
/// of them.
fn texts(mut message: &[u8], numbers: &[u32], found: &mut Vec<String>) -> bool {
    let Some((number, below)) = numbers.split_first() else {
        return true;
    };
    let mut all = true;
    while !message.is_empty() {
        let Some(key) = varint(&mut message) else {
            return false;
        };
        let content = match key & 7 {
            0 if varint(&mut message).is_some() => continue,
            1 => skip(&mut message, 8),
            5 => skip(&mut message, 4),
            2 => varint(&mut message).and_then(|length| skip(&mut message, length)),
            _ => None,
        };
        let Some(content) = content else {
            return false;
        };
        if key & 7 != 2 || key >> 3 != u64::from(*number) {
            continue;
        }
        if found.len() >= LONGEST.1 {
            return false;
        }
        if below.is_empty() {
            let text = String::from_utf8_lossy(content);
            let mut characters = text.chars();
            found.push(characters.by_ref().take(LONGEST.0).collect());
            all &= characters.next().is_none();
        } else {
            all &= texts(content, below, found);
        }
    }
    all
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
            self.seen.pass(data);
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
    use slipway_proto::{registry::v1 as registry, runtime::v1 as runtime};

    use super::*;

    const RUN: &str = "/slipway.runtime.v1.Containers/Run";
    const EXEC: &str = "/slipway.runtime.v1.Containers/Exec";
    const REMOVE: &str = "/slipway.runtime.v1.Containers/Remove";

    /// As it is sent.
    fn sent(message: &impl prost::Message) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        message.encode(&mut bytes).unwrap();
        bytes
    }

    /// What is told of a request that comes in pieces, and how many bytes are kept of it.
    async fn passed(path: &str, pieces: &[&[u8]]) -> (Told, usize) {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|one| Bytes::copy_from_slice(one))
            .collect();
        let whole = pieces.concat();
        let pieces = pieces.into_iter().map(Ok::<_, std::io::Error>);
        let body = axum::body::Body::from_stream(futures_util::stream::iter(pieces));
        let (seen, body) = Seen::of(path, Body::new(body));
        let came = axum::body::to_bytes(axum::body::Body::new(body), usize::MAX).await;
        assert_eq!(came.unwrap(), whole, "it was changed on its way");
        let kept = match &*seen.first.lock().unwrap() {
            First::Coming(bytes) => bytes.len(),
            First::Come(_) => 0,
        };
        (seen.told(), kept)
    }

    fn run(image: &str, env: usize) -> runtime::RunRequest {
        let spec = runtime::ContainerSpec {
            name: "web".into(),
            image: image.into(),
            env: vec!["PASSWORD=secret".repeat(env)],
            ..Default::default()
        };
        let start = runtime::run_request::Start {
            spec: Some(spec),
            ..Default::default()
        };
        runtime::RunRequest {
            part: Some(runtime::run_request::Part::Start(start)),
        }
    }

    #[tokio::test]
    async fn names_are_told_and_what_is_beside_them_is_not() {
        for (env, truncated) in [(1, false), (1000, true)] {
            let (told, kept) = passed(RUN, &[&sent(&run("nginx", env))]).await;
            let names = Value::from(told.names).to_string();
            assert_eq!(names, r#"{"image":"nginx","name":"web"}"#);
            assert_eq!((told.truncated, kept), (truncated, 0));
        }
        let put = registry::PutManifestRequest {
            repository: "app".into(),
            tags: vec!["1".into(), "latest".into()],
            ..Default::default()
        };
        let (told, _) = passed("/slipway.registry.v1.Registry/PutManifest", &[&sent(&put)]).await;
        assert_eq!(told.names["tags"], serde_json::json!(["1", "latest"]));
        assert_eq!(told.names["repository"], "app");
    }

    #[tokio::test]
    async fn what_is_sent_after_the_first_message_is_never_told() {
        let start = runtime::exec_request::Start {
            container: "web".into(),
            ..Default::default()
        };
        let part = Some(runtime::exec_request::Part::Start(start));
        let first = sent(&runtime::ExecRequest { part });
        // Typed by somebody: read as fields of a message of ours it has the container's number.
        let typed = b"\n}\n}my-password-x\n\x0fmy-password-x..";
        let input = Some(runtime::stream_input::Input::Stdin(typed.to_vec().into()));
        let part = Some(runtime::exec_request::Part::Input(runtime::StreamInput {
            input,
        }));
        let second = sent(&runtime::ExecRequest { part });
        let whole = [&first[..], &second, typed].concat();
        let names = super::told(&[&first[..], typed].concat(), fields(EXEC)).names;
        assert_eq!(Value::from(names).to_string(), r#"{"container":"web"}"#);
        let (early, late) = whole.split_at(3);
        for pieces in [&[&whole[..]][..], &[early, late], &[&first, &second, typed]] {
            let (told, kept) = passed(EXEC, pieces).await;
            assert_eq!(
                Value::from(told.names).to_string(),
                r#"{"container":"web"}"#
            );
            assert_eq!((told.truncated, kept), (false, 0));
        }
        // One that is compressed is not read, and nothing after it.
        let (told, kept) = passed(EXEC, &[&[1], &whole[1..]]).await;
        assert_eq!((told, kept), (Told::default(), 0));
    }

    #[tokio::test]
    async fn names_that_are_left_out_are_not_left_out_in_silence() {
        // The last one counts.
        let name =
            |name: &str| [&[0x0a, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        let decoys: Vec<_> = (0..LONGEST.1).flat_map(|_| name("decoy")).collect();
        // A group, which decoders skip and we do not read.
        let group = [0x7b, 0x7c];
        let long = "x".repeat(LONGEST.0 + 1);
        let long = [&[0x0a, 0x81, 0x02], long.as_bytes()].concat();
        for (message, truncated) in [
            (name("web"), false),
            (decoys.clone(), false),
            ([decoys, name("web")].concat(), true),
            ([&group[..], &name("web")].concat(), true),
            (long, true),
        ] {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            let (told, _) = passed(REMOVE, &[&[0], &length, &message]).await;
            assert_eq!(told.truncated, truncated, "{message:?}");
        }
    }

    #[tokio::test]
    async fn bytes_that_are_no_message_are_nobodys_name() {
        for bytes in [
            &b""[..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 3, 0x0a, 1, b'x'],
            &[
                0, 0, 0, 0, 10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
            &[0, 0, 0, 0, 3, 0x0b, 1, 1],
        ] {
            let (told, _) = passed(REMOVE, &[bytes]).await;
            assert!(told.names.is_empty(), "{bytes:?}");
        }
        // One that does not come to its end.
        let (told, _) = passed(REMOVE, &[&[0, 0, 0, 0, 203, 0x0a, 200, 1, b'x']]).await;
        assert_eq!(told.names["container"], "x");
        assert!(told.truncated);
    }
}
