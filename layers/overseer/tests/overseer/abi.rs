//! Every function of the ABI, with every argument a hostile or clumsy guest may give.

use arqon_overseer::{OverseerConfig, PolicyConfig, PolicyEngine, RecordedRequest};
use serde_json::json;

use crate::guests::{module, on_request, run, run_wat};

/// Answers with the result of `call` as the status: 500 + result for -4..=99.
fn answer(data: &str, call: &str) -> String {
    module(&format!(
        "{data} (func (export \"on_request\") (result i32)
           (call $host_reject (i32.add (i32.const 500) {call}) (i32.const 0) (i32.const 0)) (i32.const 0))"
    ))
}

/// What `call` gives on `request`; a trap is `None`.
pub(crate) fn result_of(
    policy: impl FnOnce(PolicyConfig) -> PolicyConfig,
    data: &str,
    call: &str,
    request: &RecordedRequest,
) -> Option<i32> {
    let policy = policy(PolicyConfig::from_module("guest", answer(data, call)));
    let outcome = run(&policy, request);
    match outcome.cause.as_deref() {
        Some("denied") => Some(i32::from(outcome.status.unwrap()) - 500),
        Some("trap") => None,
        other => panic!("{other:?}: {outcome:?}"),
    }
}

fn record(json: serde_json::Value) -> RecordedRequest {
    serde_json::from_value(json).unwrap()
}

pub(crate) fn same(policy: PolicyConfig) -> PolicyConfig {
    policy
}

