//! Stops and pauses while the audit trail cannot be written: they act, they last, and people see it.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arqon_rollout::{
    AuditConfig, AuditEntry, AuditError, AuditFuture, AuditSink, Channel, Config, ControlLog,
    EnforcementAction, Executor, KeyPair, ManualClock, MemoryLog, Phase, Reason,
};
use tempfile::TempDir;

use self::node::{Node, START_US, approval, catalog, enforce, tenant};

/// A trail on a disk that can be full.
#[derive(Clone, Default)]
struct Trail {
    full: Arc<AtomicBool>,
    written: Arc<Mutex<Vec<AuditEntry>>>,
}

impl AuditSink for Trail {
    fn append(&self, entry: AuditEntry) -> AuditFuture<'_> {
        let result = if self.full.load(Ordering::SeqCst) {
            Err(AuditError("no space left".into()))
        } else {
            self.written.lock().unwrap().push(entry);
            Ok(())
        };
        Box::pin(std::future::ready(result))
    }
}

/// A node with a trail and the slots of its latches, embedded: its log ends with the process.
struct Site {
    node: Node,
    trail: Trail,
    _folder: TempDir,
}

impl Site {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut node = Node::start();
        node.config = Config {
            audit: Some(AuditConfig {
                path: folder.path().join("audit.jsonl"),
            }),
            ..node.config.clone()
        };
        let mut site = Self {
            node,
            trail: Trail::default(),
            _folder: folder,
        };
        site.restart();
        site
    }

    /// Starts again with what is in the trail, as the gateway does.
    fn restart(&mut self) {
        self.node.run.abort();
        let entries = self.trail.written.lock().unwrap().clone();
        let records = entries.into_iter().filter_map(|entry| {
            Some(arqon_rollout::Record {
                seq: entry.seq?,
                received_at_us: entry.received_at_us,
                channel: entry.channel.parse().unwrap(),
                envelope: entry.envelope,
                catalog: entry.catalog,
            })
        });
        let records: Vec<_> = records.collect();
        self.node.log = MemoryLog::with_clock(self.node.clock.clone()).with_records(records.clone());
        let executor = Executor::builder(&self.node.config)
            .catalog(catalog())
            .clock(self.node.clock.clone())
            .log(self.node.log.clone())
            .audit(self.trail.clone())
            .node_key(KeyPair::from_seed("node", [7; 32]))
            .build()
            .unwrap();
        executor.recover(records);
        self.node.handle = executor.handle();
        self.node.run = tokio::spawn(executor.run());
    }

    fn full(&self, full: bool) {
        self.trail.full.store(full, Ordering::SeqCst);
    }

    fn percent(&self) -> f64 {
        self.node.handle.status().scope("default", "").unwrap().percent
    }

    async fn settle(&self, times: usize) {
        for _ in 0..times {
            self.node.settle().await;
        }
    }

    /// Lets time pass until something is so; files are written on threads that paused time does not wait for.
    async fn until(&self, so: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            self.node.settle().await;
            if so(self) {
                return;
            }
            tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
        }
        panic!("never: {:?}", self.node.handle.status());
    }

    fn whole(&self) -> arqon_rollout::ScopeStatus {
        self.node.handle.status().scope("default", "").unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_with_the_audit_disk_full_acts_at_once_and_outlives_the_process() {
    let mut site = Site::start();
    site.node.roll_out("p1", (10.0, 10.0, 100.0)).await;
    site.node.clock.advance(Duration::from_secs(60));
    site.settle(2).await;
    assert!((site.percent() - 20.0).abs() < 0.2, "{}", site.percent());
    site.full(true);
    let mut control = site.node.control(enforce(EnforcementAction::PauseAdaptation));
    control.expires_at_us += 3_600_000_000;
    let pause = site.node.submit(control, &site.node.ops).await.unwrap();
    assert_eq!(
        (pause.state, pause.durable, pause.duplicate),
        (Phase::Paused, true, false)
    );
    let status = site.node.handle.status();
    let scope = status.scope("default", "").unwrap();
    assert_eq!(
        (scope.phase, scope.latched, scope.durable),
        (Phase::Paused, true, Some(true))
    );
    let paused = scope.percent;
    let cohort = site.node.cohort().await;

    for _ in 0..2 {
        site.node.clock.advance(Duration::from_secs(120));
        // People see it, and nothing is loosened.
        site.until(|site| site.node.handle.status().hold.is_some()).await;
        assert_eq!(site.node.phase(), Phase::Paused);
        assert!(
            site.percent() <= paused + 1e-9,
            "{} above {paused}",
            site.percent()
        );
        let status = site.node.handle.status();
        assert!(
            status
                .hold
                .as_ref()
                .is_some_and(|why| why.contains("audit trail")),
            "{:?}",
            status.hold
        );
        assert!(site.node.handle.audited().is_err());
        assert_eq!(
            site.node.enforce(EnforcementAction::ResumeAdaptation).await,
            Err(Reason::Audit)
        );
        // A power cut, with the disk still full: the log in memory is gone, the pause is not.
        site.restart();
        assert_eq!(site.node.phase(), Phase::Paused, "before anything else");
        assert!(site.percent() <= paused + 1e-9);
        let now = site.node.cohort().await;
        assert!(now.iter().all(|user| cohort.contains(user)));
        // It finds out again that the disk is full, when it brings the pause to the log.
    }

    site.full(false);
    site.until(|site| !site.whole().latched).await;
    assert_eq!(
        (site.node.handle.audited(), site.node.handle.status().hold),
        (Ok(()), None)
    );
    assert_eq!(
        (site.node.phase(), site.whole().reason.as_str()),
        (Phase::Paused, "drill"),
        "the log has it now"
    );
    site.until(|site| (site.percent() - paused).abs() < 0.2).await;
    site.node
        .enforce(EnforcementAction::ResumeAdaptation)
        .await
        .unwrap();
    assert_ne!(site.node.phase(), Phase::Paused);
}

#[tokio::test(start_paused = true)]
async fn a_stop_with_the_audit_disk_full_outlives_the_process_and_ends_with_a_resume() {
    let mut site = Site::start();
    site.node.roll_out("p1", (50.0, 0.0, 50.0)).await;
    site.full(true);
    let control = site.node.control(enforce(EnforcementAction::EmergencyStop));
    let stop = site.node.submit(control, &site.node.sre).await.unwrap();
    assert_eq!((stop.state, stop.durable), (Phase::Stopped, true));
    for _ in 0..3 {
        site.restart();
        assert_eq!(site.node.phase(), Phase::Stopped);
        assert!(site.node.cohort().await.is_empty());
        site.node.clock.advance(Duration::from_secs(3));
        site.until(|site| site.node.handle.status().hold.is_some()).await;
    }
    // The second scope's stop comes while the first one waits for room.
    let users = "in.t.default.users.>";
    let control = site
        .node
        .control(enforce(EnforcementAction::EmergencyStop))
        .with_scope(users);
    site.node.submit(control, &site.node.sre).await.unwrap();
    site.restart();
    site.full(false);
    site.node.clock.advance(Duration::from_secs(3));
    site.until(|site| !site.whole().latched && site.node.handle.status().hold.is_none())
        .await;
    site.until(|site| !site.node.handle.status().scope("default", users).unwrap().latched)
        .await;
    site.node
        .enforce(EnforcementAction::ResumeAdaptation)
        .await
        .unwrap();
    let status = site.node.handle.status();
    assert_eq!(status.scope("default", "").unwrap().phase, Phase::Idle);
    assert_eq!(status.scope("default", users).unwrap().phase, Phase::Stopped);
    site.restart();
    assert_eq!(
        site.node.phase(),
        Phase::Idle,
        "a stop that was resumed does not come back"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_the_program_itself_does_not_keep_a_signed_one_from_the_log() {
    let mut site = Site::start();
    site.node.roll_out("p1", (50.0, 0.0, 50.0)).await;
    site.full(true);
    let control = site.node.control(enforce(EnforcementAction::EmergencyStop));
    site.node.submit(control, &site.node.sre).await.unwrap();
    assert!(
        site.node.handle.stop(&tenant("default"), "SIGUSR1"),
        "it is on disk"
    );
    assert_eq!(site.whole().reason, "drill");
    site.restart();
    site.full(false);
    site.node.clock.advance(Duration::from_secs(3));
    site.until(|site| site.node.handle.status().seq == 3).await;
    assert_eq!(
        (site.node.phase(), site.whole().by),
        (Phase::Stopped, vec!["sre-1".to_owned()])
    );
    // What the program asked for itself stays until a resume as well.
    assert!(site.whole().latched);
    site.node
        .enforce(EnforcementAction::ResumeAdaptation)
        .await
        .unwrap();
    assert_eq!((site.node.phase(), site.whole().latched), (Phase::Idle, false));
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_expired_before_there_was_room_holds_until_it_is_resumed() {
    let mut site = Site::start();
    site.node.roll_out("p1", (50.0, 0.0, 50.0)).await;
    site.full(true);
    let control = site.node.control(enforce(EnforcementAction::EmergencyStop));
    site.node.submit(control, &site.node.sre).await.unwrap();
    site.restart();
    site.node.clock.advance(Duration::from_secs(3_600));
    site.full(false);
    // The log refuses it now; the latch says so from then on, and lasts.
    site.until(|site| site.node.handle.status().seq == 3).await;
    assert_eq!((site.node.phase(), site.whole().latched), (Phase::Stopped, true));
    site.until(|site| site.whole().durable == Some(true)).await;
    site.restart();
    assert_eq!(site.node.phase(), Phase::Stopped);
    site.node
        .enforce(EnforcementAction::ResumeAdaptation)
        .await
        .unwrap();
    assert!(!site.whole().latched);
    assert_ne!(site.node.phase(), Phase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_pause_further_on_in_the_log_acts_while_what_is_before_it_waits_for_room() {
    let site = Site::start();
    site.node.roll_out("p1", (10.0, 60.0, 100.0)).await;
    site.full(true);
    let channel = || Channel::Down(tenant("default"));
    let forced = site.node.control(enforce(EnforcementAction::SetVariant(43)));
    let forced = forced.sign(&[&site.node.ops]).unwrap().to_json();
    site.node.log.append(channel(), forced.into()).await.unwrap();
    site.until(|site| site.node.handle.status().hold.is_some()).await;
    let pause = site.node.control(enforce(EnforcementAction::PauseAdaptation));
    let pause = pause.sign(&[&site.node.sre]).unwrap().to_json();
    site.node.log.append(channel(), pause.into()).await.unwrap();
    site.until(|site| site.node.phase() == Phase::Paused).await;
    let held = site.percent();
    site.node.clock.advance(Duration::from_secs(30));
    site.settle(2).await;
    assert_eq!(site.percent().to_bits(), held.to_bits());
    site.until(|site| site.whole().durable == Some(true)).await;
    // People are told while it lasts.
    site.until(|site| format!("{:?}", site.node.log.take_reports()).contains("nothing is loosened"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn refusals_wait_for_the_trail_and_hold_until_they_are_in_it() {
    let site = Site::start();
    site.node.propose("p1", 42, None).await;
    site.full(true);
    let stranger = KeyPair::generate("eve").unwrap();
    for _ in 0..3 {
        let control = site.node.control(approval("p1", "sha256:00", (1.0, 0.0, 1.0)));
        assert_eq!(
            site.node.submit(control, &stranger).await,
            Err(Reason::UnknownKey)
        );
    }
    assert!(site.node.handle.audited().is_err());
    assert_eq!(
        site.node.enforce(EnforcementAction::SetVariant(43)).await,
        Err(Reason::Audit)
    );
    let before = site.trail.written.lock().unwrap().len();
    site.full(false);
    site.until(|site| site.node.handle.audited().is_ok()).await;
    let written = site.trail.written.lock().unwrap().clone();
    assert_eq!(written.len(), before + 4, "each of them");
    assert!(
        written[before..]
            .iter()
            .all(|entry| entry.refusal.is_some() && entry.seq.is_none())
    );
    assert_eq!(site.node.handle.audited(), Ok(()));
    site.node
        .enforce(EnforcementAction::SetVariant(43))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_for_want_of_room_is_not_taken_after_a_restart() {
    let mut site = Site::start();
    site.full(true);
    let stranger = KeyPair::generate("eve").unwrap();
    let garbage = site.node.control(enforce(EnforcementAction::EmergencyStop));
    site.node.submit(garbage, &stranger).await.unwrap_err();
    let forced = site.node.control(enforce(EnforcementAction::SetVariant(43)));
    assert_eq!(
        site.node.submit(forced.clone(), &site.node.ops).await,
        Err(Reason::Audit)
    );
    site.restart();
    site.full(false);
    site.settle(2).await;
    assert_eq!(site.node.submit(forced, &site.node.ops).await, Err(Reason::Spent));
    assert_eq!(site.node.phase(), Phase::Idle);
}

#[test]
fn without_room_for_its_slots_a_node_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let ops = KeyPair::generate("ops-1").unwrap();
    let config = Config {
        enabled: true,
        keys: vec![ops.public().to_config()],
        audit: Some(AuditConfig {
            path: folder.path().join("none").join("audit.jsonl"),
        }),
        ..Config::default()
    };
    let refused = Executor::builder(&config)
        .catalog(catalog())
        .build()
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("audit.path") && refused.contains("audit.jsonl.stop"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn with_the_audit_disk_full_nothing_is_loosened_and_a_stop_still_acts() {
    let trail = Trail::default();
    let node = Node::audited(trail.clone());
    node.roll_out("p1", (50.0, 10.0, 100.0)).await;
    assert_eq!(trail.written.lock().unwrap().len(), 2);
    trail.full.store(true, Ordering::SeqCst);

    // The first control action finds out: it is in the log and not acknowledged.
    let control = node.control(enforce(EnforcementAction::SetVariant(43)));
    let envelope = control.sign(&[&node.ops]).unwrap().to_json();
    assert!(node.handle.submit(envelope.as_bytes()).await.is_err());
    assert_eq!(
        node.enforce(EnforcementAction::SetVariant(43)).await,
        Err(Reason::Audit)
    );
    node.clock.advance(Duration::from_secs(120));
    node.settle().await;
    let percent = node.handle.status().scope("default", "").unwrap().percent;
    assert!((50.0..50.1).contains(&percent), "{percent}");

    // A stop by another node, further on in the log.
    let stop = node
        .control(enforce(EnforcementAction::EmergencyStop))
        .sign(&[&node.sre])
        .unwrap();
    node.log
        .append(Channel::Down(tenant("default")), stop.to_json().into())
        .await
        .unwrap();
    node.settle().await;
    node.settle().await;
    assert_eq!(node.phase(), Phase::Stopped);
    assert!(node.cohort().await.is_empty());

    trail.full.store(false, Ordering::SeqCst);
    for _ in 0..10 {
        node.settle().await;
    }
    let written: Vec<_> = trail
        .written
        .lock()
        .unwrap()
        .iter()
        .filter_map(|entry| entry.seq)
        .collect();
    assert_eq!(written, [1, 2, 3, 4], "each record once, in order");
    assert_eq!(node.phase(), Phase::Stopped);
}

#[test]
fn a_stop_survives_a_restart_before_the_log_knows_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (source_ops, clock) = (KeyPair::generate("ops-1").unwrap(), ManualClock::new(START_US));
    let config = arqon_rollout::Config {
        enabled: true,
        keys: vec![source_ops.public().to_config()],
        audit: Some(arqon_rollout::AuditConfig {
            path: folder.path().join("audit.jsonl"),
        }),
        ..Default::default()
    };
    let build = || {
        Executor::builder(&config)
            .catalog(catalog())
            .clock(clock.clone())
            .build()
            .unwrap()
    };
    let executor = build();
    executor.handle().stop(&tenant("default"), "fire");
    drop(executor);
    let status = build().handle().status();
    let scope = status.scope("default", "").unwrap();
    assert_eq!(
        (scope.phase, scope.latched, scope.reason.as_str()),
        (Phase::Stopped, true, "fire")
    );
}
