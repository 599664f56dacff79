//! Clients of other makes, by TLS and in somebody's name.

use std::{fs, path::Path};

use serde_json::{Value, json};
use slipway_image::{Digest, media_type};
use slipway_tests::{
    Said, Site,
    dockerd::{Dockerd, Store},
    installed, ready,
    secured::{ADDRESS, ALICES, BOBS, Secured},
};

use super::content::{Content, descriptor};

const RULES: &str = r#"
[[access]]
prefix = "*"
who = ["alice", "cert:CN=ci"]
may = ["pull", "push", "delete"]
[[access]]
prefix = "team"
who = ["alice"]
may = ["pull", "push", "delete"]
[[access]]
prefix = "team"
who = ["bob"]
may = ["pull"]
[[access]]
prefix = "public"
who = ["anonymous"]
may = ["pull"]
[[access]]
prefix = "public"
who = ["alice"]
may = ["push"]
"#;

/// A site with nothing but a registry that lets in by name only.
struct Registry(Secured);

impl Registry {
    async fn start(programs: &[&str]) -> Option<Self> {
        if !ready() || !installed(&["openssl"]) || !installed(programs) {
            return None;
        }
        let mut secured = Secured::new(Site::bare(), RULES);
        // As clients want to have it: a folder with the authority and nothing else.
        let trust = secured.site.path("trust");
        fs::create_dir(&trust).unwrap();
        fs::copy(secured.ca(), trust.join("ca.crt")).unwrap();
        secured.site.start_service("registry").await;
        Some(Self(secured))
    }

    fn path(&self, name: &str) -> String {
        self.0.site.path(name).to_str().unwrap().to_owned()
    }

    /// Runs a line of words.
    fn run(&self, line: &str) -> Said {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.0.site.output(words[0], &words[1..]).into()
    }

    /// What a line said that must not fail.
    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let said = self.run(line);
        assert_eq!(said.code, 0, "{line}: {}{}", said.out, said.err);
        said.out.trim().to_owned()
    }

    /// A line that must be refused, in words.
    #[track_caller]
    fn refused(&self, line: &str, why: &[&str]) {
        let said = self.run(line);
        assert_ne!(said.code, 0, "{line}: {}", said.out);
        let told = said.err.to_lowercase();
        assert!(why.iter().any(|why| told.contains(why)), "{line}: {told}");
    }

    /// curl by TLS; status and body.
    fn curl(&self, line: &str) -> (u16, String) {
        let ca = self.0.ca();
        let out = self.ok(&format!(
            "curl -sS --cacert {ca} -w \\n%{{http_code}} {line}"
        ));
        let (body, status) = out.rsplit_once('\n').unwrap_or(("", &out));
        (status.parse().unwrap(), body.to_owned())
    }

    /// An image as a folder in the OCI layout: `oci:<folder>:v1`.
    fn layout(&self) -> String {
        let folder = self.0.site.path("layout");
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        fs::write(self.0.site.path("file"), "of the layer").unwrap();
        let tar = format!(
            "tar -C {} -cf {} file",
            self.path(""),
            self.path("layer.tar")
        );
        self.ok(&tar);
        let layer = fs::read(self.0.site.path("layer.tar")).unwrap();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Labels": { "by": "hand" } },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
        });
        let config = config.to_string().into_bytes();
        let layer_type = "application/vnd.oci.image.layer.v1.tar";
        let manifest = Content::new(
            media_type::OCI_MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": media_type::OCI_MANIFEST,
                "config": descriptor(media_type::OCI_CONFIG, &config),
                "layers": [descriptor(layer_type, &layer)],
            }),
        );
        let mut named = manifest.descriptor();
        named["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
        let index = json!({ "schemaVersion": 2, "manifests": [named] });
        for content in [&layer, &config, &manifest.bytes] {
            let name = Digest::of(content);
            fs::write(folder.join("blobs/sha256").join(name.encoded()), content).unwrap();
        }
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        fs::write(
            folder.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        format!("oci:{}:v1", folder.display())
    }

    /// Puts that image there, in alice's name.
    fn pushed(&self, name: &str) -> String {
        let (layout, trust) = (self.layout(), self.path("trust"));
        self.ok(&format!(
            "skopeo --insecure-policy copy -q --preserve-digests --dest-cert-dir {trust} \
             --dest-creds alice:{ALICES} {layout} docker://{ADDRESS}/{name}"
        ));
        layout
    }
}

