//! What a node was told before it stood still, and keys that are replaced in what it has not read.

use super::{
    behind::{Desk, part, percent, phase, served},
    *,
};
use crate::{Phase, Rotation};

/// A batch whose end was asked for some time ago.
fn asked(records: &[Record], ago: Duration) -> Batch {
    Batch {
        asked: Some(Uptime::now().earlier(ago)),
        ..batch(records)
    }
}

const OLD: Duration = CURRENT.saturating_add(Duration::from_millis(1));

/// Reads the end of the log, on a machine that may be slow.
async fn read_to_its_end(executor: &Executor) {
    for _ in 0..1_000 {
        executor.take(asked(&[], Duration::ZERO)).await;
        if executor.shared.lock().ended {
            return;
        }
    }
    panic!("never");
}

#[tokio::test(start_paused = true)]
async fn what_the_log_said_before_the_process_stood_still_is_not_its_end() {
    let (executor, mut desk) = (executor(), Desk::default());
    executor.take(asked(&desk.roll_out("p1", 100.0), OLD)).await;
    assert_eq!((served(&executor), percent(&executor)), (0, 0.0));
    executor.take(asked(&[], OLD)).await;
    let age = executor.handle().status().contact_age_us;
    assert_eq!((served(&executor), age), (0, None), "nor is an empty one");
    read_to_its_end(&executor).await;
    assert_eq!((served(&executor), percent(&executor)), (100, 100.0));
}

#[tokio::test(start_paused = true)]
async fn a_share_rises_to_what_it_was_when_the_end_of_the_log_was_asked_for() {
    // Approved eight seconds before now, by one percent a second.
    let (executor, mut desk) = (executor(), Desk { seq: 3_590 });
    let [proposed, approved] = desk.roll_out_at("p1", (0.0, 60.0, 100.0));
    executor.take(asked(&[proposed, approved], CURRENT / 2)).await;
    for _ in 0..8 {
        executor.take(asked(&[], CURRENT / 2)).await;
        let percent = percent(&executor);
        assert!(percent <= 7.5, "{percent}");
    }
    let now = |executor: &Executor| percent(executor) > 7.5;
    for _ in 0..1_000 {
        executor.take(asked(&[], Duration::ZERO)).await;
        if now(&executor) {
            break;
        }
    }
    assert!(now(&executor), "{}", percent(&executor));
}

/// The same operators, and another key that stops.
fn rotation(stops: &KeyPair) -> Rotation {
    let named = |key: &KeyPair| [(key.keyid().to_owned(), key.public().to_config().ed25519)];
    Rotation {
        threshold: 1,
        keys: named(&keys().0).into(),
        stop_keys: named(stops).into(),
        node_keys: std::collections::BTreeMap::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn where_keys_are_replaced_ahead_only_baselines_are_served_before_the_end_of_the_log() {
    let stranger = KeyPair::from_seed("stranger", [9; 32]);
    let sre = KeyPair::from_seed("sre-2", [21; 32]);
    for (signs, stops) in [(&keys().0, true), (&keys().0, false), (&stranger, false)] {
        let (executor, mut desk) = (executor(), Desk::default());
        executor.take(batch(&desk.roll_out("p1", 100.0))).await;
        assert_eq!(served(&executor), 100);
        // The log itself has what the node has not read, at the node's own time; its first two positions are those of the rollout.
        let shared = executor.shared.clone();
        let put = async |message: Message, key: &KeyPair, after_us: u64, epoch: u64| {
            let control = Control::new("t", shared.clock.now_us() + after_us, 60 * SECOND_US, message);
            let envelope = control.with_epoch(epoch).sign(&[key]).unwrap().to_json();
            let appended = shared.log.append(Channel::Down(tenant()), envelope.into());
            appended.await.unwrap()
        };
        let enforce = |action: EnforcementAction| {
            let reason = String::new();
            Message::from(DownstreamMessage::Enforce { action, reason })
        };
        for after_us in 1..=3 {
            put(
                enforce(EnforcementAction::ResumeAdaptation),
                &keys().0,
                after_us,
                1,
            )
            .await;
        }
        put(rotation(&sre).into(), signs, 4, 1).await;
        if stops {
            put(enforce(EnforcementAction::EmergencyStop), &sre, 5, 2).await;
        } else {
            put(enforce(EnforcementAction::PauseAdaptation), &stranger, 5, 2).await;
        }
        let log = shared.log.read(2).await.unwrap().records;
        assert_eq!(log.len(), 3);
        let while_it_reads = if signs.keyid() == "ops" { 0 } else { 100 };
        for at in 0..2 {
            executor.take(part(&log[at..=at])).await;
            assert_eq!(served(&executor), while_it_reads, "{at}");
        }
        executor.take(batch(&log[2..])).await;
        let end = if stops {
            (0, Phase::Stopped)
        } else {
            (100, Phase::Complete)
        };
        assert_eq!((served(&executor), phase(&executor)), end);
    }
}
