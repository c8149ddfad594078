//! The fold against an independent model, and its invariants after every step.

mod limits;
mod model;
mod scopes;

use std::{collections::HashMap, sync::LazyLock};

use arqon_message::TenantId;

use self::model::{Event, Model};
use super::{Issuer, Order};
use crate::{
    Accepted, AlertSeverity, Catalog, Control, Digest, DownstreamMessage, EnforcementAction, KeySet, Phase,
    Policy, Proposal, Reason, Refusal, RolloutConfig, Scope, State, UpstreamMessage, VariantSpec,
    assignment::CoinFlip,
};

/// How many sequences of how many events: 10,000 where `CI` is set, which is half a minute of one core without
/// optimisation, else 1,000.
fn sequences() -> u64 {
    if std::env::var_os("CI").is_some() {
        10_000
    } else {
        1_000
    }
}

const EVENTS: usize = 200;

fn catalog(version: u64, full: bool) -> Catalog {
    let spec = |id: u32| VariantSpec {
        id,
        name: format!("v{id}"),
        params: Default::default(),
    };
    let variants = if full {
        vec![spec(1), spec(42), spec(43)]
    } else {
        vec![spec(1)]
    };
    Catalog::new(version, 1, variants).unwrap()
}

pub(crate) fn genesis() -> State {
    let policy = Policy {
        allow_unsigned: true,
        ..Policy::strict(TenantId::new("t").unwrap())
    };
    let keys = KeySet {
        epoch: 1,
        threshold: 1,
        keys: vec![],
        stop_keys: vec![],
        node_keys: vec![],
    };
    State::genesis(policy, keys, catalog(2, true))
}

fn proposal(id: u8) -> Proposal {
    Proposal {
        id: format!("p{id}"),
        variant_id: Some(42),
        confidence: 0.5,
        ..Default::default()
    }
}

/// The digest of a proposal, computed once.
fn digest(id: u8) -> String {
    static DIGESTS: LazyLock<Vec<String>> = LazyLock::new(|| {
        (0..=u8::MAX)
            .map(|id| Digest::of_proposal(&proposal(id)).unwrap().to_string())
            .collect()
    });
    DIGESTS[usize::from(id)].clone()
}

/// The order of an event, as `authenticate` would make it.
fn order(event: &Event, counter: u64, now_us: u64) -> Order {
    let enforce = |action| DownstreamMessage::Enforce {
        action,
        reason: String::new(),
    };
    let mut bytes = None;
    let message = match *event {
        Event::Wait => enforce(EnforcementAction::SetVariant(99)),
        Event::Propose { id } => {
            let control = Control::new("t", now_us, u64::MAX / 2, proposal(id)).with_counter(counter);
            let payload = Digest::of_bytes(&counter.to_be_bytes());
            let issuer = Issuer::Node("node".to_owned());
            return Order {
                issuer,
                signed_by: vec![],
                control,
                payload,
                stored_at_us: now_us,
                catalog: None,
                keys: None,
            };
        }
        Event::Approve { id, ramp, honest, .. } => {
            let digest = digest(id);
            DownstreamMessage::Approval {
                proposal_id: format!("p{id}"),
                proposal_digest: if honest {
                    digest
                } else {
                    digest.replace("sha256:", "sha256:0")
                },
                rollout: ramp.map(
                    |(initial_percent, increment_per_minute, max_percent)| RolloutConfig {
                        initial_percent,
                        increment_per_minute,
                        max_percent,
                    },
                ),
            }
        }
        Event::Pause => enforce(EnforcementAction::PauseAdaptation),
        Event::Resume => enforce(EnforcementAction::ResumeAdaptation),
        Event::Force => enforce(EnforcementAction::SetVariant(43)),
        Event::Stop => enforce(EnforcementAction::EmergencyStop),
        Event::Catalog { version, full } => {
            bytes = Some(catalog(version, full).to_json().into());
            DownstreamMessage::CatalogUpdate {
                version,
                source_uri: "kv://a/b".to_owned(),
                digest: None,
            }
        }
    };
    let mut control = Control::new("t", now_us, u64::MAX / 2, message).with_counter(counter);
    control.supersede = matches!(event, Event::Approve { supersede: true, .. });
    let payload = Digest::of_bytes(&counter.to_be_bytes());
    Order {
        issuer: Issuer::Operators,
        signed_by: vec![],
        control,
        payload,
        stored_at_us: now_us,
        catalog: bytes,
        keys: None,
    }
}

