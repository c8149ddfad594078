//! Guests that ask for too much: calls, memory, tables; and `host_reject` with every pointer.

use std::{process::Command, thread};

use arqon_overseer::{Outcome, OverseerConfig, PolicyConfig, PolicyEngine, RecordedRequest};

use crate::guests::{module, on_request, run_wat};

fn without_end() -> PolicyEngine {
    PolicyEngine::with_limits(&OverseerConfig {
        fuel_limit: Some(u64::MAX / 4),
        deadline: Some("10s".to_owned()),
        ..OverseerConfig::default()
    })
    .unwrap()
}

fn run(engine: &PolicyEngine, wat: String) -> Outcome {
    let policy = engine.load(&PolicyConfig::from_module("guest", wat)).unwrap();
    let first = engine
        .validate_with_context(&policy, &RecordedRequest::default())
        .unwrap();
    let again = engine
        .validate_with_context(&policy, &RecordedRequest::default())
        .unwrap();
    assert_eq!(first, again);
    first
}

#[test]
fn a_million_host_calls_are_each_charged() {
    let wat = module(
        r#"(data (i32.const 0) "x-name")
           (func (export "on_request") (result i32) (local $i i32)
             (loop $again
               (drop (call $host_get_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 0)))
               (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000000))))
             (i32.const 0))"#,
    );
    let outcome = run(&without_end(), wat.clone());
    assert!(outcome.allows(), "{outcome:?}");
    assert!(
        outcome.fuel > 506 * 1_000_000,
        "500 a call and one a byte: {}",
        outcome.fuel
    );
    assert_eq!(
        run_wat(&wat).cause.as_deref(),
        Some("fuel"),
        "by default that is too much"
    );
}

#[test]
fn a_million_edits_stop_at_the_limit() {
    let wat = module(
        r#"(data (i32.const 0) "x-name")
           (func (export "on_request") (result i32) (local $i i32) (local $kept i32)
             (loop $again
               (if (i32.eqz (call $host_add_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 6)))
                 (then (local.set $kept (i32.add (local.get $kept) (i32.const 1)))))
               (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000000))))
             (i32.ne (local.get $kept) (i32.const 32)))"#,
    );
    let outcome = run(&without_end(), wat);
    assert!(outcome.allows(), "{outcome:?}");
    assert_eq!(outcome.headers.len(), 32);
}

#[test]
fn a_table_grows_to_its_limit_and_no_further() {
    let wat = |after: &str| {
        module(&format!(
            r#"(table $t 1 funcref)
               (func (export "on_request") (result i32)
                 (loop $again
                   (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 64)) (i32.const -1))))
                 {after})"#
        ))
    };
    let outcome = run_wat(&wat("(i32.gt_u (table.size $t) (i32.const 4096))"));
    assert!(outcome.allows(), "{outcome:?}");
    assert_eq!(run_wat(&wat("unreachable")).cause.as_deref(), Some("memory"));
}

#[test]
fn a_rejection_with_a_pointer_outside_is_a_trap_and_no_rejection() {
    for (ptr, len, inside) in [
        (0, 65_536, true),
        (65_535, 1, true),
        (65_536, 0, true),
        (-1, 0, true),
        (65_536, 1, false),
        (65_535, 2, false),
        (0, 65_537, false),
        (0, -1, false),
        (-1, -1, false),
        (i32::MIN, i32::MIN, false),
        (i32::MAX, 1, false),
    ] {
        let outcome = run_wat(&on_request(&format!(
            "(call $host_reject (i32.const 451) (i32.const {ptr}) (i32.const {len})) (i32.const 0)"
        )));
        let expected = if inside {
            (Some("denied"), Some(451))
        } else {
            (Some("trap"), Some(503))
        };
        assert_eq!(
            (outcome.cause.as_deref(), outcome.status),
            expected,
            "({ptr}, {len})"
        );
    }
}

/// Set in the child in which memory is measured.
const CHILD: &str = "ARQON_TEST_MEMORY_CHILD";

#[test]
#[cfg(target_os = "linux")]
fn sixty_four_memory_bombs_at_once_take_what_they_may_and_no_more() {
    if std::env::var_os(CHILD).is_some() {
        return bombs();
    }
    let name = "bombs::sixty_four_memory_bombs_at_once_take_what_they_may_and_no_more";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads", "1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
}

/// 64 threads let a guest take all the memory it gets and write to each page of it, 20 times each.
#[cfg(target_os = "linux")]
fn bombs() {
    let wat = on_request(
        "(local $at i32)
         (loop $grow (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
         (if (i32.ne (memory.size) (i32.const 64)) (then (return (i32.const 1))))
         (loop $soil
           (i32.store (local.get $at) (i32.const -1))
           (br_if $soil (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (i32.const 4194304))))
         (i32.const 0)",
    );
    let engine = without_end();
    let policy = engine.load(&PolicyConfig::from_module("bomb", wat)).unwrap();
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let outcome = engine
                        .validate_with_context(&policy, &RecordedRequest::default())
                        .unwrap();
                    assert!(outcome.allows(), "{outcome:?}");
                }
            });
        }
    });
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    // 4 MiB for each of 64, and the program itself.
    assert!(peak < (64 * 4 + 192) * 1_024, "{peak} KiB at the peak");
}
