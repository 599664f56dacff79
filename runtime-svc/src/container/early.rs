//! An endpoint that is asked for while the image is still looked up.

use tokio::task::JoinHandle;

use slipway_proto::runtime::v1::NetworkConfig;

use crate::{
    error::Error,
    network::{Attached, Netd, Who},
};

/// Given back unless it is taken: netd gets back by itself what was asked for by a service that was killed
/// ([`Netd::sync`]).
#[derive(Debug)]
pub struct Early {
    netd: Netd,
    id: String,
    asked: Option<JoinHandle<Result<Option<Attached>, Error>>>,
}

impl Early {
    /// Asks for it.
    pub fn ask(netd: &Netd, id: &str, name: &str, hostname: &str, config: NetworkConfig) -> Self {
        let of_task = (
            netd.clone(),
            id.to_owned(),
            name.to_owned(),
            hostname.to_owned(),
        );
        let asked = tokio::spawn(async move {
            let (netd, id, name, hostname) = of_task;
            let who = Who {
                id: &id,
                name: &name,
                hostname: &hostname,
            };
            netd.attach(who, &config).await
        });
        Self {
            netd: netd.clone(),
            id: id.to_owned(),
            asked: Some(asked),
        }
    }

    /// Waits for it. `None` = it is not known what became of it; whatever did is given back.
    pub async fn take(mut self) -> Option<Result<Option<Attached>, Error>> {
        match self.asked.as_mut()?.await {
            Ok(answer) => {
                self.asked = None;
                Some(answer)
            }
            Err(_) => None,
        }
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        let (netd, id) = (self.netd.clone(), std::mem::take(&mut self.id));
        tokio::spawn(async move {
            if !matches!(asked.await, Ok(Err(_))) {
                netd.release(&id).await;
            }
        });
    }
}

/// Whether an endpoint has nothing that anybody else may want: no port, no address or name that was asked
/// for, no network that may be removed.
pub fn is_plain(config: &NetworkConfig) -> bool {
    let plain = NetworkConfig {
        mode: config.mode.clone(),
        ..NetworkConfig::default()
    };
    *config == plain && matches!(config.mode.as_str(), "" | "default" | "bridge")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_else_can_want_is_plain() {
        let mode = |mode: &str| NetworkConfig {
            mode: mode.to_owned(),
            ..NetworkConfig::default()
        };
        assert!(is_plain(&mode("")) && is_plain(&mode("default")));
        assert!(!is_plain(&mode("host")) && !is_plain(&mode("mine")));
        let published = NetworkConfig {
            publish_all: true,
            ..NetworkConfig::default()
        };
        assert!(!is_plain(&published));
    }
}
