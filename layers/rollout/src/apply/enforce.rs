//! Enforcements.

use super::{
    Order,
    transition::{check_reason, unreachable_effect},
};
use crate::{
    envelope::Control,
    refusal::{Reason, Refusal},
    state::{ApprovedRollout, Choice, Lane, MAX_SCOPES, Mode, Scope, State},
    table::{Effect, Phase, Trigger, effect},
    wire::EnforcementAction,
};

impl State {
    pub(super) fn enforce(
        &mut self,
        action: &EnforcementAction,
        reason: &str,
        order: &Order,
    ) -> Result<(), Refusal> {
        check_reason(reason)?;
        let control = &order.control;
        let mut scope = Scope::of_order(control.scope.as_deref(), self.tenant())?;
        let brakes = matches!(
            action,
            EnforcementAction::EmergencyStop | EnforcementAction::PauseAdaptation
        );
        if scope != Scope::TENANT && !self.lanes.contains_key(&scope) && self.lanes.len() >= MAX_SCOPES {
            self.drop_unused();
        }
        let full = !self.lanes.contains_key(&scope) && self.lanes.len() >= MAX_SCOPES;
        // One that is late is taken for what no later resume has freed.
        let late = brakes && self.is_late(order);
        if brakes && (full || !self.has_room_for_order(&scope)) {
            // Nobody is refused a brake for want of room: it holds more instead.
            scope = Scope::TENANT;
            if late {
                self.check_late_and_widened(order)?;
            }
        }
        if scope != Scope::TENANT && !self.lanes.contains_key(&scope) {
            if full {
                return Err(Refusal::new(
                    Reason::WrongScope,
                    format!("more than {MAX_SCOPES} scopes"),
                ));
            }
            self.lanes.insert(scope.clone(), self.lane(&scope));
        }
        // An enforced variant goes no further than its pattern; what brakes also holds what it crosses.
        let forces = matches!(
            action,
            EnforcementAction::SetVariant(_) | EnforcementAction::SetParams(_)
        );
        let is_reached = |of: &&Scope| {
            if forces {
                scope.contains(of)
            } else {
                scope.reaches(of)
            }
        };
        let mut reached: Vec<Scope> = self.lanes.keys().filter(is_reached).cloned().collect();
        if late {
            reached.retain(|of| !self.is_freed_since(&scope, of, control.issued_at_us));
        }
        if *action == EnforcementAction::ResumeAdaptation {
            // A catalog that waited takes effect before an approval that waited, and only if nothing else
            // stays paused.
            self.check_reached(&reached, Trigger::Resume, control)?;
            self.check_pauses(&reached, &scope, control)?;
            self.note_resume(&scope, &reached, control.issued_at_us);
            let others_paused = self.lanes.iter().any(|(of, lane)| {
                lane.is_paused() && (!reached.contains(of) || lane.paused.released(of, &scope).any())
            });
            if !others_paused && let Some(catalog) = self.parked_catalog.take() {
                self.swap(catalog, Some(&reached), order);
            }
        }
        let trigger = match action {
            EnforcementAction::SetVariant(_) | EnforcementAction::SetParams(_) => Trigger::Force,
            EnforcementAction::EmergencyStop => Trigger::Stop,
            EnforcementAction::PauseAdaptation => Trigger::Pause,
            EnforcementAction::ResumeAdaptation => Trigger::Resume,
        };
        self.check_reached(&reached, trigger, control)?;
        for of in reached {
            self.enforce_one(&of, &scope, trigger, action, reason, order)?;
        }
        Ok(())
    }

    /// An enforcement that one scope refuses changes no scope.
    fn check_reached(&self, reached: &[Scope], trigger: Trigger, control: &Control) -> Result<(), Refusal> {
        let lanes = reached
            .iter()
            .filter_map(|scope| Some((scope, self.lanes.get(scope)?)));
        for (scope, lane) in lanes {
            if let Effect::Refuse(reason) = effect(lane.phase(self.clock_us), trigger) {
                return Err(Refusal::new(reason, format!("{}: resume first", scope.to_name())));
            }
            if matches!(trigger, Trigger::Resume | Trigger::Force) {
                lane.check_order(control)?;
            }
        }
        Ok(())
    }

    /// A resume does not end a pause that was signed after it.
    fn check_pauses(&self, reached: &[Scope], resumed: &Scope, control: &Control) -> Result<(), Refusal> {
        let lanes = reached
            .iter()
            .filter_map(|scope| Some((scope, self.lanes.get(scope)?)));
        for (scope, lane) in lanes {
            // By a clock that is ahead it counts from when it was recorded.
            let newest = lane
                .paused
                .ended_by(scope, resumed)
                .map(|cause| cause.issued_us.min(cause.since_us))
                .max();
            if let Some(paused_us) = newest.filter(|paused_us| control.issued_at_us < *paused_us) {
                let detail = format!(
                    "{}: signed at {}, paused at {paused_us}: look at it, and sign a resume anew",
                    scope.to_name(),
                    control.issued_at_us
                );
                return Err(Refusal::new(Reason::Stale, detail));
            }
        }
        Ok(())
    }

