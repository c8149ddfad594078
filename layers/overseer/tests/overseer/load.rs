//! Loading: everything wrong with a module at once, in words.

use std::time::Duration;

use arqon_overseer::{
    BuildError, LoadReport, OverseerConfig, OverseerLayer, PolicyConfig, PolicyEngine, RecordedRequest,
};

use crate::guests::{BLOCK_ME, module, on_request, small};

fn check(module: impl Into<bytes::Bytes>) -> LoadReport {
    PolicyEngine::new()
        .unwrap()
        .check(&PolicyConfig::from_module("guest", module))
}

fn codes(report: &LoadReport) -> Vec<&str> {
    report
        .findings
        .iter()
        .map(|finding| finding.code.as_str())
        .collect()
}

#[test]
fn every_finding_is_reported_at_once() {
    let report = check(
        r#"(module
             (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
             (import "env" "abort" (func (param i32 i32 i32 i32)))
             (import "env" "other" (func))
             (import "arqon_host_v2" "host_log" (func (param i32 i32 i32)))
             (import "arqon_host_v1" "host_get_heder" (func (param i32 i32 i32 i32) (result i32)))
             (import "arqon_host_v1" "host_log" (func (param i64)))
             (import "arqon_host_v1" "host_reject" (global i32))
             (import "arqon_host_v1" "host_set_payload" (func (param i32 i32) (result i32)))
             (memory 65)
             (table 5000 funcref)
             (func (export "on_response") (param i32)))"#,
    );
    assert!(!report.ok);
    let codes = codes(&report);
    for code in [
        "import.wasi",
        "import.env_abort",
        "import.module",
        "import.version",
        "import.name",
        "import.type",
        "import.kind",
        "grant.missing",
        "memory.too_large",
        "table.too_large",
        "export.marker",
        "export.memory",
        "export.type",
    ] {
        assert!(codes.contains(&code), "{code} in {report}");
    }
    let text = report.to_string();
    assert!(
        text.contains("wasi_snapshot_preview1.fd_write") && text.contains("wasm32-unknown-unknown"),
        "{text}"
    );
    assert!(text.contains("did you mean `host_get_header`?"), "{text}");
    assert!(text.contains("declare it as (i32, i32, i32)"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["findings"][0]["severity"], "error");
}

#[test]
fn a_good_module_has_facts() {
    let report = check(BLOCK_ME);
    assert!(report.ok && report.findings.is_empty(), "{report}");
    let facts = report.facts.unwrap();
    assert_eq!(facts.abi, "arqon_host_v1");
    assert_eq!(facts.entries, ["on_request"]);
    assert_eq!(facts.imports, ["host_get_header"]);
    assert!(!facts.needs_body && !facts.needs_claims && !facts.sees_responses && !facts.rewrites);
    assert_eq!(facts.pages, 1);
    assert_eq!(facts.sha256.len(), 64);
    let dry_run = facts.dry_run.unwrap();
    assert_eq!((dry_run.verdict.as_str(), dry_run.cause), ("allow", None));
    assert!(dry_run.fuel > 500);
}

#[test]
fn what_is_no_module_is_refused_in_words() {
    for (bytes, code) in [
        (&b""[..], "module.empty"),
        (b"  \n", "module.empty"),
        (b"\xff\xfe\x00", "module.unreadable"),
        (b"(module", "module.text"),
        (b"\0asm", "module.invalid"),
        (b"\0asm\x0d\x00\x01\x00", "module.invalid"),
        (b"\0asm\x01\x00\x00\x00\xff\xff\xff", "module.invalid"),
        (b"\x7fELF\x02\x01\x01\x00\xff", "module.unreadable"),
        (b"(module (memory (export \"memory\") 1 1 shared))", "module.text"),
        (b"(component)", "module.invalid"),
    ] {
        let report = check(bytes);
        assert!(!report.ok, "{bytes:?}");
        assert!(
            codes(&report).contains(&code) || (code == "module.text" && !report.ok),
            "{}: {report}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn proposals_that_are_off_are_named() {
    let marker = r#"(global (export "arqon_abi_v1") i32 (i32.const 1)) (func (export "on_request") (result i32) i32.const 0)"#;
    for (items, word) in [
        ("(memory (export \"memory\") i64 1)", "memory.64bit"),
        ("(memory (export \"memory\") 1 1 shared)", "memory.shared"),
        ("(memory (export \"memory\") 1) (memory 1)", "memory.count"),
        (
            "(memory (export \"memory\") 1) (func (param v128) (drop (i32x4.relaxed_trunc_f32x4_s (local.get 0))))",
            "module.feature",
        ),
        ("(memory (export \"memory\") 1) (tag)", "module.feature"),
        ("(memory (export \"memory\") 1) (type (struct))", "module.feature"),
    ] {
        let report = check(format!("(module {items} {marker})"));
        assert!(codes(&report).contains(&word), "{items}: {report}");
    }
}

#[test]
fn a_memory_of_4_mib_loads_and_one_page_more_does_not() {
    let with = |pages: u32| {
        check(module(&format!(
            "(memory (export \"memory\") {pages}) (func (export \"on_request\") (result i32) (i32.const 0))"
        )))
    };
    assert!(with(64).ok, "{}", with(64));
    assert_eq!(codes(&with(65)), ["memory.too_large"]);
}

#[test]
fn a_memory_may_say_its_size_in_bytes() {
    let with = |bytes: u32| {
        check(module(&format!(
            "(memory (export \"memory\") {bytes} {bytes} (pagesize 1)) (func (export \"on_request\") (result i32) (i32.const 0))"
        )))
    };
    for (bytes, pages) in [(0, 0), (100, 1), (65_536, 1), (65_537, 2), (4_194_304, 64)] {
        let report = with(bytes);
        assert!(report.ok, "{report}");
        let facts = report.facts.unwrap();
        assert_eq!((facts.pages, facts.pages_max), (pages, Some(pages)), "{bytes}");
    }
    assert_eq!(codes(&with(4_194_305)), ["memory.too_large"]);
}

#[test]
fn what_is_outside_of_a_memory_of_few_bytes_is_a_trap() {
    let loads = |address: u32| {
        check(module(&format!(
            "(memory (export \"memory\") 100 (pagesize 1))
             (func (export \"on_request\") (result i32) (i32.load8_u (i32.const {address})))"
        )))
    };
    for (address, verdict) in [
        (99, "allow"),
        (100, "failed"),
        (4_096, "failed"),
        (u32::MAX, "failed"),
    ] {
        let dry_run = loads(address).facts.unwrap().dry_run.unwrap();
        assert_eq!(dry_run.verdict, verdict, "{address}");
    }
}

#[test]
fn a_pinned_digest_must_match() {
    let sha256 = check(BLOCK_ME).facts.unwrap().sha256;
    let engine = PolicyEngine::new().unwrap();
    let pinned = |pin: String| {
        engine.check(&PolicyConfig {
            sha256: Some(pin),
            ..PolicyConfig::from_module("guest", BLOCK_ME)
        })
    };
    assert!(pinned(sha256.to_uppercase()).ok);
    assert_eq!(codes(&pinned("0".repeat(64))), ["sha256.mismatch"]);
    assert_eq!(codes(&pinned("abc".to_owned())), ["config.invalid"]);
}

#[test]
fn start_functions_run_under_the_same_limits() {
    let start = |body: &str| {
        check(module(&format!(
            "(func $start {body}) (start $start) (func (export \"on_request\") (result i32) (i32.const 0))"
        )))
    };
    assert!(start("(call $host_log (i32.const 2) (i32.const 0) (i32.const 4))").ok);
    for body in [
        "(loop $again (br $again))",
        "unreachable",
        "(call $host_reject (i32.const 403) (i32.const 0) (i32.const 0))",
    ] {
        assert_eq!(codes(&start(body)), ["start.failed"], "{body}");
    }
    let initialize = check(module(
        "(func (export \"_initialize\") unreachable) (func (export \"on_request\") (result i32) (i32.const 0))",
    ));
    assert_eq!(codes(&initialize), ["start.failed"]);
}

#[test]
fn a_policy_that_fails_its_dry_run_is_loaded_with_a_warning() {
    let report = check(on_request("unreachable"));
    assert!(report.ok);
    assert_eq!(codes(&report), ["dry_run.failed"]);
}

#[test]
fn the_originals_fuel_limit_is_accepted_and_warned_about() {
    let engine = PolicyEngine::with_limits(&OverseerConfig {
        fuel_limit: Some(10_000),
        ..OverseerConfig::default()
    })
    .unwrap();
    let report = engine.check(&PolicyConfig::from_module("guest", BLOCK_ME));
    assert!(report.ok);
    assert_eq!(codes(&report), ["fuel.low"]);
}

#[test]
fn a_budget_is_calibrated() {
    let engine = PolicyEngine::with_limits(&OverseerConfig {
        budget: Some("5ms".to_owned()),
        ..OverseerConfig::default()
    })
    .unwrap();
    assert!(engine.check(&PolicyConfig::from_module("guest", BLOCK_ME)).ok);
}

#[test]
fn modules_made_to_be_slow_to_compile_meet_a_cap_or_the_deadline() {
    let many = module(&format!(
        "{} (func (export \"on_request\") (result i32) (i32.const 0))",
        "(func)".repeat(10_000)
    ));
    assert_eq!(codes(&check(many)), ["module.functions"]);
    let huge = on_request(&format!(
        "(block {} ) (i32.const 0)",
        "(br_if 0 (i32.const 0))".repeat(70_000)
    ));
    assert_eq!(codes(&check(huge)), ["module.function_bytes"]);

    let slow = on_request(
        &"(i32.const 1) drop "
            .repeat(50_000)
            .replace("drop ", "(if (then)) ")
            .chars()
            .chain(" (i32.const 0)".chars())
            .collect::<String>(),
    );
    let engine = PolicyEngine::with_limits(&OverseerConfig {
        compile_deadline: "1ms".to_owned(),
        ..OverseerConfig::default()
    })
    .unwrap();
    let begun = std::time::Instant::now();
    let report = engine.check(&PolicyConfig::from_module("guest", slow));
    assert_eq!(codes(&report), ["compile.failed"], "{report}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    let small = PolicyEngine::with_limits(&OverseerConfig {
        module_bytes_max: 100,
        ..OverseerConfig::default()
    })
    .unwrap();
    assert_eq!(
        codes(&small.check(&PolicyConfig::from_module("guest", BLOCK_ME))),
        ["module.too_large"]
    );
}

#[test]
fn building_names_every_wrong_key_and_every_wrong_module() {
    let wrong = OverseerConfig {
        concurrency: 0,
        ..OverseerConfig::of([PolicyConfig {
            mode: "watch".to_owned(),
            ..PolicyConfig::default()
        }])
    };
    let Err(BuildError::Config(errors)) = OverseerLayer::new(wrong) else {
        panic!("it holds")
    };
    let keys: Vec<_> = errors.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "concurrency",
            "policies[0].name",
            "policies[0].path",
            "policies[0].mode"
        ]
    );

    let wrong = small([
        PolicyConfig::from_path("gone", "/nonexistent/gone.wasm"),
        PolicyConfig::from_module("bad", "(module)"),
        PolicyConfig::from_module("good", BLOCK_ME),
    ]);
    let Err(error @ BuildError::Load(_)) = OverseerLayer::new(wrong) else {
        panic!("they load")
    };
    let text = error.to_string();
    assert!(
        text.contains("/nonexistent/gone.wasm cannot be read") && text.contains("policy `bad`"),
        "{text}"
    );
}

#[test]
fn a_compiled_fixture_that_calls_host_log_runs() {
    let wasm: &[u8] = include_bytes!("../fixtures/log.wasm");
    let policy = PolicyConfig::from_module("fixture", wasm);
    let engine = PolicyEngine::new().unwrap();
    let policy = engine.load(&policy).unwrap_or_else(|report| panic!("{report}"));
    let outcome = engine
        .validate_with_context(&policy, &RecordedRequest::default())
        .unwrap();
    assert!(outcome.allows());
    assert_eq!(outcome.logs.len(), 1);
    assert_eq!(
        (outcome.logs[0].level.as_str(), outcome.logs[0].message.as_str()),
        ("info", "hello from the guest")
    );
}

#[test]
fn the_fixtures_bytes_are_those_of_its_text() {
    let text = include_str!("../fixtures/log.wat");
    assert_eq!(
        wat::parse_str(text).unwrap(),
        include_bytes!("../fixtures/log.wasm")
    );
}

#[test]
fn an_outcome_has_every_key() {
    let engine = PolicyEngine::new().unwrap();
    let policy = engine
        .load(&PolicyConfig::from_module("guest", BLOCK_ME))
        .unwrap();
    let outcome = engine
        .validate_with_context(&policy, &RecordedRequest::default())
        .unwrap();
    let json = serde_json::to_value(&outcome).unwrap();
    let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "body_base64",
            "cause",
            "fuel",
            "headers",
            "logs",
            "reason",
            "status",
            "verdict"
        ]
    );
    assert!(json["cause"].is_null() && json["status"].is_null() && json["body_base64"].is_null());
}

#[test]
fn a_record_that_is_no_request_names_its_key() {
    for (json, key) in [
        (r#"{"method": "a b"}"#, "method"),
        (r#"{"path": "no spaces"}"#, "path"),
        (r#"{"headers": {"a b": "1"}}"#, "headers.a b"),
        (r#"{"headers": {"a": ["1", "\n"]}}"#, "headers.a"),
        (r#"{"subject": "a..b"}"#, "subject"),
        (r#"{"tenant": "a.b"}"#, "tenant"),
        (r#"{"remote_addr": "localhost"}"#, "remote_addr"),
        (r#"{"protocol": "smtp"}"#, "protocol"),
        (r#"{"body": "a", "body_base64": "YQ=="}"#, "body_base64"),
        (r#"{"body_base64": "%"}"#, "body_base64"),
    ] {
        let record: RecordedRequest = serde_json::from_str(json).unwrap();
        assert_eq!(record.parts().unwrap_err().key, key);
    }
}
