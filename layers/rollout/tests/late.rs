//! Stops and pauses that a node takes while the log is away: they get to the log, and nothing that came before them ends them.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arqon_message::Subject;
use arqon_rollout::{
    Appended, Batch, Channel, Control, ControlLog, EnforcementAction, Envelope, Executor, KeyPair, LogError,
    LogFuture, MAX_ORDERS, MemoryLog, Phase, UpstreamMessage,
};
use arqon_rollout::{Reason, RolloutLayer};
use bytes::Bytes;

use self::node::{Node, catalog, enforce, tenant};

/// The log as a node reaches it that is cut off from it at times.
#[derive(Clone)]
struct Away {
    log: MemoryLog,
    away: Arc<AtomicBool>,
}

impl Away {
    fn gone<T: Send + 'static>() -> LogFuture<'static, T> {
        let error = LogError::Unavailable("away".into());
        Box::pin(std::future::ready(Err(error)))
    }
}

impl ControlLog for Away {
    fn append(&self, channel: Channel, envelope: Bytes) -> LogFuture<'_, Appended> {
        if self.away.load(Ordering::SeqCst) {
            return Self::gone();
        }
        self.log.append(channel, envelope)
    }

    fn read(&self, after: u64) -> LogFuture<'_, Batch> {
        Box::pin(async move {
            let batch = self.log.read(after).await;
            if self.away.load(Ordering::SeqCst) {
                return Self::gone().await;
            }
            batch
        })
    }

    fn report(&self, from: Channel, message: UpstreamMessage) -> LogFuture<'_, ()> {
        self.log.report(from, message)
    }
}

/// A node with a rollout for everyone, and what cuts it off.
async fn start() -> (Node, Arc<AtomicBool>) {
    let mut node = Node::start();
    node.run.abort();
    let away = Arc::new(AtomicBool::new(false));
    let link = Away {
        log: node.log.clone(),
        away: away.clone(),
    };
    let executor = Executor::builder(&node.config)
        .catalog(catalog())
        .clock(node.clock.clone())
        .log(link)
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .build()
        .unwrap();
    node.handle = executor.handle();
    node.run = tokio::spawn(executor.run());
    node.roll_out("p1", (100.0, 0.0, 100.0)).await;
    assert_eq!(node.phase(), Phase::Complete);
    (node, away)
}

fn stop_of(node: &Node, scope: &str) -> Control {
    node.control(enforce(EnforcementAction::EmergencyStop))
        .with_scope(scope)
}

/// Somebody else gives a message to the log.
async fn put(node: &Node, control: Control, key: &KeyPair) {
    let envelope = control.sign(&[key]).unwrap().to_json();
    let channel = Channel::Down(tenant("default"));
    node.log.append(channel, envelope.into()).await.unwrap();
}

/// Long enough for what is latched to be sent, and read.
async fn heal(node: &Node, away: &AtomicBool) {
    away.store(false, Ordering::SeqCst);
    for _ in 0..4 {
        node.clock.advance(Duration::from_secs(3));
        node.settle().await;
    }
    let newest = node.log.records().last().unwrap().seq;
    node.handle.reached(newest).await;
}

