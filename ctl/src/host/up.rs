//! `ctl up`: starts what does not run, waits until all is healthy.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::{fs::DirBuilderExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use slipway_service::{Paths, instance};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{SERVICES, Service};
use crate::{
    client::channel,
    context::Context,
    failure::{Failure, Outcome},
};

const DEADLINE: Duration = Duration::from_secs(30);

/// Starts the services of this host.
pub async fn up(paths: &Paths, quiet: bool) -> Outcome {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&paths.run)
        .map_err(|e| {
            Failure::new(format!(
                "cannot make {}: {e}. Run ctl up as root, or set SLIPWAY_RUN_DIR",
                paths.run.display()
            ))
        })?;
    // Held until we return: a second `up` waits, then finds everything running.
    let _lock = lock(&paths.run.join("up.lock")).await?;
    let context = Context::local(&paths.run);
    let mut started = 0;
    // Two rounds: the runtime asks registry and network when it recovers, the builder asks all.
    for round in SERVICES.chunks(2) {
        let mut children = Vec::new();
        for service in round {
            if pid(paths, *service)?.is_none() {
                children.push((*service, Some(spawn(paths, *service)?)));
            } else {
                children.push((*service, None));
            }
        }
        for (service, mut child) in children {
            wait_until_serving(paths, &context, service, &mut child).await?;
            started += usize::from(child.is_some());
        }
    }
    if !quiet {
        match started {
            0 => println!("Slipway is running already."),
            1 => println!("Slipway is running: 1 service started."),
            _ => println!("Slipway is running: {started} services started."),
        }
    }
    Ok(0)
}

/// The running instance's pid: whoever holds the lock on the pid file. A stale file is held by nobody.
pub fn pid(paths: &Paths, service: Service) -> Outcome<Option<u32>> {
    instance::running(&paths.pid_file_of(service.name)).map_err(|e| Failure::new(e.to_string()))
}

async fn lock(path: &Path) -> Outcome<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|e| {
            Failure::new(format!(
                "cannot write {}: {e}. Run ctl up as root",
                path.display()
            ))
        })?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if begun.elapsed() < 2 * DEADLINE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    "another ctl up has not ended for a minute: look at what it waits for",
                ));
            }
            Err(fs::TryLockError::Error(e)) => return Err(e.into()),
        }
    }
}

fn spawn(paths: &Paths, service: Service) -> Outcome<Child> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name(service.program);
    if !program.exists() {
        return Err(Failure::new(format!(
            "{} is not beside ctl in {}: build or install it",
            service.program,
            own.parent().unwrap_or(&own).display()
        )));
    }
    let log = log_file(paths, service);
    let fail = |e: std::io::Error| Failure::new(format!("cannot write {}: {e}", log.display()));
    let out = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(fail)?;
    let err = out.try_clone().map_err(fail)?;
    // Our own program becomes the service after it has made a session: the pid stays the same, and no
    // code runs between fork and exec.
    Command::new(&own)
        .arg(SESSION)
        .arg(&program)
        .env("SLIPWAY_STATE_DIR", &paths.state)
        .env("SLIPWAY_RUN_DIR", &paths.run)
        .env("SLIPWAY_CONFIG_DIR", &paths.config)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(|e| Failure::new(format!("cannot start {}: {e}", program.display())))
}

/// First word of the hidden command that [`become_service`] serves.
pub const SESSION: &str = "__session";

/// Makes a session and turns into the program.
pub fn become_service(program: &std::ffi::OsStr) -> Failure {
    if let Err(e) = rustix::process::setsid() {
        return Failure::new(format!("cannot make a session: {e}"));
    }
    let error = Command::new(program).exec();
    Failure::new(format!(
        "cannot start {}: {error}",
        PathBuf::from(program).display()
    ))
}

fn log_file(paths: &Paths, service: Service) -> PathBuf {
    paths.run.join(format!("{}.log", service.name))
}

async fn wait_until_serving(
    paths: &Paths,
    context: &Context,
    service: Service,
    child: &mut Option<Child>,
) -> Outcome<()> {
    let begun = Instant::now();
    let mut health = HealthClient::new(channel(service.program, service.address(context), None));
    loop {
        let answer = tokio::time::timeout(
            Duration::from_secs(2),
            health.check(HealthCheckRequest::default()),
        )
        .await;
        if let Ok(Ok(answer)) = &answer
            && answer.get_ref().status() == ServingStatus::Serving
        {
            return Ok(());
        }
        match child {
            Some(child) => {
                if let Some(status) = child.try_wait()? {
                    return Err(failed(paths, service, &format!("ended at once ({status})")));
                }
            }
            // It was just ending: with a thousand connections that takes a moment.
            None if pid(paths, service)?.is_none() => *child = Some(spawn(paths, service)?),
            None => {}
        }
        if begun.elapsed() > DEADLINE {
            return Err(failed(paths, service, "is not healthy after 30 seconds"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn failed(paths: &Paths, service: Service, what: &str) -> Failure {
    let log = log_file(paths, service);
    let lines = tail(&log, 10);
    if !lines.is_empty() {
        eprintln!("{lines}");
    }
    Failure::new(format!("{} {what}: see {}", service.program, log.display()))
}

fn tail(path: &Path, lines: usize) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(end.saturating_sub(8192)))?;
        file.read_to_end(&mut text)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
