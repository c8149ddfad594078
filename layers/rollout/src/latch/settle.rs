//! What the log makes of what is latched.

use crate::{
    apply::Accepted,
    digest::Digest,
    envelope::{Envelope, Message},
    live::Live,
    record::Record,
    refusal::{Reason, Refusal},
    state::{MAX_ORDERS, Scope},
    wire::{DownstreamMessage, EnforcementAction},
};

use super::*;

/// What a record says about one message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Nothing: it is about something else.
    Nothing,
    /// The state has it now, or had and has been resumed since.
    Taken,
    /// The very message was refused.
    Refused,
    /// Other bytes with the same payload were refused, such as those with a forged signature: nobody has judged the message.
    Unheard,
}

fn said(
    record: &Record,
    read: Option<Digest>,
    verdict: Result<&Accepted, &Refusal>,
    payload: Digest,
    message: Option<&(Channel, Bytes)>,
) -> Said {
    if read != Some(payload) {
        return Said::Nothing;
    }
    match (verdict, message) {
        (Ok(_), _) => Said::Taken,
        (Err(refusal), _) if refusal.reason == Reason::Duplicate => Said::Taken,
        (Err(_), Some((channel, envelope))) if *channel == record.channel && *envelope == record.envelope => {
            Said::Refused
        }
        // One that was judged already has no message any more.
        (Err(_), _) => Said::Unheard,
    }
}

/// What a folded record means for what is latched; yields the stops and pauses that were sent to this node and that the log
/// refused: they hold here alone, until a resume.
pub(crate) fn settle(
    latches: &mut Latches,
    record: &Record,
    verdict: Result<&Accepted, &Refusal>,
) -> Vec<(Brake, Scope)> {
    let tenant = record.channel.tenant();
    let read = Envelope::parse(&record.envelope)
        .map(|envelope| envelope.payload_digest())
        .ok();
    let mut alone = Vec::new();
    latches.retain(|(of, scope, brake), latch| {
        if of != tenant {
            return true;
        }
        settle_waiting(
            latch,
            |waiting| said(record, read, verdict, waiting.payload, Some(&waiting.message)),
            record.seq,
        );
        let Some(payload) = latch.payload else { return true };
        match said(record, read, verdict, payload, latch.message.as_ref()) {
            Said::Nothing => true,
            // A later one of the same takes its place, whatever became of it.
            Said::Taken | Said::Refused if latch.promote() => true,
            // The state has it by the log now; what it also holds goes on.
            Said::Taken if latch.waiting.is_empty() && !latch.program => false,
            Said::Taken => {
                (latch.payload, latch.message, latch.logged, latch.saved) = (None, None, true, false);
                latch.floor = latch.waiting.is_empty().then_some(record.seq);
                latch.refused = (!latch.waiting.is_empty()).then(no_room);
                true
            }
            // Every node that reads the log refuses it: what this one latched ahead of its turn is no more than that.
            Said::Refused if !latch.local && !latch.program => false,
            Said::Refused if !latch.local => {
                (latch.payload, latch.message, latch.saved) = (None, None, false);
                (latch.local, latch.floor) = (true, Some(record.seq));
                true
            }
            Said::Refused => {
                (latch.floor, latch.message, latch.saved) = (Some(record.seq), None, false);
                latch.refused = verdict.err().map(ToString::to_string);
                alone.push((*brake, scope.clone()));
                true
            }
            Said::Unheard => {
                // What was sent here may not have got there.
                latch.logged &= !latch.local;
                true
            }
        }
    });
    if let Ok(accepted) = verdict {
        release(latches, record, accepted);
    }
    alone
}

/// Takes what the log has judged off what else a latch holds for; it can be resumed once that is all.
fn settle_waiting(latch: &mut Latch, said: impl Fn(&Waiting) -> Said, seq: u64) {
    let before = latch.waiting.len();
    latch.waiting.retain_mut(|waiting| match said(waiting) {
        Said::Nothing => true,
        Said::Taken | Said::Refused => false,
        Said::Unheard => {
            waiting.logged = false;
            true
        }
    });
    if latch.waiting.len() != before {
        latch.saved = false;
        if latch.waiting.is_empty() && latch.payload.is_none() {
            latch.floor = Some(seq);
        }
    }
}

/// Ends what a resume ends: what the log has judged before it, and what came before it was signed.
fn release(latches: &mut Latches, record: &Record, accepted: &Accepted) {
    let tenant = record.channel.tenant();
    let control = &accepted.control;
    let Message::Downstream(DownstreamMessage::Enforce {
        action: EnforcementAction::ResumeAdaptation,
        ..
    }) = &control.message
    else {
        return;
    };
    let Ok(resumed) = Scope::of_order(control.scope.as_deref(), tenant) else {
        return;
    };
    latches.retain(|(of, order, _), latch| {
        // A node that lags may have been stopped after a resume that it has not read.
        let later = control.issued_at_us > latch.last_us;
        let judged = latch.waiting.is_empty() && latch.floor.is_some_and(|floor| record.seq > floor);
        if of != tenant || !judged || !later || !order.contains(&resumed) {
            // Of the whole tenant's resume a scope's own stop knows nothing.
            return true;
        }
        if !resumed.contains(order) && latch.freed.len() < MAX_FREED && !latch.freed.contains(&resumed) {
            latch.freed.push(resumed.clone());
            latch.saved = false;
        }
        !resumed.contains(order)
    });
}

fn no_room() -> String {
    format!("there was no room for one more scope than {MAX_ORDERS} with orders of their own")
}

impl Live {
    /// Latches the whole tenant for an order that was sent here and for which there is no room, until the log has judged it and a
    /// resume comes after that; true if more is held by it than before.
    pub(crate) fn latch_crowded(
        &mut self,
        key: LatchKey,
        (payload, message): (Digest, (Channel, Bytes)),
        (reason, by): (&str, &[String]),
        now_us: u64,
    ) -> bool {
        let crowded = is_crowded(&self.latches, &key.0);
        if let Some(latch) = self.latches.get_mut(&key).filter(|latch| latch.local) {
            return latch.wait_for(payload, false, message, now_us, crowded);
        }
        let since_us = self.latches.get(&key).map_or(now_us, |latch| latch.since_us);
        let mut latch = Latch {
            payload: None,
            message: None,
            logged: true,
            waiting: Vec::new(),
            program: false,
            at_seq: 0,
            local: true,
            refused: Some(no_room()),
            freed: Vec::new(),
            floor: None,
            since_us,
            last_us: now_us,
            reason: reason.to_owned(),
            by: by.to_vec(),
            saved: false,
        };
        let _nothing_freed = latch.wait_for(payload, false, message, now_us, crowded);
        self.latches.insert(key, latch);
        true
    }
}