    /// What an order for `ordered` does to one scope that it reaches.
    fn enforce_one(
        &mut self,
        scope: &Scope,
        ordered: &Scope,
        trigger: Trigger,
        action: &EnforcementAction,
        reason: &str,
        order: &Order,
    ) -> Result<(), Refusal> {
        let (now, cause) = (self.clock_us, self.cause(reason, order));
        let Some(mut lane) = self.lanes.get(scope).cloned() else {
            return Ok(());
        };
        let mut buried = Vec::new();
        match effect(lane.phase(now), trigger) {
            Effect::Keep => {
                // A second one changes nothing but what may end it: only what is signed after a stop, and what is meant for it.
                if let Some(lane) = self.lanes.get_mut(scope) {
                    match trigger {
                        Trigger::Stop => {
                            lane.stopped.add(ordered, &cause);
                            lane.not_before_us = order.stored_at_us;
                        }
                        // Of what is stopped: it holds once the stop has ended.
                        Trigger::Pause => lane.paused.add(ordered, &cause),
                        _ => {}
                    }
                }
                return Ok(());
            }
            // It counts from when it was signed: one that waited for the log was in force meanwhile, where it was sent to.
            Effect::Freeze => {
                let at_us = order.control.issued_at_us.min(now);
                if !lane.is_used() {
                    lane.holds = self.share_around(scope, &lane, at_us);
                }
                lane.freeze(at_us, ordered, &cause);
            }
            Effect::Thaw if !lane.paused.any() => return Ok(()),
            Effect::Thaw => {
                lane.paused = lane.paused.released(scope, ordered);
                if lane.paused.any() {
                    self.lanes.insert(scope.clone(), lane);
                    return Ok(());
                }
                lane.holds = None;
                if let Mode::Rollout(rollout) = &mut lane.mode {
                    rollout.running_since_us = Some(now);
                }
                if let Some(parked) = lane.parked.take() {
                    match parked.choice.again(&self.catalog) {
                        Ok(choice) => {
                            buried = lane.start(ApprovedRollout { choice, ..parked }, now, self.seq)
                        }
                        Err(_) => buried.push(parked.proposal.id.clone()),
                    }
                }
            }
            Effect::Force => {
                let until_us = order.control.effective_until_us;
                let choice = Choice {
                    since_seq: self.seq,
                    ..self.forced(&lane, action)?
                };
                buried = lane.end(Mode::Forced { choice, until_us });
            }
            Effect::Stop => {
                buried = lane.end(Mode::Stopped);
                lane.stopped.add(ordered, &cause);
                lane.promoted = None;
                (lane.not_before_us, lane.closed_us) = (order.stored_at_us, now);
            }
            Effect::Release => {
                lane.paused = lane.paused.released(scope, ordered);
                lane.stopped = lane.stopped.released(scope, ordered);
                if lane.stopped.any() {
                    self.lanes.insert(scope.clone(), lane);
                    return Ok(());
                }
                (lane.mode, lane.closed_us) = (Mode::Idle, now);
            }
            other => unreachable_effect(other)?,
        }
        lane.cause = cause;
        buried.iter().for_each(|id| self.bury(id));
        self.lanes.insert(scope.clone(), lane);
        Ok(())
    }

    /// What an enforcement serves: another variant, or the one everybody has with other parameters.
    fn forced(&self, lane: &Lane, action: &EnforcementAction) -> Result<Choice, Refusal> {
        match action {
            EnforcementAction::SetVariant(id) => Choice::of(&self.catalog, Some(*id), None),
            EnforcementAction::SetParams(params) => {
                let id = match (&lane.mode, &lane.promoted) {
                    (Mode::Forced { choice, .. }, _) => Some(choice.variant.id),
                    (Mode::Rollout(rollout), _) if lane.phase(self.clock_us) == Phase::Complete => {
                        Some(rollout.choice.variant.id)
                    }
                    (_, Some(promoted)) => Some(promoted.variant.id),
                    (_, None) => None,
                };
                Choice::of(&self.catalog, id, Some(params))
            }
            EnforcementAction::EmergencyStop
            | EnforcementAction::PauseAdaptation
            | EnforcementAction::ResumeAdaptation => {
                Err(Refusal::new(Reason::Malformed, "not an enforced variant"))
            }
        }
    }
}
