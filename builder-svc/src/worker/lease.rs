//! A build's lease: held by a call that stays open, renewed in time, ended with the build.

use std::{sync::Arc, time::Duration};

use slipway_proto::runtime::v1::{
    EndLeaseRequest, HoldLeaseEvent, HoldLeaseRequest, LeaseRequest, LeaseResponse,
    worker_client::WorkerClient,
};
use tonic::{Code, Streaming, transport::Channel};

use super::{Worker, give_back, import::WorkerFiles, lost::failed};
use crate::error::Result;

/// Before a call that has ended is made again: the worker gives a lease 3 seconds.
const AGAIN: Duration = Duration::from_millis(300);

/// What a build has at a worker.
pub struct Lease {
    pub(super) client: WorkerClient<Channel>,
    pub(super) id: String,
    pub(super) files: Arc<WorkerFiles>,
    keeping: tokio::task::JoinHandle<()>,
}

impl Worker {
    /// A lease for a build, which an operator of the worker sees under this name, and what the worker says of
    /// itself.
    pub(super) async fn lease(&self, holder: &str) -> Result<(Arc<Lease>, LeaseResponse)> {
        let mut client = self.client.clone();
        let request = LeaseRequest {
            lease_id: String::new(),
            ttl: prost_types::Duration::try_from(self.ttl).ok(),
            holder: holder.to_owned(),
        };
        let answer = client.lease(request.clone()).await;
        let answer = answer.map_err(|s| failed("cannot use the worker".to_owned(), &s))?;
        let said = answer.into_inner();
        let id = said.lease_id.clone();
        let renewal = LeaseRequest {
            lease_id: id.clone(),
            ..request
        };
        let keeping = tokio::spawn(keep(client.clone(), renewal, self.ttl / 3));
        let lease = Lease {
            client,
            id,
            files: self.files.clone(),
            keeping,
        };
        Ok((Arc::new(lease), said))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeping.abort();
        let mut client = self.client.clone();
        let lease_id = std::mem::take(&mut self.id);
        give_back(async move {
            // A lease that cannot be ended lapses.
            let _ = client.end_lease(EndLeaseRequest { lease_id }).await;
        });
    }
}

/// Holds and renews a lease until there is none any more; the next use of a snapshot says so.
async fn keep(mut client: WorkerClient<Channel>, renewal: LeaseRequest, every: Duration) {
    let lease_id = renewal.lease_id.clone();
    loop {
        let hold = HoldLeaseRequest {
            lease_id: lease_id.clone(),
        };
        // A worker that does not know the call yet is told by renewals alone that we are there.
        let held = client
            .hold_lease(hold)
            .await
            .map(tonic::Response::into_inner);
        let mut held = held.ok();
        let again = loop {
            let pause = tokio::select! {
                () = ended(&mut held) => AGAIN,
                () = tokio::time::sleep(every) => Duration::ZERO,
            };
            tokio::time::sleep(pause).await;
            match client.lease(renewal.clone()).await {
                Ok(_) if pause.is_zero() && held.is_some() => {}
                Ok(_) => break true,
                Err(status) => {
                    tracing::warn!(%status, "a worker's lease could not be renewed");
                    break status.code() != Code::NotFound;
                }
            }
        };
        if !again {
            return;
        }
    }
}

/// Ends with the call; never when there is none.
async fn ended(held: &mut Option<Streaming<HoldLeaseEvent>>) {
    match held {
        None => std::future::pending().await,
        Some(stream) => while let Ok(Some(_)) = stream.message().await {},
    }
}
