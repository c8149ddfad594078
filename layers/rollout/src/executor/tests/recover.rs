//! A restart with other keys than those that signed the trail.

use super::*;
use crate::{Appended, ControlLog, LogFuture, MemoryLog, Phase, UpstreamMessage, record::Recovered};

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

/// A log that outlives its readers.
struct Kept(MemoryLog);

impl ControlLog for Kept {
    fn append(&self, channel: Channel, envelope: Bytes) -> LogFuture<'_, Appended> {
        self.0.append(channel, envelope)
    }

    fn read(&self, after: u64) -> LogFuture<'_, Batch> {
        self.0.read(after)
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn report(&self, from: Channel, message: UpstreamMessage) -> LogFuture<'_, ()> {
        self.0.report(from, message)
    }
}

fn kept_of(config: &Config) -> Executor {
    let builder = Executor::builder(config).catalog(Catalog::parse(&catalog_of(1)).unwrap());
    let clock = ManualClock::new(START_US + 3_600 * SECOND_US);
    let builder = builder.clock(clock).log(Kept(MemoryLog::new()));
    builder
        .node_key(KeyPair::from_seed("node", [7; 32]))
        .build()
        .unwrap()
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
fn what_was_refused_stays_so_after_a_restart_with_more_keys_but_where_others_may_have_taken_it() {
    let second = KeyPair::from_seed("ops-2", [4; 32]);
    let before = Config {
        keys: vec![second.public().to_config()],
        ..config()
    };
    let log = log(&[]);
    // In a log of this process nobody else has it.
    let executor = executor();
    executor.recover(trail(&before, &log));
    assert_eq!(seen(&executor), (Phase::Idle, 0.0, None));
    let verdict = executor.shared.lock().verdict_of(2).unwrap();
    assert_eq!(verdict.unwrap_err().reason, Reason::UnknownProposal);
    // In one that is kept elsewhere others may: this node is what they are.
    let executor = kept_of(&config());
    executor.recover(trail(&before, &log));
    assert_eq!(seen(&executor), (Phase::Complete, 100.0, None));
    assert!(executor.shared.lock().reports.len() > 0, "people are told");
    // Nobody had judged it.
    let executor = self::executor();
    executor.recover(log);
    assert_eq!(seen(&executor), (Phase::Complete, 100.0, None));
}

#[test]
fn what_stays_refused_is_spent_and_cannot_be_sent_again() {
    let (ops, _) = keys();
    let second = KeyPair::from_seed("ops-2", [4; 32]);
    let before = Config {
        keys: vec![second.public().to_config()],
        ..config()
    };
    let log = log(&[(EnforcementAction::SetVariant(42), &ops)]);
    let executor = executor();
    executor.recover(trail(&before, &log));
    assert_eq!(seen(&executor).0, Phase::Idle);
    let again = Record {
        seq: 4,
        ..log[2].clone()
    };
    let verdict = executor.state(&tenant()).unwrap().fold(&again);
    assert_eq!(verdict.unwrap_err().reason, Reason::Spent);
}

/// A catalog that has the variant.
fn catalog_of(version: u64) -> Bytes {
    let text = r#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"},{"id":42,"name":"fast"}]}"#;
    text.replace("\"version\":1", &format!("\"version\":{version}"))
        .into()
}

#[tokio::test(start_paused = true)]
async fn an_accepted_record_that_is_refused_after_a_restart_leaves_baselines_alone() {
    let (ops, sre) = keys();
    let lacks = Bytes::from_static(br#"{"version":2,"baseline":1,"variants":[{"id":1,"name":"stable"}]}"#);
    let mut log = log(&[]);
    for (version, bytes) in [(2, lacks), (3, catalog_of(3))] {
        let update = DownstreamMessage::CatalogUpdate {
            version,
            source_uri: "file:///catalog.json".to_owned(),
            digest: None,
        };
        let at_us = START_US + version * SECOND_US;
        let mut update = record(
            version + 1,
            at_us,
            &Control::new("t", at_us, SECOND_US, update),
            &ops,
        );
        update.catalog = Some(bytes);
        log.push(update);
    }
    let paused = executor();
    paused.recover(trail(&config(), &log));
    assert_eq!(seen(&paused), (Phase::Paused, 100.0, None), "as it was before");
    // The file of the configuration is of version 3 by now.
    let edited = executor();
    edited.start_with(&Catalog::parse(&catalog_of(3)).unwrap());
    edited.recover(trail(&config(), &log));
    let (_, percent, hold) = seen(&edited);
    let hold = hold.unwrap();
    assert!(
        percent == 0.0 && hold.contains("position 3") && hold.contains("catalog_version"),
        "{hold}"
    );
    edited.take(batch(&[])).await;
    edited.tick().await;
    assert_eq!(
        seen(&edited).1.to_bits(),
        0.0_f64.to_bits(),
        "contact does not help"
    );
    // What was enforced of a catalog that this one lacks is lost as well.
    let forced = self::log(&[(EnforcementAction::SetVariant(42), &ops)]);
    let without = executor();
    without.start_with(
        &Catalog::parse(br#"{"version":1,"baseline":1,"variants":[{"id":1,"name":"stable"}]}"#).unwrap(),
    );
    without.recover(trail(&config(), &forced));
    let hold = seen(&without).2.unwrap();
    assert!(hold.contains("position 2"), "{hold}");
    // Neither a stop of all nor a newer catalog tells what was missed.
    let at_us = START_US + 60 * SECOND_US;
    let stop = DownstreamMessage::Enforce {
        action: EnforcementAction::EmergencyStop,
        reason: String::new(),
    };
    let stop = record(5, at_us, &Control::new("t", at_us, SECOND_US, stop), &sre);
    edited.take(batch(std::slice::from_ref(&stop))).await;
    let update = DownstreamMessage::CatalogUpdate {
        version: 4,
        source_uri: "file:///catalog.json".to_owned(),
        digest: None,
    };
    let mut update = record(
        6,
        at_us + 1,
        &Control::new("t", at_us + 1, SECOND_US, update),
        &ops,
    );
    update.catalog = Some(catalog_of(4));
    edited.take(batch(&[update])).await;
    let (phase, percent, hold) = seen(&edited);
    assert_eq!((phase, percent), (Phase::Stopped, 0.0));
    assert!(hold.is_some_and(|hold| hold.contains("position 3")));
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_before_the_first_contact_by_a_key_that_is_gone_leaves_baselines_alone() {
    let (ops, sre) = keys();
    let other = Config {
        stop_keys: vec![KeyPair::from_seed("sre-2", [3; 32]).public().to_config()],
        ..config()
    };
    for action in [
        EnforcementAction::EmergencyStop,
        EnforcementAction::PauseAdaptation,
    ] {
        let log = log(&[(action.clone(), &sre)]);
        // Without a trail, and with one that another start with the same configuration wrote.
        let executor = kept_of(&other);
        executor.take(batch(&log)).await;
        executor.tick().await;
        let gone = [Ok(()), Ok(()), Err(Reason::KeyGone.to_string())];
        let trail = |verdicts: &[Result<(), String>]| -> Vec<Recovered> {
            let all = log.iter().cloned().zip(verdicts.iter().cloned());
            all.map(|(record, verdict)| Recovered {
                record,
                verdict: Some(verdict),
            })
            .collect()
        };
        let again = kept_of(&other);
        again.recover(trail(&gone));
        again.take(batch(&[])).await;
        again.tick().await;
        for executor in [&executor, &again] {
            let (_, percent, hold) = seen(executor);
            let hold = hold.unwrap();
            assert_eq!(percent.to_bits(), 0.0_f64.to_bits(), "{hold}");
            assert!(hold.contains("position 3") && hold.contains("`sre`"), "{hold}");
            assert_eq!(
                executor.shared.lock().verdict_of(3).unwrap().unwrap_err().reason,
                Reason::KeyGone
            );
        }
        // The key is put back.
        let healed = kept_of(&config());
        healed.recover(trail(&gone));
        healed.take(batch(&[])).await;
        healed.tick().await;
        let phase = if action == EnforcementAction::EmergencyStop {
            Phase::Stopped
        } else {
            Phase::Paused
        };
        assert_eq!((seen(&healed).0, seen(&healed).2), (phase, None));
        // A stop of all of the tenant by somebody whom it knows acts, and does not tell what was missed.
        let at_us = START_US + 60 * SECOND_US;
        let stop = DownstreamMessage::Enforce {
            action: EnforcementAction::EmergencyStop,
            reason: String::new(),
        };
        let stop = record(4, at_us, &Control::new("t", at_us, SECOND_US, stop), &ops);
        executor.take(batch(std::slice::from_ref(&stop))).await;
        let (phase, percent, hold) = seen(&executor);
        assert_eq!((phase, percent), (Phase::Stopped, 0.0));
        assert!(hold.is_some_and(|hold| hold.contains("position 3")));
        // A stranger's that comes later stops nobody, nor one in a log of this process.
        let live = kept_of(&other);
        live.take(batch(&log[..2])).await;
        live.take(batch(&log[2..])).await;
        live.tick().await;
        assert_eq!(seen(&live), (Phase::Complete, 100.0, None));
        assert_eq!(
            live.shared.lock().verdict_of(3).unwrap().unwrap_err().reason,
            Reason::UnknownKey
        );
        let alone = executor_of(&other);
        alone.take(batch(&log)).await;
        alone.tick().await;
        assert_eq!(seen(&alone), (Phase::Complete, 100.0, None));
    }
}

#[test]
fn an_update_that_others_may_have_taken_is_waited_for_and_what_is_behind_it_is_not_guessed() {
    let (ops, _) = keys();
    let mut records = log(&[]);
    let at_us = START_US + SECOND_US;
    let update = DownstreamMessage::CatalogUpdate {
        version: 2,
        source_uri: "kv://c/2".to_owned(),
        digest: None,
    };
    records.push(record(
        3,
        at_us,
        &Control::new("t", at_us, SECOND_US, update),
        &ops,
    ));
    for (reason, waits) in [
        (Reason::WrongTenant, true),
        (Reason::UnknownKey, true),
        (Reason::Catalog, true),
        (Reason::Expired, false),
    ] {
        let refused = |record: &Record| Recovered {
            verdict: Some(Err(reason.to_string())),
            record: record.clone(),
        };
        let executor = kept_of(&config());
        executor.recover(records.iter().map(refused).collect::<Vec<_>>());
        let hold = executor.shared.lock().held_because();
        let told = hold.is_some_and(|hold| hold.contains("position 3, is not here yet"));
        assert_eq!(told, waits, "{reason}");
    }
}

#[test]
fn a_stop_in_front_of_a_tenant_that_is_added_later_is_key_gone_where_its_key_is() {
    let (ops, sre) = keys();
    let stopped = log(&[(EnforcementAction::EmergencyStop, &sre)]);
    // The trail of a gateway that did not serve the tenant.
    let unserved = || {
        let wrong = |record: &Record| Recovered {
            verdict: Some(Err(Reason::WrongTenant.to_string())),
            record: record.clone(),
        };
        stopped.iter().map(wrong)
    };
    let gone = Config {
        stop_keys: vec![KeyPair::from_seed("sre-2", [3; 32]).public().to_config()],
        ..config()
    };
    let executor = kept_of(&config());
    executor.recover(unserved());
    assert_eq!(
        seen(&executor),
        (Phase::Stopped, 0.0, None),
        "with its key it is in force"
    );
    let executor = kept_of(&gone);
    executor.recover(unserved());
    let (_, percent, hold) = seen(&executor);
    assert_eq!(percent.to_bits(), 0.0_f64.to_bits());
    assert!(
        hold.as_ref().is_some_and(|hold| hold.contains("key_gone")),
        "{hold:?}"
    );
    // What was no stop is nothing to be afraid of, nor is a log that is this process's own.
    let others = Config {
        keys: vec![KeyPair::from_seed("ops-2", [4; 32]).public().to_config()],
        stop_keys: vec![ops.public().to_config()],
        ..config()
    };
    let executor = kept_of(&others);
    executor.recover(unserved().take(2));
    assert_eq!(seen(&executor), (Phase::Idle, 0.0, None));
    let executor = executor_of(&gone);
    executor.recover(unserved());
    assert_eq!(seen(&executor).2, None);
}
