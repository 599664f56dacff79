//! Noticing that somebody changed our table, and putting it back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::firewall::TABLE;
use crate::netlink::{Family, Socket};
use crate::nft::{TABLE_EVENTS, is_event_of};

use super::Host;

/// Changes come in bursts (a flush is many); one repair is enough for all of them.
const SETTLE: Duration = Duration::from_millis(100);

/// Repairs the table whenever somebody else touches it. Never ends by itself.
pub async fn keep_table(host: Arc<Host>, own_port: u32) -> io::Result<()> {
    let socket = Socket::open_with_groups(Family::Netfilter, TABLE_EVENTS)?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe; our socket owns the one descriptor it has"
    )]
    let mut socket = AsyncFd::new(socket)?;
    loop {
        let mut ready = socket.readable_mut().await?;
        let mut touched = false;
        let read = ready.get_inner_mut().notifications(|event| {
            touched |= event.port != own_port && is_event_of(TABLE, &event);
        });
        match read {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            // ENOBUFS: events were lost, so ours may have been among them.
            Err(_) => touched = true,
        }
        if touched {
            tokio::time::sleep(SETTLE).await;
            let host = Arc::clone(&host);
            match tokio::task::spawn_blocking(move || host.repair_table()).await {
                Ok(Ok(())) => tracing::warn!("somebody changed table inet {TABLE}; it is put back"),
                Ok(Err(error)) => tracing::error!(%error, "cannot put our table back"),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}