#[test]
fn every_read_tells_length_absence_and_misuse_apart() {
    // Whether or not there is a buffer, and however long the key.
    let (long, longer) = ("x".repeat(64), "x".repeat(65));
    let request = record(json!({
        "method": "POST", "path": "/a/b?q=1", "subject": "in.t.acme.users", "tenant": "acme",
        "remote_addr": "203.0.113.7:42", "protocol": "ws",
        "headers": {"X-Empty": "", (&long): "64", (&longer): "six", "X-Name": ["first", "second"], "content-type": "text/plain",
                    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        "claims": {"sub": "u1", "realm": {"roles": ["a", "bc"]}, "a/b": true, "n": 12, "none": null, "": "x"},
    }));
    let check = |function: &str, key: &str, expected: i32| {
        let data = format!("(data (i32.const 0) \"{}\")", key.replace('"', "\\22"));
        for buffer in [0, 1, 64] {
            let call = format!(
                "(call ${function} (i32.const 0) (i32.const {}) (i32.const 512) (i32.const {buffer}))",
                key.len()
            );
            assert_eq!(
                result_of(same, &data, &call, &request),
                Some(expected),
                "{function}({key:?}, {buffer})"
            );
        }
    };
    for (name, expected) in [
        ("x-name", 5),
        ("X-NAME", 5),
        ("x-empty", 0),
        ("x-other", -1),
        (&long, 2),
        (&longer, 3),
        (&long[..63], -1),
        (&format!("{longer}x"), -1),
        (&format!("{} ", &long[..63]), -2),
        ("", -2),
        ("x name", -2),
        ("x\u{e4}", -2),
        ("x:y", -2),
    ] {
        check("host_get_header", name, expected);
    }
    for (key, expected) in [
        ("sub", 2),
        ("n", 2),
        ("none", 4),
        ("", 1),
        ("a/b", 4),
        ("/a~1b", 4),
        ("/realm/roles/1", 2),
        ("/realm/roles", 10),
        ("/realm/roles/2", -1),
        ("realm/roles", -1),
        ("missing", -1),
    ] {
        check("host_get_claim", key, expected);
    }
    for (name, expected) in [
        ("method", 4),
        ("path", 4),
        ("query", 3),
        ("subject", 15),
        ("tenant", 4),
        ("remote_addr", 14),
        ("trace_id", 32),
        ("content_type", 10),
        ("protocol", 2),
        ("module", 5),
        ("status", -3),
        ("nonsense", -2),
    ] {
        check("host_get_property", name, expected);
    }
}

#[test]
fn what_the_request_lacks_is_absent() {
    let empty = RecordedRequest::default();
    for (name, expected) in [
        ("query", -1),
        ("subject", -1),
        ("tenant", -1),
        ("remote_addr", -1),
        ("trace_id", -1),
        ("content_type", -1),
        ("method", 3),
        ("path", 1),
        ("protocol", 8),
    ] {
        let data = format!("(data (i32.const 0) \"{name}\")");
        let call = format!(
            "(call $host_get_property (i32.const 0) (i32.const {}) (i32.const 0) (i32.const 0))",
            name.len()
        );
        assert_eq!(result_of(same, &data, &call, &empty), Some(expected), "{name}");
    }
    let call = "(call $host_get_claim (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0))";
    assert_eq!(
        result_of(same, "(data (i32.const 0) \"x\")", call, &empty),
        Some(-1)
    );
}

#[test]
fn a_key_that_is_not_utf_8_is_a_bad_argument_and_a_huge_one_over_the_limit() {
    for function in ["host_get_claim", "host_get_property", "host_get_header"] {
        let call = format!("(call ${function} (i32.const 0) (i32.const 2) (i32.const 0) (i32.const 0))");
        let data = "(data (i32.const 0) \"\\ff\\fe\")";
        assert_eq!(
            result_of(same, data, &call, &RecordedRequest::default()),
            Some(-2),
            "{function}"
        );
        let call = format!("(call ${function} (i32.const 0) (i32.const 2000) (i32.const 0) (i32.const 0))");
        assert_eq!(
            result_of(same, "", &call, &RecordedRequest::default()),
            Some(-4),
            "{function}"
        );
    }
}

#[test]
fn bytes_are_written_only_if_they_fit() {
    let request = record(json!({"headers": {"x-name": "value"}}));
    // The byte after the call, and the length, for a buffer of 5 and of 4 bytes.
    for (buffer, first) in [(5, 'v' as i32), (4, 0)] {
        let wat = module(&format!(
            r#"(data (i32.const 0) "x-name")
               (func (export "on_request") (result i32)
                 (if (i32.ne (call $host_get_header (i32.const 0) (i32.const 6) (i32.const 100) (i32.const {buffer}))
                             (i32.const 5)) (then unreachable))
                 (i32.ne (i32.load8_u (i32.const 100)) (i32.const {first})))"#
        ));
        let outcome = run(&PolicyConfig::from_module("guest", wat), &request);
        assert!(outcome.allows(), "{buffer}: {outcome:?}");
    }
}

#[test]
fn a_pointer_out_of_bounds_traps_in_every_function_and_position() {
    // Memory is one page: 65,536 bytes.
    let outside = [
        (65_536, 1),
        (65_535, 2),
        (0, 65_537),
        (-1, 1),
        (0, -1),
        (i32::MIN, i32::MIN),
        (i32::MAX, 1),
        (-1, -1),
    ];
    let inside = [(65_535, 1), (65_536, 0), (-1, 0), (0, 1), (65_530, 6)];
    let slice = |(ptr, len): (i32, i32)| format!("(i32.const {ptr}) (i32.const {len})");
    let ok = slice((0, 1));
    let calls = |bad: &str| {
        vec![
            format!("(drop (call $host_get_header {bad} {ok}))"),
            format!("(drop (call $host_get_header {ok} {bad}))"),
            format!("(drop (call $host_get_claim {bad} {ok}))"),
            format!("(drop (call $host_get_claim {ok} {bad}))"),
            format!("(drop (call $host_get_property {bad} {ok}))"),
            format!("(drop (call $host_get_property {ok} {bad}))"),
            format!("(drop (call $host_get_config {bad}))"),
            format!("(drop (call $host_get_payload (i32.const 0) {bad}))"),
            format!("(drop (call $host_add_header {bad} {ok}))"),
            format!("(drop (call $host_add_header {ok} {bad}))"),
            format!("(drop (call $host_set_header {bad} {ok}))"),
            format!("(drop (call $host_set_header {ok} {bad}))"),
            format!("(drop (call $host_remove_header {bad}))"),
            format!("(drop (call $host_set_payload {bad}))"),
            format!("(call $host_log (i32.const 2) {bad})"),
        ]
    };
    // With the default fuel, which a length of 4 GiB would use up: it is a trap all the same.
    let engine = PolicyEngine::with_limits(&OverseerConfig::default()).unwrap();
    // One guest per call; which slice it gives comes in the payload, so a few compilations serve the whole grid.
    for (at, call) in calls("(i32.load (i32.const 1000)) (i32.load (i32.const 1004))")
        .into_iter()
        .enumerate()
    {
        let wat = on_request(&format!(
            "(drop (call $host_get_payload (i32.const 0) (i32.const 1000) (i32.const 8))) {call} (i32.const 0)"
        ));
        let policy = PolicyConfig {
            grants: vec!["rewrite".to_owned()],
            ..PolicyConfig::from_module("guest", wat)
        };
        let policy = engine.load(&policy).unwrap_or_else(|report| panic!("{report}"));
        let verdict = |(ptr, len): (i32, i32)| {
            let bytes = [ptr.to_le_bytes(), len.to_le_bytes()].concat();
            use base64::{Engine as _, engine::general_purpose::STANDARD};
            let request = RecordedRequest {
                body_base64: Some(STANDARD.encode(bytes)),
                ..RecordedRequest::default()
            };
            engine.validate_with_context(&policy, &request).unwrap()
        };
        for given in outside {
            let outcome = verdict(given);
            assert_eq!(
                outcome.cause.as_deref(),
                Some("trap"),
                "call {at} with {given:?}: {outcome:?}"
            );
        }
        for given in inside {
            assert!(verdict(given).allows(), "call {at} with {given:?}");
        }
    }
}

#[test]
fn a_rejection_keeps_its_code_only_from_400_to_599() {
    for (code, status) in [
        (400, 400),
        (403, 403),
        (451, 451),
        (599, 599),
        (0, 403),
        (99, 403),
        (101, 403),
        (200, 403),
        (600, 403),
        (-1, 403),
        (i32::MIN, 403),
    ] {
        let wat = on_request(&format!(
            "(call $host_reject (i32.const {code}) (i32.const 0) (i32.const 0)) (i32.const 0)"
        ));
        let outcome = run_wat(&wat);
        assert_eq!(
            (outcome.cause.as_deref(), outcome.status),
            (Some("denied"), Some(status)),
            "{code}"
        );
    }
}

#[test]
fn a_rejection_ends_the_guest_at_once() {
    let wat = on_request(
        "(call $host_reject (i32.const 418) (i32.const 0) (i32.const 0))
         (call $host_reject (i32.const 500) (i32.const 0) (i32.const 0))
         (call $host_log (i32.const 0) (i32.const 0) (i32.const 1)) unreachable",
    );
    let outcome = run_wat(&wat);
    assert_eq!(outcome.status, Some(418));
    assert!(outcome.logs.is_empty());
}

#[test]
fn a_rejections_reason_is_capped_and_stripped_of_control_characters() {
    let wat = module(
        r#"(memory (export "memory") 20)
           (data (i32.const 0) "no\r\n\1b[31m way")
           (func (export "on_request") (result i32)
             (call $host_reject (i32.const 403) (i32.const 0) (i32.const 1048576)) (i32.const 0))"#,
    );
    let reason = run_wat(&wat).reason.unwrap();
    assert!(reason.starts_with("no[31m way"), "{reason:?}");
    assert!(
        reason.len() <= 256 && !reason.chars().any(char::is_control),
        "{reason:?}"
    );
}

#[test]
fn logs_are_escaped_capped_and_counted() {
    let wat = module(
        r#"(data (i32.const 0) "a\r\n\1b[2Jb")
           (func (export "on_request") (result i32) (local $i i32)
             (call $host_log (i32.const 0) (i32.const 0) (i32.const 8))
             (call $host_log (i32.const -7) (i32.const 0) (i32.const 1))
             (call $host_log (i32.const 1) (i32.const 0) (i32.const 65536))
             (loop $again
               (call $host_log (i32.const 2) (i32.const 0) (i32.const 1))
               (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
             (i32.const 0))"#,
    );
    let logs = run_wat(&wat).logs;
    assert_eq!(logs.len(), 32);
    assert_eq!(
        (logs[0].level.as_str(), logs[0].message.as_str()),
        ("error", "a\\r\\n\\u{1b}[2Jb")
    );
    assert_eq!(logs[1].level, "trace");
    assert_eq!(logs[2].level, "warn");
    assert!(
        logs[2]
            .message
            .chars()
            .filter(|character| *character == '{')
            .count()
            <= 1_024
    );
    assert!(!logs.iter().any(|line| line.message.contains(char::is_control)));
}

#[test]
fn configuration_is_read_and_judged_by_the_guest() {
    let wat = module(
        r#"(func (export "on_configure") (result i32)
             (if (i32.eqz (call $host_get_config (i32.const 0) (i32.const 0)))
               (then (call $host_reject (i32.const 400) (i32.const 100) (i32.const 15))))
             (i32.const 0))
           (data (i32.const 100) "config is empty")
           (func (export "on_request") (result i32)
             (i32.ne (call $host_get_config (i32.const 0) (i32.const 64)) (i32.const 3)))"#,
    );
    let mut policy = PolicyConfig::from_module("guest", wat);
    let engine = PolicyEngine::new().unwrap();
    let report = engine.check(&policy);
    assert!(!report.ok);
    assert_eq!(report.findings[0].code, "configure.refused");
    assert!(report.findings[0].message.contains("config is empty"), "{report}");
    policy.config = Some("abc".to_owned());
    assert!(run(&policy, &RecordedRequest::default()).allows());
}

#[test]
fn while_configuring_there_is_no_request() {
    for (call, expected) in [
        (
            "(call $host_get_header (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0))",
            -3,
        ),
        (
            "(call $host_get_claim (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0))",
            -3,
        ),
        (
            "(call $host_add_header (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1))",
            -3,
        ),
        ("(call $host_remove_header (i32.const 0) (i32.const 1))", -3),
        ("(call $host_payload_len)", -3),
        (
            "(call $host_get_payload (i32.const 0) (i32.const 0) (i32.const 0))",
            -3,
        ),
        (
            "(call $host_get_property (i32.const 8) (i32.const 4) (i32.const 0) (i32.const 0))",
            -3,
        ),
        (
            "(call $host_get_property (i32.const 16) (i32.const 6) (i32.const 0) (i32.const 0))",
            5,
        ),
    ] {
        let wat = module(&format!(
            r#"(data (i32.const 0) "x") (data (i32.const 8) "path") (data (i32.const 16) "module")
               (func (export "on_configure") (result i32) (i32.ne {call} (i32.const {expected})))
               (func (export "on_request") (result i32) (i32.const 0))"#
        ));
        let report = PolicyEngine::new()
            .unwrap()
            .check(&PolicyConfig::from_module("guest", wat));
        assert!(report.ok, "{call}: {report}");
    }
}

#[test]
fn the_originals_policy_check_is_accepted() {
    let wat = module(
        r#"(func (export "policy_check") (param i32 i32) (result i32)
             (i32.or (local.get 0) (local.get 1)))"#,
    );
    assert!(run_wat(&wat).allows());
    let deny = module(r#"(func (export "policy_check") (param i32 i32) (result i32) (i32.const 1))"#);
    let outcome = run_wat(&deny);
    assert_eq!(
        (outcome.status, outcome.cause.as_deref()),
        (Some(403), Some("denied"))
    );
}
