//! From options to the message; what the message has no field for is refused here.

use std::path::Path;

use slipway_proto::runtime::v1::{ContainerSpec, Entrypoint, HealthCheck, LogConfig, Resources};

use super::{
    ContainerOptions,
    values::{
        device, device_bytes, device_operations, device_rule, device_weight, platform,
        restart_policy, security,
    },
};
use crate::spec::{env, mount, units};

impl ContainerOptions {
    /// The message. Whatever the contract has no field for is refused here.
    pub fn spec(&self, here: &Path) -> Result<ContainerSpec, String> {
        self.refuse_what_cannot_be_sent()?;
        let (image, command) = self.words.split_first().ok_or("an image is required")?;
        if image.is_empty() {
            return Err("invalid reference format".to_owned());
        }
        let mut mounts = Vec::new();
        for text in &self.volume {
            let mut mount = mount::volume(text, here)?;
            if let (Some(driver), "volume") = (&self.volume_driver, mount.r#type.as_str()) {
                mount.volume_driver.clone_from(driver);
            }
            mounts.push(mount);
        }
        for text in &self.mount {
            mounts.push(mount::mount(text, here)?);
        }
        for text in &self.tmpfs {
            mounts.push(mount::tmpfs(text)?);
        }
        for (n, mount) in mounts.iter().enumerate() {
            if mounts[..n].iter().any(|m| m.target == mount.target) {
                return Err(format!("Duplicate mount point: {}", mount.target));
            }
        }
        let restart = self.restart.as_deref().map(restart_policy).transpose()?;
        if self.rm && restart.as_ref().is_some_and(|r| r.name != "no") {
            return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
        }
        Ok(ContainerSpec {
            name: self.name.clone().unwrap_or_default(),
            image: image.clone(),
            command: command.to_vec(),
            entrypoint: self
                .entrypoint
                .clone()
                .map(|word| Entrypoint { words: vec![word] }),
            env: env::env(&self.env, &self.env_file)?,
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            group_add: self.group_add.clone(),
            hostname: self.hostname.clone(),
            domainname: self.domainname.clone(),
            labels: env::labels(&self.label, &self.label_file)?,
            tty: self.tty,
            open_stdin: self.interactive,
            stdin_once: false,
            auto_remove: self.rm,
            read_only: self.read_only,
            privileged: self.privileged,
            init: self.init,
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout,
            restart,
            health: self.health()?,
            mounts,
            volumes_from: self.volumes_from.clone(),
            resources: Some(self.resources()?),
            ulimits: self
                .ulimit
                .iter()
                .map(|t| units::ulimit(t))
                .collect::<Result<_, _>>()?,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            security_opt: self
                .security_opt
                .iter()
                .map(|t| security(t))
                .collect::<Result<_, _>>()?,
            sysctls: env::pairs(&self.sysctl)?,
            devices: self
                .device
                .iter()
                .map(|t| device(t))
                .collect::<Result<_, _>>()?,
            device_cgroup_rules: all(&self.device_cgroup_rule, device_rule)?,
            pid_mode: self.pid.clone(),
            ipc_mode: self.ipc.clone(),
            uts_mode: self.uts.clone(),
            userns_mode: self.userns.clone(),
            cgroupns_mode: self.cgroupns.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            shm_size: self
                .shm_size
                .as_deref()
                .map(units::memory)
                .transpose()?
                .unwrap_or(0)
                .unsigned_abs(),
            oom_score_adj: self.oom_score_adj,
            oom_kill_disable: self.oom_kill_disable,
            log: self.log()?,
            network: Some(self.network_config()?),
            platform: self.platform.as_deref().map(platform).transpose()?,
            runtime: self.runtime.clone(),
            terminal_size: None,
            storage_opt: env::pairs(&self.storage_opt)?,
            annotations: env::pairs(&self.annotation)?,
            attach_stdin: false,
            attach_stdout: false,
            attach_stderr: false,
            container_id_file: self.cidfile.clone().unwrap_or_default(),
        })
    }

    fn refuse_what_cannot_be_sent(&self) -> Result<(), String> {
        if let Some(gpus) = &self.gpus {
            return Err(format!(
                "--gpus {gpus}: GPUs are not supported. Pass the devices by hand with --device, if their driver needs no more"
            ));
        }
        if let Some(host) = &self.on {
            return Err(format!(
                "--on {host}: contexts with several runtime hosts are not supported yet. Choose a host with SLIPWAY_CONTEXT"
            ));
        }
        if !self.link.is_empty() {
            return Err(
                "--link is not supported: containers of a network find each other by name"
                    .to_owned(),
            );
        }
        if self
            .isolation
            .as_deref()
            .is_some_and(|i| !i.is_empty() && i != "default")
        {
            return Err("--isolation is for Windows containers only".to_owned());
        }
        for stream in &self.attach {
            if !matches!(
                stream.to_ascii_lowercase().as_str(),
                "stdin" | "stdout" | "stderr"
            ) {
                return Err("valid streams are STDIN, STDOUT and STDERR".to_owned());
            }
        }
        Ok(())
    }

