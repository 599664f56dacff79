//! Layers in the compression that an output asks for.
//!
//! A converted layer is kept in the build cache like the result of a step: the next build with the same
//! output finds it. The bytes depend on content, algorithm and level only.

use std::io::{self, Write};

use slipway_image::{
    Descriptor, Digest, Digester,
    digest::DigestWriter,
    layer::{compression::decompress, gzip::GzipWriter},
    media_type,
};
use slipway_service::{
    chunks::{ChunkReader, ChunkWriter},
    whole::Whole,
};
use tokio::sync::mpsc;

use super::{CHUNKS, Exporter, Format, spec::Algorithm};
use crate::{
    cache::{KeyBuilder, REPOSITORY, Record},
    error::{Error, Result},
    layer::Layer,
};

/// BuildKit's: gzip's own default, and zstd's "default" of klauspost/compress.
const GZIP_LEVEL: i32 = 6;
const ZSTD_LEVEL: i32 = 3;

impl Exporter<'_> {
    /// The layers as the format wants them. Those of base images change only when forced to, as in BuildKit.
    pub(super) async fn compressed(&self, layers: &[Layer], format: &Format) -> Result<Vec<Layer>> {
        let mut out = Vec::new();
        for layer in layers {
            let ours = layer.repository == REPOSITORY;
            let converted = match wanted(&layer.descriptor.media_type, format, ours) {
                None => layer.clone(),
                Some((algorithm, level)) => self.convert(layer, algorithm, level).await?,
            };
            out.push(converted);
        }
        Ok(out)
    }

    async fn convert(&self, layer: &Layer, algorithm: Algorithm, level: i32) -> Result<Layer> {
        let (name, kind) = match algorithm {
            Algorithm::Gzip => ("gzip", media_type::OCI_LAYER_GZIP),
            Algorithm::Zstd => ("zstd", media_type::OCI_LAYER_ZSTD),
            Algorithm::Plain => ("plain", media_type::OCI_LAYER),
        };
        let mut key = KeyBuilder::new("compressed");
        key.part(layer.diff_id.to_string())
            .part(name)
            .number(u64::from(level.unsigned_abs()));
        let key = key.finish();
        if let Some(Record {
            layer: Some(layer), ..
        }) = self.cache.find(&key).await?
        {
            return Ok(layer);
        }
        let (blob, compressed) = mpsc::channel(CHUNKS);
        let (send, receive) = mpsc::channel(CHUNKS);
        let whole = Whole::default();
        let (sent, expected) = (whole.clone(), layer.diff_id.clone());
        let working = tokio::task::spawn_blocking(move || {
            // The chunks end when it is said that they are whole, not before.
            let _open = send.clone();
            let (from, to) = (ChunkReader::new(compressed), ChunkWriter::new(send));
            let diff_id = compress(from, to, algorithm, level)?;
            // A layer that is not what it was said to be is not to be stored.
            if diff_id == expected {
                sent.tell();
            }
            Ok(diff_id)
        });
        let digest = &layer.descriptor.digest;
        let (read, stored, worked) = tokio::join!(
            self.registry.read_blob(&layer.repository, digest, blob),
            self.registry.write_blob(REPOSITORY, receive, whole),
            working,
        );
        read?;
        let what = |e: io::Error| Error::Invalid(format!("a layer could not be compressed: {e}"));
        let diff_id = match (worked.map_err(io::Error::other).and_then(|r| r), &stored) {
            (Err(e), Err(_)) if e.kind() == io::ErrorKind::BrokenPipe => layer.diff_id.clone(),
            (worked, _) => worked.map_err(what)?,
        };
        if diff_id != layer.diff_id {
            return Err(Error::Invalid(format!(
                "the layer {} unpacks to {diff_id}, not to {}: the image is broken",
                layer.descriptor.digest, layer.diff_id
            )));
        }
        let (digest, size) = stored?;
        let layer = Layer {
            descriptor: Descriptor::new(kind, digest, size),
            diff_id,
            repository: REPOSITORY.to_owned(),
        };
        let record = Record {
            layer: Some(layer.clone()),
            created: jiff::Timestamp::now().to_string(),
        };
        self.cache
            .keep(&key, &record, &format!("{name} of a layer"))
            .await?;
        Ok(layer)
    }
}

/// To what a layer is to be converted; none = it stays.
fn wanted(kind: &str, format: &Format, ours: bool) -> Option<(Algorithm, i32)> {
    let algorithm = format.compression?;
    if !ours && !format.force {
        return None;
    }
    let now = match () {
        () if kind.ends_with("gzip") => Algorithm::Gzip,
        () if kind.ends_with("zstd") => Algorithm::Zstd,
        () => Algorithm::Plain,
    };
    if now == algorithm && format.level.is_none() {
        return None;
    }
    let level = format.level.unwrap_or(match algorithm {
        Algorithm::Gzip => GZIP_LEVEL,
        Algorithm::Zstd => ZSTD_LEVEL,
        Algorithm::Plain => 0,
    });
    (now != Algorithm::Plain || algorithm != Algorithm::Plain).then_some((algorithm, level))
}

/// Writes a stream anew; returns the digest of what it holds.
fn compress(
    compressed: ChunkReader,
    mut out: ChunkWriter,
    algorithm: Algorithm,
    level: i32,
) -> io::Result<Digest> {
    let mut plain = decompress(compressed)?;
    match algorithm {
        Algorithm::Plain => {
            let digest = copy(&mut plain, &mut out)?;
            out.flush()?;
            Ok(digest)
        }
        Algorithm::Gzip => {
            let mut encoder = GzipWriter::new(out, level.unsigned_abs());
            let digest = copy(&mut plain, &mut encoder)?;
            encoder.finish()?.flush()?;
            Ok(digest)
        }
        Algorithm::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
            let digest = copy(&mut plain, &mut encoder)?;
            encoder.finish()?.flush()?;
            Ok(digest)
        }
    }
}

fn copy(plain: &mut dyn io::Read, out: &mut dyn Write) -> io::Result<Digest> {
    let mut out = DigestWriter::new(out, Digester::default());
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match plain.read(&mut buffer)? {
            0 => break,
            n => out.write_all(&buffer[..n])?,
        }
    }
    Ok(out.into_parts().1.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_layers_change() {
        let format = |compression, level, force| Format {
            compression,
            level,
            force,
            oci: true,
        };
        let gzip = media_type::OCI_LAYER_GZIP;
        let plain = media_type::DOCKER_LAYER;
        let zstd = Some(Algorithm::Zstd);
        assert_eq!(wanted(gzip, &format(None, None, true), true), None);
        assert_eq!(wanted(gzip, &format(zstd, None, false), false), None);
        assert_eq!(
            wanted(gzip, &format(zstd, None, true), false),
            Some((Algorithm::Zstd, 3))
        );
        assert_eq!(
            wanted(gzip, &format(zstd, Some(19), false), true),
            Some((Algorithm::Zstd, 19))
        );
        let as_gzip = Some(Algorithm::Gzip);
        assert_eq!(wanted(gzip, &format(as_gzip, None, true), true), None);
        assert_eq!(
            wanted(gzip, &format(as_gzip, Some(9), false), true),
            Some((Algorithm::Gzip, 9))
        );
        let none = Some(Algorithm::Plain);
        assert_eq!(wanted(plain, &format(none, None, true), true), None);
    }
}
