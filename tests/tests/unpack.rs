//! Layers on their way: transfers that break, services that die in the middle, callers that go away, and
//! what a power cut leaves.

use std::{
    io::Write as _,
    net::TcpStream,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::Child,
    sync::{Arc, Condvar, Mutex},
};

use slipway_image::{
    Digest,
    layer::{Kind, pack::LayerWriter},
    media_type,
};
use slipway_tests::{Reply, Request, Server, Site, eventually, image::entry, ready};

/// An upstream with one image, `big`, whose layer it sends as far as it is allowed to.
struct Slow {
    server: Server,
    gate: Arc<Gate>,
    size: u64,
}

/// How far the layer may go, and what became of it.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default, Clone)]
struct State {
    open: u64,
    /// Break the connection there instead of waiting, once.
    break_at: Option<u64>,
    /// Where transfers of the layer began, and how far each came.
    transfers: Vec<(u64, u64)>,
    /// Transfers that are going on.
    going: u32,
}

impl Gate {
    /// Sends the layer from where it is wanted.
    fn send(&self, request: &Request, layer: &[u8], mut out: &TcpStream) {
        let size = layer.len() as u64;
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
                let wait = std::time::Duration::from_millis(50);
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
            if out.write_all(&layer[at as usize..end as usize]).is_err() {
                break;
            }
            at = end;
            self.state.lock().unwrap().transfers[mine].1 = at;
        }
        self.state.lock().unwrap().going -= 1;
    }

    fn open(&self, to: u64) {
        self.state.lock().unwrap().open = to;
        self.changed.notify_all();
    }

    fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }
}

/// Bytes that compress no more.
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    (0..length)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        })
        .collect()
}

