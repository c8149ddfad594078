//! Proposals and their approvals.

use std::sync::Arc;

use super::{
    Issuer, Order,
    transition::{check_reason, unreachable_effect},
};
use crate::{
    digest::Digest,
    ramp::InvalidRollout,
    refusal::{Reason, Refusal},
    state::{ApprovedRollout, Choice, Lane, MAX_PENDING, MAX_SCOPES, Mode, Pending, Scope, State, lapsed},
    table::{Effect, Trigger, effect},
    wire::{Proposal, RolloutConfig},
};

/// Longest id of a proposal, in bytes.
const MAX_ID: usize = 128;

impl State {
    pub(super) fn propose(&mut self, proposal: Proposal, order: &Order) -> Result<(), Refusal> {
        let Issuer::Node(issuer) = &order.issuer else {
            return Err(Refusal::new(Reason::Role, "only a node proposes"));
        };
        check_proposal(&proposal)?;
        let scope = Scope::parse(proposal.scope.as_deref(), self.tenant())?;
        let digest = Digest::of_proposal(&proposal)
            .map_err(|error| Refusal::new(Reason::InvalidProposal, error.to_string()))?;
        if self.is_tombstoned(&proposal.id) {
            return Err(Refusal::new(Reason::Tombstoned, format!("`{}`", proposal.id)));
        }
        if let Some(known) = self.digest_of(&proposal.id) {
            let reason = if known == digest {
                Reason::Duplicate
            } else {
                Reason::Equivocation
            };
            return Err(Refusal::new(
                reason,
                format!("proposal `{}` is {known}", proposal.id),
            ));
        }
        if let Effect::Refuse(reason) = effect(self.lane(&scope).phase(self.clock_us), Trigger::Proposal) {
            return Err(Refusal::new(reason, format!("proposal `{}`", proposal.id)));
        }
        self.catalog
            .resolve(proposal.variant_id, proposal.params.as_ref())?;
        if self
            .pending
            .values()
            .filter(|pending| pending.issuer == *issuer)
            .count()
            >= MAX_PENDING
        {
            let detail = format!("`{issuer}` has {MAX_PENDING} proposals waiting");
            return Err(Refusal::new(Reason::PendingFull, detail));
        }
        let expires_at_us = order.control.expires_at_us;
        let id = proposal.id.clone();
        let pending = Pending {
            proposal: Arc::new(proposal),
            digest,
            issuer: issuer.clone(),
            expires_at_us,
            scope,
        };
        self.pending.insert(id, pending);
        Ok(())
    }

    /// The digest of a proposal that waits, runs or is parked.
    fn digest_of(&self, id: &str) -> Option<Digest> {
        let pending = self.pending.get(id).map(|pending| pending.digest);
        let live = || {
            let rollouts = self
                .lanes
                .values()
                .flat_map(|lane| lane.rollout().into_iter().chain(lane.parked()));
            rollouts
                .filter(|rollout| rollout.proposal.id == id)
                .map(|rollout| rollout.digest)
                .next()
        };
        pending.or_else(live)
    }

