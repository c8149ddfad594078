//! What is kept beside the trail outlives a run that could make nothing of it.

use super::*;
use crate::record::Recovered;

#[tokio::test]
async fn a_cap_of_the_guard_outlives_a_run_whose_keys_refused_the_rollout_and_is_forgotten_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let config = Config {
        audit: Some(crate::AuditConfig { path }),
        ..config()
    };
    let log = rolled_out(100.0);
    let accepted = log.clone().map(|record| Recovered {
        record,
        verdict: Some(Ok(())),
    });
    let percent = |executor: &Executor| executor.handle().status().scope("t", "").unwrap().percent;
    let (place, caps) = ((tenant(), Scope::TENANT), |executor: &Executor| {
        executor.shared.lock().caps.len()
    });

    let executor = executor_of(&config);
    executor.take(batch(&log)).await;
    assert!((percent(&executor) - 100.0).abs() < 1e-9);
    {
        let mut live = executor.shared.lock();
        let digest = live.states[&tenant()].lanes()[&Scope::TENANT]
            .rollout()
            .unwrap()
            .digest;
        live.caps.insert(place, (digest, 0.0));
    }
    assert!(executor.shared.save_latches());
    drop(executor);

    // The operator's key is missing, and the run writes the file anew.
    let others = Config {
        keys: vec![KeyPair::from_seed("ops-2", [4; 32]).public().to_config()],
        ..config.clone()
    };
    let executor = executor_of(&others);
    executor.recover(accepted.clone());
    executor.take(batch(&[])).await;
    assert!(
        executor.handle().status().hold.is_some(),
        "it says that something is wrong"
    );
    assert!(executor.shared.save_latches());
    drop(executor);

    let executor = executor_of(&config);
    executor.recover(accepted);
    executor.take(batch(&[])).await;
    executor.tick().await;
    assert_eq!((percent(&executor), caps(&executor)), (0.0, 1), "the key is back");

    let stop = DownstreamMessage::Enforce {
        action: EnforcementAction::EmergencyStop,
        reason: String::new(),
    };
    let at_us = START_US + SECOND_US;
    let stop = record(3, at_us, &Control::new("t", at_us, SECOND_US, stop), &keys().1);
    executor.take(batch(&[stop])).await;
    assert!(executor.shared.save_latches());
    assert_eq!(caps(&executor), 0, "that rollout is over");
}
