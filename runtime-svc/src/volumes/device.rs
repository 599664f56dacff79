//! Volumes of the local driver with options: a file system of the host that is mounted on the volume's
//! folder while containers use it, as docker's local driver does.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::CString,
    io,
    net::{IpAddr, ToSocketAddrs as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::mount::{MountFlags, UnmountFlags};

use super::Volumes;
use crate::{
    error::{Error, Tried as _},
    sys::mountinfo,
};

/// Which containers have which volumes' devices open. In memory: recovery fills it again.
#[derive(Debug, Clone, Default)]
pub(super) struct Opened {
    users: Arc<Mutex<HashMap<String, HashSet<String>>>>,
    /// Whose turn it is to mount, by volume: apart from the others, since a server may take minutes to
    /// answer and whoever else starts or ends must not wait for it.
    turns: Arc<Mutex<HashMap<String, Arc<Mutex<()>>>>>,
}

/// What is mounted on a volume's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    kind: String,
    source: String,
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    data: String,
}

/// Checks options as docker's local driver does (moby, volume/local).
pub fn check(options: &BTreeMap<String, String>) -> Result<(), Error> {
    for key in options.keys() {
        match key.as_str() {
            "type" | "o" | "device" => {}
            "size" => {
                return Err(Error::Invalid(
                    "quota size requested but no quota support".to_owned(),
                ));
            }
            _ => return Err(Error::Invalid(format!("invalid option: {key:?}"))),
        }
    }
    for (key, needed) in [
        ("device", "type"),
        ("type", "device"),
        ("o", "device"),
        ("o", "type"),
    ] {
        if options.contains_key(key) && !options.contains_key(needed) {
            return Err(Error::Invalid(format!(
                "missing required option: {needed:?}"
            )));
        }
    }
    Device::of(options).map(drop)
}

impl Device {
    /// `None` for a volume that is just a folder.
    fn of(options: &BTreeMap<String, String>) -> Result<Option<Self>, Error> {
        let get = |key: &str| options.get(key).cloned().unwrap_or_default();
        let (kind, source) = (get("type"), get("device"));
        if kind.is_empty() && source.is_empty() {
            return Ok(None);
        }
        let mut device = Self {
            kind,
            source,
            flags: MountFlags::empty(),
            bind: false,
            recursive: false,
            data: String::new(),
        };
        let (words, mut data) = (get("o"), Vec::new());
        for word in words.split(',').filter(|w| !w.is_empty()) {
            match word {
                "defaults" | "rw" | "suid" | "dev" | "exec" | "async" | "atime" | "diratime" => {}
                "bind" => device.bind = true,
                "rbind" => (device.bind, device.recursive) = (true, true),
                "ro" => device.flags |= MountFlags::RDONLY,
                "nosuid" => device.flags |= MountFlags::NOSUID,
                "nodev" => device.flags |= MountFlags::NODEV,
                "noexec" => device.flags |= MountFlags::NOEXEC,
                "noatime" => device.flags |= MountFlags::NOATIME,
                "nodiratime" => device.flags |= MountFlags::NODIRATIME,
                "relatime" => device.flags |= MountFlags::RELATIME,
                "strictatime" => device.flags |= MountFlags::STRICTATIME,
                "sync" => device.flags |= MountFlags::SYNCHRONOUS,
                "dirsync" => device.flags |= MountFlags::DIRSYNC,
                "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "remount" => {
                    return Err(Error::Unsupported(format!("{word} in a volume's option o")));
                }
                _ => data.push(word),
            }
        }
        device.data = data.join(",");
        Ok(Some(device))
    }

    fn mount(&self, target: &Path) -> io::Result<()> {
        if self.bind {
            match self.recursive {
                true => rustix::mount::mount_bind_recursive(&self.source, target)?,
                false => rustix::mount::mount_bind(&self.source, target)?,
            }
            if !self.flags.is_empty() {
                let flags = self.flags | MountFlags::BIND;
                rustix::mount::mount_remount(target, flags, c"").inspect_err(|_| {
                    // Half of it is worse than nothing.
                    let _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
                })?;
            }
            return Ok(());
        }
        let data = CString::new(self.resolved()?)?;
        let data = (!data.is_empty()).then_some(data.as_c_str());
        Ok(rustix::mount::mount(
            &self.source,
            target,
            &self.kind,
            self.flags,
            data,
        )?)
    }

    /// The kernel wants the server's address as a number.
    fn resolved(&self) -> io::Result<String> {
        if !matches!(&*self.kind, "nfs" | "nfs4" | "cifs") {
            return Ok(self.data.clone());
        }
        let words = self.data.split(',').map(|word| {
            let Some(host) = word.strip_prefix("addr=") else {
                return Ok(word.to_owned());
            };
            if host.parse::<IpAddr>().is_ok() {
                return Ok(word.to_owned());
            }
            let unknown = || {
                let why = format!("error resolving passed in network volume address {host}");
                io::Error::new(io::ErrorKind::NotFound, why)
            };
            let address = (host, 0).to_socket_addrs()?.next().ok_or_else(unknown)?;
            Ok(format!("addr={}", address.ip()))
        });
        Ok(words.collect::<io::Result<Vec<_>>>()?.join(","))
    }
}