/// What another node makes of the log.
async fn elsewhere(node: &Node, scope: &str) -> Phase {
    let executor = Node::executor(&node.config, &node.clock, &node.log);
    let handle = executor.handle();
    let run = tokio::spawn(executor.run());
    handle.reached(node.log.records().last().unwrap().seq).await;
    run.abort();
    let status = handle.status();
    let of = |scope: &str| status.scope("default", scope).map(|scope| scope.phase);
    of(scope).or_else(|| of("")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_was_signed_before_a_stop_of_a_node_that_lags_does_not_end_it() {
    let (node, away) = start().await;
    away.store(true, Ordering::SeqCst);
    let resume = node.control(enforce(EnforcementAction::ResumeAdaptation));
    put(&node, resume, &node.ops).await;
    node.clock.advance(Duration::from_secs(10));
    node.handle.stop(&tenant("default"), "fire");
    assert_eq!(node.phase(), Phase::Stopped);
    heal(&node, &away).await;
    assert_eq!(node.phase(), Phase::Stopped, "the resume came before it");
    node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert_eq!(node.phase(), Phase::Complete, "this one after");
}

/// A stop that got to the log although its append failed for the node, a resume of it that was signed after it, and then, on
/// the node that has read neither, what `again` does.
async fn stopped_resumed_and(again: impl AsyncFnOnce(&Node)) -> (Node, Arc<AtomicBool>) {
    let (node, away) = start().await;
    away.store(true, Ordering::SeqCst);
    let stop = node.control(enforce(EnforcementAction::EmergencyStop));
    node.submit(stop.clone(), &node.sre).await.unwrap();
    put(&node, stop, &node.sre).await;
    node.clock.advance(Duration::from_secs(1));
    let resume = node.control(enforce(EnforcementAction::ResumeAdaptation));
    put(&node, resume, &node.ops).await;
    node.clock.advance(Duration::from_secs(1));
    again(&node).await;
    (node, away)
}

#[tokio::test(start_paused = true)]
async fn a_second_stop_of_an_outage_outlasts_a_resume_of_the_first_one() {
    let (node, away) = stopped_resumed_and(async |node: &Node| {
        let stop = node.control(enforce(EnforcementAction::EmergencyStop));
        let receipt = node.submit(stop, &node.sre).await.unwrap();
        assert_eq!((receipt.seq, receipt.state), (None, Phase::Stopped));
    })
    .await;
    heal(&node, &away).await;
    assert_eq!(
        (node.phase(), elsewhere(&node, "").await),
        (Phase::Stopped, Phase::Stopped)
    );
    node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert_eq!(node.phase(), Phase::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_the_program_itself_outlasts_a_resume_of_one_before_it() {
    let (node, away) = stopped_resumed_and(async |node: &Node| {
        node.handle.stop(&tenant("default"), "SIGUSR1");
    })
    .await;
    heal(&node, &away).await;
    assert_eq!(node.phase(), Phase::Stopped, "here");
    assert_ne!(elsewhere(&node, "").await, Phase::Stopped, "and nowhere else");
    node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert_eq!(node.phase(), Phase::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_s_own_stop_gets_to_the_log_also_when_scopes_without_room_hold_it_already() {
    let (node, away) = start().await;
    for at in 0..MAX_ORDERS {
        let stop = stop_of(&node, &format!("in.t.default.s{at}.>"));
        node.submit(stop, &node.sre).await.unwrap();
    }
    away.store(true, Ordering::SeqCst);
    let before = node.log.records().len();
    node.submit(stop_of(&node, "in.t.default.y.>"), &node.sre)
        .await
        .unwrap();
    let whole = node.control(enforce(EnforcementAction::EmergencyStop));
    node.submit(whole, &node.sre).await.unwrap();
    heal(&node, &away).await;
    assert_eq!(node.log.records().len(), before + 2);
    assert_eq!(elsewhere(&node, "").await, Phase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn every_stop_of_an_outage_gets_to_the_log_also_those_for_which_there_was_no_room() {
    let (node, away) = start().await;
    for at in 1..MAX_ORDERS {
        let stop = stop_of(&node, &format!("in.t.default.s{at}.>"));
        node.submit(stop, &node.sre).await.unwrap();
    }
    away.store(true, Ordering::SeqCst);
    let before = node.log.records().len();
    // The log has a resume before them, which the node has not read.
    let resume = node.control(enforce(EnforcementAction::ResumeAdaptation));
    put(&node, resume, &node.ops).await;
    // The 64th has room, the 65th and 66th have none.
    for (at, widened) in [("x", false), ("y", true), ("z", true)] {
        let stop = stop_of(&node, &format!("in.t.default.{at}.>"));
        let receipt = node.submit(stop, &node.sre).await.unwrap();
        assert_eq!((receipt.seq, receipt.widened), (None, widened), "{at}");
    }
    assert_eq!(node.phase(), Phase::Stopped);
    heal(&node, &away).await;
    assert_eq!(node.log.records().len(), before + 1 + 3, "all of them, once");
    assert_eq!(node.phase(), Phase::Stopped, "the resume came before them");
    for scope in ["in.t.default.x.>", "in.t.default.y.>", "in.t.default.z.>"] {
        assert_eq!(elsewhere(&node, scope).await, Phase::Stopped, "{scope}");
    }
    node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert_eq!(node.phase(), Phase::Idle, "once the log has all of them");
}

#[tokio::test(start_paused = true)]
async fn a_record_with_the_payload_of_a_stop_that_the_log_refuses_does_not_keep_the_stop_from_the_log() {
    let (node, away) = start().await;
    let before = node.log.records().len();
    away.store(true, Ordering::SeqCst);
    let stop = node.control(enforce(EnforcementAction::EmergencyStop));
    let stranger = KeyPair::generate("sre-1").unwrap();
    let genuine = stop.sign(&[&node.sre]).unwrap().to_json();
    node.submit(stop.clone(), &node.sre).await.unwrap();
    // Forged; and the very bytes where they do not belong.
    put(&node, stop, &stranger).await;
    let up = Channel::Up(tenant("default"), "gw-9".to_owned().try_into().unwrap());
    node.log.append(up, genuine.into()).await.unwrap();
    heal(&node, &away).await;
    assert_eq!(node.log.records().len(), before + 3);
    assert_eq!(
        (node.phase(), elsewhere(&node, "").await),
        (Phase::Stopped, Phase::Stopped)
    );
    node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert_eq!(
        (node.phase(), elsewhere(&node, "").await),
        (Phase::Idle, Phase::Idle)
    );
}

/// How many orders one latch keeps, beside its own.
const KEPT: usize = 64;

/// Stops of as many scopes as may have one of their own.
async fn stop_all_there_is_room_for(node: &Node) {
    for at in 0..MAX_ORDERS {
        let stop = stop_of(node, &format!("in.t.default.s{at}.>"));
        node.submit(stop, &node.sre).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_room_in_an_outage_gets_to_the_log_or_is_an_error() {
    let (node, away) = start().await;
    stop_all_there_is_room_for(&node).await;
    away.store(true, Ordering::SeqCst);
    // The log has room for all of them by now, which the node has not read.
    for at in 0..MAX_ORDERS {
        let resume = node.control(enforce(EnforcementAction::ResumeAdaptation));
        put(
            &node,
            resume.with_scope(format!("in.t.default.s{at}.>")),
            &node.ops,
        )
        .await;
    }
    let scope = |at: usize| format!("in.t.default.n{at}.>");
    for at in 1..=KEPT + 2 {
        let told = node.submit(stop_of(&node, &scope(at)), &node.sre).await;
        if at > KEPT {
            assert_eq!(told, Err(Reason::Crowded), "{at} of {KEPT}");
            continue;
        }
        let told = told.unwrap();
        let acknowledged = (told.seq, told.duplicate, told.widened, told.state);
        assert_eq!(
            acknowledged,
            (None, false, true, Phase::Stopped),
            "{at} of {KEPT}"
        );
    }
    assert_eq!(node.phase(), Phase::Stopped, "whoever was told what");
    let before = node.log.records().len();
    heal(&node, &away).await;
    assert_eq!(node.log.records().len(), before + KEPT);
    let (ends, other) = (
        node.log.records().last().unwrap().seq,
        Node::executor(&node.config, &node.clock, &node.log),
    );
    let (handle, run) = (other.handle(), tokio::spawn(other.run()));
    handle.reached(ends).await;
    run.abort();
    let status = handle.status();
    let stopped = |at: usize| status.scope("default", &scope(at)).map(|of| of.phase) == Some(Phase::Stopped);
    let acts: Vec<usize> = (1..=KEPT + 2).filter(|at| stopped(*at)).collect();
    assert_eq!(
        acts,
        (1..=KEPT).collect::<Vec<_>>(),
        "on a node that was never told"
    );
    // As it was told to do.
    let again = node
        .submit(stop_of(&node, &scope(KEPT + 1)), &node.sre)
        .await
        .unwrap();
    assert!(again.seq.is_some(), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn every_stop_of_one_scope_in_an_outage_gets_to_the_log_or_is_an_error() {
    let (node, away) = start().await;
    away.store(true, Ordering::SeqCst);
    let before = node.log.records().len();
    for at in 0..KEPT + 3 {
        let stop = node.control(enforce(EnforcementAction::EmergencyStop));
        let told = node.submit(stop, &node.sre).await;
        let expected = if at > KEPT {
            Err(Reason::Crowded)
        } else {
            Ok((None, false))
        };
        assert_eq!(told.map(|told| (told.seq, told.duplicate)), expected, "{at}");
    }
    heal(&node, &away).await;
    assert_eq!(node.log.records().len(), before + 1 + KEPT);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_s_stops_that_wait_are_bounded_and_the_first_of_a_scope_is_always_kept() {
    let (node, away) = start().await;
    away.store(true, Ordering::SeqCst);
    let before = node.log.records().len();
    for scope in 0..4 {
        for _ in 0..=KEPT {
            let stop = stop_of(&node, &format!("in.t.default.s{scope}.>"));
            node.submit(stop, &node.sre).await.unwrap();
        }
    }
    let again = async || {
        let stop = stop_of(&node, "in.t.default.s9.>");
        node.submit(stop, &node.sre).await.map(|told| told.seq)
    };
    assert_eq!((again().await, again().await), (Ok(None), Err(Reason::Crowded)));
    heal(&node, &away).await;
    assert_eq!(node.log.records().len(), before + 4 * (KEPT + 1) + 1);
}

#[tokio::test(start_paused = true)]
async fn a_resume_of_what_the_log_has_judged_leaves_what_waits_for_it() {
    let (node, away) = start().await;
    stop_all_there_is_room_for(&node).await;
    away.store(true, Ordering::SeqCst);
    let resume = || node.control(enforce(EnforcementAction::ResumeAdaptation));
    // The log has a later resume before the tenant's stop, so refuses that; then one more, and not the stop that waits.
    let whole = node.control(enforce(EnforcementAction::EmergencyStop));
    node.submit(whole.clone(), &node.sre).await.unwrap();
    put(&node, resume(), &node.ops).await;
    put(&node, whole, &node.sre).await;
    node.submit(stop_of(&node, "in.t.default.y.>"), &node.sre)
        .await
        .unwrap();
    put(&node, resume(), &node.ops).await;
    let before = node.log.records().len();
    heal(&node, &away).await;
    let more = node.log.records().split_off(before);
    let scopes: Vec<_> = more
        .iter()
        .map(|record| {
            Envelope::parse(&record.envelope)
                .unwrap()
                .control()
                .unwrap()
                .scope
        })
        .collect();
    assert!(
        scopes.contains(&Some("in.t.default.y.>".to_owned())),
        "{scopes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_log_had_when_it_was_last_read_does_not_make_a_stop_needless() {
    let (node, away) = start().await;
    let stop = || node.control(enforce(EnforcementAction::EmergencyStop));
    node.submit(stop(), &node.sre).await.unwrap();
    away.store(true, Ordering::SeqCst);
    let resume = node.control(enforce(EnforcementAction::ResumeAdaptation));
    put(&node, resume, &node.ops).await;
    node.clock.advance(Duration::from_secs(4));
    for at in 0..20 {
        let told = node.submit(stop(), &node.sre).await.unwrap();
        assert!(!told.duplicate, "{at}");
    }
    heal(&node, &away).await;
    assert_eq!(
        (node.phase(), elsewhere(&node, "").await),
        (Phase::Stopped, Phase::Stopped)
    );
}

/// Whether a user in a scope gets the variant.
fn is_served(node: &Node, subject: &str) -> bool {
    let layer = RolloutLayer::new(&node.handle).with_key("header:x-user".parse().unwrap());
    let (mut headers, mut extensions) = (http::HeaderMap::new(), http::Extensions::new());
    headers.insert("x-user", "7".parse().unwrap());
    extensions.insert(Subject::parse(subject).unwrap());
    !layer.variant(&headers, &extensions).unwrap().baseline
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_a_part_that_was_resumed_holds_it_also_when_there_is_no_room() {
    for program in [false, true] {
        let (node, away) = start().await;
        let part = "in.t.default.z.>";
        let digest = node.propose("z", 42, Some(part)).await;
        node.approve("z", &digest, (100.0, 0.0, 100.0)).await.unwrap();
        node.handle.stop(&tenant("default"), "SIGUSR1");
        node.clock.advance(Duration::from_secs(1));
        let resume = node.control(enforce(EnforcementAction::ResumeAdaptation));
        node.submit(resume.with_scope(part), &node.ops).await.unwrap();
        assert!(is_served(&node, "in.t.default.z.a") && !is_served(&node, "in.t.default.y.a"));
        stop_all_there_is_room_for(&node).await;
        away.store(true, Ordering::SeqCst);
        if program {
            node.handle.stop(&tenant("default"), "SIGUSR1");
        } else {
            let told = node.submit(stop_of(&node, part), &node.sre).await.unwrap();
            assert_eq!((told.seq, told.widened, told.state), (None, true, Phase::Stopped));
        }
        assert!(!is_served(&node, "in.t.default.z.a"), "program: {program}");
    }
}
