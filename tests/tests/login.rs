//! `login` and `logout`, and calls that take an account along, with Debian's docker-registry that wants to know who
//! asks, and skopeo that reads the same file.

use std::{fs, os::unix::fs::PermissionsExt as _};

use slipway_tests::{Site, fixtures::Upstream, image, installed, ready};

const PRIVATE: &str = "127.0.0.1:5001";
const PASSWORD: &str = "open sesame";

/// A site with an image `busybox` and a private registry.
async fn site() -> Option<(Site, Upstream)> {
    if !ready() || !installed(&["docker-registry", "skopeo"]) {
        return None;
    }
    let mut site = Site::bare();
    let upstream = Upstream::private(&site, 5001).await;
    site.configure(
        "registry.toml",
        &format!(
            "[[upstream]]\nhost = \"{PRIVATE}\"\nurl = \"http://{PRIVATE}\"\ninsecure = true\n"
        ),
    );
    site.start_services().await;
    image::busybox(&site).await;
    Some((site, upstream))
}

fn config(site: &Site) -> String {
    fs::read_to_string(site.path("home/.docker/config.json")).unwrap_or_default()
}

#[track_caller]
fn log_in(site: &Site) -> String {
    let arguments = ["login", "-u", "joe", "--password-stdin", PRIVATE];
    let said = site.ctl_with(&arguments, format!("{PASSWORD}\n").as_bytes());
    assert!(
        said.err.is_empty() || said.err.contains("stored unencrypted"),
        "{}",
        said.err
    );
    said.ok()
}

#[tokio::test]
async fn an_account_is_checked_kept_used_and_forgotten() {
    let Some((site, _upstream)) = site().await else {
        return;
    };
    let own = site.ctl(&["login", "-u", "joe", "-p", "guess", "127.0.0.1:5000"]);
    assert!(own.error(1).contains("this site's own registry"));
    let image = format!("{PRIVATE}/team/app");
    site.ctl(&["tag", "busybox", &image]).ok();
    site.ctl(&["push", &image]).error(1);

    let wrong = site.ctl(&["login", "-u", "joe", "-p", "guess", PRIVATE]);
    assert!(
        wrong
            .err
            .contains("WARNING! Using --password via the CLI is insecure")
    );
    assert!(wrong.error(1).contains("unauthorized"));
    assert_eq!(config(&site), "");

    assert_eq!(log_in(&site), "Login Succeeded\n");
    let file = site.path("home/.docker/config.json");
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let again = site.ctl(&["login", PRIVATE]).ok();
    assert!(again.starts_with("Authenticating with existing credentials... [Username: joe]\n"));
    assert!(again.ends_with("Login Succeeded\n"), "{again}");

    site.ctl(&["push", &image]).ok();
    site.ctl(&["rmi", &image]).ok();
    let remote = format!("docker://{image}:latest");
    let file = file.to_str().unwrap();
    let skopeo = ["inspect", "--tls-verify=false", "--authfile", file, &remote];
    assert!(site.output("skopeo", &skopeo).status.success());
    // Each of them brings it here with the account, and nothing else would.
    site.ctl(&["pull", &image]).ok();
    site.ctl(&["rmi", &image]).ok();
    site.ctl(&["run", "--rm", &image, "true"]).ok();
    site.ctl(&["rmi", &image]).ok();
    let dockerfile = format!("FROM {image}\nLABEL a=b\n");
    site.ctl_with(&["build", "-t", "built", "-"], dockerfile.as_bytes())
        .ok();

    let out = site.ctl(&["logout", PRIVATE]).ok();
    assert_eq!(out, format!("Removing login credentials for {PRIVATE}\n"));
    assert!(!config(&site).contains(PRIVATE), "{}", config(&site));
    site.ctl(&["rmi", "-f", &image]);
    site.ctl(&["image", "prune", "-af"]).ok();
    let denied = site.ctl(&["pull", &image]).error(1);
    assert!(denied.contains("pull access denied"), "{denied}");
    for name in ["registry", "runtime", "builder"] {
        let log = fs::read_to_string(site.path(&format!("{name}.log"))).unwrap();
        assert!(!log.contains(PASSWORD), "{log}");
    }
}

