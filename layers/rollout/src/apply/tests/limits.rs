//! At the borders: 64 scopes with orders of their own, 1,024 scopes in use, and one more.

use super::*;
use crate::{
    latch::Brake,
    state::{Lane, MAX_ORDERS, MAX_SCOPES, Mode},
};

const SECOND_US: u64 = 1_000_000;

fn name(at: usize) -> String {
    format!("in.t.t.s{at}.>")
}

fn scope(at: usize) -> Scope {
    Scope::parse(Some(&name(at)), &TenantId::new("t").unwrap()).unwrap()
}

/// Obeys an enforcement of a scope, or of the tenant.
struct Desk {
    state: State,
    now_us: u64,
}

impl Desk {
    fn new() -> Self {
        Self {
            state: genesis(),
            now_us: SECOND_US,
        }
    }

    fn order(&mut self, action: EnforcementAction, at: Option<usize>) -> Order {
        self.now_us += SECOND_US;
        (self.state.clock_us, self.state.seq) = (self.now_us, self.state.seq + 1);
        let mut order = order(&Event::Stop, self.now_us, self.now_us);
        let reason = String::new();
        order.control.message = DownstreamMessage::Enforce { action, reason }.into();
        order.control.scope = at.map(name);
        order
    }

    fn enforce(&mut self, action: EnforcementAction, at: Option<usize>) -> Result<bool, Reason> {
        let order = self.order(action, at);
        let accepted = self.state.obey(order);
        accepted
            .map(|accepted| accepted.widened)
            .map_err(|refusal| refusal.reason)
    }

    fn stop(&mut self, at: usize) -> Result<bool, Reason> {
        self.enforce(EnforcementAction::EmergencyStop, Some(at))
    }

    fn resume(&mut self, at: Option<usize>) -> Result<bool, Reason> {
        self.enforce(EnforcementAction::ResumeAdaptation, at)
    }

    fn phase(&self, scope: &Scope) -> Phase {
        self.state.lane(scope).phase(self.now_us)
    }

    /// Takes so many scopes in use, each with a variant that a finished rollout left.
    fn fill(&mut self, scopes: std::ops::Range<usize>) {
        let promoted = crate::state::Choice::of(&self.state.catalog, Some(42), None).unwrap();
        for at in scopes {
            let lane = Lane {
                promoted: Some(promoted.clone()),
                ..Lane::idle()
            };
            self.state.lanes.insert(scope(at), lane);
        }
    }
}

#[test]
fn the_sixty_fifth_scope_with_an_order_of_its_own_stops_the_tenant_and_says_so() {
    let mut desk = Desk::new();
    for at in 0..MAX_ORDERS {
        assert_eq!(desk.stop(at), Ok(false), "{at}");
    }
    assert_eq!(desk.phase(&Scope::TENANT), Phase::Idle);
    // One that has an order gets another one.
    assert_eq!(
        desk.enforce(EnforcementAction::PauseAdaptation, Some(0)),
        Ok(false)
    );
    assert_eq!(desk.stop(MAX_ORDERS), Ok(true));
    for scope in [Scope::TENANT, scope(MAX_ORDERS), scope(500)] {
        assert_eq!(desk.phase(&scope), Phase::Stopped);
    }
    // The tenant's resume ends that one; the others stay.
    assert_eq!(desk.resume(None), Ok(false));
    assert_eq!(
        (
            desk.phase(&Scope::TENANT),
            desk.phase(&scope(MAX_ORDERS)),
            desk.phase(&scope(0))
        ),
        (Phase::Idle, Phase::Idle, Phase::Stopped)
    );
    // With one fewer there is room.
    assert_eq!(desk.resume(Some(1)), Ok(false));
    assert_eq!(desk.stop(MAX_ORDERS), Ok(false));
    assert_eq!(
        (desk.phase(&Scope::TENANT), desk.phase(&scope(MAX_ORDERS))),
        (Phase::Idle, Phase::Stopped)
    );
}

#[test]
fn a_pause_for_which_there_is_no_room_pauses_the_tenant() {
    let mut desk = Desk::new();
    for at in 0..MAX_ORDERS {
        assert_eq!(desk.stop(at), Ok(false));
    }
    assert_eq!(
        desk.enforce(EnforcementAction::PauseAdaptation, Some(MAX_ORDERS)),
        Ok(true)
    );
    assert_eq!(
        (desk.phase(&Scope::TENANT), desk.phase(&scope(0))),
        (Phase::Paused, Phase::Stopped)
    );
}

