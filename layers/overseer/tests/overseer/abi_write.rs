//! The functions of the ABI that amend: header edits and the payload.

use std::collections::BTreeMap;

use arqon_overseer::{HeaderValues, PolicyConfig, RecordedRequest};

use crate::{
    abi::{result_of, same},
    guests::{module, run, run_wat},
};

#[test]
fn header_edits_are_checked_one_by_one() {
    let check = |call: &str, policy: fn(PolicyConfig) -> PolicyConfig, data: &str, expected: i32| {
        assert_eq!(
            result_of(policy, data, call, &RecordedRequest::default()),
            Some(expected),
            "{data} {call}"
        );
    };
    let data = |name: &str, value: &str| {
        format!("(data (i32.const 0) \"{name}\") (data (i32.const 100) \"{value}\")")
    };
    let add = |function: &str, name: usize, value: usize| {
        format!("(call ${function} (i32.const 0) (i32.const {name}) (i32.const 100) (i32.const {value}))")
    };
    for function in ["host_add_header", "host_set_header"] {
        check(&add(function, 6, 5), same, &data("x-role", "admin"), 0);
        check(&add(function, 6, 0), same, &data("X-Role", ""), 0);
        check(&add(function, 6, 2), same, &data("x-role", "\\0d\\0a"), -2);
        check(&add(function, 6, 4), same, &data("x-role", "\\1b[0m"), -2);
        check(&add(function, 6, 1), same, &data("x role", "a"), -2);
        check(&add(function, 0, 1), same, &data("", "a"), -2);
        check(&add(function, 6, 20_000), same, &data("x-role", ""), -4);
        for name in [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "authorization",
            "traceparent",
            "x-arqon-variant",
            "connection",
        ] {
            check(&add(function, name.len(), 1), same, &data(name, "a"), -3);
        }
        let only_role = |policy| PolicyConfig {
            headers: Some(vec!["X-Role".to_owned()]),
            ..policy
        };
        check(&add(function, 6, 1), only_role, &data("x-role", "a"), 0);
        check(&add(function, 7, 1), only_role, &data("x-other", "a"), -3);
    }
    check(
        "(call $host_remove_header (i32.const 0) (i32.const 6))",
        same,
        &data("x-role", ""),
        0,
    );
    check(
        "(call $host_remove_header (i32.const 0) (i32.const 4))",
        same,
        &data("host", ""),
        -3,
    );
    check(
        "(call $host_remove_header (i32.const 0) (i32.const 0))",
        same,
        "",
        -2,
    );
}

#[test]
fn the_number_of_edits_is_limited() {
    let wat = module(
        r#"(data (i32.const 0) "x-role")
           (func (export "on_request") (result i32) (local $i i32)
             (loop $again
               (if (i32.ne (call $host_add_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 6)) (i32.const 0))
                 (then (call $host_reject (i32.add (i32.const 500) (local.get $i)) (i32.const 0) (i32.const 0))))
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br $again)) (i32.const 0))"#,
    );
    assert_eq!(run_wat(&wat).status, Some(532));
}

#[test]
fn the_payload_is_read_by_range_and_replaced_as_a_whole() {
    let request = RecordedRequest {
        body: Some("0123456789".to_owned()),
        ..RecordedRequest::default()
    };
    let payload = |call: &str| result_of(same, "", call, &request);
    assert_eq!(payload("(call $host_payload_len)"), Some(10));
    for (offset, len, copied) in [
        (0, 10, 10),
        (0, 100, 10),
        (4, 3, 3),
        (9, 5, 1),
        (10, 5, 0),
        (-1, 5, 0),
        (0, 0, 0),
    ] {
        let call = format!("(call $host_get_payload (i32.const {offset}) (i32.const 0) (i32.const {len}))");
        assert_eq!(payload(&call), Some(copied), "({offset}, {len})");
    }
    let wat = module(
        r#"(func (export "on_request") (result i32)
             (drop (call $host_get_payload (i32.const 0) (i32.const 0) (i32.const 100)))
             (i32.store8 (i32.const 1) (i32.const 42))
             (call $host_set_payload (i32.const 0) (i32.const 4)))"#,
    );
    let policy = PolicyConfig {
        grants: vec!["rewrite".to_owned()],
        ..PolicyConfig::from_module("guest", wat)
    };
    let outcome = run(&policy, &request);
    assert_eq!(outcome.body_base64.as_deref(), Some("MCoyMw=="), "0*23");
}

#[test]
fn edits_are_seen_by_the_policy_that_made_them() {
    let request = RecordedRequest {
        headers: BTreeMap::from([("x-role".to_owned(), HeaderValues::One("forged".to_owned()))]),
        ..RecordedRequest::default()
    };
    let wat = module(
        r#"(data (i32.const 0) "x-role") (data (i32.const 16) "ok")
           (func (export "on_request") (result i32)
             (drop (call $host_add_header (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 2)))
             (i32.ne (call $host_get_header (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 0)) (i32.const 2)))"#,
    );
    let outcome = run(&PolicyConfig::from_module("guest", wat), &request);
    assert!(outcome.allows());
    assert_eq!(
        outcome.headers,
        [("add".to_owned(), "x-role".to_owned(), Some("ok".to_owned()))]
    );
}