impl Volumes {
    /// Mounts a volume's device, if it has one, for a container; also when it was for another before.
    /// Returns whether it has one. Blocks.
    pub fn open_device(&self, name: &str, container: &str) -> Result<bool, Error> {
        let Some(device) = Device::of(&self.find(name)?.options)? else {
            return Ok(false);
        };
        let data = self.data(name);
        // From now on nobody unmounts it.
        let users = |opened: &mut HashMap<_, HashSet<String>>| {
            let users: &mut HashSet<_> = opened.entry(name.to_owned()).or_default();
            users.insert(container.to_owned())
        };
        let first = users(&mut self.opened());
        let turn = self.turn(name);
        let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mounted = self.mount_device(&device, &data);
        drop(turn);
        if mounted.is_err() && first {
            self.close_device(&mut self.opened(), name, container);
        }
        mounted.map(|()| true)
    }

    fn mount_device(&self, device: &Device, data: &Path) -> Result<(), Error> {
        let what = || {
            let data = data.display();
            format!("error while mounting volume '{data}': failed to mount local volume")
        };
        if mountinfo::is_mount_point(data).tried(what)? {
            return Ok(());
        }
        device.mount(data).tried(|| {
            let (source, data) = (&device.source, data.display());
            format!("{}: mount {source}:{data}", what())
        })
    }

    fn close_device(
        &self,
        opened: &mut HashMap<String, HashSet<String>>,
        name: &str,
        container: &str,
    ) {
        let Some(users) = opened.get_mut(name) else {
            return;
        };
        if users.remove(container) && users.is_empty() {
            opened.remove(name);
            self.unmount(name);
        }
    }

    fn turn(&self, name: &str) -> Arc<Mutex<()>> {
        let turns = self.opened.turns.lock();
        let mut turns = turns.unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for are made again when they are needed.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(name.to_owned()).or_default().clone()
    }

    /// A container that runs has the devices of these volumes open, from before this service began.
    pub fn keep_devices<'a>(&self, names: impl Iterator<Item = &'a str>, container: &str) {
        let mut opened = self.opened();
        for name in names {
            if mountinfo::is_mount_point(&self.data(name)).unwrap_or(false) {
                let users = opened.entry(name.to_owned()).or_default();
                users.insert(container.to_owned());
            }
        }
    }

    /// A container has ended: what nobody else has open is unmounted.
    pub fn close_devices(&self, container: &str) {
        let mut opened = self.opened();
        let names: Vec<String> = opened.keys().cloned().collect();
        for name in names {
            self.close_device(&mut opened, &name, container);
        }
    }

    /// Unmounts what no container has open: an instance that was killed could not.
    pub fn close_forgotten(&self) {
        let opened = self.opened();
        let volumes = self.list().unwrap_or_default();
        for volume in volumes.iter().filter(|v| !v.options.is_empty()) {
            if !opened.contains_key(&volume.name) {
                self.unmount(&volume.name);
            }
        }
    }

    /// Makes sure that a volume's folder holds nothing but what is ours to remove.
    pub(super) fn is_plain(&self, name: &str) -> io::Result<()> {
        let data = self.data(name);
        if mountinfo::is_mount_point(&data)? {
            rustix::mount::unmount(&data, UnmountFlags::DETACH)?;
        }
        Ok(())
    }

    fn unmount(&self, name: &str) {
        if let Err(error) = self.is_plain(name) {
            tracing::warn!(volume = name, %error, "its device could not be unmounted");
        }
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<String, HashSet<String>>> {
        self.opened
            .users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn options_are_checked_as_docker_checks_them() {
        let why = |pairs: &[(&str, &str)]| check(&options(pairs)).unwrap_err().to_string();
        assert_eq!(why(&[("nope", "1")]), "invalid option: \"nope\"");
        assert_eq!(
            why(&[("type", "nfs")]),
            "missing required option: \"device\""
        );
        assert_eq!(why(&[("device", "x")]), "missing required option: \"type\"");
        assert!(why(&[("size", "1g")]).contains("no quota support"));
        assert!(check(&options(&[])).is_ok());
        let tmpfs = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,ro")];
        assert!(check(&options(&tmpfs)).is_ok());
    }

    #[test]
    fn words_are_flags_or_data() {
        let nfs = [
            ("type", "nfs"),
            ("device", ":/x"),
            ("o", "addr=10.0.0.1,ro,vers=4"),
        ];
        let device = Device::of(&options(&nfs)).unwrap().unwrap();
        assert_eq!(device.flags, MountFlags::RDONLY);
        assert_eq!(device.resolved().unwrap(), "addr=10.0.0.1,vers=4");
        let bind = [("type", "none"), ("device", "/x"), ("o", "bind")];
        assert!(Device::of(&options(&bind)).unwrap().unwrap().bind);
        assert_eq!(Device::of(&options(&[])).unwrap(), None);
    }
}