#[test]
fn a_stop_of_one_scope_more_than_there_may_be_stops_the_tenant_and_nothing_else_gets_in() {
    let mut desk = Desk::new();
    // The tenant's own is one of them.
    desk.fill(1..MAX_SCOPES - 1);
    assert_eq!(desk.stop(0), Ok(false), "the last one");
    assert_eq!(desk.state.lanes.len(), MAX_SCOPES);
    assert_eq!(desk.stop(MAX_SCOPES), Ok(true));
    assert_eq!(
        (
            desk.phase(&Scope::TENANT),
            desk.phase(&scope(MAX_SCOPES)),
            desk.phase(&scope(7))
        ),
        (Phase::Stopped, Phase::Stopped, Phase::Stopped)
    );
    assert_eq!(desk.state.lanes.len(), MAX_SCOPES);
    for action in [
        EnforcementAction::ResumeAdaptation,
        EnforcementAction::SetVariant(43),
    ] {
        assert_eq!(desk.enforce(action, Some(MAX_SCOPES)), Err(Reason::WrongScope));
    }
    // One that is there already is braked by itself.
    assert_eq!(desk.resume(None), Ok(false));
    assert_eq!(desk.stop(7), Ok(false));
    assert_eq!(
        (desk.phase(&scope(7)), desk.phase(&scope(8))),
        (Phase::Stopped, Phase::Idle)
    );
}

#[test]
fn scopes_that_nobody_uses_make_room_and_what_was_stopped_in_them_stays_away() {
    let mut desk = Desk::new();
    for at in 0..40 {
        assert_eq!(desk.stop(at), Ok(false));
        assert_eq!(desk.resume(Some(at)), Ok(false));
    }
    desk.fill(100..100 + MAX_SCOPES - 41);
    assert_eq!(desk.state.lanes.len(), MAX_SCOPES);
    let stopped_us = desk.state.lanes[&scope(39)].not_before_us;
    assert_eq!(desk.stop(50), Ok(false), "there was room");
    assert_eq!(desk.state.lanes.len(), MAX_SCOPES - 39);
    assert!(!desk.state.lanes.contains_key(&scope(39)));
    // What was signed before one of them was stopped does not act for its subjects now.
    assert!(desk.state.lanes[&Scope::TENANT].not_before_us >= stopped_us);
}

#[test]
fn a_late_stop_without_room_is_refused_where_the_tenant_was_resumed_since_and_not_taken_for_nothing() {
    let mut desk = Desk::new();
    for at in 0..MAX_ORDERS {
        assert_eq!(desk.stop(at), Ok(false));
    }
    let mut early = desk.order(EnforcementAction::EmergencyStop, Some(500));
    early.payload = Digest::of_bytes(b"early");
    let mut other = desk.order(EnforcementAction::EmergencyStop, Some(501));
    other.payload = Digest::of_bytes(b"other");
    // Overtaken, and nothing was resumed: it is taken, for the tenant.
    assert_eq!(desk.stop(3), Ok(false));
    assert!(desk.state.obey(early).unwrap().widened);
    assert_eq!(desk.phase(&Scope::TENANT), Phase::Stopped);
    assert_eq!(desk.resume(None), Ok(false));
    let refusal = desk.state.obey(other).unwrap_err();
    assert_eq!(refusal.reason, Reason::Stale);
    assert!(refusal.last_counter.is_some(), "it says how to get in: {refusal}");
    assert_eq!(
        (desk.phase(&Scope::TENANT), desk.phase(&scope(501))),
        (Phase::Idle, Phase::Idle)
    );
}

#[test]
fn a_wide_stop_that_comes_again_after_its_part_was_resumed_changes_nothing_and_puts_no_resume_off() {
    let mut desk = Desk::new();
    let part = Scope::parse(Some("in.t.t.s1.part.>"), &TenantId::new("t").unwrap()).unwrap();
    let mut wide = desk.order(EnforcementAction::EmergencyStop, Some(1));
    wide.payload = Digest::of_bytes(b"wide");
    assert!(desk.state.obey(wide.clone()).is_ok());
    let mut resume = desk.order(EnforcementAction::ResumeAdaptation, None);
    resume.control.scope = part.pattern().map(ToString::to_string);
    assert!(desk.state.obey(resume).is_ok());
    let before = desk.state.clone();
    wide.stored_at_us = desk.now_us + SECOND_US;
    assert_eq!(desk.state.obey(wide).unwrap_err().reason, Reason::Duplicate);
    assert_eq!(desk.state, before);
    assert_eq!(
        (desk.phase(&scope(1)), desk.phase(&part)),
        (Phase::Stopped, Phase::Idle)
    );
}

#[test]
fn when_a_thousand_scopes_were_resumed_the_oldest_resume_is_forgotten() {
    let mut desk = Desk::new();
    for at in 0..=MAX_SCOPES {
        // Each is unused once it is resumed, and goes when there is no room.
        assert_eq!(desk.resume(Some(at)), Ok(false), "{at}");
    }
    assert_eq!(desk.state.resumed.len(), MAX_SCOPES);
    assert!(!desk.state.resumed.contains_key(&scope(0)) && desk.state.resumed.contains_key(&scope(1)));
    // Of the forgotten one a late stop brakes: the safe side.
    let late = |at: usize| {
        let mut late = order(&Event::Stop, 7, 2 * SECOND_US);
        late.payload = Digest::of_bytes(b"late");
        late.control.scope = Some(name(at));
        late
    };
    assert_eq!(
        desk.state.clone().obey(late(1)).unwrap_err().reason,
        Reason::Stale
    );
    assert!(desk.state.obey(late(0)).is_ok());
    let lane = desk.state.lane(&scope(0));
    assert!(matches!(lane.mode, Mode::Stopped) && desk.state.has_order(&scope(0), Brake::Stop));
}
