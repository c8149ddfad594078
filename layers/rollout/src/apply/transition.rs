//! What an order does, by the event table.

use std::sync::Arc;

use super::Order;
use crate::{
    envelope::{Control, Message},
    refusal::{Reason, Refusal},
    state::{Cause, Lane, Mode, Scope, State, lapsed},
    table::Effect,
    wire::{DownstreamMessage, UpstreamMessage},
};

/// Longest reason of an enforcement, in bytes.
pub const MAX_REASON_BYTES: usize = 4_096;

impl State {
    /// Ends what has lapsed by the log's clock.
    pub(crate) fn settle(&mut self) {
        let now = self.clock_us;
        self.pending.retain(|_, pending| pending.expires_at_us > now);
        self.early.retain(|_, until| *until > now);
        let mut buried = Vec::new();
        for lane in self.lanes.values_mut() {
            let until = match &lane.mode {
                Mode::Rollout(rollout) => rollout.until_us,
                Mode::Forced { until_us, .. } => *until_us,
                Mode::Idle | Mode::Stopped => None,
            };
            if lapsed(until, now) {
                let since_us = until.unwrap_or(now);
                lane.closed_us = since_us;
                buried.extend(lane.end(Mode::Idle));
                lane.cause = Arc::new(Cause {
                    since_us,
                    reason: "effective_until_us".to_owned(),
                    ..Cause::default()
                });
            }
            if let Some(parked) = lane.parked.take_if(|parked| lapsed(parked.until_us, now)) {
                buried.push(parked.proposal.id.clone());
            }
        }
        buried.iter().for_each(|id| self.bury(id));
    }

    /// Carries an authentic order out. On a refusal the caller throws this state away.
    pub(crate) fn enact(&mut self, order: &Order) -> Result<(), Refusal> {
        match &order.control.message {
            Message::Upstream(message @ UpstreamMessage::Proposal { .. }) => {
                let proposal = message.clone().into_proposal().expect("it is a proposal");
                self.propose(proposal, order)
            }
            Message::Upstream(_) => Err(Refusal::new(Reason::Channel, "not a control message")),
            Message::Downstream(DownstreamMessage::Approval {
                proposal_id,
                proposal_digest,
                rollout,
            }) => self.approve(proposal_id, proposal_digest, *rollout, order),
            Message::Downstream(DownstreamMessage::Enforce { action, reason }) => {
                self.enforce(action, reason, order)
            }
            Message::Downstream(DownstreamMessage::CatalogUpdate { version, digest, .. }) => {
                self.update_catalog(*version, digest.as_deref(), order)
            }
            Message::Rotation(_) => {
                let keys = order
                    .keys
                    .clone()
                    .expect("authenticate made the set of a rotation");
                self.operators = None;
                self.issuers.retain(|issuer, _| {
                    !self.keys.stop_keys.iter().any(|key| key.keyid() == issuer)
                        || keys.stop_keys.iter().any(|key| key.keyid() == issuer)
                });
                self.keys = Arc::new(keys);
                Ok(())
            }
        }
    }

    pub(super) fn cause(&self, reason: &str, order: &Order) -> Arc<Cause> {
        let by = order.signed_by.clone();
        Arc::new(Cause {
            since_us: self.clock_us,
            reason: reason.to_owned(),
            by,
            seq: self.seq,
            issued_us: order.control.issued_at_us,
        })
    }
}

impl Lane {
    /// What was signed before a stop was recorded does not act after it.
    pub(super) fn check_order(&self, control: &Control) -> Result<(), Refusal> {
        if control.issued_at_us < self.not_before_us {
            let detail = format!(
                "signed at {}, stopped at {}",
                control.issued_at_us, self.not_before_us
            );
            return Err(Refusal::new(Reason::Stale, detail));
        }
        Ok(())
    }

    pub(super) fn freeze(&mut self, now_us: u64, ordered: &Scope, cause: &Arc<Cause>) {
        self.paused.add(ordered, cause);
        if let Mode::Rollout(rollout) = &mut self.mode {
            rollout.active_us = rollout.active_us(now_us);
            rollout.running_since_us = None;
        }
    }

    /// Ends what runs and what waits, and yields their ids.
    pub(super) fn end(&mut self, mode: Mode) -> Vec<String> {
        self.holds = None;
        let parked = self.parked.take().map(|parked| parked.proposal.id.clone());
        let ended = match std::mem::replace(&mut self.mode, mode) {
            Mode::Rollout(rollout) => Some(rollout.proposal.id.clone()),
            Mode::Idle | Mode::Forced { .. } | Mode::Stopped => None,
        };
        ended.into_iter().chain(parked).collect()
    }
}

pub(super) fn unreachable_effect(effect: Effect) -> Result<(), Refusal> {
    Err(Refusal::new(
        Reason::Malformed,
        format!("{effect:?} is no effect of this message"),
    ))
}

pub(super) fn check_reason(reason: &str) -> Result<(), Refusal> {
    if reason.len() > MAX_REASON_BYTES {
        let detail = format!("`reason` has {} bytes, at most {MAX_REASON_BYTES}", reason.len());
        return Err(Refusal::new(Reason::Malformed, detail));
    }
    Ok(())
}
