//! A stop or a pause that is in force on this node whatever the log says, also after a restart.

mod file;
mod settle;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use arqon_message::TenantId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub(crate) use self::{file::LatchFile, settle::settle};
use crate::{
    digest::Digest,
    envelope::{Control, Message},
    record::Channel,
    state::Scope,
    wire::{DownstreamMessage, EnforcementAction},
};

/// What holds a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Brake {
    /// Everyone gets the baseline.
    Stop,
    /// The share stays where it is.
    Pause,
}

impl Brake {
    /// The name in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Pause => "pause",
        }
    }

    /// What a message brakes and why; None for one that does not.
    pub(crate) fn of(control: &Control) -> Option<(Self, &str)> {
        let Message::Downstream(DownstreamMessage::Enforce { action, reason }) = &control.message else {
            return None;
        };
        match action {
            EnforcementAction::EmergencyStop => Some((Self::Stop, reason)),
            EnforcementAction::PauseAdaptation => Some((Self::Pause, reason)),
            EnforcementAction::SetVariant(_)
            | EnforcementAction::SetParams(_)
            | EnforcementAction::ResumeAdaptation => None,
        }
    }
}

pub(crate) type LatchKey = (TenantId, Scope, Brake);

pub(crate) type Latches = BTreeMap<LatchKey, Latch>;

/// A stop or a pause in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Latch {
    /// The message's payload; None for a stop of this program itself.
    pub(crate) payload: Option<Digest>,
    /// What has to be in the log.
    pub(crate) message: Option<(Channel, Bytes)>,
    /// Whether the log has it, as far as this run knows.
    pub(crate) logged: bool,
    /// More orders that it holds for and that the log has not judged: all of them have to get there.
    pub(crate) waiting: Vec<Waiting>,
    /// Whether this program itself asked for it: then it stays until a resume, whatever the log has.
    pub(crate) program: bool,
    /// The position in the log of what was read there ahead of its turn; 0 for what was not.
    pub(crate) at_seq: u64,
    /// Whether it was sent to this node, or by this program itself; else it was read from the log ahead of its turn.
    pub(crate) local: bool,
    /// Why the log refused it.
    pub(crate) refused: Option<String>,
    /// The parts that were resumed since.
    pub(crate) freed: Vec<Scope>,
    /// Only a resume after this position ends it; None until the log has judged it.
    pub(crate) floor: Option<u64>,
    pub(crate) since_us: u64,
    /// When the last order came that it holds for: only a resume that was signed after it ends it.
    pub(crate) last_us: u64,
    pub(crate) reason: String,
    /// The names of the keys that signed; none for this program itself.
    pub(crate) by: Vec<String>,
    /// Whether it is on this node's disk.
    pub(crate) saved: bool,
}

/// One more order that is held by a latch: a later one for the same scope, or for want of room one of a scope in the tenant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Waiting {
    pub(crate) payload: Digest,
    /// Whether it is for what the latch is for.
    pub(crate) own: bool,
    /// What has to be in the log.
    pub(crate) message: (Channel, Bytes),
    /// Whether the log has it, as far as this run knows.
    pub(crate) logged: bool,
    pub(crate) since_us: u64,
}

/// How many more orders one latch keeps for a log that is away. One more holds on the node all the same.
pub(crate) const MAX_WAITING: usize = 64;

/// How many all latches of one tenant keep.
const MAX_WAITING_TENANT: usize = 256;

/// Whether the latches of a tenant keep so many orders that one more is not.
pub(crate) fn is_crowded(latches: &Latches, tenant: &TenantId) -> bool {
    let of = latches.iter().filter(|((of, ..), _)| of == tenant);
    of.map(|(_, latch)| latch.waiting.len()).sum::<usize>() >= MAX_WAITING_TENANT
}

/// Most parts of one latch that are freed by themselves; of the next one nothing is.
const MAX_FREED: usize = 64;

/// A message for the log: when it came, and its payload.
pub(crate) type Due = (u64, Digest, (Channel, Bytes));

impl Latch {
    /// What the log does not have of it, as far as this run knows, and came `grace_us` ago; it counts as there from now on.
    pub(crate) fn take_due(&mut self, now_us: u64, grace_us: u64) -> Vec<Due> {
        // One of a time that is to come is of a clock that was set back since.
        let is_due = |since_us: u64| now_us.abs_diff(since_us) >= grace_us;
        let mut due = Vec::new();
        if let (false, Some(payload), Some(message)) = (self.logged, self.payload, &self.message)
            && is_due(self.since_us)
        {
            due.push((self.since_us, payload, message.clone()));
            self.logged = true;
        }
        for waiting in &mut self.waiting {
            if !waiting.logged && is_due(waiting.since_us) {
                due.push((waiting.since_us, waiting.payload, waiting.message.clone()));
                waiting.logged = true;
            }
        }
        due
    }

    /// The log has a message, or does not.
    pub(crate) fn mark_logged(&mut self, message: &(Channel, Bytes), logged: bool) {
        if self.message.as_ref() == Some(message) {
            self.logged = logged;
        }
        let waiting = self.waiting.iter_mut();
        let same = waiting.filter(|waiting| waiting.message == *message);
        same.for_each(|waiting| waiting.logged = logged);
    }

    /// Whether it holds for a message until the log has judged it.
    pub(crate) fn keeps(&self, message: &(Channel, Bytes)) -> bool {
        let mut waiting = self.waiting.iter();
        self.message.as_ref() == Some(message) || waiting.any(|waiting| waiting.message == *message)
    }

    /// One more order that it holds for, sent to this node at `now_us`: also for the parts that were resumed before it. Whether
    /// there were any. `crowded`: it is not kept.
    pub(crate) fn wait_for(
        &mut self,
        payload: Digest,
        own: bool,
        message: (Channel, Bytes),
        now_us: u64,
        crowded: bool,
    ) -> bool {
        (self.last_us, self.saved) = (self.last_us.max(now_us), false);
        if self.payload == Some(payload) || self.waiting.iter().any(|of| of.payload == payload) {
            return false;
        }
        let freed = !std::mem::take(&mut self.freed).is_empty();
        // One too many holds all the same, and who sent it is told.
        if crowded || self.waiting.len() >= MAX_WAITING {
            return freed;
        }
        self.waiting.push(Waiting {
            payload,
            own,
            message,
            logged: false,
            since_us: now_us,
        });
        if self.payload.is_none() {
            self.floor = None;
            self.promote();
        }
        freed
    }

    /// Lets the first order of its own that waits take the place of one that is judged.
    pub(crate) fn promote(&mut self) -> bool {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.own) else {
            return false;
        };
        let next = self.waiting.remove(at);
        (self.payload, self.message, self.logged) = (Some(next.payload), Some(next.message), next.logged);
        (self.floor, self.saved) = (None, false);
        true
    }

    /// Whether it says what another one says, as far as a restart is concerned.
    fn is_same(&self, other: &Self) -> bool {
        let waits = |latch: &Self| latch.waiting.iter().map(|of| of.payload).collect::<Vec<_>>();
        let of = |latch: &Self| {
            let held = (latch.program, latch.freed.clone());
            (latch.payload, latch.floor, latch.last_us, held)
        };
        of(self) == of(other) && waits(self) == waits(other)
    }

    /// Whether a latch for `order` holds a scope: what it reaches, but for the parts that were resumed since.
    pub(crate) fn holds(&self, order: &Scope, scope: &Scope) -> bool {
        order.reaches(scope) && !self.freed.iter().any(|part| part.contains(scope))
    }
}