impl Slow {
    /// The upstream, as the site's docker.io. The gate stands in the middle of the layer.
    fn start(site: &Site) -> Self {
        let mut layer = LayerWriter::new(Vec::new(), 1);
        let mut add = |path: &str, kind, content: &[u8]| {
            let entry = entry(path, kind, content.len() as u64);
            layer.append(&entry, &mut &content[..]).unwrap();
        };
        add("bin", Kind::Folder, &[]);
        add(
            "bin/busybox",
            Kind::File,
            &std::fs::read("/bin/busybox").unwrap(),
        );
        for name in ["true", "sha256sum", "cat", "sleep"] {
            add(
                &format!("bin/{name}"),
                Kind::Symlink(b"busybox".to_vec()),
                &[],
            );
        }
        for number in 0..40 {
            add(
                &format!("noise{number}"),
                Kind::File,
                &noise(128 * 1024, number + 1),
            );
        }
        let (layer, packed) = layer.finish().unwrap();
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["true"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            slipway_image::Platform::host().architecture,
            packed.diff_id,
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
            media_type::OCI_MANIFEST,
            media_type::OCI_CONFIG,
            Digest::of(&config),
            config.len(),
            media_type::OCI_LAYER_GZIP,
            packed.digest,
            layer.len(),
        );
        let size = layer.len() as u64;
        let gate = Arc::new(Gate::default());
        gate.open(size / 2);
        let at_gate = Arc::clone(&gate);
        let server = Server::start_raw(site, move |request, out| {
            let blob = |digest: &str| request.path == format!("/v2/library/big/blobs/{digest}");
            if blob(&packed.digest.to_string()) {
                return at_gate.send(request, &layer, out);
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
            let reply = match &request.path {
                path if path.starts_with("/v2/library/big/manifests/") => {
                    reply(media_type::OCI_MANIFEST, &manifest)
                }
                _ if blob(&Digest::of(&config).to_string()) => reply("application/json", &config),
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
        Self { server, gate, size }
    }

    async fn with_site() -> Option<(Site, Self)> {
        if !ready() {
            return None;
        }
        let mut site = Site::bare();
        let slow = Self::start(&site);
        site.start_services().await;
        Some((site, slow))
    }

    fn open(&self) {
        self.gate.open(self.size);
    }

    /// Waits until the runtime has unpacked some of the layer.
    async fn half_way(&self, site: &Site) {
        eventually("half of the layer is sent", async || {
            (self.gate.state().transfers.last()?.1 >= self.size / 2).then_some(())
        })
        .await;
        eventually("some of it is unpacked", async || {
            halves(site)
                .iter()
                .any(|tmp| tmp.join("fs/noise3").exists())
                .then_some(())
        })
        .await;
    }
}

fn layers(site: &Site) -> Vec<PathBuf> {
    std::fs::read_dir(site.path("state/runtime/layers"))
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().path())
        .collect()
}

/// Layers that are being unpacked.
fn halves(site: &Site) -> Vec<PathBuf> {
    let name = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("tmp-")
    };
    layers(site).into_iter().filter(name).collect()
}

fn ended_well(child: Child) {
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

fn log(site: &Site, service: &str) -> String {
    std::fs::read_to_string(site.path(&format!("{service}.log"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_where_registry_svc_was_killed() {
    let Some((mut site, slow)) = Slow::with_site().await else {
        return;
    };
    let run = site.ctl_start(&["run", "--rm", "big", "true"]);
    slow.half_way(&site).await;
    site.kill_and_restart("registry").await;
    slow.open();
    ended_well(run);
    let transfers = slow.gate.state().transfers;
    let sent: u64 = transfers.iter().map(|(begin, end)| end - begin).sum();
    // What was in the killed process' hands and not in its file yet is sent again, and no more.
    assert!(transfers.len() >= 2 && transfers[1].0 > 0, "{transfers:?}");
    assert!(
        sent < slow.size + 2 * 1024 * 1024,
        "{transfers:?} of {}",
        slow.size
    );
    // And the runtime went on in the middle, too.
    let log = log(&site, "runtime");
    let line = log
        .lines()
        .find(|l| l.contains("transfer broke off"))
        .expect("it broke off");
    let offset = line
        .split("offset=")
        .nth(1)
        .and_then(|l| l.split([' ', '\u{1b}']).next());
    assert!(
        offset
            .and_then(|o| o.parse::<u64>().ok())
            .is_none_or(|o| o > 0),
        "{line}"
    );
    assert!(halves(&site).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_where_upstream_broke_off() {
    let Some((site, slow)) = Slow::with_site().await else {
        return;
    };
    slow.gate.state.lock().unwrap().break_at = Some(slow.size / 3);
    slow.open();
    ended_well(site.ctl_start(&["run", "--rm", "big", "true"]));
    let transfers = slow.gate.state().transfers;
    assert_eq!(transfers.len(), 2, "{transfers:?}");
    let sent: u64 = transfers.iter().map(|(begin, end)| end - begin).sum();
    assert!(
        sent < slow.size + 2 * 1024 * 1024,
        "{transfers:?} of {}",
        slow.size
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_stops_the_work_and_leaves_nothing() {
    let Some((site, slow)) = Slow::with_site().await else {
        return;
    };
    let mut run = site.ctl_start(&["run", "--rm", "big", "true"]);
    slow.half_way(&site).await;
    run.kill().unwrap();
    run.wait().unwrap();
    eventually("what was unpacked is gone", async || {
        layers(&site).is_empty().then_some(())
    })
    .await;
    eventually("the transfer ends", async || {
        (slow.gate.state().going == 0).then_some(())
    })
    .await;
    assert_eq!(site.ctl(&["ps", "-aq"]).out, "");
    // The next one takes up what registry-svc has.
    slow.open();
    ended_well(site.ctl_start(&["run", "--rm", "big", "true"]));
    let transfers = slow.gate.state().transfers;
    assert!(transfers.last().unwrap().0 > 0, "{transfers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_fetch_and_unpack_once() {
    let Some((site, slow)) = Slow::with_site().await else {
        return;
    };
    let runs = [0, 1, 2].map(|_| site.ctl_start(&["run", "--rm", "big", "true"]));
    slow.half_way(&site).await;
    slow.open();
    runs.into_iter().for_each(ended_well);
    assert_eq!(slow.gate.state().transfers.len(), 1);
    assert_eq!(log(&site, "runtime").matches("unpacked").count(), 1);
    let blobs = slow.server.requests();
    let gets = blobs
        .iter()
        .filter(|r| r.starts_with("GET") && r.contains("/blobs/"));
    assert_eq!(gets.count(), 2, "{blobs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_svc_killed_in_the_middle_leaves_nothing() {
    let Some((mut site, slow)) = Slow::with_site().await else {
        return;
    };
    let run = site.ctl_start(&["run", "--rm", "big", "true"]);
    slow.half_way(&site).await;
    site.kill_and_restart("runtime").await;
    assert!(!run.wait_with_output().unwrap().status.success());
    eventually("the half of the layer is gone", async || {
        layers(&site).is_empty().then_some(())
    })
    .await;
    slow.open();
    ended_well(site.ctl_start(&["run", "--rm", "big", "true"]));
    assert_eq!(layers(&site).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_power_cut_tore_is_fetched_again() {
    let Some((mut site, slow)) = Slow::with_site().await else {
        return;
    };
    slow.open();
    let sum = |site: &Site| {
        let said = site.ctl(&["run", "--rm", "big", "sha256sum", "/noise7"]);
        assert_eq!(said.code, 0, "{}", said.err);
        said.out
    };
    let whole = sum(&site);
    assert_eq!(
        site.ctl(&["create", "--name", "box", "big", "sha256sum", "/noise7"])
            .code,
        0
    );
    let layer = layers(&site).pop().unwrap();
    let note = layer.join("layer.json");
    let unpacked = std::fs::metadata(&layer).unwrap().ino();
    eventually("the layer is on the disk", async || {
        (!std::fs::read_to_string(&note).unwrap().contains("unsynced")).then_some(())
    })
    .await;

    // In the same boot all of it is there, synced or not.
    let torn = |id: &str| {
        let text = std::fs::read_to_string(&note).unwrap();
        let text = text.replacen('{', &format!("{{\"unsynced\":\"{id}\","), 1);
        std::fs::write(&note, text).unwrap();
    };
    let own = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    site.kill_service("runtime");
    torn(own.trim());
    site.start_service("runtime").await;
    assert_eq!(sum(&site), whole);
    assert_eq!(std::fs::metadata(&layer).unwrap().ino(), unpacked);

    // As a power cut leaves it: half of a file, and a note of another boot.
    eventually("the layer is on the disk again", async || {
        (!std::fs::read_to_string(&note).unwrap().contains("unsynced")).then_some(())
    })
    .await;
    site.kill_service("runtime");
    torn("00000000-0000-0000-0000-000000000001");
    std::fs::File::options()
        .write(true)
        .open(layer.join("fs/noise7"))
        .unwrap()
        .set_len(5)
        .unwrap();
    site.start_service("runtime").await;
    // A container of before has its image, too.
    let said = site.ctl(&["start", "-a", "box"]);
    assert_eq!((said.code, said.out), (0, whole.clone()), "{}", said.err);
    assert_eq!(sum(&site), whole);

    // A note that was lost, and another boot since.
    site.kill_service("runtime");
    std::fs::write(
        site.path("state/runtime/boot"),
        "00000000000000000000000000000001",
    )
    .unwrap();
    std::fs::write(&note, "").unwrap();
    site.start_service("runtime").await;
    assert_eq!(sum(&site), whole);
}
