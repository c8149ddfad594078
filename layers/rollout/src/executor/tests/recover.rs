//! A restart with other keys than those that signed the trail.

use super::*;
use crate::{Phase, record::Recovered};

/// A trail as the node with `config` wrote it.
fn trail(config: &Config, log: &[Record]) -> Vec<Recovered> {
    let executor = executor_of(config);
    let mut state = executor.state(&tenant()).unwrap();
    let judge = |record: &Record| Recovered {
        verdict: Some(
            state
                .fold(record)
                .map(drop)
                .map_err(|refusal| refusal.reason.to_string()),
        ),
        record: record.clone(),
    };
    log.iter().map(judge).collect()
}

fn log(last: &[(EnforcementAction, &KeyPair)]) -> Vec<Record> {
    let mut at_us = START_US;
    let mut records = rolled_out(100.0).to_vec();
    for (action, key) in last {
        at_us += SECOND_US;
        let enforce = DownstreamMessage::Enforce {
            action: action.clone(),
            reason: String::new(),
        };
        let control = Control::new("t", at_us, SECOND_US, enforce);
        records.push(record(records.len() as u64 + 1, at_us, &control, key));
    }
    records
}

fn seen(executor: &Executor) -> (Phase, f64, Option<String>) {
    let status = executor.handle().status();
    let whole = status.scope("t", "").unwrap();
    (whole.phase, whole.percent, status.hold.clone())
}

#[test]
fn a_stop_of_a_key_that_the_configuration_no_longer_has_is_in_force_after_a_restart() {
    let (ops, sre) = keys();
    let other = Config {
        stop_keys: vec![KeyPair::from_seed("sre-2", [3; 32]).public().to_config()],
        ..config()
    };
    let stopped = log(&[(EnforcementAction::EmergencyStop, &sre)]);
    let executor = executor_of(&other);
    executor.recover(trail(&config(), &stopped));
    assert_eq!(seen(&executor), (Phase::Stopped, 0.0, None));
    assert!(executor.shared.lock().reports.len() > 0, "people are told");

    // What it ended stays ended after the resume.
    let resumed = log(&[
        (EnforcementAction::EmergencyStop, &sre),
        (EnforcementAction::ResumeAdaptation, &ops),
    ]);
    let executor = executor_of(&other);
    executor.recover(trail(&config(), &resumed));
    assert_eq!(seen(&executor), (Phase::Idle, 0.0, None));
    assert!(executor.state(&tenant()).unwrap().is_tombstoned("p"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_killed_within_a_backlog_serves_nothing_of_it_before_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let config = Config {
        audit: Some(crate::AuditConfig { path }),
        ..config()
    };
    let log = log(&[]);
    let more = Batch {
        more: true,
        ..batch(&log)
    };
    let executor = executor_of(&config);
    executor.take(more).await;
    executor.tick().await;
    assert_eq!(seen(&executor), (Phase::Complete, 0.0, None));
    let executor = executor_of(&config);
    executor.recover(log.clone());
    executor.tick().await;
    assert_eq!(
        seen(&executor),
        (Phase::Complete, 0.0, None),
        "the end was not seen"
    );
    executor.take(batch(&[])).await;
    executor.tick().await;
    assert_eq!(seen(&executor), (Phase::Complete, 100.0, None));
    let executor = executor_of(&config);
    executor.recover(log);
    assert_eq!(seen(&executor), (Phase::Complete, 100.0, None), "it was then");
}

#[test]
fn what_a_higher_threshold_or_another_operator_refuses_now_holds_the_shares_and_a_stop_stays() {
    let (ops, _) = keys();
    let second = KeyPair::from_seed("ops-2", [4; 32]);
    let higher = Config {
        threshold: 2,
        keys: vec![ops.public().to_config(), second.public().to_config()],
        ..config()
    };
    let others = Config {
        keys: vec![second.public().to_config()],
        ..config()
    };
    let log = log(&[(EnforcementAction::EmergencyStop, &ops)]);
    for other in [higher, others] {
        let executor = executor_of(&other);
        executor.recover(trail(&config(), &log));
        let (phase, percent, hold) = seen(&executor);
        assert_eq!((phase, percent), (Phase::Stopped, 0.0));
        assert!(
            hold.as_ref().is_some_and(|hold| hold.contains("position")),
            "{hold:?}"
        );
    }
    // The same keys: nothing is held.
    let executor = executor();
    executor.recover(trail(&config(), &log));
    assert_eq!(seen(&executor), (Phase::Stopped, 0.0, None));
}

#[test]
fn what_was_refused_is_not_taken_after_a_restart_with_more_keys_and_is_where_nobody_had_judged_it() {
    let second = KeyPair::from_seed("ops-2", [4; 32]);
    let before = Config {
        keys: vec![second.public().to_config()],
        ..config()
    };
    let log = log(&[]);
    let executor = executor();
    executor.recover(trail(&before, &log));
    assert_eq!(seen(&executor), (Phase::Idle, 0.0, None));
    let verdict = executor.shared.lock().verdict_of(2).unwrap();
    assert_eq!(verdict.unwrap_err().reason, Reason::UnknownProposal);
    let executor = self::executor();
    executor.recover(log);
    assert_eq!(seen(&executor), (Phase::Complete, 100.0, None));
}
