//! What a service does when it is told to stop: this program is the service, too.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use clap::Parser as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use slipway_service::{Address, Identity, ServiceArgs, client};
use tonic::service::Routes;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const IDENTITY: Identity = Identity {
    name: "registry",
    program: "registry-svc",
    version: "0",
};

/// The folder of the service that this process is to be.
const FOLDER: &str = "SLIPWAY_STOP_TEST_FOLDER";

#[derive(clap::Parser)]
struct Args {
    #[command(flatten)]
    service: ServiceArgs,
}

/// Not a test: the service, where another test has started this program for that.
#[test]
fn service() {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let flag = |name: &str| [format!("--{name}-dir"), at(&folder, name)];
    let flags = ["state", "run", "config"].map(flag).concat();
    let args = ["service".to_owned(), "--audit-reads".to_owned()];
    let args = Args::parse_from(args.into_iter().chain(flags));
    let open = async |_, _: serde_json::Map<String, serde_json::Value>| Ok(Routes::default());
    let ended = slipway_service::run(IDENTITY, &args.service, 1, open);
    // At once, as a program ends.
    std::process::exit(i32::from(ended != ExitCode::SUCCESS));
}

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn calls_that_are_cut_off_at_the_stop_stand_in_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "service", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::null())
        .spawn();
    let mut service = Service(child.unwrap());
    let address = Address::Unix(folder.path().join("run/registry.sock"));
    let watch = async || {
        let mut client = HealthClient::new(client::connect(&address, None).unwrap());
        client.watch(HealthCheckRequest::default()).await
    };
    let up = async {
        loop {
            match watch().await {
                Ok(stream) => return stream.into_inner(),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let mut stream = tokio::time::timeout(Duration::from_secs(60), up)
        .await
        .unwrap();
    assert!(stream.message().await.unwrap().is_some());
    kill(
        Pid::from_raw(service.0.id().try_into().unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    // Its end is never reached: the process goes first.
    while let Ok(Some(_)) = stream.message().await {}
    let ended = tokio::task::spawn_blocking(move || service.0.wait().unwrap());
    assert!(ended.await.unwrap().success());
    let text = fs::read_to_string(folder.path().join("state/registry/audit.log")).unwrap();
    let told = text.lines().filter(|line| line.contains("Health/Watch"));
    let told: Vec<_> = told.collect();
    assert_eq!(told.len(), 1, "{text}");
    assert!(told[0].contains("CANCELLED"), "{text}");
}
