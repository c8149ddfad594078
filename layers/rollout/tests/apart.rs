//! What sets a node apart from the others: a clock that is ahead, a stop that is behind a catalog. Its share is never the higher one.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use std::time::Duration;

use arqon_rollout::{
    Appended, AuditConfig, Batch, CatalogFuture, CatalogSource, CatalogWanted, Channel, Clock as _, Config,
    ControlLog, DownstreamMessage, EnforcementAction, Executor, FetchError, Handle, KeyPair, LogFuture,
    ManualClock, MemoryLog, Phase, UpstreamMessage,
};
use bytes::Bytes;

use self::node::{Node, START_US, catalog, enforce};

/// How a node gets at catalogs.
#[derive(Clone)]
enum Shelf {
    /// It has all of them.
    Full,
    /// It does not answer.
    Away,
}

impl CatalogSource for Shelf {
    fn fetch(&self, wanted: CatalogWanted<'_>) -> CatalogFuture<'_> {
        let uri = wanted.uri.to_owned();
        let bytes = match wanted.version {
            2 => r#"{"version":2,"baseline":1,"variants":[{"id":1,"name":"stable"}]}"#.to_owned(),
            version => catalog()
                .to_json()
                .replace("\"version\":1", &format!("\"version\":{version}")),
        };
        let answer = match self {
            Self::Away => Err(FetchError::Unavailable {
                uri,
                source: "away".into(),
            }),
            Self::Full => Ok(bytes.into()),
        };
        Box::pin(std::future::ready(answer))
    }
}

/// One more node on a node's log.
fn beside(node: &Node, shelf: Shelf, clock: &ManualClock) -> Node {
    configured(node, &node.config, shelf, clock)
}

fn configured(node: &Node, config: &Config, shelf: Shelf, clock: &ManualClock) -> Node {
    let executor = Executor::builder(config)
        .catalog(catalog())
        .catalogs(shelf)
        .clock(clock.clone())
        .log(node.log.clone())
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .build()
        .unwrap();
    Node {
        clock: clock.clone(),
        ..node.beside(executor, config.clone())
    }
}

fn percent(handle: &Handle) -> f64 {
    handle.status().scope("default", "").unwrap().percent
}

async fn update(node: &Node, version: u64) -> u64 {
    let update = node.control(DownstreamMessage::CatalogUpdate {
        version,
        source_uri: format!("kv://c/{version}"),
        digest: None,
    });
    node.submit(update, &node.ops).await.unwrap().seq.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_acted_ahead_of_its_turn_acts_after_a_restart_too() {
    let folder = tempfile::tempdir().unwrap();
    let source = Node::start();
    source.run.abort();
    let first = beside(&source, Shelf::Full, &source.clock);
    let config = Config {
        audit: Some(AuditConfig {
            path: folder.path().join("audit.jsonl"),
        }),
        ..source.config.clone()
    };
    let away = Shelf::Away;
    let second = configured(&source, &config, away.clone(), &source.clock);
    first.roll_out("p1", (100.0, 0.0, 100.0)).await;
    let seq = update(&first, 2).await;
    let stop = first.control(enforce(EnforcementAction::EmergencyStop));
    first.submit(stop, &first.sre).await.unwrap();
    let stopped_for_good = || {
        let status = second.handle.status();
        let scope = status.scope("default", "").unwrap();
        scope.phase == Phase::Stopped && scope.durable == Some(true)
    };
    for _ in 0..10_000 {
        if stopped_for_good() {
            break;
        }
        first.settle().await;
    }
    assert!(stopped_for_good(), "it acts, and is on disk");
    assert!(second.handle.status().seq < seq, "it has not come to it");
    second.run.abort();
    let _ended = second.run.await;
    let again = Executor::builder(&config)
        .catalog(catalog())
        .catalogs(away)
        .clock(source.clock.clone())
        .log(MemoryLog::new())
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .build()
        .unwrap();
    let status = again.handle().status();
    let scope = status.scope("default", "").unwrap();
    assert_eq!((scope.phase, scope.latched), (Phase::Stopped, true));
}

/// A log that says what time it is.
struct Telling {
    log: MemoryLog,
    clock: ManualClock,
}

impl ControlLog for Telling {
    fn append(&self, channel: Channel, envelope: Bytes) -> LogFuture<'_, Appended> {
        self.log.append(channel, envelope)
    }

    fn read(&self, after: u64) -> LogFuture<'_, Batch> {
        Box::pin(async move {
            let batch = self.log.read(after).await?;
            Ok(Batch {
                log_time_us: Some(self.clock.now_us()),
                ..batch
            })
        })
    }

    fn report(&self, from: Channel, message: UpstreamMessage) -> LogFuture<'_, ()> {
        self.log.report(from, message)
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_with_a_clock_ahead_of_the_log_s_serves_nothing_and_one_that_is_right_does() {
    let first = Node::start();
    first.roll_out("p1", (10.0, 10.0, 100.0)).await;
    for (ahead_us, served) in [(300_000_000, false), (29_000_000, true)] {
        let clock = ManualClock::new(first.clock.now_us() + ahead_us);
        let executor = Executor::builder(&first.config)
            .catalog(catalog())
            .clock(clock)
            .log(Telling {
                log: first.log.clone(),
                clock: first.clock.clone(),
            })
            .node_key(KeyPair::from_seed("node", [7; 32]))
            .build()
            .unwrap();
        let handle = executor.handle();
        let run = tokio::spawn(executor.run());
        handle.contacted().await;
        first.settle().await;
        assert_eq!(percent(&handle) > 0.0, served, "{}", percent(&handle));
        assert_eq!(
            handle.status().hold.is_none(),
            served,
            "{:?}",
            handle.status().hold
        );
        run.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_clock_is_ahead_of_the_log_s_serves_no_more_than_it_did() {
    let first = Node::start();
    let clock = ManualClock::new(START_US + 300_000_000);
    let ahead = beside(&first, Shelf::Full, &clock);
    ahead.settle().await;
    let approved = first.roll_out("p1", (10.0, 10.0, 100.0)).await.seq.unwrap();
    ahead.handle.reached(approved).await;
    for _ in 0..3 {
        let (is, other) = (percent(&ahead.handle), percent(&first.handle));
        assert!(is <= other, "{is} where the others have {other}");
        for clock in [&first.clock, &clock] {
            clock.advance(Duration::from_secs(30));
        }
        first.settle().await;
    }
    let hold = ahead.handle.status().hold;
    assert!(
        hold.as_ref().is_some_and(|hold| hold.contains("clock")),
        "{hold:?}"
    );
    assert_eq!(first.handle.status().hold, None);
    // A stop acts all the same.
    let stop = first.enforce(EnforcementAction::EmergencyStop).await.unwrap();
    ahead.handle.reached(stop.seq.unwrap()).await;
    assert_eq!(ahead.phase(), Phase::Stopped);
}