const NOBODY: [&str; 2] = ["unauthorized", "authentication required"];
const NOT_HE: [&str; 3] = ["denied", "403 (forbidden)", "403 forbidden"];

#[tokio::test]
async fn skopeo_does_what_it_may_and_no_more() {
    let Some(secured) = Registry::start(&["skopeo"]).await else {
        return;
    };
    let layout = secured.pushed("team/app:v1");
    let trust = secured.path("trust");
    let skopeo = "skopeo --insecure-policy";
    let at = format!("docker://{ADDRESS}");
    let bob = format!("--creds bob:{BOBS} --cert-dir {trust}");
    let listed = secured.ok(&format!("{skopeo} list-tags {bob} {at}/team/app"));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["Tags"], json!(["v1"]));
    let inspected = secured.ok(&format!("{skopeo} inspect {bob} {at}/team/app:v1"));
    assert_eq!(
        serde_json::from_str::<Value>(&inspected).unwrap()["Labels"]["by"],
        "hand"
    );
    let to = |creds: &str, name: &str| {
        format!("{skopeo} copy -q --dest-cert-dir {trust} {creds} {layout} {at}/{name}")
    };
    let bobs = format!("--dest-creds bob:{BOBS}");
    secured.refused(&to(&bobs, "team/app:v2"), &NOT_HE);
    secured.refused(&to(&bobs, "other:v1"), &NOT_HE);
    secured.refused(&to("", "team/app:v2"), &NOBODY);
    secured.refused(
        &to("--dest-creds bob:x", "team/app:v2"),
        &["invalid username/password", "unauthorized"],
    );
    secured.refused(&format!("{skopeo} delete {bob} {at}/team/app:v1"), &NOT_HE);
    // What everybody may.
    secured.pushed("public/app:v1");
    secured.ok(&format!(
        "{skopeo} inspect --no-creds --cert-dir {trust} {at}/public/app:v1"
    ));
    secured.refused(
        &format!("{skopeo} inspect --no-creds --cert-dir {trust} {at}/team/app:v1"),
        &NOBODY,
    );
    // Nobody is talked to whose certificate nobody vouches for.
    secured.refused(
        &format!("{skopeo} inspect --no-creds {at}/public/app:v1"),
        &["x509", "certificate"],
    );
    // A login of its own; a copy from there to there mounts.
    let file = secured.path("auth.json");
    secured.ok(&format!(
        "{skopeo} login --cert-dir {trust} --authfile {file} -u alice -p {ALICES} {ADDRESS}"
    ));
    let both = format!("--authfile {file} --src-cert-dir {trust} --dest-cert-dir {trust}");
    secured.ok(&format!(
        "{skopeo} copy -q {both} {at}/team/app:v1 {at}/team/copy:v1"
    ));
    let folder = secured.path("synced");
    fs::create_dir(&folder).unwrap();
    let from = format!("--src docker --dest dir --src-authfile {file} --src-cert-dir {trust}");
    secured.ok(&format!("{skopeo} sync {from} {ADDRESS}/team/app {folder}"));
    assert!(Path::new(&folder).join("app:v1/manifest.json").exists());
    let to = format!("--src dir --dest docker --dest-authfile {file} --dest-cert-dir {trust}");
    secured.ok(&format!("{skopeo} sync {to} {folder} {ADDRESS}/synced"));
    secured.ok(&format!(
        "{skopeo} delete --authfile {file} --cert-dir {trust} {at}/synced/app:v1"
    ));
    secured.ok(&format!("{skopeo} logout --authfile {file} {ADDRESS}"));
    secured.refused(
        &format!("{skopeo} inspect --authfile {file} --cert-dir {trust} {at}/team/app:v1"),
        &NOBODY,
    );
}