fn check_invariants(
    before: &State,
    after: &State,
    event: &Event,
    verdict: &Result<Accepted, Refusal>,
    trace: &str,
) {
    let now = after.clock_us;
    let (old, new) = (&before.lanes[&Scope::TENANT], &after.lanes[&Scope::TENANT]);
    let (was, is) = (old.percent(now), new.percent(now));
    let max = new.rollout().map_or(0.0, |rollout| rollout.config.max_percent);
    assert!((0.0..=max).contains(&is), "I1: {is} of {max}\n{trace}");
    let may_raise = matches!(event, Event::Approve { .. } | Event::Resume) && verdict.is_ok();
    assert!(is <= was || may_raise, "I2: {was} to {is}\n{trace}");
    if matches!(new.phase(now), Phase::Paused | Phase::Stopped) {
        let later = new.percent(now + 3_600_000_000);
        assert!(later <= is, "I3: {is} to {later}\n{trace}");
    }
    if new.phase(now) == Phase::Stopped {
        let base = new.base(&after.catalog, now.into(), u64::MAX);
        assert!(is <= 0.0 && base.baseline, "I4\n{trace}");
    }
    if verdict.is_err() {
        let same = (
            &before.lanes,
            &before.pending,
            &before.tombstones,
            &before.catalog,
            &before.parked_catalog,
        ) == (
            &after.lanes,
            &after.pending,
            &after.tombstones,
            &after.catalog,
            &after.parked_catalog,
        );
        assert!(same, "I6\n{trace}");
    }
    if let Some(rollout) = new.rollout() {
        assert!(!after.is_tombstoned(&rollout.proposal.id), "I8\n{trace}");
    }
    assert!(
        before.tombstones.keys().all(|id| after.is_tombstoned(id)),
        "I8\n{trace}"
    );
}

type Seen = HashMap<(Phase, bool), u64>;

#[test]
fn the_fold_agrees_with_an_independent_model() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let seen = std::thread::scope(|scope| {
        let run = |first| {
            scope.spawn(move || {
                (first..sequences())
                    .step_by(threads as usize)
                    .map(sequence)
                    .fold(Seen::new(), merge)
            })
        };
        let runs: Vec<_> = (0..threads).map(run).collect();
        runs.into_iter()
            .map(|run| run.join().unwrap())
            .fold(Seen::new(), merge)
    });
    for phase in Phase::ALL {
        for accepted in [true, false] {
            let count = seen.get(&(phase, accepted)).copied().unwrap_or_default();
            assert!(
                count > sequences() / 100,
                "{phase}, accepted {accepted}: only {count} steps tried it"
            );
        }
    }
}

fn merge(mut all: Seen, one: Seen) -> Seen {
    one.into_iter()
        .for_each(|(key, count)| *all.entry(key).or_default() += count);
    all
}

/// One sequence of random events, compared after each.
fn sequence(seed: u64) -> Seen {
    let coin = CoinFlip::seeded(seed);
    let (mut state, mut model, mut trace, mut seen) = (genesis(), Model::new(), Vec::new(), Seen::new());
    for step in 0..EVENTS {
        let event = Event::random(&coin, model.version);
        let wait_us = (coin.flip() % 120) * 1_000_000;
        trace.push((wait_us, event.clone()));
        let shown = || format!("seed {seed}, step {step}: {trace:?}");
        state.clock_us += wait_us;
        state.seq += 1;
        state.settle();
        let before = (step % 4 == 0).then(|| state.clone());
        let counter = 1_000 + u64::try_from(step).unwrap();
        let verdict = state.obey(order(&event, counter, state.clock_us));
        let expected = model.step(&event, wait_us);
        assert_eq!(verdict.is_ok(), expected, "{verdict:?}\n{}", shown());
        let lane = &state.lanes[&Scope::TENANT];
        let phase = lane.phase(state.clock_us);
        assert_eq!(phase, model.phase(), "{}", shown());
        let (percent, wanted) = (lane.percent(state.clock_us), model.percent());
        assert!(
            (percent - wanted).abs() < 1e-9,
            "{percent}, not {wanted}\n{}",
            shown()
        );
        if let Some(before) = before {
            check_invariants(&before, &state, &event, &verdict, &format!("{:?}", trace.last()));
        }
        *seen.entry((phase, verdict.is_ok())).or_default() += 1;
    }
    seen
}

