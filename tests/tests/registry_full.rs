//! A registry whose disk is full: it says so, goes on reading and deleting, and recovers by itself.

use std::{fs, io::Write as _, process::Command, time::Duration};

use slipway_image::{Digest, media_type};
use slipway_tests::{Answer, Ask, Site, eventually_within, ready};

const ADDRESS: &str = "127.0.0.1:5000";

/// The registry's state on a small file system in memory.
struct Small {
    folder: tempfile::TempDir,
}

impl Small {
    fn mount(site: &Site) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
            .arg(folder.path())
            .status();
        assert!(mounted.unwrap().success());
        fs::create_dir_all(site.path("state")).unwrap();
        std::os::unix::fs::symlink(folder.path(), site.path("state/registry")).unwrap();
        Self { folder }
    }

    fn fill(&self) {
        let mut options = fs::File::options();
        let options = options.create(true).append(true);
        let mut file = options.open(self.folder.path().join("fill")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.folder.path().join("fill")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.folder.path())
            .status();
    }
}

struct Registry {
    site: Site,
}

impl Registry {
    fn ask(&self, method: &str, target: &str) -> Ask<'_> {
        self.site.ask(ADDRESS, method, target)
    }

    fn push(&self, content: &[u8]) -> Answer {
        let target = format!("/v2/app/blobs/uploads/?digest={}", Digest::of(content));
        self.ask("POST", &target).body(content).send()
    }

    fn put(&self, tag: &str, content: &[u8]) -> Answer {
        let config = serde_json::json!({"author": tag}).to_string();
        for blob in [config.as_bytes(), content] {
            let pushed = self.push(blob);
            if pushed.status != 201 {
                return pushed;
            }
        }
        self.ask("PUT", &format!("/v2/app/manifests/{tag}"))
            .header("Content-Type", media_type::OCI_MANIFEST)
            .body(manifest(&config, content))
            .send()
    }

    fn has(&self, tag: &str, content: &[u8]) {
        let config = serde_json::json!({"author": tag}).to_string();
        let got = self.ask("GET", &format!("/v2/app/manifests/{tag}")).send();
        assert_eq!(got.is(200).body, manifest(&config, content).into_bytes());
        let target = format!("/v2/app/blobs/{}", Digest::of(content));
        assert_eq!(self.ask("GET", &target).send().is(200).body, content);
    }
}

fn manifest(config: &str, layer: &[u8]) -> String {
    let descriptor = |kind: &str, content: &[u8]| {
        serde_json::json!({
            "mediaType": kind,
            "digest": Digest::of(content).to_string(),
            "size": content.len(),
        })
    };
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_MANIFEST,
        "config": descriptor(media_type::OCI_CONFIG, config.as_bytes()),
        "layers": [descriptor(media_type::OCI_LAYER, layer)],
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_nothing_else_stops() {
    if !ready() {
        return;
    }
    let mut site = Site::bare();
    site.configure("registry.toml", "grace = '0s'\n");
    let disk = Small::mount(&site);
    site.start_service("registry").await;
    let mut registry = Registry { site };
    let layer = |seed: u8| vec![seed; 3_000_000];
    registry.put("kept", &layer(1)).is(201);
    registry.put("removed", &layer(2)).is(201);
    let process = registry.site.service_pid("registry");
    disk.fill();
    for _ in 0..3 {
        let full = registry.push(&layer(3)).is(507);
        let text = String::from_utf8_lossy(&full.body).into_owned();
        assert!(text.contains("No space left on device"), "{text}");
        registry.has("kept", &layer(1));
    }
    // An upload in chunks stands where it is said to stand.
    disk.free();
    let begun = registry.ask("POST", "/v2/app/blobs/uploads/").send();
    let location = begun.is(202).told("location").to_owned();
    disk.fill();
    let chunk = registry.ask("PATCH", &location).body(layer(4)).send();
    chunk.is(507);
    // Room is made by deleting.
    let removed = manifest(
        &serde_json::json!({"author": "removed"}).to_string(),
        &layer(2),
    );
    let target = format!("/v2/app/manifests/{}", Digest::of(&removed));
    registry.ask("DELETE", &target).send().is(202);
    let again = eventually_within(Duration::from_secs(10), "there is room", async || {
        Some(registry.put("new", &layer(5))).filter(|a| a.status == 201)
    });
    again.await;
    disk.fill();
    registry.push(&layer(6)).is(507);
    disk.free();
    registry.put("freed", &layer(6)).is(201);
    let status = registry.ask("GET", &location).send().is(204);
    let stands = match status.told("range") {
        "0-0" => 0,
        range => range[2..].parse::<usize>().unwrap() + 1,
    };
    let target = format!("{location}?digest={}", Digest::of(layer(4)));
    let rest = &layer(4)[stands..];
    registry.ask("PUT", &target).body(rest).send().is(201);
    let target = format!("/v2/app/blobs/{}", Digest::of(layer(4)));
    assert_eq!(registry.ask("GET", &target).send().is(200).body, layer(4));
    // It is the same process, and another one finds the same.
    assert_eq!(registry.site.service_pid("registry"), process);
    for _ in 0..2 {
        for (tag, seed) in [("kept", 1), ("new", 5), ("freed", 6)] {
            registry.has(tag, &layer(seed));
        }
        let left = |name: &str| fs::read_dir(disk.folder.path().join(name)).unwrap().count();
        assert_eq!((left("uploads"), left("tmp")), (0, 0));
        registry.site.kill_and_restart("registry").await;
    }
    registry.site.kill_service("registry");
}
