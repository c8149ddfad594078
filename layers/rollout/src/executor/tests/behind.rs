//! A node that reads what it has missed: nothing that began in it is served before its end, and a brake in it acts at once.

use super::*;
use crate::{Clock as _, Phase};

/// People's messages, as a log stores them long before the node's clock.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) seq: u64,
}

impl Desk {
    fn at(&mut self) -> u64 {
        self.seq += 1;
        START_US + self.seq * SECOND_US
    }

    fn said(&mut self, message: impl Into<Message>, key: &KeyPair) -> Record {
        let at_us = self.at();
        record(
            self.seq,
            at_us,
            &Control::new("t", at_us, 60 * SECOND_US, message),
            key,
        )
    }

    fn enforce(&mut self, action: EnforcementAction) -> Record {
        let reason = String::new();
        let enforce = DownstreamMessage::Enforce { action, reason };
        self.said(enforce, &keys().0)
    }

    /// A proposal and its approval.
    pub(super) fn roll_out(&mut self, id: &str, percent: f64) -> [Record; 2] {
        self.roll_out_at(id, (percent, 0.0, percent))
    }

    /// With a ramp: from, by how much a minute, to.
    pub(super) fn roll_out_at(&mut self, id: &str, (from, by, to): (f64, f64, f64)) -> [Record; 2] {
        let (ops, _) = keys();
        let proposal = Proposal {
            id: id.to_owned(),
            variant_id: Some(42),
            confidence: 0.5,
            ..Default::default()
        };
        let digest = Digest::of_proposal(&proposal).unwrap().to_string();
        let mut proposed = self.said(proposal, &ops);
        proposed.channel = Channel::Up(tenant(), "node".parse_node());
        let rollout = Some(RolloutConfig {
            initial_percent: from,
            increment_per_minute: by,
            max_percent: to,
        });
        let approval = DownstreamMessage::Approval {
            proposal_id: id.to_owned(),
            proposal_digest: digest,
            rollout,
        };
        [proposed, self.said(approval, &ops)]
    }

    /// What nobody has signed rightly.
    fn junk(&mut self, count: usize) -> Vec<Record> {
        let stranger = KeyPair::from_seed("stranger", [9; 32]);
        let mut junk = || {
            let action = EnforcementAction::ResumeAdaptation;
            let reason = String::new();
            self.said(DownstreamMessage::Enforce { action, reason }, &stranger)
        };
        (0..count).map(|_| junk()).collect()
    }
}

pub(super) fn part(records: &[Record]) -> Batch {
    Batch {
        more: true,
        ..batch(records)
    }
}

pub(super) fn phase(executor: &Executor) -> Phase {
    executor.handle().status().scope("t", "").unwrap().phase
}

pub(super) fn percent(executor: &Executor) -> f64 {
    executor.handle().status().scope("t", "").unwrap().percent
}

/// How many of a hundred users get something else than the baseline.
pub(super) fn served(executor: &Executor) -> usize {
    let layer = RolloutLayer::new(&executor.handle());
    let is_served = |user: &u32| {
        let (mut headers, mut extensions) = (http::HeaderMap::new(), http::Extensions::new());
        headers.insert("x-user", user.to_string().parse().unwrap());
        extensions.insert(Subject::parse("in.t.t.a").unwrap());
        !layer.variant(&headers, &extensions).unwrap().baseline
    };
    (0..100).filter(is_served).count()
}

#[tokio::test(start_paused = true)]
async fn what_began_in_a_backlog_is_not_served_before_its_end() {
    let (executor, mut desk) = (executor(), Desk::default());
    let [proposed, approved] = desk.roll_out("p1", 100.0);
    executor.take(part(&[proposed.clone(), approved.clone()])).await;
    assert_eq!((served(&executor), percent(&executor)), (0, 0.0));
    for _ in 0..2 {
        executor.take(part(&desk.junk(256))).await;
        executor.tick().await;
        assert_eq!((served(&executor), percent(&executor)), (0, 0.0));
    }
    executor
        .take(batch(&[desk.enforce(EnforcementAction::EmergencyStop)]))
        .await;
    assert_eq!((served(&executor), phase(&executor)), (0, Phase::Stopped));

    // Without the stop it is served from the end on, and goes on while more is read.
    let (executor, mut desk) = (self::executor(), Desk { seq: 2 });
    executor.take(part(&[proposed, approved])).await;
    assert_eq!(served(&executor), 0);
    executor.take(batch(&[])).await;
    assert_eq!((served(&executor), percent(&executor)), (100, 100.0));
    executor.take(part(&desk.junk(256))).await;
    assert_eq!(served(&executor), 100, "it knew that at its last contact");
    // The next one makes it the baseline of who is not in, and both began behind the last contact.
    executor.take(part(&desk.roll_out("p2", 50.0))).await;
    assert_eq!(served(&executor), 0);
    executor.take(batch(&[])).await;
    assert_eq!(served(&executor), 100);
}

#[tokio::test(start_paused = true)]
async fn a_variant_that_is_enforced_in_a_backlog_is_not_served_before_its_end() {
    let (executor, mut desk) = (executor(), Desk::default());
    executor
        .take(part(&[desk.enforce(EnforcementAction::SetVariant(42))]))
        .await;
    assert_eq!((served(&executor), phase(&executor)), (0, Phase::Forced));
    executor.take(batch(&[])).await;
    assert_eq!(served(&executor), 100);
}

#[tokio::test(start_paused = true)]
async fn a_stop_behind_a_batch_acts_before_the_batch_is_folded_and_the_last_one_counts() {
    let (executor, mut desk) = (executor(), Desk::default());
    executor.take(batch(&desk.roll_out("p1", 100.0))).await;
    assert_eq!(served(&executor), 100);
    // The log itself has what the node has not read: at the node's own time, by its clock.
    let shared = executor.shared.clone();
    let (ops, sre) = keys();
    let put = async |action: EnforcementAction, key: &KeyPair, after_us: u64| {
        let reason = String::new();
        let enforce = DownstreamMessage::Enforce { action, reason };
        let control = Control::new("t", shared.clock.now_us() + after_us, 60 * SECOND_US, enforce);
        let envelope = control.sign(&[key]).unwrap().to_json();
        let appended = shared.log.append(Channel::Down(tenant()), envelope.into());
        appended.await.unwrap()
    };
    // Its first two positions are those of the rollout, as the node knows it.
    put(EnforcementAction::ResumeAdaptation, &ops, 1).await;
    put(EnforcementAction::ResumeAdaptation, &ops, 2).await;
    put(EnforcementAction::ResumeAdaptation, &ops, 3).await;
    put(EnforcementAction::EmergencyStop, &sre, 4).await;
    put(EnforcementAction::ResumeAdaptation, &ops, 5).await;
    put(EnforcementAction::EmergencyStop, &sre, 6).await;
    let log = shared.log.read(2).await.unwrap().records;
    assert_eq!(log.len(), 4);
    executor.take(part(&log[..1])).await;
    assert_eq!(phase(&executor), Phase::Stopped, "ahead of its turn");
    assert_eq!(executor.handle().status().seq, 3);
    for record in &log[1..3] {
        executor.take(part(std::slice::from_ref(record))).await;
        assert_eq!(phase(&executor), Phase::Stopped, "one more stop follows");
    }
    executor.take(batch(&log[3..])).await;
    assert_eq!(phase(&executor), Phase::Stopped);
    assert!(shared.lock().latches.is_empty(), "the log has it");
}
