//! An audit trail that is slow: control waits for it, a stop and requests do not (F36).
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use std::sync::Arc;

use arqon_rollout::{AuditEntry, AuditFuture, AuditSink, EnforcementAction, Phase};
use tokio::sync::Semaphore;

use self::node::{Node, enforce};

/// A trail that takes an entry for every permit.
#[derive(Clone)]
struct Slow(Arc<Semaphore>);

impl AuditSink for Slow {
    fn append(&self, _: AuditEntry) -> AuditFuture<'_> {
        Box::pin(async {
            self.0.acquire().await.unwrap().forget();
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn while_an_audit_write_takes_its_time_requests_go_on_and_a_stop_acts() {
    let trail = Slow(Arc::new(Semaphore::new(2)));
    let node = Node::audited(trail.clone());
    node.roll_out("p1", (50.0, 0.0, 50.0)).await;
    assert!(
        (400..600).contains(&node.cohort().await.len()),
        "about half of a thousand"
    );

    // Nothing is acknowledged before it is written.
    let control = node.control(enforce(EnforcementAction::SetVariant(43)));
    let envelope = control.sign(&[&node.ops]).unwrap().to_json();
    let waiting = node.handle.submit(envelope.as_bytes());
    assert!(waiting.await.is_err(), "in the log, and not acknowledged");
    assert_eq!(node.phase(), Phase::Holding);
    let before = node.cohort().await;
    assert!(!before.is_empty(), "requests are decided as before");

    // A stop acts although what is before it is being written.
    let control = node.control(enforce(EnforcementAction::EmergencyStop));
    let stop = node.submit(control, &node.sre).await.unwrap();
    assert_eq!((stop.state, stop.duplicate), (Phase::Stopped, false));
    assert!(node.cohort().await.is_empty());

    trail.0.add_permits(2);
    for _ in 0..10 {
        node.settle().await;
    }
    let status = node.handle.status();
    let scope = status.scope("default", "").unwrap();
    assert_eq!(
        (scope.phase, scope.latched, status.seq),
        (Phase::Stopped, false, 4)
    );
}
