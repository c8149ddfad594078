//! Enforcements.

use super::{
    Order,
    transition::{check_reason, unreachable_effect},
};
use crate::{
    envelope::Control,
    refusal::{Reason, Refusal},
    state::{ApprovedRollout, Choice, Held, Lane, MAX_SCOPES, Mode, Scope, State},
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
        let scope = Scope::parse(control.scope.as_deref(), self.tenant())?;
        if scope != Scope::TENANT && !self.lanes.contains_key(&scope) {
            if self.lanes.len() >= MAX_SCOPES {
                return Err(Refusal::new(
                    Reason::WrongScope,
                    format!("more than {MAX_SCOPES} scopes"),
                ));
            }
            self.lanes.insert(scope.clone(), self.lane(&scope));
        }
        let own = scope != Scope::TENANT;
        let reached: Vec<Scope> = match scope {
            Scope::TENANT => self.lanes.keys().cloned().collect(),
            scope => vec![scope],
        };
        if *action == EnforcementAction::ResumeAdaptation {
            // A catalog that waited takes effect before an approval that waited, and only if nothing else
            // stays paused.
            self.check_reached(&reached, Trigger::Resume, control)?;
            let others_paused = self.lanes.iter().any(|(scope, lane)| {
                lane.paused.any() && (!reached.contains(scope) || lane.paused.released(own).any())
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
        for scope in reached {
            self.enforce_one(&scope, own, trigger, action, reason, order)?;
        }
        Ok(())
    }

    /// An enforcement that one scope refuses changes no scope.
    fn check_reached(&self, reached: &[Scope], trigger: Trigger, control: &Control) -> Result<(), Refusal> {
        for lane in reached.iter().filter_map(|scope| self.lanes.get(scope)) {
            if let Effect::Refuse(reason) = effect(lane.phase(self.clock_us), trigger) {
                return Err(Refusal::new(reason, "resume first"));
            }
            if matches!(trigger, Trigger::Resume | Trigger::Force) {
                lane.check_order(control)?;
            }
        }
        Ok(())
    }

    fn enforce_one(
        &mut self,
        scope: &Scope,
        own: bool,
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
                // A second one changes nothing but what may end it: only what is signed after a stop, and for a scope only
                // what is meant for it.
                if let Some(lane) = self.lanes.get_mut(scope) {
                    match (trigger, &lane.mode) {
                        (Trigger::Stop, _) => {
                            lane.stopped.add(own);
                            lane.not_before_us = order.stored_at_us;
                        }
                        (Trigger::Pause, Mode::Idle | Mode::Rollout(_) | Mode::Forced { .. }) => {
                            lane.paused.add(own);
                        }
                        _ => {}
                    }
                }
                return Ok(());
            }
            // It counts from when it was signed: one that waited for the log was in force meanwhile, where it was sent to.
            Effect::Freeze => lane.freeze(order.control.issued_at_us.min(now), own),
            Effect::Thaw if !lane.paused.any() => return Ok(()),
            Effect::Thaw if lane.paused.released(own).any() => {
                lane.paused = lane.paused.released(own);
                self.lanes.insert(scope.clone(), lane);
                return Ok(());
            }
            Effect::Thaw => {
                lane.paused = Held::default();
                if let Mode::Rollout(rollout) = &mut lane.mode {
                    rollout.running_since_us = Some(now);
                }
                if let Some(parked) = lane.parked.take() {
                    match parked.choice.again(&self.catalog) {
                        Ok(choice) => buried = lane.start(ApprovedRollout { choice, ..parked }, now),
                        Err(_) => buried.push(parked.proposal.id.clone()),
                    }
                }
            }
            Effect::Force => {
                let until_us = order.control.effective_until_us;
                let choice = self.forced(&lane, action)?;
                buried = lane.end(Mode::Forced { choice, until_us });
            }
            Effect::Stop => {
                buried = lane.end(Mode::Stopped);
                lane.paused = lane.paused.released(own);
                lane.stopped = Held::default();
                lane.stopped.add(own);
                lane.promoted = None;
                lane.not_before_us = order.stored_at_us;
            }
            Effect::Release if lane.stopped.released(own).any() => {
                lane.stopped = lane.stopped.released(own);
                self.lanes.insert(scope.clone(), lane);
                return Ok(());
            }
            Effect::Release => {
                (lane.mode, lane.stopped) = (Mode::Idle, Held::default());
                lane.paused = lane.paused.released(own);
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