#[tokio::test]
async fn podman_and_buildah_log_in_push_and_pull() {
    let Some(secured) = Registry::start(&["skopeo", "podman", "buildah"]).await else {
        return;
    };
    let layout = secured.layout();
    let (root, run) = (secured.path("store"), secured.path("run-store"));
    let (trust, file) = (secured.path("trust"), secured.path("auth.json"));
    let with = format!("--cert-dir {trust} --authfile {file}");
    fs::write(&file, "{}").unwrap();
    for program in ["podman", "buildah"] {
        let tool = format!("{program} --root {root} --runroot {run} --storage-driver vfs");
        let name = format!("{ADDRESS}/team/{program}:v1");
        secured.ok(&format!(
            "skopeo --insecure-policy copy -q {layout} containers-storage:[vfs@{root}+{run}]{name}"
        ));
        let id = secured.ok(&format!("{tool} images -q --no-trunc {name}"));
        let id = id.trim_start_matches("sha256:");
        let push = format!("{tool} push -q {with} {name} docker://{name}");
        let pull = format!("{tool} pull -q {with} {name}");
        secured.refused(&push, &NOBODY);
        secured.refused(
            &format!("{tool} login {with} -u alice -p x {ADDRESS}"),
            &["invalid username/password", "unauthorized"],
        );
        secured.ok(&format!(
            "{tool} login {with} -u alice -p {ALICES} {ADDRESS}"
        ));
        secured.ok(&push);
        secured.ok(&format!("{tool} rmi -f {id}"));
        assert_eq!(secured.ok(&pull), id);
        secured.ok(&format!("{tool} login {with} -u bob -p {BOBS} {ADDRESS}"));
        secured.ok(&pull);
        secured.refused(&push, &NOT_HE);
        secured.ok(&format!("{tool} logout --authfile {file} {ADDRESS}"));
        // What is there already is not asked for.
        secured.ok(&format!("{tool} rmi -f {id}"));
        secured.refused(&pull, &NOBODY);
    }
}

#[tokio::test]
async fn docker_logs_in_pushes_and_pulls() {
    docker_of(Store::Docker).await;
}

#[tokio::test]
async fn docker_with_containerds_store_logs_in_pushes_and_pulls() {
    docker_of(Store::Containerd).await;
}

async fn docker_of(store: Store) {
    if !store.is_there() {
        return;
    }
    let Some(secured) = Registry::start(&["skopeo"]).await else {
        return;
    };
    secured.pushed("team/app:v1");
    let site = &secured.0.site;
    let authority = secured.0.ca();
    let docker = Dockerd::trusting(store, site, ADDRESS, &authority).await;
    let docker =
        |line: &str| -> Said { docker.run(site, &line.split_whitespace().collect::<Vec<_>>()) };
    let name = format!("{ADDRESS}/team/app:v1");
    let refused = |line: &str, why: &[&str]| {
        let said = docker(line);
        let told = said.err.to_lowercase();
        assert_ne!(said.code, 0, "{line}");
        assert!(why.iter().any(|why| told.contains(why)), "{line}: {told}");
    };
    refused(&format!("pull -q {name}"), &NOBODY);
    refused(
        &format!("login -u bob -p x {ADDRESS}"),
        &["unauthorized", "wrong"],
    );
    docker(&format!("login -u bob -p {BOBS} {ADDRESS}")).ok();
    let config = fs::read_to_string(site.path("home/.docker/config.json")).unwrap();
    assert!(
        config.contains("identitytoken"),
        "the password is not kept: {config}"
    );
    docker(&format!("pull -q {name}")).ok();
    let theirs = format!("{ADDRESS}/team/theirs:v1");
    docker(&format!("tag {name} {theirs}")).ok();
    refused(&format!("push -q {theirs}"), &NOT_HE);
    docker(&format!("logout {ADDRESS}")).ok();
    docker(&format!("login -u alice -p {ALICES} {ADDRESS}")).ok();
    docker(&format!("push -q {theirs}")).ok();
    docker(&format!("rmi -f {name} {theirs}")).ok();
    docker(&format!("pull -q {theirs}")).ok();
    docker(&format!("logout {ADDRESS}")).ok();
    refused(&format!("pull -q {theirs}"), &NOBODY);
    // What everybody may, without a login.
    secured.pushed("public/app:v1");
    docker(&format!("pull -q {ADDRESS}/public/app:v1")).ok();
}