/// A helper that keeps one account in a file, as the protocol has it.
const HELPER: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
echo "$1" >> calls
case $1 in
    store) cat > account ;;
    get)
        [ -s account ] || { echo "credentials not found in native keychain"; exit 1; }
        cat account ;;
    erase) cat > /dev/null; rm -f account ;;
    list) echo '{"127.0.0.1:5001": "joe"}' ;;
esac
"#;

#[tokio::test]
async fn a_credential_helper_keeps_the_password_in_place_of_the_file() {
    let Some((site, _upstream)) = site().await else {
        return;
    };
    let helper = site.path("docker-credential-testing");
    fs::write(&helper, HELPER).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        site.path("").display(),
        std::env::var("PATH").unwrap()
    );
    let ctl = |arguments: &str, input: &str| {
        let variable = format!("PATH={path}");
        let program = slipway_tests::site::program_path("ctl");
        let mut all = vec![&*variable, program.to_str().unwrap()];
        all.extend(arguments.split(' '));
        let mut child = site
            .command("env", &all)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        slipway_tests::Said::from(child.wait_with_output().unwrap())
    };
    fs::create_dir_all(site.path("home/.docker")).unwrap();
    let settings = r#"{"detachKeys": "ctrl-x", "credHelpers": {"127.0.0.1:5001": "testing"}}"#;
    fs::write(site.path("home/.docker/config.json"), settings).unwrap();

    let said = ctl(
        &format!("login -u joe --password-stdin {PRIVATE}"),
        PASSWORD,
    );
    assert_eq!((&*said.err, &*said.out), ("", "Login Succeeded\n"));
    let kept = config(&site);
    assert!(
        kept.contains("ctrl-x") && !kept.contains("auth\""),
        "{kept}"
    );
    let account = fs::read_to_string(site.path("account")).unwrap();
    assert!(
        account.contains("\"ServerURL\":\"127.0.0.1:5001\""),
        "{account}"
    );

    let image = format!("{PRIVATE}/app");
    ctl(&format!("tag busybox {image}"), "").ok();
    ctl(&format!("push {image}"), "").ok();
    // What is here needs no program.
    fs::write(site.path("calls"), "").unwrap();
    ctl(&format!("run --rm {image} true"), "").ok();
    assert_eq!(fs::read_to_string(site.path("calls")).unwrap(), "");
    ctl(&format!("rmi {image}"), "").ok();
    ctl(&format!("run --rm {image} true"), "").ok();
    assert_eq!(fs::read_to_string(site.path("calls")).unwrap(), "get\n");

    ctl(&format!("logout {PRIVATE}"), "").ok();
    assert!(!site.path("account").exists());
    // A program that is not there is named, and public images need none.
    fs::remove_file(&helper).unwrap();
    let said = ctl(&format!("login {PRIVATE}"), "");
    assert!(said.error(1).contains("docker-credential-testing"));
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused_in_dockers_words() {
    if !ready() {
        return;
    }
    let site = Site::bare();
    for (arguments, why) in [
        (
            "--password-stdin x",
            "the --password-stdin option requires --username to be set",
        ),
        (
            "-u a -p b --password-stdin x",
            "cannot specify both --password and --password-stdin",
        ),
        (
            "-u a x",
            "Cannot perform an interactive login from a non TTY device",
        ),
        (
            "-p b x",
            "Cannot perform an interactive login from a non TTY device",
        ),
    ] {
        let mut words = vec!["login"];
        words.extend(arguments.split(' '));
        let said = site.ctl(&words).error(1);
        assert!(said.contains(why), "{arguments}: {said}");
    }
}
