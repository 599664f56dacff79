//! What a host may do to us: show its key, and nothing besides what it was asked for.

use russh::{
    Channel,
    client::{ChannelOpenHandle, Handler, Msg, Session},
    keys::PublicKeyOrCertificate,
};

use super::Hosts;

/// Judges a host by its key, and refuses the channels that it opens.
pub struct Doorman {
    hosts: Hosts,
    /// What the host is known as.
    name: String,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A sentence.
    #[error("{0}")]
    Host(String),
    /// The protocol's.
    #[error(transparent)]
    Protocol(#[from] russh::Error),
}

impl Doorman {
    /// For one connection.
    pub fn new(hosts: Hosts, name: String) -> Self {
        Self { hosts, name }
    }
}

// A reply that is dropped is a refusal; what the trait itself does is to accept.
impl Handler for Doorman {
    type Error = Refused;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Refused> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else {
            let why = format!(
                "the host {} shows a certificate: none was asked for",
                self.name
            );
            return Err(Refused::Host(why));
        };
        let (hosts, name, key) = (self.hosts.clone(), self.name.clone(), key.clone());
        tokio::task::spawn_blocking(move || hosts.judge(&name, &key))
            .await
            .unwrap_or_else(|e| Err(format!("interrupted: {e}")))
            .map_err(Refused::Host)?;
        Ok(true)
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Refused> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Refused> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Refused> {
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Refused> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Refused> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Refused> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Refused> {
        Ok(())
    }
}
