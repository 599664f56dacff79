//! An upstream with one image whose layers it sends as far as it is allowed to.

use std::{
    io::Write as _,
    net::TcpStream,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use slipway_image::{
    Digest, Platform,
    layer::{Entry, pack::LayerWriter},
    media_type,
};

use crate::{Reply, Request, Server, Site};

/// The upstream; its image is known as docker.io's.
pub struct Gated {
    /// What was asked.
    pub server: Server,
    /// Base first. Each has a gate in its middle.
    pub layers: Vec<Arc<Layer>>,
}

/// A layer, and how far it may go.
pub struct Layer {
    blob: Vec<u8>,
    digest: Digest,
    diff_id: Digest,
    state: Mutex<State>,
    changed: Condvar,
}

/// What became of a layer.
#[derive(Debug, Default, Clone)]
pub struct State {
    open: u64,
    break_at: Option<u64>,
    /// Where transfers began, and how far each came.
    pub transfers: Vec<(u64, u64)>,
    /// Transfers that are going on.
    pub going: u32,
}

impl State {
    /// Bytes that were sent in all.
    pub fn sent(&self) -> u64 {
        self.transfers.iter().map(|(begin, end)| end - begin).sum()
    }
}

impl Layer {
    fn new(entries: Vec<(Entry, Vec<u8>)>) -> Self {
        let mut layer = LayerWriter::new(Vec::new(), 1);
        for (entry, content) in entries {
            layer.append(&entry, &mut &content[..]).unwrap();
        }
        let (blob, packed) = layer.finish().unwrap();
        let state = State {
            open: blob.len() as u64 / 2,
            ..State::default()
        };
        Self {
            blob,
            digest: packed.digest,
            diff_id: packed.diff_id,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Bytes, as it travels.
    pub fn size(&self) -> u64 {
        self.blob.len() as u64
    }

    /// Where a site has it when it is unpacked.
    pub fn home(&self, site: &Site) -> PathBuf {
        site.path("state/runtime/layers")
            .join(self.diff_id.encoded())
    }

    /// Where a site's registry-svc has what came of it until it has all; none before the first byte.
    pub fn partial(&self, site: &Site) -> Option<PathBuf> {
        let name = format!("sha256-{}-", self.digest.encoded());
        let folder = site.path("state/registry/partial").read_dir().ok()?;
        let found = folder.flatten().find(|entry| {
            let file = entry.file_name();
            file.to_string_lossy().starts_with(&name)
        });
        found.map(|entry| entry.path())
    }

    /// Lets all of it through.
    pub fn open(&self) {
        self.state.lock().unwrap().open = self.size();
        self.changed.notify_all();
    }

    /// Breaks the connection there, once, instead of waiting.
    pub fn break_at(&self, end: u64) {
        self.state.lock().unwrap().break_at = Some(end);
        self.open();
    }

    /// What became of it so far.
    pub fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    /// Sends it from where it is wanted.
    fn send(&self, request: &Request, mut out: &TcpStream) {
        let size = self.size();
        let (status, left) = match request.offset {
            0 => (200, size),
            offset => (206, size - offset),
        };
        let reply = Reply {
            status,
            length: Some(left),
            ..Reply::default()
        };
        reply.send(request, out);
        if request.method == "HEAD" {
            return;
        }
        let mine = {
            let mut state = self.state.lock().unwrap();
            state.transfers.push((request.offset, request.offset));
            state.going += 1;
            state.transfers.len() - 1
        };
        let mut at = request.offset;
        while at < size {
            let mut state = self.state.lock().unwrap();
            if state.break_at.is_some_and(|end| at >= end) {
                state.break_at = None;
                break;
            }
            if at >= state.open {
                let wait = Duration::from_millis(50);
                drop(self.changed.wait_timeout(state, wait).unwrap());
                // Whoever went away meanwhile is noticed by what it does not take.
                let mut byte = [0];
                out.set_nonblocking(true).unwrap();
                let gone = matches!(out.peek(&mut byte), Ok(0));
                out.set_nonblocking(false).unwrap();
                if gone {
                    break;
                }
                continue;
            }
            let end = size.min(at + 64 * 1024).min(state.open);
            drop(state);
            if out
                .write_all(&self.blob[at as usize..end as usize])
                .is_err()
            {
                break;
            }
            at = end;
            self.state.lock().unwrap().transfers[mine].1 = at;
        }
        self.state.lock().unwrap().going -= 1;
    }
}

/// Bytes that compress no more.
pub fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    (0..length)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        })
        .collect()
}

impl Gated {
    /// Starts it as the site's docker.io, before the site's services, with one image of these layers.
    pub fn start(site: &Site, name: &str, layers: Vec<Vec<(Entry, Vec<u8>)>>) -> Self {
        let layers: Vec<_> = layers
            .into_iter()
            .map(|l| Arc::new(Layer::new(l)))
            .collect();
        let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id.to_string()).collect();
        let config = serde_json::json!({
            "architecture": Platform::host().architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string();
        let descriptor = |kind: &str, digest: &Digest, size: u64| serde_json::json!({"mediaType": kind, "digest": digest.to_string(), "size": size});
        let listed: Vec<_> = layers
            .iter()
            .map(|l| descriptor(media_type::OCI_LAYER_GZIP, &l.digest, l.size()))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": descriptor(media_type::OCI_CONFIG, &Digest::of(&config), config.len() as u64),
            "layers": listed,
        })
        .to_string();
        let at_gates = layers.clone();
        let base = format!("/v2/library/{name}");
        let server = Server::start_raw(site, move |request, out| {
            let blob = request.path.strip_prefix(&format!("{base}/blobs/"));
            let layer = blob.and_then(|b| at_gates.iter().find(|l| l.digest.to_string() == b));
            if let Some(layer) = layer {
                return layer.send(request, out);
            }
            let reply = |kind: &str, body: &str| Reply {
                status: 200,
                headers: vec![
                    ("Content-Type", kind.to_owned()),
                    ("Docker-Content-Digest", Digest::of(body).to_string()),
                ],
                body: body.into(),
                ..Reply::default()
            };
            let is_config = blob == Some(&*Digest::of(&config).to_string());
            let reply = match &request.path {
                path if path.starts_with(&format!("{base}/manifests/")) => {
                    reply(media_type::OCI_MANIFEST, &manifest)
                }
                _ if is_config => reply("application/json", &config),
                path if path == "/v2/" => reply("application/json", "{}"),
                _ => Reply {
                    status: 404,
                    ..Reply::default()
                },
            };
            reply.send(request, out);
        });
        site.configure(
            "registry.toml",
            &format!(
                "[[upstream]]\nhost = \"docker.io\"\nurl = \"http://{}\"\ninsecure = true\n",
                server.address
            ),
        );
        Self { server, layers }
    }
}
