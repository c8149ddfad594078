//! Several nodes on one log: the same answer everywhere, and less when cut off.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use std::time::Duration;

use arqon_rollout::{
    Appended, Batch, Channel, Clock as _, Config, ControlLog, EnforcementAction, Executor, KeyPair,
    LogFuture, MemoryLog, Phase, UpstreamMessage,
};
use bytes::Bytes;
use tokio::sync::watch;

use self::node::{Node, catalog, tenant};

/// The shared log as one node reaches it.
struct Link {
    log: MemoryLog,
    up: watch::Receiver<bool>,
}

impl ControlLog for Link {
    fn append(&self, channel: Channel, envelope: Bytes) -> LogFuture<'_, Appended> {
        self.log.append(channel, envelope)
    }

    fn read(&self, after: u64) -> LogFuture<'_, Batch> {
        Box::pin(async move {
            let mut up = self.up.clone();
            loop {
                let _ = up.wait_for(|up| *up).await;
                tokio::select! {
                    batch = self.log.read(after) => return batch,
                    _ = up.wait_for(|up| !up) => {}
                }
            }
        })
    }

    fn report(&self, from: Channel, message: UpstreamMessage) -> LogFuture<'_, ()> {
        self.log.report(from, message)
    }
}

/// Three nodes of one config, and what cuts each off.
fn cluster() -> Vec<(Node, watch::Sender<bool>)> {
    let first = Node::start();
    let names = ["gw-1", "gw-2", "gw-3"];
    let keys: Vec<KeyPair> = names
        .iter()
        .zip(1..)
        .map(|(name, seed)| KeyPair::from_seed(*name, [seed; 32]))
        .collect();
    let log = MemoryLog::with_clock(first.clock.clone());
    let node = |key: &KeyPair| {
        let config = Config {
            node_id: key.keyid().to_owned(),
            node_keys: keys.iter().map(|key| key.public().to_config()).collect(),
            ..first.config.clone()
        };
        let (cut, up) = watch::channel(true);
        let executor = Executor::builder(&config)
            .catalog(catalog())
            .clock(first.clock.clone())
            .log(Link { log: log.clone(), up })
            .node_key(key.clone())
            .build()
            .unwrap();
        let node = Node {
            log: log.clone(),
            ..first.beside(executor, config)
        };
        (node, cut)
    };
    keys.iter().map(node).collect()
}

fn percent(node: &Node) -> f64 {
    node.handle.status().scope("default", "").unwrap().percent
}

