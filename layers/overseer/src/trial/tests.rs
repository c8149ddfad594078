use std::io;

use http::Request;
use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::{OverseerConfig, OverseerHandle, PolicyConfig, place, shared::Shared};

#[test]
fn trials_are_bounded_by_number_in_each_shard_and_by_bytes_in_all() {
    let trials = Trials::new(2);
    let rooms: Vec<_> = (0..TRIALS_MAX)
        .map(|_| trials.room(0, 1).expect("there is room"))
        .collect();
    assert!(trials.room(0, 1).is_none());
    // What was refused for its number holds no bytes.
    let rest = TRIAL_BYTES_MAX - TRIALS_MAX;
    assert!(trials.room(1, rest + 1).is_none());
    let large = trials.room(1, rest).expect("just as much");
    assert!(trials.room(1, 1).is_none());
    drop(rooms);
    assert!(trials.room(0, TRIALS_MAX + 1).is_none());
    assert!(trials.room(0, TRIALS_MAX).is_some());
    drop(large);
    assert!(trials.room(0, TRIAL_BYTES_MAX + 1).is_none());
    assert!(trials.room(0, TRIAL_BYTES_MAX).is_some());
}

/// Logs three lines in a call, of which two are kept.
const LOGS: &str = r#"(module
  (import "arqon_host_v1" "host_log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "said")
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (func (export "on_request") (result i32)
    (call $log (i32.const 2) (i32.const 0) (i32.const 4))
    (call $log (i32.const 0) (i32.const 0) (i32.const 4))
    (call $log (i32.const 2) (i32.const 0) (i32.const 4))
    (i32.const 0)))"#;

/// The lines that are logged on this thread while `act` runs.
fn logged(act: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);
    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time();
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_candidates_lines_are_marked_and_those_it_loses_are_counted_apart() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let rendered = recorder.handle();
    let config = OverseerConfig {
        shards: 1,
        standby: 0,
        concurrency: 1,
        log_lines_max: 2,
        deadline: Some("5s".to_owned()),
        ..OverseerConfig::of([PolicyConfig::from_module("p", LOGS)])
    };
    let shared = metrics::with_local_recorder(&recorder, || Shared::new(&config, Arc::new(|_| ())).unwrap());
    let lost = |of: &str| {
        let series = format!("shield_overseer_{of}log_lines_dropped_total{{module=\"p\"}} ");
        let text = rendered.render();
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap().parse::<u64>().unwrap()
    };
    let said = |candidate: &str| {
        ["INFO", "ERROR"].map(|level| {
            format!(
                "{level:>5} arqon_overseer::guest: component=\"overseer\" module=\"p\"{candidate} msg=\"said\""
            )
        })
    };
    let upload = place::Origin::Upload(LOGS.into());

    // The dry run of a module that takes over, and of one that is a candidate.
    let lines = logged(|| drop(place::place(&shared, "p", &upload, place::Place::Active).unwrap()));
    assert_eq!(lines, said(""));
    assert_eq!((lost(""), lost("candidate_")), (1, 0));
    let lines = logged(|| drop(place::place(&shared, "p", &upload, place::Place::Candidate).unwrap()));
    assert_eq!(lines, said(" candidate=true"));
    assert_eq!((lost(""), lost("candidate_")), (1, 1));

    // A trial.
    let snapshot = shared.snapshot().unwrap();
    let candidate = snapshot.policies[0].candidate.clone().unwrap();
    let (parts, ()) = Request::new(()).into_parts();
    let lines = logged(|| {
        drop(ask(
            &snapshot.loader.engine,
            &candidate,
            Phase::Request,
            Lent::request(parts, None),
        ));
    });
    assert_eq!(lines, said(" candidate=true"));
    assert_eq!((lost(""), lost("candidate_")), (1, 2));

    // Promoted, it is the policy's own.
    OverseerHandle::new(Arc::new(shared)).promote("p").unwrap();
    let loaded = Arc::clone(&candidate.loaded);
    let (parts, ()) = Request::new(()).into_parts();
    let lines = logged(|| {
        let exchange = Some(Lent::request(parts, None));
        drop(
            snapshot
                .loader
                .call(candidate.budget, &loaded, Phase::Request, Role::Active, exchange),
        );
    });
    assert_eq!(lines, said(""));
    assert_eq!((lost(""), lost("candidate_")), (2, 2));
}
