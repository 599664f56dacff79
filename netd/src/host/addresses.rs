//! Addresses for endpoints: free ones, those that somebody is just leaving, and those that were only prepared.

use crate::error::Error;
use crate::ipam::{DualStack, Refusal, Unavailable, Wanted};
use crate::network::Network;

use super::Host;
use super::attach::{REAPING, Shape};
use super::reconcile::NO_BRIDGE;

/// Who has an address that somebody wants.
#[derive(Debug, Clone, Copy)]
enum HeldBy {
    Somebody,
    /// Nobody in a moment.
    Leaving,
    /// Nobody yet.
    Pool,
}

impl Host {
    /// An address, also one that somebody is just leaving, or that was only prepared.
    pub(super) fn take_address(
        &self,
        shape: &Shape<'_>,
    ) -> Result<(Network, u32, DualStack), Error> {
        let mut tries = 0..3;
        loop {
            let (error, held_by) = match self.try_address(shape)? {
                Ok(taken) => return Ok(taken),
                Err(held) => held,
            };
            if tries.next().is_none() {
                return Err(error);
            }
            match held_by {
                HeldBy::Somebody => return Err(error),
                // It may have ended between the two.
                HeldBy::Leaving => drop(self.reaper.wait(REAPING)),
                HeldBy::Pool => self.take_from_pool(shape.address),
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "it has one caller, above")]
    fn try_address(
        &self,
        shape: &Shape<'_>,
    ) -> Result<Result<(Network, u32, DualStack), (Error, HeldBy)>, Error> {
        let mut state = self.state();
        let live = state.find(shape.network)?;
        let id = live.network.id.clone();
        if live.index == NO_BRIDGE && live.network.is_bridged() {
            // Whatever kept it from being made may be over; if not, that is the answer.
            self.repair_bridge(&mut state, &id)?;
            self.note_bridges(&state);
            self.write_table(&state)?;
        }
        let live = state
            .networks
            .get_mut(&id)
            .ok_or_else(|| Error::NoNetwork(id.to_string()))?;
        let prepared = |wanted| match live.network.is_default() && self.pool.holds(wanted) {
            true => HeldBy::Pool,
            false => HeldBy::Somebody,
        };
        let address = live.addresses.take(shape.address).map_err(|refusal| {
            let name = &live.network.name;
            match refusal {
                Refusal::Exhausted { leaving } => {
                    let held = match leaving {
                        true => HeldBy::Leaving,
                        false => prepared(Wanted::default()),
                    };
                    (Error::AddressesExhausted(name.clone()), held)
                }
                Refusal::Unavailable(address, Unavailable::Leaving) => {
                    (Error::AddressInUse(address), HeldBy::Leaving)
                }
                Refusal::Unavailable(address, Unavailable::Taken) => {
                    (Error::AddressInUse(address), prepared(shape.address))
                }
                Refusal::Unavailable(address, Unavailable::Outside) => {
                    (live.network.refuses(address), HeldBy::Somebody)
                }
            }
        });
        Ok(address.map(|address| (live.network.clone(), live.index, address)))
    }

    /// What was prepared with this address, or all of it, gives way to somebody who needs it.
    fn take_from_pool(&self, wanted: Wanted) {
        for prepared in self.pool.remove(wanted) {
            self.discard(prepared);
        }
        self.reaper.wait(REAPING);
    }
}
