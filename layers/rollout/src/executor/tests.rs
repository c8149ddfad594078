//! One log, one state, however it is read; and how much work many scopes are.

mod behind;
mod current;
mod ends;
mod kept;
mod nodes;
mod recover;

use arqon_message::Subject;

use super::*;
use crate::{
    Control, Digest, DownstreamMessage, EnforcementAction, KeyPair, ManualClock, Proposal, RolloutConfig,
    RolloutLayer, assignment::CoinFlip, scope::COMPARED, state::Lane,
};

const START_US: u64 = 1_700_000_000_000_000;
const SECOND_US: u64 = 1_000_000;

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn keys() -> (KeyPair, KeyPair) {
    (
        KeyPair::from_seed("ops", [1; 32]),
        KeyPair::from_seed("sre", [2; 32]),
    )
}

fn config() -> Config {
    let (ops, sre) = keys();
    Config {
        enabled: true,
        tenants: vec!["t".to_owned()],
        keys: vec![ops.public().to_config()],
        stop_keys: vec![sre.public().to_config()],
        key: "header:x-user".to_owned(),
        ..Config::default()
    }
}

fn executor() -> Executor {
    executor_of(&config())
}

fn executor_of(config: &Config) -> Executor {
    let catalog =
        br#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"},{"id":42,"name":"fast"}]}"#;
    let builder = Executor::builder(config).catalog(Catalog::parse(catalog).unwrap());
    // Long after all of it.
    let clock = ManualClock::new(START_US + 3_600 * SECOND_US);
    builder
        .clock(clock)
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .build()
        .unwrap()
}

fn record(seq: u64, at_us: u64, control: &Control, key: &KeyPair) -> Record {
    Record {
        seq,
        received_at_us: at_us,
        channel: Channel::Down(tenant()),
        envelope: control.sign(&[key]).unwrap().to_json().into_bytes().into(),
        catalog: None,
    }
}

fn batch(records: &[Record]) -> Batch {
    Batch {
        records: records.to_vec(),
        ..Batch::default()
    }
}

const SCOPES: [&str; 6] = [
    "",
    "in.t.t.>",
    "in.t.t.a.>",
    "in.t.t.*.b",
    "in.t.t.a.b",
    "in.t.t.b.>",
];

/// A log as several people with several clocks write it: much of it is refused.
fn log(coin: &CoinFlip) -> Vec<Record> {
    let (ops, sre) = keys();
    let below = |limit: u64| coin.flip() % limit;
    let (mut at_us, mut records) = (START_US, Vec::new());
    for seq in 1..=24 {
        at_us += below(4) * SECOND_US;
        let (what, scope) = (below(10), SCOPES[below(SCOPES.len() as u64) as usize]);
        let scope = (!scope.is_empty()).then(|| scope.to_owned());
        let message = match what {
            0 => {
                // A proposal, and its approval as the next one.
                let proposal = Proposal {
                    id: format!("p{seq}"),
                    variant_id: Some(42),
                    confidence: 0.5,
                    scope,
                    ..Default::default()
                };
                let digest = Digest::of_proposal(&proposal).unwrap().to_string();
                let proposed = Control::new("t", at_us, 60 * SECOND_US, proposal);
                let mut proposed = record(2 * seq, at_us, &proposed, &ops);
                proposed.channel = Channel::Up(tenant(), "node".parse_node());
                records.push(proposed);
                let rollout = Some(RolloutConfig {
                    initial_percent: 50.0,
                    increment_per_minute: 0.0,
                    max_percent: 50.0,
                });
                let approval = DownstreamMessage::Approval {
                    proposal_id: format!("p{seq}"),
                    proposal_digest: digest,
                    rollout,
                };
                let mut approval = Control::new("t", at_us, 60 * SECOND_US, approval);
                approval.supersede = true;
                records.push(record(2 * seq + 1, at_us, &approval, &ops));
                continue;
            }
            1..=3 => EnforcementAction::EmergencyStop,
            4..=6 => EnforcementAction::PauseAdaptation,
            _ => EnforcementAction::ResumeAdaptation,
        };
        let key = if what < 7 && below(2) == 0 { &sre } else { &ops };
        // Up to 40 s ahead or behind, and at times expired.
        let issued_us = at_us + below(80) * SECOND_US - 40 * SECOND_US;
        let reason = if below(20) == 0 {
            "x".repeat(5_000)
        } else {
            String::new()
        };
        let enforce = DownstreamMessage::Enforce {
            action: message,
            reason,
        };
        let mut control = Control::new("t", issued_us, (1 + below(60)) * SECOND_US, enforce);
        control.scope = scope;
        if below(3) == 0 {
            control.counter = at_us - below(60) * SECOND_US;
        }
        records.push(record(2 * seq, at_us, &control, key));
        if below(6) == 0 {
            // The very bytes again.
            let again = records[below(records.len() as u64) as usize].clone();
            let (seq, received_at_us) = (2 * seq + 1, at_us);
            records.push(Record {
                seq,
                received_at_us,
                ..again
            });
        }
    }
    records
}

