//! The control plane in one process: propose, approve, serve, stop, resume, restart.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use std::time::Duration;

use arqon_rollout::{
    Channel, ControlLog, DownstreamMessage, EnforcementAction, Executor, KeyPair, Phase, Reason, Record,
    Status, SubmitError,
};

use self::node::{Node, START_US, approval, catalog, enforce, reason, tenant};

#[tokio::test(start_paused = true)]
async fn an_approved_half_is_served_sticky_and_a_stop_sends_everyone_to_baseline() {
    let node = Node::start();
    assert!(node.cohort().await.is_empty());
    let receipt = node.roll_out("p1", (50.0, 0.0, 50.0)).await;
    assert_eq!((receipt.state, receipt.duplicate), (Phase::Holding, false));
    let cohort = node.cohort().await;
    assert!((420..=580).contains(&cohort.len()), "{}", cohort.len());
    assert_eq!(node.cohort().await, cohort);

    let receipt = node.enforce(EnforcementAction::EmergencyStop).await.unwrap();
    assert_eq!(receipt.state, Phase::Stopped);
    assert!(node.cohort().await.is_empty());

    // Resuming does not bring it back, neither does its approval.
    assert_eq!(
        node.enforce(EnforcementAction::ResumeAdaptation)
            .await
            .unwrap()
            .state,
        Phase::Idle
    );
    assert!(node.cohort().await.is_empty());
    assert_eq!(
        node.approve("p1", "sha256:00", (50.0, 0.0, 50.0)).await,
        Err(Reason::Tombstoned)
    );
}

#[tokio::test(start_paused = true)]
async fn cohorts_only_grow_and_a_pause_stops_the_clock() {
    let node = Node::start();
    node.roll_out("p1", (5.0, 5.0, 50.0)).await;
    let mut before = node.cohort().await;
    for minute in 1..=5 {
        node.clock.advance(Duration::from_secs(60));
        node.settle().await;
        let now = node.cohort().await;
        assert!(before.iter().all(|user| now.contains(user)), "minute {minute}");
        assert!(now.len() > before.len());
        before = now;
    }
    assert_eq!(
        node.enforce(EnforcementAction::PauseAdaptation)
            .await
            .unwrap()
            .state,
        Phase::Paused
    );
    let paused = node.handle.status().scope("default", "").unwrap().percent;
    node.clock.advance(Duration::from_secs(3_600));
    node.settle().await;
    assert_eq!(
        node.handle
            .status()
            .scope("default", "")
            .unwrap()
            .percent
            .to_bits(),
        paused.to_bits()
    );
    assert_eq!(
        node.enforce(EnforcementAction::ResumeAdaptation)
            .await
            .unwrap()
            .state,
        Phase::Ramping
    );
    node.clock.advance(Duration::from_secs(60));
    node.settle().await;
    let resumed = node.handle.status().scope("default", "").unwrap().percent;
    assert!((resumed - paused - 5.0).abs() < 0.001, "{paused} then {resumed}");
}