#[tokio::test]
async fn curl_needs_a_name_or_a_certificate() {
    let Some(secured) = Registry::start(&["skopeo", "curl"]).await else {
        return;
    };
    secured.pushed("team/app:v1");
    secured.pushed("public/app:v1");
    let url = format!("https://{ADDRESS}/v2");
    let tags = format!("{url}/team/app/tags/list");
    assert_eq!(secured.curl(&tags).0, 401);
    assert_eq!(secured.curl(&format!("{url}/public/app/tags/list")).0, 200);
    let alice = format!("-u alice:{ALICES}");
    assert_eq!(secured.curl(&format!("{alice} {tags}")).0, 200);
    for version in ["--http1.1", "--http2"] {
        let (status, listed) = secured.curl(&format!("{version} -u bob:{BOBS} {url}/_catalog"));
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(status, 200);
        assert_eq!(listed["repositories"], json!(["public/app", "team/app"]));
    }
    let [cert, key] = ["ci.pem", "ci.key"].map(|f| secured.0.authority.file(f));
    let ci = format!("--cert {cert} --key {key}");
    // The longest prefix holds: `team` says nothing of it, and everything else does.
    assert_eq!(secured.curl(&format!("{ci} {tags}")).0, 403);
    assert_eq!(
        secured
            .curl(&format!("{ci} -X POST {url}/other/blobs/uploads/"))
            .0,
        202
    );
    // A token, by hand.
    let scope = "scope=repository:team/app:pull";
    let (status, told) = secured.curl(&format!("{alice} https://{ADDRESS}/token?{scope}"));
    assert_eq!(status, 200);
    let told: Value = serde_json::from_str(&told).unwrap();
    let token = told["token"].as_str().unwrap();
    assert_eq!(
        secured.curl(&format!("--oauth2-bearer {token} {tags}")).0,
        200
    );
    let plain = format!("curl -sS http://{ADDRESS}/v2/");
    assert_ne!(secured.run(&plain).code, 0, "nothing is said without tls");
}

#[tokio::test]
async fn off_loopback_it_does_not_start_open() {
    let Some(secured) = Registry::start(&[]).await else {
        return;
    };
    let all = fs::read_to_string(secured.0.site.path("etc/registry.toml")).unwrap();
    let open = all.replace("192.0.2.1:5443", "192.0.2.1:5444");
    let without_rules = open
        .split("[[access]]")
        .next()
        .unwrap()
        .replace("htpasswd", "#");
    let (before, after) = open.split_once("[http_tls]").unwrap();
    let without_tls = format!("{before}{}", &after[after.find("[[access]]").unwrap()..]);
    let state = secured.path("other");
    for (settings, said) in [
        (
            without_rules.clone(),
            "refusing to serve http on 192.0.2.1:5444",
        ),
        (
            without_tls.replace("\"cert:CN=ci\"", "\"bob\""),
            "refusing to serve http on 192.0.2.1:5444",
        ),
        (open.replace("htpasswd", "#"), "say htpasswd"),
        (open.replace("client_ca", "#"), "say client_ca"),
        (
            open.replace("may = [", "colour = 1\nmay = ["),
            "unknown field `colour`",
        ),
        (open.replace("registry.key", "ci.key"), "http_tls"),
    ] {
        fs::create_dir_all(secured.0.site.path("other/etc")).unwrap();
        fs::write(secured.0.site.path("other/etc/registry.toml"), settings).unwrap();
        let program = slipway_tests::site::program_path("registry-svc");
        let line = format!(
            "timeout 20 {} --state-dir {state}/state --run-dir {state}/run --config-dir {state}/etc",
            program.display()
        );
        let ended = secured.run(&line);
        assert!(
            ended.code != 0 && ended.code != 124,
            "{said}: {}",
            ended.err
        );
        assert!(ended.err.contains(said), "{said}: {}", ended.err);
    }
}