trait ParseNode {
    fn parse_node(&self) -> crate::NodeId;
}

impl ParseNode for str {
    fn parse_node(&self) -> crate::NodeId {
        crate::NodeId::new(self).unwrap()
    }
}

/// What people and requests see of a node.
fn seen(executor: &Executor) -> String {
    let (handle, mut text) = (executor.handle(), String::new());
    let live = executor.shared.lock();
    assert!(
        live.latches.is_empty(),
        "all of it was judged: {:?}",
        live.latches
    );
    drop(live);
    for scope in &handle.status().tenants[0].scopes {
        text.push_str(&format!(
            "`{}` {} {} latched {} by {:?} joins {:?} since {} {}\n",
            scope.scope,
            scope.phase,
            scope.percent,
            scope.latched,
            scope.held_by,
            scope.joins,
            scope.since_us,
            scope.reason
        ));
    }
    let layer = RolloutLayer::new(&handle);
    for subject in [
        "in.t.t.a.b",
        "in.t.t.a.c",
        "in.t.t.b.b",
        "in.t.t.c.b",
        "in.t.t.c.c.c",
    ] {
        for user in 0..8 {
            let (mut headers, mut extensions) = (http::HeaderMap::new(), http::Extensions::new());
            headers.insert("x-user", user.to_string().parse().unwrap());
            extensions.insert(Subject::parse(subject).unwrap());
            text.push_str(&layer.variant(&headers, &extensions).unwrap().name);
            text.push(' ');
        }
    }
    text
}

#[tokio::test]
async fn one_log_is_one_state_record_by_record_in_one_batch_and_replayed() {
    let (mut refused, mut stopped) = (0, 0);
    for seed in 0..60 {
        let coin = CoinFlip::seeded(seed);
        let log = log(&coin);
        let (singly, at_once, pieces, replayed) = (executor(), executor(), executor(), executor());
        for record in &log {
            singly.take(batch(std::slice::from_ref(record))).await;
        }
        at_once.take(batch(&log)).await;
        for piece in log.chunks(1 + (coin.flip() % 7) as usize) {
            pieces.take(batch(piece)).await;
        }
        replayed.recover(log.clone());
        let expected = seen(&replayed);
        for (how, executor) in [("singly", singly), ("at once", at_once), ("in pieces", pieces)] {
            assert_eq!(seen(&executor), expected, "seed {seed}, {how}");
            assert_eq!(
                executor.state(&tenant()),
                replayed.state(&tenant()),
                "seed {seed}, {how}"
            );
        }
        let live = replayed.shared.lock();
        refused += live
            .verdicts
            .iter()
            .filter(|(_, verdict)| verdict.is_err())
            .count();
        stopped += usize::from(expected.contains("stopped"));
    }
    assert!(
        refused > 200 && stopped > 10,
        "{refused} refused, {stopped} logs end stopped"
    );
}

/// A proposal and its approval for a share that stays as it is.
fn rolled_out(percent: f64) -> [Record; 2] {
    let (ops, _) = keys();
    let proposal = Proposal {
        id: "p".to_owned(),
        variant_id: Some(42),
        confidence: 0.5,
        ..Default::default()
    };
    let digest = Digest::of_proposal(&proposal).unwrap().to_string();
    let mut proposed = record(
        1,
        START_US,
        &Control::new("t", START_US, SECOND_US, proposal),
        &ops,
    );
    proposed.channel = Channel::Up(tenant(), "node".parse_node());
    let approval = DownstreamMessage::Approval {
        proposal_id: "p".to_owned(),
        proposal_digest: digest,
        rollout: Some(RolloutConfig {
            initial_percent: percent,
            increment_per_minute: 0.0,
            max_percent: percent,
        }),
    };
    let approval = record(
        2,
        START_US,
        &Control::new("t", START_US, SECOND_US, approval),
        &ops,
    );
    [proposed, approval]
}