#[tokio::test(start_paused = true)]
async fn a_restart_gives_the_same_state_even_after_the_approval_expired() {
    let mut node = Node::start();
    node.roll_out("p1", (10.0, 10.0, 80.0)).await;
    node.clock.advance(Duration::from_secs(120));
    node.settle().await;
    let (before, cohort) = (node.handle.status(), node.cohort().await);
    node.clock.advance(Duration::from_secs(600));
    node.settle().await;
    let later = node.handle.status();
    node.restart().await;
    node.settle().await;
    let after = node.handle.status();
    // What a run counted and drew is its own; what was decided is everybody's.
    let decided = |mut status: Status| {
        let scopes = status.tenants.iter_mut().flat_map(|tenant| &mut tenant.scopes);
        scopes.for_each(|scope| (scope.cohorts, scope.history) = (None, Vec::new()));
        status.tenants
    };
    assert_eq!(decided(after.clone()), decided(later));
    assert!(node.cohort().await.len() > cohort.len());
    assert!(before.seq <= after.seq);

    node.enforce(EnforcementAction::EmergencyStop).await.unwrap();
    node.restart().await;
    assert_eq!(node.phase(), Phase::Stopped);
    assert!(node.cohort().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_acts_in_every_state() {
    for phase in [
        Phase::Idle,
        Phase::Ramping,
        Phase::Holding,
        Phase::Complete,
        Phase::Paused,
        Phase::Forced,
    ] {
        let node = Node::start();
        match phase {
            Phase::Ramping => {
                node.roll_out("p", (10.0, 1.0, 90.0)).await;
            }
            Phase::Holding => {
                node.roll_out("p", (10.0, 0.0, 90.0)).await;
            }
            Phase::Complete => {
                node.roll_out("p", (100.0, 0.0, 100.0)).await;
            }
            Phase::Paused => {
                node.roll_out("p", (10.0, 1.0, 90.0)).await;
                node.enforce(EnforcementAction::PauseAdaptation).await.unwrap();
            }
            Phase::Forced => {
                node.enforce(EnforcementAction::SetVariant(43)).await.unwrap();
            }
            Phase::Idle | Phase::Stopped => {}
        }
        assert_eq!(node.phase(), phase);
        let control = node.control(enforce(EnforcementAction::EmergencyStop));
        assert_eq!(
            node.submit(control, &node.sre).await.unwrap().state,
            Phase::Stopped,
            "{phase}"
        );
        assert!(node.cohort().await.is_empty(), "{phase}");
        // A second stop, an approval and a forced variant change nothing.
        assert_eq!(
            node.enforce(EnforcementAction::EmergencyStop)
                .await
                .unwrap()
                .state,
            Phase::Stopped
        );
        assert_eq!(
            node.enforce(EnforcementAction::SetVariant(43)).await,
            Err(Reason::Stopped)
        );
        assert_eq!(
            node.handle
                .status()
                .scope("default", "")
                .unwrap()
                .percent
                .to_bits(),
            0
        );
        assert!(node.cohort().await.is_empty(), "{phase}");
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_one_tenant_leaves_the_other_and_scopes_ramp_alone() {
    let node = Node::start();
    node.enforce(EnforcementAction::EmergencyStop).await.unwrap();
    let status = node.handle.status();
    assert_eq!(status.scope("default", "").unwrap().phase, Phase::Stopped);
    assert_eq!(status.scope("other", "").unwrap().phase, Phase::Idle);
    node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();

    let (users, orders) = ("in.t.default.users.>", "in.t.default.orders.>");
    for (id, scope, percent) in [("u", users, 20.0), ("o", orders, 60.0)] {
        let digest = node.propose(id, 42, Some(scope)).await;
        node.approve(id, &digest, (percent, 0.0, 100.0)).await.unwrap();
    }
    let stop = node
        .control(enforce(EnforcementAction::EmergencyStop))
        .with_scope(users);
    node.submit(stop, &node.ops).await.unwrap();
    let status = node.handle.status();
    assert_eq!(status.scope("default", users).unwrap().percent.to_bits(), 0);
    assert_eq!(
        status.scope("default", orders).unwrap().percent.to_bits(),
        60.0_f64.to_bits()
    );
}

#[tokio::test(start_paused = true)]
async fn hostile_messages_change_nothing() {
    let node = Node::start();
    let digest = node.propose("p1", 42, None).await;
    let before = node.handle.status();
    let good = || node.control(approval("p1", &digest, (10.0, 1.0, 50.0)));
    let stranger = KeyPair::generate("ops-1").unwrap();
    assert_eq!(node.submit(good(), &stranger).await, Err(Reason::BadSignature));
    let stranger = KeyPair::generate("ops-9").unwrap();
    assert_eq!(node.submit(good(), &stranger).await, Err(Reason::UnknownKey));
    assert_eq!(node.submit(good(), &node.sre).await, Err(Reason::Role));
    assert_eq!(
        node.submit(good().with_epoch(0), &node.ops).await,
        Err(Reason::Epoch)
    );
    assert_eq!(
        node.submit(good().with_epoch(2), &node.ops).await,
        Err(Reason::Epoch)
    );
    let mut other = good();
    other.tenant = "nobody".to_owned();
    assert_eq!(node.submit(other, &node.ops).await, Err(Reason::WrongTenant));
    let mut expired = good();
    expired.expires_at_us = START_US;
    assert_eq!(node.submit(expired, &node.ops).await, Err(Reason::Expired));
    let mut future = good();
    future.issued_at_us += 31_000_000;
    assert_eq!(node.submit(future, &node.ops).await, Err(Reason::NotYetValid));
    let unsigned = good().sign(&[]).unwrap().to_json();
    assert_eq!(
        node.handle.submit(unsigned.as_bytes()).await.map_err(reason),
        Err(Reason::Unsigned)
    );
    for ramp in [
        (60.0, 1.0, 50.0),
        (-1.0, 1.0, 50.0),
        (1.0, 1.0, 100.01),
        (1.0, -1.0, 50.0),
    ] {
        assert_eq!(
            node.approve("p1", &digest, ramp).await,
            Err(Reason::InvalidRollout)
        );
    }
    assert_eq!(
        node.approve("p2", &digest, (1.0, 1.0, 2.0)).await,
        Err(Reason::UnknownProposal)
    );
    assert_eq!(
        node.approve("p1", &digest.to_uppercase(), (1.0, 1.0, 2.0)).await,
        Err(Reason::DigestMismatch)
    );
    assert_eq!(
        node.enforce(EnforcementAction::SetVariant(7)).await,
        Err(Reason::UnknownVariant)
    );
    let unramped = DownstreamMessage::Approval {
        proposal_id: "p1".to_owned(),
        proposal_digest: digest.clone(),
        rollout: None,
    };
    let control = node.control(unramped);
    assert_eq!(node.submit(control, &node.ops).await, Err(Reason::Unramped));
    // Only the counter has moved, and the position: what was authentic is spent.
    let mut tenants = node.handle.status().tenants;
    assert!(tenants[0].counter > before.tenants[0].counter);
    tenants[0].counter = before.tenants[0].counter;
    for (now, then) in tenants.iter_mut().zip(&before.tenants) {
        assert!(now.seq > then.seq);
        now.seq = then.seq;
    }
    assert_eq!(tenants, before.tenants);
    assert!(node.cohort().await.is_empty());

    drop(node.log.take_reports());
    node.settle().await;
    let alerts = format!("{:?}", node.log.take_reports());
    for reason in [
        "bad_signature",
        "unknown_key",
        "digest_mismatch",
        "expired",
        "unramped",
    ] {
        assert!(alerts.contains(reason), "{reason}: {alerts}");
    }

    // After all that, the true one still works, once.
    let envelope = good().sign(&[&node.ops]).unwrap().to_json();
    let receipt = node.handle.submit(envelope.as_bytes()).await.unwrap();
    assert_eq!((receipt.state, receipt.duplicate), (Phase::Ramping, false));
    node.clock.advance(Duration::from_secs(30));
    let again = node.handle.submit(envelope.as_bytes()).await.unwrap();
    assert!(again.duplicate);
    node.settle().await;
    let status = node.handle.status();
    let scope = status.scope("default", "").unwrap();
    assert_eq!(scope.log_percent.to_bits(), 10.5_f64.to_bits());
    // What is served is that of the last beat of the clock.
    assert!((10.49..=10.5).contains(&scope.percent), "{}", scope.percent);
}

#[tokio::test(start_paused = true)]
async fn every_single_bit_flip_of_a_signed_envelope_is_refused() {
    let node = Node::start();
    let digest = node.propose("p1", 42, None).await;
    let envelope = node
        .control(approval("p1", &digest, (10.0, 1.0, 50.0)))
        .sign(&[&node.ops])
        .unwrap()
        .to_json();
    let before = node.handle.status();
    for bit in 0..envelope.len() * 8 {
        let mut bytes = envelope.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let refused = node.handle.submit(&bytes).await.map_err(reason);
        assert!(refused.is_err(), "bit {bit}: {}", String::from_utf8_lossy(&bytes));
    }
    assert_eq!(node.handle.status().tenants, before.tenants);
    assert_eq!(node.log.records().len(), 1, "no flipped envelope reached the log");
    assert!(node.handle.submit(envelope.as_bytes()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_reaches_the_log_past_the_gate_is_refused_by_the_fold_too() {
    let node = Node::start();
    let digest = node.propose("p1", 42, None).await;
    let stranger = KeyPair::generate("ops-1").unwrap();
    let forged = node
        .control(approval("p1", &digest, (100.0, 0.0, 100.0)))
        .sign(&[&stranger])
        .unwrap();
    let channel = Channel::Down(tenant("default"));
    let appended = node
        .log
        .append(channel.clone(), forged.to_json().into())
        .await
        .unwrap();
    node.handle.reached(appended.seq).await;
    let appended = node.log.append(channel, "not even JSON".into()).await.unwrap();
    node.handle.reached(appended.seq).await;
    assert_eq!(node.phase(), Phase::Idle);
    assert!(node.cohort().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_local_stop_holds_until_a_later_resume() {
    let node = Node::start();
    node.roll_out("p1", (50.0, 0.0, 50.0)).await;
    node.handle.stop(&tenant("default"), "fire");
    assert!(node.cohort().await.is_empty());
    assert!(node.handle.status().scope("default", "").unwrap().latched);
    node.settle().await;
    assert!(node.cohort().await.is_empty());
    node.enforce(EnforcementAction::ResumeAdaptation).await.unwrap();
    assert!(!node.cohort().await.is_empty(), "the log was never stopped");
}

/// A log that takes nothing and says nothing.
struct Away;

impl ControlLog for Away {
    fn append(&self, _: Channel, _: bytes::Bytes) -> arqon_rollout::LogFuture<'_, arqon_rollout::Appended> {
        Box::pin(std::future::pending())
    }

    fn read(&self, _: u64) -> arqon_rollout::LogFuture<'_, arqon_rollout::Batch> {
        Box::pin(std::future::pending())
    }

    fn report(&self, _: Channel, _: arqon_rollout::UpstreamMessage) -> arqon_rollout::LogFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_works_with_the_log_away_and_without_contact_nothing_rises() {
    let source = Node::start();
    source.roll_out("p1", (50.0, 10.0, 100.0)).await;
    let records: Vec<Record> = source.log.records();
    let executor = Executor::builder(&source.config)
        .catalog(catalog())
        .clock(source.clock.clone())
        .log(Away)
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .build()
        .unwrap();
    executor.recover(records);
    let node = Node {
        handle: executor.handle(),
        run: tokio::spawn(executor.run()),
        ..source
    };
    node.clock.advance(Duration::from_secs(600));
    node.settle().await;
    let percent = node.handle.status().scope("default", "").unwrap().percent;
    assert_eq!(percent.to_bits(), 50.0_f64.to_bits());

    let receipt = node.enforce(EnforcementAction::EmergencyStop).await.unwrap();
    assert_eq!((receipt.seq, receipt.state), (None, Phase::Stopped));
    assert!(node.cohort().await.is_empty());
    let control = node.control(enforce(EnforcementAction::SetVariant(43)));
    let envelope = control.sign(&[&node.ops]).unwrap().to_json();
    let error = node.handle.submit(envelope.as_bytes()).await.unwrap_err();
    assert!(matches!(error, SubmitError::Log(_)), "{error}");
}
