//! The fold: `apply(state, record) -> Result<State, Refusal>`, pure and total (DESIGN 8).
//!
//! It reads no clock, no file and no network; the time is the record's. So every node that folds the same
//! log comes to the same state, and so does a restart.

mod approve;
mod authenticate;
mod catalog;
mod enforce;
#[cfg(test)]
mod tests;
mod transition;

use crate::{
    envelope::Control,
    record::Record,
    refusal::Refusal,
    state::{Seen, State},
};

pub(crate) use self::authenticate::{Issuer, Order, authenticate};

/// What a record was found to say.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Accepted {
    /// The signed payload.
    pub control: Control,
    /// The names of the keys that signed.
    pub signed_by: Vec<String>,
}

/// The state after `record`.
///
/// # Errors
///
/// [`Refusal`]: the record changes nothing. To go on with the log after a refusal use [`State::fold`],
/// which also moves the position, the clock and a spent counter.
pub fn apply(state: &State, record: &Record) -> Result<State, Refusal> {
    let mut next = state.clone();
    next.fold(record)?;
    Ok(next)
}

impl State {
    /// Applies `record` in place. On a refusal only the position, the log's clock, what had lapsed by then,
    /// and the counter of an authentic message have moved: a message that was refused once is spent and
    /// cannot be replayed into a better moment.
    ///
    /// # Errors
    ///
    /// [`Refusal`], as [`apply`].
    pub fn fold(&mut self, record: &Record) -> Result<Accepted, Refusal> {
        self.seq = self.seq.max(record.seq);
        self.clock_us = self.clock_us.max(record.received_at_us);
        self.settle();
        let order = authenticate(self, record)?;
        self.obey(order)
    }

    /// Applies an authentic message.
    pub(crate) fn obey(&mut self, order: Order) -> Result<Accepted, Refusal> {
        self.check_counter(&order)?;
        self.spend(&order);
        let mut next = self.clone();
        next.enact(&order)?;
        *self = next;
        Ok(Accepted {
            control: order.control,
            signed_by: order.signed_by,
        })
    }

    fn spend(&mut self, order: &Order) {
        let seen = Seen {
            counter: order.control.counter,
            payload: order.payload,
        };
        match &order.issuer {
            Issuer::Operators => self.operators = Some(seen),
            Issuer::StopKey(keyid) | Issuer::Node(keyid) => {
                self.issuers.insert(keyid.clone(), seen);
            }
        }
    }
}