#[tokio::test]
async fn a_thousand_scopes_are_compared_when_the_state_changes_and_not_every_tick() {
    let executor = executor();
    let (_, sre) = keys();
    let mut at_us = START_US;
    executor.take(batch(&rolled_out(50.0))).await;
    let scope = |at: u64| format!("in.t.t.s{at}.>");
    {
        let mut live = executor.shared.lock();
        let state = live.states.get_mut(&tenant()).unwrap();
        for at in 0..1_000 {
            let scope = Scope::parse(Some(&scope(at)), &tenant()).unwrap();
            state.lanes.insert(scope, Lane::idle());
        }
    }
    let stops: Vec<Record> = (0..60)
        .map(|at| {
            at_us += SECOND_US;
            let stop = DownstreamMessage::Enforce {
                action: EnforcementAction::EmergencyStop,
                reason: "r".repeat(4_096),
            };
            let mut control = Control::new("t", at_us, SECOND_US, stop);
            control.scope = Some(scope(at));
            record(3 + at, at_us, &control, &sre)
        })
        .collect();
    COMPARED.set(0);
    executor.take(batch(&stops)).await;
    let folded = COMPARED.replace(0);
    for _ in 0..10 {
        executor.tick().await;
    }
    let ticked = COMPARED.replace(0);
    println!("60 stops among 1,000 scopes: {folded} comparisons; ten ticks: {ticked}");
    assert_eq!(ticked, 0, "nothing has changed");
    // Published for every record, the latches alone would be some ten million.
    assert!(folded < 6_000_000, "{folded}");
    assert_eq!(
        executor
            .handle()
            .status()
            .scope("t", "in.t.t.s7.>")
            .unwrap()
            .phase
            .as_str(),
        "stopped"
    );
    // A reason is kept once, however many scopes it holds.
    let state = executor.state(&tenant()).unwrap();
    assert!(state.lanes().len() <= crate::MAX_SCOPES);
}

#[tokio::test(start_paused = true)]
async fn one_latched_scope_too_many_holds_the_tenant_on_this_node_until_a_resume_of_it() {
    let executor = executor();
    let (ops, sre) = keys();
    let handle = executor.handle();
    let mut at_us = START_US + 3_600 * SECOND_US;
    let mut order = |action: EnforcementAction, scope: Option<String>, key: &KeyPair| {
        at_us += 1;
        let reason = String::new();
        let enforce = DownstreamMessage::Enforce { action, reason };
        let mut control = Control::new("t", at_us, 60 * SECOND_US, enforce);
        control.scope = scope;
        control.sign(&[key]).unwrap().to_json()
    };
    let scoped = |at: usize| Some(format!("in.t.t.s{at}.>"));
    // Nobody reads the log: all of it is latched here alone.
    for at in 0..=crate::MAX_ORDERS {
        let stop = order(EnforcementAction::EmergencyStop, scoped(at), &sre);
        let receipt = handle.submit(stop.as_bytes()).await.unwrap();
        assert_eq!(receipt.widened, at == crate::MAX_ORDERS, "{at}");
        let phase = handle.status().scope("t", "").unwrap().phase.as_str();
        assert_eq!(phase, if receipt.widened { "stopped" } else { "idle" }, "{at}");
    }
    let of = |handle: &crate::Handle| handle.status().tenants[0].clone();
    let told = of(&handle);
    assert_eq!((told.orders.len(), told.alone), (crate::MAX_ORDERS + 1, 1));
    let alone: Vec<_> = told
        .orders
        .iter()
        .filter(|order| order.refused.is_some())
        .collect();
    assert_eq!((alone.len(), alone[0].scope.as_str()), (1, ""));
    // The log has them all, and widens the last one as well.
    let records = || async {
        let after = executor.shared.lock().seq;
        executor
            .take(executor.shared.log.read(after).await.unwrap())
            .await;
    };
    records().await;
    let told = of(&handle);
    assert_eq!((told.orders.len(), told.alone), (crate::MAX_ORDERS + 2, 1));
    assert!(told.decisions.last().unwrap().widened);
    // Said again and again it does not fill the log.
    let length = async || executor.shared.log.read(0).await.unwrap().records.len();
    let before = length().await;
    for _ in 0..40 {
        let stop = order(EnforcementAction::EmergencyStop, scoped(crate::MAX_ORDERS), &sre);
        assert!(handle.submit(stop.as_bytes()).await.unwrap().widened);
    }
    let more = length().await - before;
    assert!(more <= 16, "{more} stops that stop nothing more");
    records().await;
    let resume = order(EnforcementAction::ResumeAdaptation, None, &ops);
    let _late = handle.submit(resume.as_bytes()).await;
    records().await;
    let told = of(&handle);
    assert_eq!((told.orders.len(), told.alone), (crate::MAX_ORDERS, 0));
    assert_eq!(handle.status().scope("t", "").unwrap().phase.as_str(), "idle");
}