#[tokio::test(start_paused = true)]
async fn three_nodes_give_the_same_user_the_same_variant_all_along_a_ramp() {
    let nodes = cluster();
    let (first, _) = &nodes[0];
    first.roll_out("p1", (5.0, 10.0, 60.0)).await;
    let mut skew: f64 = 0.0;
    for _ in 0..7 {
        first.clock.advance(Duration::from_secs(60));
        first.settle().await;
        let cohort = first.cohort().await;
        for (node, _) in &nodes[1..] {
            assert_eq!(node.cohort().await, cohort);
            skew = skew.max((percent(node) - percent(first)).abs());
        }
    }
    println!("largest skew between three nodes over a ramp: {skew} points");
    assert!((percent(first) - 60.0).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn a_stop_on_one_node_reaches_all() {
    let nodes = cluster();
    nodes[0].0.roll_out("p1", (50.0, 0.0, 50.0)).await;
    let receipt = nodes[2]
        .0
        .enforce(EnforcementAction::EmergencyStop)
        .await
        .unwrap();
    for (node, _) in &nodes {
        node.handle.reached(receipt.seq.unwrap()).await;
        assert_eq!(node.phase(), Phase::Stopped);
        assert!(node.cohort().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_sent_to_a_node_that_lags_stops_all_or_is_told_to_hold_there_alone() {
    let nodes = cluster();
    let ((first, _), (lags, up)) = (&nodes[0], &nodes[1]);
    first.roll_out("p1", (50.0, 0.0, 50.0)).await;
    first.settle().await;
    up.send_replace(false);
    lags.settle().await;
    // Another operator's clock is ahead; the node does not know of it.
    let pause = first.control(node::enforce(EnforcementAction::PauseAdaptation));
    let pause = pause.with_counter(first.clock.now_us() + 20_000_000);
    first.submit(pause, &first.ops).await.unwrap();
    let stop = lags.control(node::enforce(EnforcementAction::EmergencyStop));
    let receipt = lags.submit(stop, &lags.ops).await.unwrap();
    first.handle.reached(receipt.seq.unwrap()).await;
    assert_eq!((first.phase(), lags.phase()), (Phase::Stopped, Phase::Stopped));

    // A stop that was signed before a resume which the node has not read either: the log refuses it.
    let late = lags.control(node::enforce(EnforcementAction::EmergencyStop));
    let late = late.with_counter(7);
    let resume = first.control(node::enforce(EnforcementAction::ResumeAdaptation));
    let resume = resume.with_counter(first.clock.now_us() + 21_000_000);
    first.submit(resume, &first.ops).await.unwrap();
    assert_eq!((first.phase(), lags.phase()), (Phase::Idle, Phase::Stopped));
    up.send_replace(true);
    first.settle().await;
    assert_eq!(
        lags.phase(),
        Phase::Idle,
        "the log took the first one, and ended it"
    );
    let refused = lags.submit(late, &lags.ops).await;
    assert_eq!(refused, Err(arqon_rollout::Reason::Stale));
    assert_eq!((first.phase(), lags.phase()), (Phase::Idle, Phase::Idle));
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_log_refuses_holds_the_node_it_was_sent_to_where_it_was_until_a_resume() {
    let nodes = cluster();
    let ((first, _), (lags, up)) = (&nodes[0], &nodes[1]);
    first.roll_out("p1", (5.0, 10.0, 60.0)).await;
    first.clock.advance(Duration::from_secs(60));
    first.settle().await;
    up.send_replace(false);
    lags.settle().await;
    // Signed before a resume that the node has not read.
    let pause = lags.control(node::enforce(EnforcementAction::PauseAdaptation));
    let resumed = first.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert_eq!(resumed.state, Phase::Ramping, "nothing was paused");
    let receipt = lags.submit(pause, &lags.ops).await.unwrap();
    assert_eq!((receipt.state, lags.phase()), (Phase::Paused, Phase::Paused));
    let held = percent(lags);
    up.send_replace(true);
    lags.handle.reached(receipt.seq.unwrap()).await;
    for _ in 0..3 {
        first.clock.advance(Duration::from_secs(60));
        first.settle().await;
        assert_eq!((first.phase(), lags.phase()), (Phase::Ramping, Phase::Paused));
        let (is, others) = (percent(lags), percent(first));
        assert!(
            (is - held).abs() < 0.01 && is < others,
            "{is}, was {held}; {others}"
        );
    }
    // People see what holds there alone, and why.
    let of = |node: &Node| node.handle.status().tenants[0].clone();
    let (seen, others) = (of(lags), of(first));
    assert_eq!((seen.alone, others.alone, others.orders.len()), (1, 0, 0));
    let [order] = &seen.orders[..] else {
        panic!("{seen:?}")
    };
    let refused = order.refused.as_deref().unwrap_or_default();
    assert!(order.latched && refused.starts_with("stale"), "{order:?}");
    assert_eq!(seen.scopes[0].held_by.len(), 1);

    first.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    first.settle().await;
    assert_eq!((first.phase(), lags.phase()), (Phase::Ramping, Phase::Ramping));
    assert_eq!(percent(lags).to_bits(), percent(first).to_bits());
    assert_eq!((of(lags).alone, of(lags).orders.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_partitioned_node_never_rises_and_is_right_at_once_when_healed() {
    let nodes = cluster();
    let ((first, _), (cut_off, up)) = (&nodes[0], &nodes[1]);
    first.roll_out("p1", (5.0, 10.0, 60.0)).await;
    first.clock.advance(Duration::from_secs(60));
    first.settle().await;
    let before = percent(cut_off);
    assert!((before - 15.0).abs() < 0.5, "{before}");
    up.send_replace(false);
    first.settle().await;
    for _ in 0..4 {
        first.clock.advance(Duration::from_secs(30));
        first.settle().await;
        assert!(
            percent(cut_off) <= before + 1e-9,
            "{} above {before}",
            percent(cut_off)
        );
        assert!(percent(first) > percent(cut_off));
    }
    // What was decided meanwhile holds as soon as it is back.
    let receipt = first.enforce(EnforcementAction::PauseAdaptation).await.unwrap();
    up.send_replace(true);
    cut_off.handle.reached(receipt.seq.unwrap()).await;
    first.settle().await;
    assert_eq!(
        (cut_off.phase(), percent(cut_off).to_bits()),
        (Phase::Paused, percent(first).to_bits())
    );
}

#[tokio::test(start_paused = true)]
async fn proposals_of_several_nodes_wait_side_by_side() {
    let nodes = cluster();
    for (node, _) in &nodes {
        for at in 0..16 {
            node.propose(&format!("{}-{at}", node.config.node_id), 42, None)
                .await;
        }
    }
    let (last, _) = &nodes[2];
    assert_eq!(last.handle.status().tenants[0].pending.len(), 48);
}

/// A log that lost something.
struct Torn {
    log: MemoryLog,
    gap: watch::Receiver<bool>,
}

impl ControlLog for Torn {
    fn append(&self, channel: Channel, envelope: Bytes) -> LogFuture<'_, Appended> {
        self.log.append(channel, envelope)
    }

    fn read(&self, after: u64) -> LogFuture<'_, Batch> {
        Box::pin(async move {
            let mut batch = self.log.read(after).await?;
            batch.gap = *self.gap.borrow();
            Ok(batch)
        })
    }

    fn report(&self, from: Channel, message: UpstreamMessage) -> LogFuture<'_, ()> {
        self.log.report(from, message)
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_in_the_log_nothing_rises_people_know_and_a_stop_acts() {
    let source = Node::start();
    let (lose, gap) = watch::channel(false);
    let key = KeyPair::from_seed("node", [7; 32]);
    let executor = Executor::builder(&source.config)
        .catalog(catalog())
        .clock(source.clock.clone())
        .log(Torn {
            log: source.log.clone(),
            gap,
        })
        .node_key(key)
        .build()
        .unwrap();
    source.run.abort();
    let node = Node {
        handle: executor.handle(),
        run: tokio::spawn(executor.run()),
        ..source
    };
    node.roll_out("p1", (5.0, 10.0, 60.0)).await;
    node.clock.advance(Duration::from_secs(60));
    node.settle().await;
    lose.send_replace(true);
    node.settle().await;
    let held = percent(&node);
    lose.send_replace(false);
    node.clock.advance(Duration::from_secs(120));
    node.settle().await;
    assert_eq!(
        percent(&node).to_bits(),
        held.to_bits(),
        "held until somebody looks"
    );
    assert!(node.handle.status().hold.is_some());
    let told = format!("{:?}", node.log.take_reports());
    assert!(told.contains("Critical") && told.contains("gap"), "{told}");
    node.enforce(EnforcementAction::EmergencyStop).await.unwrap();
    assert_eq!(node.phase(), Phase::Stopped);
}

/// A clock whose wall has been moved.
struct Stepped {
    clock: arqon_rollout::ManualClock,
    step: watch::Receiver<Duration>,
}

impl arqon_rollout::Clock for Stepped {
    fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    fn step(&self) -> Duration {
        *self.step.borrow()
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_wall_clock_raises_nothing_and_is_told_once() {
    let source = Node::start();
    let (wall, step) = watch::channel(Duration::ZERO);
    let executor = Executor::builder(&source.config)
        .catalog(catalog())
        .clock(Stepped {
            clock: source.clock.clone(),
            step,
        })
        .log(source.log.clone())
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .build()
        .unwrap();
    source.run.abort();
    let node = Node {
        handle: executor.handle(),
        run: tokio::spawn(executor.run()),
        ..source
    };
    node.roll_out("p1", (5.0, 10.0, 60.0)).await;
    node.settle().await;
    let (before, _) = (percent(&node), node.log.take_reports());
    wall.send_replace(Duration::from_secs(30));
    node.settle().await;
    assert!(node.log.take_reports().is_empty(), "30 s are borne");
    wall.send_replace(Duration::from_secs(86_400));
    for _ in 0..3 {
        node.settle().await;
    }
    assert_eq!(percent(&node).to_bits(), before.to_bits());
    let told = node.log.take_reports();
    let steps = told
        .iter()
        .filter(|report| format!("{report:?}").contains("stepped by 86400 s"));
    assert_eq!(steps.count(), 2, "once to each tenant: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_key_of_its_own_proposes_nothing_where_others_read() {
    let node = Node::start();
    let executor = Executor::builder(&node.config)
        .catalog(catalog())
        .silent()
        .build()
        .unwrap();
    let client = executor.handle().client(&tenant("default"));
    tokio::spawn(executor.run());
    let proposal = arqon_rollout::Proposal {
        id: "p1".to_owned(),
        variant_id: Some(42),
        confidence: 1.0,
        ..Default::default()
    };
    let refused = client.send(proposal).await.unwrap_err().to_string();
    assert!(refused.contains("unsigned"), "{refused}");
}
