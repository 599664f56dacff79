//! Manifests of kinds that are not known: what they name is taken out while they are read. A tree of all that stands in
//! one would take a hundred times its size.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Descriptor;
use crate::Digest;

/// A manifest of a kind that we know nothing of but that it is JSON. It is kept as it is, with what it names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherManifest {
    /// What it names, wherever that stands in it, each once, and no more of it than type, digest and size. Its subject
    /// is not among them.
    pub descriptors: Vec<Descriptor>,
    /// Kind of artifact.
    pub artifact_type: Option<String>,
    /// The manifest that this one is about (referrers).
    pub subject: Option<Descriptor>,
    /// Annotations that are text, as all should be (image-spec, annotations.md), sorted.
    pub annotations: BTreeMap<String, String>,
}

/// Reads a manifest, and the media type that it says it has.
pub(super) fn read(content: &[u8]) -> serde_json::Result<(OtherManifest, Option<String>)> {
    let mut deserializer = serde_json::Deserializer::from_slice(content);
    let read = deserializer.deserialize_map(Top::default())?;
    deserializer.end()?;
    Ok(read)
}

/// The descriptors in it so far.
#[derive(Default)]
struct Named {
    descriptors: Vec<Descriptor>,
    seen: BTreeSet<Digest>,
}

/// What a value is to the object that it stands in.
enum Value {
    Text(String),
    Number(u64),
    Descriptor(Box<Descriptor>),
    Other,
}

/// What makes an object a descriptor (image-spec, descriptor.md).
#[derive(Default)]
struct Parts {
    media_type: Option<String>,
    digest: Option<Digest>,
    size: Option<u64>,
}

impl Parts {
    fn take(&mut self, key: &str, value: &Value) {
        match (key, value) {
            ("mediaType", Value::Text(text)) => self.media_type = Some(text.clone()),
            ("digest", Value::Text(text)) => self.digest = text.parse().ok(),
            ("size", Value::Number(size)) => self.size = Some(*size),
            _ => {}
        }
    }

    fn descriptor(self) -> Option<Descriptor> {
        Some(Descriptor::new(self.media_type?, self.digest?, self.size?))
    }
}

impl Named {
    fn add(&mut self, descriptor: &Descriptor) {
        if self.seen.insert(descriptor.digest.clone()) {
            self.descriptors.push(descriptor.clone());
        }
    }
}

/// The manifest itself.
#[derive(Default)]
struct Top {
    named: Named,
    manifest: OtherManifest,
    parts: Parts,
}

impl<'de> Visitor<'de> for Top {
    type Value = (OtherManifest, Option<String>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "subject" {
                let subject = map.next_value_seed(Reader::new(&mut Named::default()))?;
                self.manifest.subject = match subject {
                    Value::Descriptor(subject) => Some(*subject),
                    _ => None,
                };
                continue;
            }
            let mut reader = Reader::new(&mut self.named);
            if key == "annotations" {
                reader.texts = Some(&mut self.manifest.annotations);
            }
            let value = map.next_value_seed(reader)?;
            self.parts.take(&key, &value);
            if let ("artifactType", Value::Text(text)) = (&*key, value) {
                self.manifest.artifact_type = Some(text);
            }
        }
        let own = self.parts.media_type.clone();
        if let Some(itself) = self.parts.descriptor() {
            self.named.add(&itself);
        }
        self.manifest.descriptors = self.named.descriptors;
        Ok((self.manifest, own))
    }
}

/// Reads a value of any form; no deeper than serde_json reads.
struct Reader<'a> {
    named: &'a mut Named,
    /// Where texts go that stand in it by themselves.
    texts: Option<&'a mut BTreeMap<String, String>>,
}

impl<'a> Reader<'a> {
    fn new(named: &'a mut Named) -> Self {
        Self { named, texts: None }
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        while values.next_element_seed(Reader::new(self.named))?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut parts = Parts::default();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Reader::new(self.named))?;
            parts.take(&key, &value);
            if let (Some(texts), Value::Text(text)) = (&mut self.texts, value) {
                texts.insert(key, text);
            }
        }
        let Some(descriptor) = parts.descriptor() else {
            return Ok(Value::Other);
        };
        self.named.add(&descriptor);
        Ok(Value::Descriptor(Box::new(descriptor)))
    }
}
