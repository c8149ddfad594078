//! The state of scopes by what is around them, and by orders that reach them.

use crate::{
    held::Held,
    latch::Brake,
    scope::Scope,
    state::{Lane, Mode, Share, State},
};

impl State {
    /// The state of a scope. One nobody has used is stopped or paused by every order that reaches it, and forced as what it
    /// lies in is.
    pub fn lane(&self, scope: &Scope) -> Lane {
        if let Some(lane) = self.lanes.get(scope) {
            return lane.clone();
        }
        let mut lane = Lane {
            stopped: self.inherited(scope, Brake::Stop),
            paused: self.inherited(scope, Brake::Pause),
            ..Lane::idle()
        };
        let reaching = self.lanes.iter().filter(|(of, _)| of.reaches(scope));
        lane.not_before_us = reaching.map(|(_, lane)| lane.not_before_us).max().unwrap_or(0);
        lane.closed_us = lane.not_before_us;
        if lane.stopped.any() {
            lane.mode = Mode::Stopped;
        } else if let Some((_, around)) = self.around(scope)
            && let Mode::Forced { .. } = around.mode
        {
            (lane.mode, lane.cause) = (around.mode.clone(), around.cause.clone());
        } else if lane.paused.any() {
            lane.holds = self.share_around(scope, &lane, self.clock_us);
        }
        lane
    }

    /// The scope that the subjects of one nobody has used fall to.
    pub(crate) fn around(&self, scope: &Scope) -> Option<(&Scope, &Lane)> {
        let around = self
            .lanes
            .iter()
            .filter(|(of, _)| *of != scope && of.contains(scope));
        around.reduce(|one, other| if other.0.is_closer_than(one.0) { other } else { one })
    }

    /// The closest scope around this one that has something of its own, and when the idle ones up to it last closed.
    fn used_around(&self, scope: &Scope, lane: &Lane) -> Option<(&Scope, &Lane, u64)> {
        let (mut at, mut closed_us) = (scope, lane.closed_us);
        loop {
            if *at == Scope::TENANT {
                return None;
            }
            let (of, around) = self.around(at)?;
            if around.mode != Mode::Idle || around.is_used() || around.paused.any() {
                return Some((of, around, closed_us));
            }
            closed_us = closed_us.max(around.closed_us);
            at = of;
        }
    }

    /// The scope around an idle one whose rollout its subjects are part of: one that was approved since it went idle. What
    /// was stopped for a while is not left out for ever.
    pub(crate) fn joins(&self, scope: &Scope) -> Option<&Scope> {
        let lane = self.lanes.get(scope)?;
        if lane.mode != Mode::Idle || lane.is_used() || lane.paused.any() {
            return None;
        }
        let (of, around, closed_us) = self.used_around(scope, lane)?;
        let rollout = around.rollout()?;
        (rollout.approved_at_us > closed_us).then_some(of)
    }

    /// What the subjects of a scope without a rollout have at `at_us` of one around it: a pause holds them there.
    pub(crate) fn share_around(&self, scope: &Scope, lane: &Lane, at_us: u64) -> Option<Share> {
        let (of, around, closed_us) = self.used_around(scope, lane)?;
        match around.rollout() {
            Some(rollout) => (rollout.approved_at_us > closed_us).then(|| Share {
                of: of.clone(),
                digest: rollout.digest,
                percent: around.percent(at_us),
            }),
            // It is held itself.
            None => around.holds.clone(),
        }
    }

    /// The orders in force that reach a scope nobody has used, but for those that were ended for a part it lies in.
    fn inherited(&self, scope: &Scope, brake: Brake) -> Held {
        let held = |lane: &'_ Lane, order: &Scope| match brake {
            Brake::Stop => lane.stopped.get(order).cloned(),
            Brake::Pause => lane.paused.get(order).cloned(),
        };
        let ended = |order: &Scope| {
            self.lanes.iter().any(|(between, lane)| {
                order.contains(between) && between.contains(scope) && held(lane, order).is_none()
            })
        };
        let in_force = |(order, lane): (&Scope, &Lane)| {
            let cause = held(lane, order).filter(|_| order.reaches(scope) && !ended(order))?;
            Some((order.clone(), cause))
        };
        self.lanes.iter().filter_map(in_force).collect()
    }

    /// Whether a stop or a pause of a scope asks for what is so already, everywhere.
    pub(crate) fn is_braked(&self, scope: &Scope, brake: Brake) -> bool {
        let mut reached = self.lanes.iter().filter(|(of, _)| scope.reaches(of));
        self.lanes.contains_key(scope)
            && reached.all(|(_, lane)| match brake {
                Brake::Stop => lane.stopped.by(scope),
                Brake::Pause => lane.paused.by(scope),
            })
    }
}