    pub(super) fn approve(
        &mut self,
        id: &str,
        digest: &str,
        config: Option<RolloutConfig>,
        order: &Order,
    ) -> Result<(), Refusal> {
        if self.is_tombstoned(id) {
            return Err(Refusal::new(Reason::Tombstoned, format!("`{id}`")));
        }
        let Some(known) = self.digest_of(id) else {
            return Err(Refusal::new(Reason::UnknownProposal, format!("`{id}`")));
        };
        if !known.matches(digest) {
            let detail = format!(
                "`{id}` is {known}, approved was `{:.80}`",
                digest.escape_debug().to_string()
            );
            return Err(Refusal::new(Reason::DigestMismatch, detail));
        }
        let Some(pending) = self.pending.get(id).cloned() else {
            return Err(Refusal::new(
                Reason::Duplicate,
                format!("`{id}` is approved already"),
            ));
        };
        let control = &order.control;
        if control.scope.is_some() && Scope::parse(control.scope.as_deref(), self.tenant())? != pending.scope
        {
            return Err(Refusal::new(
                Reason::WrongScope,
                format!("`{id}` is for `{}`", pending.scope),
            ));
        }
        let config = match config {
            Some(config) => config,
            None if self.policy.allow_unramped => RolloutConfig::AT_ONCE,
            None => {
                return Err(Refusal::new(
                    Reason::Unramped,
                    "no ramp, and `allow_unramped` is off",
                ));
            }
        };
        let invalid = |error: InvalidRollout| Refusal::new(Reason::InvalidRollout, error.to_string());
        config.validate().map_err(invalid)?;

        let mut lane = self.lane(&pending.scope);
        let trigger = if control.supersede {
            Trigger::Supersede
        } else {
            Trigger::Approval
        };
        let effect = effect(lane.phase(self.clock_us), trigger);
        if let Effect::Refuse(reason) = effect {
            return Err(Refusal::new(reason, format!("approval of `{id}`")));
        }
        lane.check_order(control)?;
        if !self.lanes.contains_key(&pending.scope) && self.lanes.len() >= MAX_SCOPES {
            self.drop_unused();
        }
        if !self.lanes.contains_key(&pending.scope) && self.lanes.len() >= MAX_SCOPES {
            return Err(Refusal::new(
                Reason::WrongScope,
                format!("more than {MAX_SCOPES} scopes"),
            ));
        }
        let Proposal {
            variant_id, params, ..
        } = &*pending.proposal;
        let rollout = ApprovedRollout {
            choice: Choice::of(&self.catalog, *variant_id, params.as_ref())?,
            proposal: pending.proposal,
            digest: pending.digest,
            config,
            approved_by: order.signed_by.clone(),
            approved_at_us: self.clock_us,
            until_us: control.effective_until_us,
            supersede: control.supersede,
            active_us: 0,
            running_since_us: None,
        };
        if lapsed(rollout.until_us, self.clock_us) {
            return Err(Refusal::new(Reason::Expired, "`effective_until_us` is over"));
        }
        match effect {
            Effect::Start | Effect::Promote => {
                let buried = lane.start(rollout, self.clock_us, self.seq);
                buried.iter().for_each(|id| self.bury(id));
            }
            Effect::Park => lane.park(rollout, self.clock_us)?,
            other => unreachable_effect(other)?,
        }
        if effect != Effect::Park {
            lane.cause = self.cause(&format!("approval of {id}"), order);
        }
        self.pending.remove(id);
        self.lanes.insert(pending.scope, lane);
        Ok(())
    }
}

impl Lane {
    /// Starts `rollout` by the record at `seq` and yields the ids that end by it; one that was complete is the new baseline.
    pub(super) fn start(&mut self, mut rollout: ApprovedRollout, now_us: u64, seq: u64) -> Vec<String> {
        rollout.choice.since_seq = seq;
        rollout.active_us = 0;
        rollout.running_since_us = Some(now_us);
        let complete = self
            .rollout()
            .filter(|old| old.percent(now_us) >= 100.0)
            .map(|old| old.choice.clone());
        let mut buried = Vec::new();
        if let Some(promoted) = complete {
            self.promoted = Some(Choice {
                since_seq: seq,
                ..promoted
            });
        }
        if let Mode::Rollout(old) = std::mem::replace(&mut self.mode, Mode::Rollout(rollout)) {
            buried.push(old.proposal.id.clone());
        }
        buried
    }

    /// Keeps an approval for the resume.
    fn park(&mut self, rollout: ApprovedRollout, now_us: u64) -> Result<(), Refusal> {
        if self.parked.is_some() {
            return Err(Refusal::new(
                Reason::Parked,
                "an approval waits for the resume already",
            ));
        }
        let running = self.rollout().is_some_and(|held| held.percent(now_us) < 100.0);
        if running && !rollout.supersede {
            return Err(Refusal::new(Reason::Busy, "a paused rollout needs `supersede`"));
        }
        self.parked = Some(rollout);
        Ok(())
    }
}

fn check_proposal(proposal: &Proposal) -> Result<(), Refusal> {
    let invalid = |detail: String| Err(Refusal::new(Reason::InvalidProposal, detail));
    let Proposal {
        id,
        confidence,
        variant_id,
        params,
        reason,
        ..
    } = proposal;
    if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return invalid(format!("`id` is not 1 to {MAX_ID} visible ASCII characters"));
    }
    if !(0.0..=1.0).contains(confidence) {
        return invalid(format!("`confidence` = {confidence} is not in 0..=1"));
    }
    if variant_id.is_none() && params.is_none() {
        return invalid("neither `variant_id` nor `params`".to_owned());
    }
    check_reason(reason)
}
