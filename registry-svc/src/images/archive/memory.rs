//! A shelf in memory: for tests, and for whoever feeds the readers with nonsense.

use std::{collections::HashMap, io::Read};

use bytes::Bytes;
use slipway_image::{Digest, archive as compressed, layer::limits::Limits};

use super::Shelf;
use crate::{
    blobs::staging::digest_of,
    error::{Error, Result},
};

/// See the module's page.
#[derive(Debug, Default)]
pub struct Memory {
    content: HashMap<Digest, Bytes>,
    limits: Limits,
}

impl Memory {
    /// With layers that may be so large.
    pub fn within(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }
}

impl Shelf for Memory {
    fn put(
        &mut self,
        promised: Option<&Digest>,
        size: u64,
        content: &mut dyn Read,
    ) -> Result<Digest> {
        let mut bytes = Vec::new();
        content
            .read_to_end(&mut bytes)
            .map_err(|e| Error::Interrupted(e.to_string()))?;
        let actual = bytes.len() as u64;
        if actual != size {
            let expected = size;
            return Err(Error::SizeMismatch { expected, actual });
        }
        let digest = digest_of(&bytes, promised);
        if let Some(expected) = promised.filter(|promised| **promised != digest) {
            return Err(Error::DigestMismatch {
                expected: expected.clone(),
                actual: digest,
            });
        }
        self.content.insert(digest.clone(), bytes.into());
        Ok(digest)
    }

    fn small(&mut self, digest: &Digest) -> Result<Bytes> {
        let content = self.content.get(digest).cloned();
        content.ok_or_else(|| Error::BlobNotFound(digest.clone()))
    }

    fn plain_digest(&mut self, layer: &Digest, like: &Digest) -> Result<Digest> {
        let broken = |e: std::io::Error| Error::ArchiveInvalid(e.to_string());
        let layer = self.small(layer)?;
        let mut plain = compressed::plain(&layer[..], self.limits).map_err(broken)?;
        let mut digester = like.digester();
        let mut buffer = [0; 4096];
        loop {
            match plain.read(&mut buffer).map_err(broken)? {
                0 => return Ok(digester.finish()),
                n => digester.update(&buffer[..n]),
            }
        }
    }

    fn start(&mut self, digest: &Digest) -> Result<Bytes> {
        let content = self.small(digest)?;
        Ok(content.slice(..content.len().min(6)))
    }
}
