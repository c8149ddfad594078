//! The state of scopes by what is around them, and by orders that reach them.

use std::{collections::HashSet, sync::Arc};

use crate::{
    envelope::Control,
    held::Held,
    latch::Brake,
    scope::Scope,
    state::{Lane, MAX_ORDERS, MAX_SCOPES, Mode, Share, State},
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

    /// Every scope whose subjects fall to what is around it.
    pub(crate) fn joined(&self) -> Arc<HashSet<Scope>> {
        let used = self.lanes.values().any(|lane| lane.rollout().is_some());
        let joined = self.lanes.keys().filter(|of| used && self.joins(of).is_some());
        Arc::new(joined.cloned().collect())
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

    /// Makes room among the scopes: those go that nobody has anything of, and whose subjects fall to the same without them.
    pub(crate) fn drop_unused(&mut self) {
        let held: Vec<Scope> = self.scopes_with_orders().cloned().collect();
        let unused = self.lanes.iter().filter(|(of, lane)| {
            let idle = lane.mode == Mode::Idle && !lane.is_used() && !lane.paused.any();
            // One that was freed of a wider order shows that it was.
            let freed = || held.iter().any(|order| order.reaches(of));
            let apart = || self.used_around(of, lane).is_some() && self.joins(of).is_none();
            **of != Scope::TENANT && idle && !freed() && !apart()
        });
        let unused: Vec<Scope> = unused.map(|(of, _)| of.clone()).collect();
        for of in unused {
            let Some(gone) = self.lanes.remove(&of) else {
                continue;
            };
            // What was signed before a stop of it, and what was approved before it closed, is of before for all around it.
            let around = self.around(&of).map(|(around, _)| around.clone());
            if let Some(lane) = around.and_then(|around| self.lanes.get_mut(&around)) {
                lane.not_before_us = lane.not_before_us.max(gone.not_before_us);
                if lane.mode == Mode::Idle && !lane.is_used() {
                    lane.closed_us = lane.closed_us.max(gone.closed_us);
                }
            }
        }
    }

    /// The scopes with a stop or a pause of their own.
    pub(crate) fn scopes_with_orders(&self) -> impl Iterator<Item = &Scope> {
        let own = |(of, lane): &(&Scope, &Lane)| lane.stopped.by(of) || lane.paused.by(of);
        self.lanes.iter().filter(own).map(|(of, _)| of)
    }

    /// Whether one more scope may get a stop or a pause of its own.
    pub(crate) fn has_room_for_order(&self, scope: &Scope) -> bool {
        let mut others = 0;
        for of in self.scopes_with_orders() {
            if of == scope {
                return true;
            }
            others += 1;
        }
        others < MAX_ORDERS
    }

    /// Whether a stop or a pause that was just taken is one of the whole tenant instead of its scope's.
    pub(crate) fn is_widened(&self, control: &Control) -> bool {
        let Some((brake, _)) = Brake::of(control) else {
            return false;
        };
        let scope = Scope::of_order(control.scope.as_deref(), self.tenant());
        scope.is_ok_and(|scope| scope != Scope::TENANT && !self.has_order(&scope, brake))
    }

    /// Whether a scope has a stop or a pause of its own.
    pub(crate) fn has_order(&self, scope: &Scope, brake: Brake) -> bool {
        self.lanes.get(scope).is_some_and(|lane| match brake {
            Brake::Stop => lane.stopped.by(scope),
            Brake::Pause => lane.paused.by(scope),
        })
    }

    /// Whether a stop or a pause was signed after every resume that would have ended it, whatever its counter.
    pub(crate) fn is_after_resumes(&self, scope: &Scope, issued_us: u64) -> bool {
        self.resumed.get(scope).is_none_or(|resumed| issued_us > *resumed)
    }

    /// Whether a later resume has freed the part of `order` that `scope` lies in.
    pub(crate) fn is_freed_since(&self, order: &Scope, scope: &Scope, issued_us: u64) -> bool {
        self.resumed
            .iter()
            .any(|(part, at_us)| issued_us <= *at_us && order.contains(part) && part.contains(scope))
    }

    /// Whether a stop or a pause of a scope that was signed no earlier is in force wherever one signed then would be.
    pub(crate) fn has_newer(&self, scope: &Scope, brake: Brake, issued_us: u64) -> bool {
        let own = self.lanes.get(scope).and_then(|lane| match brake {
            Brake::Stop => lane.stopped.get(scope),
            Brake::Pause => lane.paused.get(scope),
        });
        let holds = |(of, lane): (&Scope, &Lane)| {
            let held = match brake {
                Brake::Stop => lane.stopped.by(scope),
                Brake::Pause => lane.paused.by(scope),
            };
            // What was freed since it was signed it would not hold either.
            held || !scope.reaches(of) || self.is_freed_since(scope, of, issued_us)
        };
        own.is_some_and(|cause| cause.issued_us >= issued_us) && self.lanes.iter().all(holds)
    }

    /// A resume was accepted: what it ended, and what was signed before it, does not come back late.
    pub(crate) fn note_resume(&mut self, scope: &Scope, reached: &[Scope], issued_us: u64) {
        let lanes = reached.iter().filter_map(|of| Some((of, self.lanes.get(of)?)));
        let ended = lanes.flat_map(|(of, lane)| {
            let (stops, pauses) = (lane.stopped.ended_by(of, scope), lane.paused.ended_by(of, scope));
            stops.chain(pauses).map(|cause| cause.issued_us)
        });
        let at_us = ended.max().unwrap_or(0).max(issued_us);
        if self.resumed.len() >= MAX_SCOPES
            && !self.resumed.contains_key(scope)
            && let Some(oldest) = self
                .resumed
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(of, _)| of.clone())
        {
            self.resumed.remove(&oldest);
        }
        let known = self.resumed.entry(scope.clone()).or_default();
        *known = at_us.max(*known);
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