#[test]
fn an_issuer_s_counters_strictly_increase() {
    let mut state = genesis();
    let at = |counter, event| order(&event, counter, 0);
    assert!(state.obey(at(5, Event::Pause)).is_ok());
    let reason = |state: &mut State, order| state.obey(order).unwrap_err().reason;
    assert_eq!(reason(&mut state, at(5, Event::Pause)), Reason::Duplicate);
    let mut other = at(5, Event::Resume);
    other.payload = Digest::of_bytes(b"other");
    assert_eq!(reason(&mut state, other), Reason::Equivocation);
    assert_eq!(reason(&mut state, at(4, Event::Resume)), Reason::Stale);
    // A node's counter is its own.
    assert_eq!(
        reason(&mut state, at(1, Event::Propose { id: 1 })),
        Reason::Frozen
    );
    assert!(state.obey(at(6, Event::Resume)).is_ok());
    // What was refused once is spent.
    assert_eq!(reason(&mut state, at(1, Event::Propose { id: 1 })), Reason::Spent);
    assert!(state.obey(at(2, Event::Propose { id: 1 })).is_ok());
}

#[test]
fn a_resume_signed_before_the_stop_was_recorded_does_not_end_it() {
    let mut state = genesis();
    state.clock_us = 1_000;
    let late_resume = order(&Event::Resume, 2, 500);
    let mut stop = order(&Event::Stop, 1, 900);
    stop.issuer = Issuer::StopKey("sre".to_owned());
    assert!(state.obey(stop).is_ok());
    assert_eq!(state.obey(late_resume).unwrap_err().reason, Reason::Stale);
    assert!(state.obey(order(&Event::Resume, 3, 1_000)).is_ok());
    assert_eq!(state.lanes[&Scope::TENANT].phase(1_000), Phase::Idle);
}

#[test]
fn a_sixteenth_proposal_waits_and_a_seventeenth_is_refused() {
    let mut state = genesis();
    for id in 0..16 {
        assert!(
            state
                .obey(order(&Event::Propose { id }, u64::from(id) + 1, 0))
                .is_ok()
        );
    }
    let mut other = order(&Event::Propose { id: 17 }, 1, 0);
    let refusal = state.obey(order(&Event::Propose { id: 16 }, 17, 0)).unwrap_err();
    assert_eq!(refusal.reason, Reason::PendingFull);
    other.issuer = Issuer::Node("another".to_owned());
    assert!(state.obey(other).is_ok(), "another node has its own sixteen");
    assert_eq!(state.pending.len(), 17);
}

#[test]
fn effective_until_returns_to_baseline_by_itself() {
    let mut state = genesis();
    let approve = Event::Approve {
        id: 1,
        ramp: Some((50.0, 0.0, 50.0)),
        honest: true,
        supersede: false,
    };
    assert!(state.obey(order(&Event::Propose { id: 1 }, 1, 0)).is_ok());
    let mut approval = order(&approve, 1, 0);
    approval.control.effective_until_us = Some(1_000);
    assert!(state.obey(approval).is_ok());
    let lane = &state.lanes[&Scope::TENANT];
    assert_eq!(
        (lane.phase(999), lane.phase(1_000)),
        (Phase::Holding, Phase::Idle)
    );
    assert_eq!((lane.percent(999), lane.percent(1_000)), (50.0, 0.0));
    // A node that lost contact before the end does not go on after it.
    assert!(lane.served_percent(1_000, 500) <= 0.0);
    state.clock_us = 1_000;
    state.settle();
    assert!(state.is_tombstoned("p1"));
}

#[test]
fn telemetry_and_alerts_are_no_control_messages() {
    let alert = UpstreamMessage::Alert {
        timestamp_us: 0,
        severity: AlertSeverity::Info,
        message: String::new(),
        context: HashMap::new(),
    };
    let mut order = order(&Event::Stop, 1, 0);
    order.control.message = alert.into();
    assert_eq!(genesis().obey(order).unwrap_err().reason, Reason::Channel);
}