    fn health(&self) -> Result<Option<HealthCheck>, String> {
        let span = |text: &Option<String>| text.as_deref().map(units::duration).transpose();
        let others = self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_start_period.is_some()
            || self.health_start_interval.is_some()
            || self.health_retries.is_some();
        if self.no_healthcheck {
            if others || self.health_cmd.is_some() {
                return Err("--no-healthcheck conflicts with --health-* options".to_owned());
            }
            return Ok(Some(HealthCheck {
                test: vec!["NONE".to_owned()],
                ..HealthCheck::default()
            }));
        }
        if !others && self.health_cmd.is_none() {
            return Ok(None);
        }
        Ok(Some(HealthCheck {
            test: self
                .health_cmd
                .iter()
                .flat_map(|cmd| ["CMD-SHELL".to_owned(), cmd.clone()])
                .collect(),
            interval: span(&self.health_interval)?,
            timeout: span(&self.health_timeout)?,
            start_period: span(&self.health_start_period)?,
            start_interval: span(&self.health_start_interval)?,
            retries: self.health_retries.unwrap_or(0),
        }))
    }

    fn resources(&self) -> Result<Resources, String> {
        Ok(Resources {
            // docker's default of -1 means "not set".
            memory_swappiness: self.memory_swappiness.filter(|s| *s != -1),
            blkio_weight_device: all(&self.blkio_weight_device, device_weight)?,
            device_read_bps: all(&self.device_read_bps, device_bytes)?,
            device_write_bps: all(&self.device_write_bps, device_bytes)?,
            device_read_iops: all(&self.device_read_iops, device_operations)?,
            device_write_iops: all(&self.device_write_iops, device_operations)?,
            ..self.resources.message()?
        })
    }

    fn log(&self) -> Result<Option<LogConfig>, String> {
        if self.log_driver.is_none() && self.log_opt.is_empty() {
            return Ok(None);
        }
        Ok(Some(LogConfig {
            driver: self.log_driver.clone().unwrap_or_default(),
            options: env::pairs(&self.log_opt)?,
        }))
    }
}

fn all<T>(texts: &[String], parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    texts.iter().map(|text| parse(text)).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        options: ContainerOptions,
    }

    fn spec(line: &str) -> Result<ContainerSpec, String> {
        let words = std::iter::once("run").chain(line.split(' '));
        Line::try_parse_from(words)
            .map_err(|e| e.to_string())?
            .options
            .spec(Path::new("/here"))
    }

    #[test]
    fn options_after_the_image_belong_to_the_command() {
        let spec = spec("--rm -it -e A=1 alpine sh -c --rm -p 80").unwrap();
        assert_eq!(spec.image, "alpine");
        assert_eq!(spec.command, ["sh", "-c", "--rm", "-p", "80"]);
        assert!(spec.auto_remove && spec.tty && spec.open_stdin);
        assert!(spec.network.unwrap().ports.is_empty());
    }

    #[test]
    fn options_land_in_their_fields() {
        let s = spec("-h box -m 64m --cpus 0.5 --memory-swap -1 --pids-limit -1 --restart on-failure:3 --ulimit nofile=1:2 --device /dev/fuse:rw --sysctl a.b=1 --shm-size 1g --entrypoint=/x --stop-timeout 3 --oom-score-adj -5 --health-cmd true --health-interval 5s -p 3000:80 -P --expose 90 --network name=n,alias=a --network m --add-host a:1.2.3.4 -l k=v --log-opt max-size=1m --cap-add ALL --security-opt seccomp=unconfined i").unwrap();
        let r = s.resources.unwrap();
        assert_eq!(
            (r.memory, r.memory_swap, r.nano_cpus, r.pids_limit),
            (64 << 20, -1, 500_000_000, -1)
        );
        assert_eq!(s.restart.unwrap().maximum_retry_count, 3);
        assert_eq!(s.devices[0].permissions, "rw");
        assert_eq!(
            (
                s.hostname.as_str(),
                s.shm_size,
                s.stop_timeout,
                s.oom_score_adj
            ),
            ("box", 1 << 30, Some(3), -5)
        );
        assert_eq!(s.health.unwrap().test, ["CMD-SHELL", "true"]);
        let n = s.network.unwrap();
        assert_eq!(
            (
                n.mode.as_str(),
                n.aliases.as_slice(),
                n.additional[0].network.as_str()
            ),
            ("n", ["a".to_owned()].as_slice(), "m")
        );
        assert_eq!(
            (n.ports[0].host_port, n.publish_all, n.expose[0].as_str()),
            (3000, true, "90/tcp")
        );
        assert_eq!(s.security_opt, ["seccomp=unconfined"]);
        assert_eq!(s.log.unwrap().options["max-size"], "1m");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for line in [
            "--gpus all i",
            "--on h i",
            "--link a i",
            "--rm --restart always i",
            "--restart sometimes i",
            "--restart always:3 i",
            "-a what i",
            "--no-healthcheck --health-cmd x i",
            "--cpus 1 --cpu-quota 5 i",
            "-v /a -v /a i",
            "--device fuse i",
            "--security-opt seccomp=/none i",
            "--blkio-weight-device sda:100 i",
            "--blkio-weight-device /dev/sda:9 i",
            "--device-read-bps /dev/sda i",
            "--device-read-bps /dev/sda:fast i",
            "--device-write-iops /dev/sda:1k i",
            "--device /dev/fuse:/dev/fuse:x i",
            "--device-cgroup-rule x i",
            "--nope i",
            "",
        ] {
            assert!(spec(line).is_err(), "{line}");
        }
    }
}
