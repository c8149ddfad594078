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
    state::{MAX_EARLY, Seen, State},
};

pub(crate) use self::authenticate::{Issuer, Order, authenticate};
pub use self::transition::MAX_REASON_BYTES;

/// What a record was found to say.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Accepted {
    /// The signed payload.
    pub control: Control,
    /// The names of the keys that signed.
    pub signed_by: Vec<String>,
    /// Whether a stop or a pause holds the whole tenant, because there was no room for one more scope.
    pub widened: bool,
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
        self.pass(record);
        let order = authenticate(self, record)?;
        if let Err(refusal) = self.check_moment(&order) {
            self.remember(&order);
            return Err(refusal);
        }
        self.obey(order)
    }

    /// Applies a stop or a pause that this node has accepted before, by its audit trail, whoever may sign one now. A
    /// [`fold`](Self::fold) has refused it.
    pub(crate) fn fold_kept(&mut self, record: &Record) -> Result<Accepted, Refusal> {
        let order = authenticate::kept(record)?;
        self.obey(order)
    }

    /// Goes past a record that was refused before and stays so: its message is spent.
    pub(crate) fn pass_by(&mut self, record: &Record) {
        self.pass(record);
        if let Ok(order) = authenticate(self, record)
            && self.check_new(&order).is_ok()
        {
            self.spend(&order);
        }
    }

    /// Goes past a record that changes nothing.
    pub(crate) fn pass(&mut self, record: &Record) {
        self.seq = self.seq.max(record.seq);
        self.clock_us = self.clock_us.max(record.received_at_us);
        self.settle();
    }

    /// Applies an authentic message.
    pub(crate) fn obey(&mut self, order: Order) -> Result<Accepted, Refusal> {
        self.check_new(&order)?;
        let mut next = self.clone();
        next.spend(&order);
        if let Err(refusal) = next.enact(&order) {
            self.spend(&order);
            return Err(refusal);
        }
        next.mark_accepted(&order);
        *self = next;
        Ok(Accepted {
            widened: self.is_widened(&order.control),
            control: order.control,
            signed_by: order.signed_by,
        })
    }

    fn spend(&mut self, order: &Order) {
        // A brake that others overtook is taken, and sets nobody's counter back.
        if self.is_late(order) {
            return;
        }
        let seen = Seen {
            counter: order.control.counter,
            payload: order.payload,
            accepted: false,
        };
        match &order.issuer {
            Issuer::Operators => self.operators = Some(seen),
            Issuer::StopKey(keyid) | Issuer::Node(keyid) => {
                self.issuers.insert(keyid.clone(), seen);
            }
        }
    }

    /// The same bytes once more are a duplicate from now on. A rotation has forgotten its issuer's counter.
    fn mark_accepted(&mut self, order: &Order) {
        let seen = match &order.issuer {
            Issuer::Operators => self.operators.as_mut(),
            Issuer::StopKey(keyid) | Issuer::Node(keyid) => self.issuers.get_mut(keyid),
        };
        if let Some(seen) = seen.filter(|seen| seen.payload == order.payload) {
            seen.accepted = true;
        }
    }

    /// Never takes a message later that was refused for coming too early.
    fn remember(&mut self, order: &Order) {
        if !self.may_come_true(order) {
            return;
        }
        if self.early.len() >= MAX_EARLY
            && let Some(first) = self
                .early
                .iter()
                .min_by_key(|(_, until)| **until)
                .map(|(early, _)| *early)
        {
            self.early.remove(&first);
        }
        self.early.insert(order.payload, order.control.expires_at_us);
    }
}
