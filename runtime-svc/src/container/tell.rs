//! What happens to containers, told in docker's words.

use std::collections::HashMap;

use slipway_proto::netd::v1::Endpoint;

use super::{manager::Manager, state::Container};

impl Manager {
    /// Tells what happened to a container.
    pub fn tell(&self, container: &Container, action: &str, more: &[(&str, String)]) {
        let record = container.record();
        let mut attributes: HashMap<String, String> = record.effective.labels.into_iter().collect();
        attributes.insert("name".into(), record.name);
        attributes.insert("image".into(), record.spec.image);
        attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        self.0
            .events
            .tell("container", action, &container.id, attributes);
    }

    /// Tells what happened to a further process in a container: `exec_create: COMMAND`,
    /// `exec_start: COMMAND`, or `exec_die` with its exit code.
    pub fn tell_exec(&self, container: &Container, action: &str, id: &str, code: Option<i32>) {
        let mut more = vec![("execID", id.to_owned())];
        more.extend(code.map(|code| ("exitCode", code.to_string())));
        self.tell(container, action, &more);
    }

    /// Tells that a container came to networks, or left them.
    pub(super) fn tell_networks(&self, container: &Container, action: &str, on: &[Endpoint]) {
        for endpoint in on {
            self.tell_network(
                container,
                action,
                &endpoint.network_id,
                &endpoint.network_name,
            );
        }
    }

    /// Tells that a container came to a network, or left it.
    pub(super) fn tell_network(&self, container: &Container, action: &str, id: &str, name: &str) {
        let attributes = [
            ("container", container.id.clone()),
            ("name", name.to_owned()),
            ("type", "bridge".to_owned()),
        ];
        let attributes = attributes.map(|(k, v)| (k.to_owned(), v)).into();
        self.0.events.tell("network", action, id, attributes);
    }

    /// Tells that a container's volumes are in use, or no longer.
    pub(super) fn tell_mounts(&self, container: &Container, action: &str) {
        for mount in container.record().spec.mounts {
            if mount.r#type != "volume" {
                continue;
            }
            let mut attributes = HashMap::from([
                ("container".to_owned(), container.id.clone()),
                ("driver".to_owned(), "local".to_owned()),
            ]);
            if action == "mount" {
                let read_write = (!mount.read_only).to_string();
                attributes.insert("destination".to_owned(), mount.target);
                attributes.insert("read/write".to_owned(), read_write);
                attributes.insert("propagation".to_owned(), mount.propagation);
            }
            self.0
                .events
                .tell("volume", action, &mount.source, attributes);
        }
    }

    /// Tells what happened to a volume.
    pub fn tell_volume(&self, name: &str, action: &str) {
        let attributes = HashMap::from([("driver".to_owned(), "local".to_owned())]);
        self.0.events.tell("volume", action, name, attributes);
    }

    /// Tells that something that nobody used was thrown away.
    pub fn tell_prune(&self, kind: &'static str, reclaimed: u64) {
        let attributes = HashMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.0.events.tell(kind, "prune", "", attributes);
    }
}
