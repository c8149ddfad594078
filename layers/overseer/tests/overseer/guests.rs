//! Guests in WAT, and what runs them.

use std::fmt::Write;

use arqon_overseer::{Outcome, OverseerConfig, OverseerLayer, PolicyConfig, PolicyEngine, RecordedRequest};
use http::Request;

/// The host functions, as a module imports them.
const FUNCTIONS: [(&str, &str); 12] = [
    ("host_get_header", "(param i32 i32 i32 i32) (result i32)"),
    ("host_get_claim", "(param i32 i32 i32 i32) (result i32)"),
    ("host_get_property", "(param i32 i32 i32 i32) (result i32)"),
    ("host_get_config", "(param i32 i32) (result i32)"),
    ("host_payload_len", "(result i32)"),
    ("host_get_payload", "(param i32 i32 i32) (result i32)"),
    ("host_add_header", "(param i32 i32 i32 i32) (result i32)"),
    ("host_set_header", "(param i32 i32 i32 i32) (result i32)"),
    ("host_remove_header", "(param i32 i32) (result i32)"),
    ("host_set_payload", "(param i32 i32) (result i32)"),
    ("host_log", "(param i32 i32 i32)"),
    ("host_reject", "(param i32 i32 i32)"),
];

/// A module with the given items, which imports each host function that they call as `$name`.
pub(crate) fn module(items: &str) -> String {
    let mut wat = String::from("(module\n");
    for (name, ty) in FUNCTIONS {
        if items.contains(&format!("${name}")) {
            writeln!(wat, r#"(import "arqon_host_v1" "{name}" (func ${name} {ty}))"#).unwrap();
        }
    }
    if !items.contains("(memory (export") {
        wat.push_str("(memory (export \"memory\") 1)\n");
    }
    wat.push_str("(global (export \"arqon_abi_v1\") i32 (i32.const 1))\n");
    wat.push_str(items);
    wat.push_str("\n)");
    wat
}

/// A module whose `on_request` has this body.
pub(crate) fn on_request(body: &str) -> String {
    module(&format!("(func (export \"on_request\") (result i32) {body})"))
}

/// Denies what carries `X-Block-Me`: the guest of the contract.
pub(crate) const BLOCK_ME: &str = include_str!("../fixtures/block_me.wat");

/// Never ends.
pub(crate) fn busy() -> String {
    on_request("(loop $again (br $again)) (i32.const 0)")
}

/// Small enough to be made often, and with time enough for a machine that is busy with other tests.
pub(crate) fn small(policies: impl IntoIterator<Item = PolicyConfig>) -> OverseerConfig {
    OverseerConfig {
        concurrency: 8,
        standby: 4,
        shards: 1,
        deadline: Some("5s".to_owned()),
        ..OverseerConfig::of(policies)
    }
}

pub(crate) fn layer(policy: PolicyConfig) -> OverseerLayer {
    OverseerLayer::new(small([policy])).unwrap()
}

/// Runs a guest offline on one request.
pub(crate) fn run(policy: &PolicyConfig, request: &RecordedRequest) -> Outcome {
    let engine = PolicyEngine::new().unwrap();
    let policy = engine.load(policy).unwrap_or_else(|report| panic!("{report}"));
    engine.validate_with_context(&policy, request).unwrap()
}

/// Runs a guest offline on an empty `GET /`.
pub(crate) fn run_wat(wat: &str) -> Outcome {
    run(
        &PolicyConfig::from_module("guest", wat.to_owned()),
        &RecordedRequest::default(),
    )
}

pub(crate) fn get(path: &str) -> Request<axum::body::Body> {
    Request::get(path).body(axum::body::Body::empty()).unwrap()
}
