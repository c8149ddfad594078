//! What is fuzzed: bytes as a module, bytes as a generated module, bytes as a script of host calls. Each function takes
//! whatever bytes there are and panics when a promise is broken. `fuzz/` runs them under libFuzzer, `fuzz.rs` here on every
//! toolchain over the same corpus.

use std::sync::LazyLock;

use arbitrary::Unstructured;
use arqon_overseer::{LoadedPolicy, Outcome, PolicyConfig, PolicyEngine, RecordedRequest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

/// Makes the host calls that its payload spells out: records of a function's number and four arguments, 20 bytes each,
/// little endian. The payload itself is at 32,768 in its memory, so arguments may point at it.
pub(crate) const SCRIPTED: &str = include_str!("../fixtures/scripted.wat");

/// What a generated module imports and exports: all of the ABI.
const SHAPE: &str = r#"(module
  (import "arqon_host_v1" "host_get_header" (func (param i32 i32 i32 i32) (result i32)))
  (import "arqon_host_v1" "host_get_claim" (func (param i32 i32 i32 i32) (result i32)))
  (import "arqon_host_v1" "host_get_property" (func (param i32 i32 i32 i32) (result i32)))
  (import "arqon_host_v1" "host_get_config" (func (param i32 i32) (result i32)))
  (import "arqon_host_v1" "host_payload_len" (func (result i32)))
  (import "arqon_host_v1" "host_get_payload" (func (param i32 i32 i32) (result i32)))
  (import "arqon_host_v1" "host_add_header" (func (param i32 i32 i32 i32) (result i32)))
  (import "arqon_host_v1" "host_remove_header" (func (param i32 i32) (result i32)))
  (import "arqon_host_v1" "host_set_payload" (func (param i32 i32) (result i32)))
  (import "arqon_host_v1" "host_log" (func (param i32 i32 i32)))
  (import "arqon_host_v1" "host_reject" (func (param i32 i32 i32)))
  (memory (export "memory") 1 64)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (func (export "on_request") (result i32) (i32.const 0)))"#;

static ENGINE: LazyLock<PolicyEngine> = LazyLock::new(|| PolicyEngine::new().expect("an engine"));
static SCRIPT: LazyLock<LoadedPolicy> = LazyLock::new(|| {
    let policy = policy(SCRIPTED.as_bytes());
    ENGINE.load(&policy).unwrap_or_else(|report| panic!("{report}"))
});

fn policy(module: &[u8]) -> PolicyConfig {
    PolicyConfig {
        grants: vec!["rewrite".to_owned()],
        config: Some("text".to_owned()),
        ..PolicyConfig::from_module("fuzzed", module.to_vec())
    }
}

fn request(body: &[u8]) -> RecordedRequest {
    serde_json::from_value(json!({
        "headers": {"x-name": "value"}, "subject": "in.t.acme.users", "claims": {"sub": "u1"},
        "body_base64": STANDARD.encode(body),
    }))
    .expect("a request")
}

/// One call, and the same call again: what must hold of any.
fn call(policy: &LoadedPolicy, request: &RecordedRequest) -> Outcome {
    let outcome = ENGINE.validate_with_context(policy, request).expect("a request");
    let known = ["denied", "trap", "fuel", "memory", "stack"];
    assert!(
        outcome
            .cause
            .as_deref()
            .is_none_or(|cause| known.contains(&cause)),
        "{outcome:?}"
    );
    assert_eq!(outcome.allows(), outcome.cause.is_none());
    assert!(
        outcome.headers.len() <= 32 && outcome.logs.len() <= 32,
        "{outcome:?}"
    );
    if outcome.cause.as_deref() == Some("denied") {
        assert!(outcome.reason.as_ref().is_some_and(|reason| reason.len() <= 256));
        assert!(outcome.status.is_some_and(|status| (400..600).contains(&status)));
    }
    for line in &outcome.logs {
        assert!(!line.message.contains(char::is_control), "{line:?}");
    }
    let again = ENGINE.validate_with_context(policy, request).expect("a request");
    assert_eq!(again, outcome, "the same request, another outcome");
    outcome
}

/// Bytes as a module: it loads, and then gives the same verdict twice, or is refused with a reason. Says whether it loaded.
pub(crate) fn module(bytes: &[u8]) -> bool {
    match ENGINE.load(&policy(bytes)) {
        Ok(policy) => {
            assert!(policy.report().ok);
            call(&policy, &request(b"body"));
            true
        }
        Err(report) => {
            assert!(!report.ok && report.errors().next().is_some(), "{report}");
            false
        }
    }
}

/// Bytes as the choices of a generator of valid modules of the right shape.
pub(crate) fn generated(bytes: &[u8]) -> bool {
    let config = wasm_smith::Config {
        module_shape: Some(wat::parse_str(SHAPE).expect("WAT")),
        bulk_memory_enabled: true,
        reference_types_enabled: false,
        simd_enabled: true,
        relaxed_simd_enabled: false,
        exceptions_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        custom_page_sizes_enabled: false,
        shared_everything_threads_enabled: false,
        multi_value_enabled: true,
        tail_call_enabled: true,
        max_memories: 1,
        max_tables: 1,
        max_instructions: 200,
        ..wasm_smith::Config::default()
    };
    match wasm_smith::Module::new(config, &mut Unstructured::new(bytes)) {
        Ok(generated) => module(&generated.to_bytes()),
        Err(_) => false,
    }
}

/// Bytes as a script of host calls.
pub(crate) fn abi(bytes: &[u8]) -> bool {
    call(&SCRIPT, &request(bytes)).allows()
}
