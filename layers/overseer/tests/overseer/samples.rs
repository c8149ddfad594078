//! The policies under `examples/policies`: built by their script in three languages.

use std::{path::PathBuf, process::Command};

use arqon_overseer::{Outcome, PolicyConfig, PolicyEngine, RecordedRequest};
use serde_json::json;

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "examples", "policies"]
        .iter()
        .collect()
}

fn policy(path: PathBuf, config: &str) -> PolicyConfig {
    PolicyConfig {
        config: (!config.is_empty()).then(|| config.to_owned()),
        grants: vec!["rewrite".to_owned()],
        ..PolicyConfig::from_path("sample", path)
    }
}

fn run(policy: &PolicyConfig, request: serde_json::Value) -> Outcome {
    let engine = PolicyEngine::new().unwrap();
    let loaded = engine.load(policy).unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.report().findings.is_empty(), "{}", loaded.report());
    let request: RecordedRequest = serde_json::from_value(request).unwrap();
    let first = engine.validate_with_context(&loaded, &request).unwrap();
    let again = engine.validate_with_context(&loaded, &request).unwrap();
    assert_eq!(
        first, again,
        "the same request, the same verdict and the same fuel"
    );
    first
}

fn status(policy: &PolicyConfig, request: serde_json::Value) -> Option<u16> {
    let outcome = run(policy, request);
    assert!(
        matches!(outcome.cause.as_deref(), None | Some("denied")),
        "{outcome:?}"
    );
    outcome.status
}

/// Every policy that the script built, by its file's name.
struct Built {
    out: tempfile::TempDir,
    languages: Vec<&'static str>,
}

impl Built {
    /// Runs the script. What is skipped for want of a toolchain is said; CI sets STRICT=1, and then it is an error.
    fn new() -> Self {
        let out = tempfile::tempdir().unwrap();
        let mut build = Command::new("sh");
        build.arg(folder().join("build.sh")).arg(out.path());
        // Another compiler than the one that builds this test: cargo sets RUSTC for its own.
        match std::env::var_os("RUSTC_POLICIES") {
            Some(rustc) => build.env("RUSTC", rustc),
            None => build.env_remove("RUSTC"),
        };
        let built = build.output().unwrap();
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        assert!(built.status.success(), "{said}");
        print!("{said}");
        let there = |language: &&str| {
            let path = out.path().join(format!("{language}_maintenance"));
            path.with_extension("wasm").exists() || path.with_extension("wat").exists()
        };
        let languages: Vec<_> = ["rust", "c", "wat"].into_iter().filter(there).collect();
        if std::env::var_os("STRICT").is_some() {
            assert_eq!(languages.len(), 3, "every sample is built and run: {languages:?}");
        }
        Self { out, languages }
    }

    fn policy(&self, language: &str, name: &str, config: &str) -> PolicyConfig {
        let name = if (language, name) == ("wat", "block_header") {
            "block_me"
        } else {
            name
        };
        let extension = if language == "wat" { "wat" } else { "wasm" };
        let path = self.out.path().join(format!("{language}_{name}.{extension}"));
        assert!(path.exists(), "{} was not built", path.display());
        policy(path, config)
    }
}

#[test]
fn policies_in_wat_do_what_they_say() {
    let wat = |name: &str, config: &str| policy(folder().join("wat").join(name), config);
    let edge = run(
        &wat("add_header.wat", ""),
        json!({"headers": {"x-edge": "forged"}}),
    );
    assert_eq!(
        edge.headers,
        [("add".to_owned(), "x-edge".to_owned(), Some("arqon".to_owned()))]
    );
    let engine = PolicyEngine::new().unwrap();
    assert!(engine.check(&wat("hide_server.wat", "")).ok);
}

#[test]
fn policies_in_rust_and_c_and_wat_build_and_do_what_they_say() {
    let built = Built::new();
    for language in &built.languages {
        let policy = |name: &str, config: &str| built.policy(language, name, config);
        header_block(&policy("block_header", ""));
        if *language == "rust" {
            configured_block(&policy);
        }
        claim_access(language, &policy);
        redaction(&policy("redact_numbers", ""));
        body_size(language, &policy);
        maintenance(language, &policy);
    }
    println!("5 policies each ran in {:?}", built.languages);
}

fn header_block(block: &PolicyConfig) {
    assert_eq!(status(block, json!({})), None);
    assert_eq!(status(block, json!({"headers": {"x-other": "1"}})), None);
    assert_eq!(status(block, json!({"headers": {"X-Block-Me": ""}})), Some(403));
}

/// A configuration that names no header would deny nothing.
fn configured_block(policy: &dyn Fn(&str, &str) -> PolicyConfig) {
    for named in ["x-other", "X-Other ", " x-other\n"] {
        let block = policy("block_header", named);
        assert_eq!(
            status(&block, json!({"headers": {"x-block-me": ""}})),
            None,
            "{named:?}"
        );
        assert_eq!(
            status(&block, json!({"headers": {"x-other": ""}})),
            Some(403),
            "{named:?}"
        );
    }
    let engine = PolicyEngine::new().unwrap();
    for none in ["x-other:", "x other", "x-\u{f6}", &"x".repeat(65)] {
        assert!(!engine.check(&policy("block_header", none)).ok, "{none:?}");
    }
}

fn claim_access(language: &str, policy: &dyn Fn(&str, &str) -> PolicyConfig) {
    let roles = policy(
        "claim_access",
        if language == "rust" { "editor admin" } else { "" },
    );
    let write = |role: &str| json!({"method": "POST", "claims": {"role": role}});
    assert_eq!(status(&roles, write("admin")), None);
    assert_eq!(status(&roles, write("admix")), Some(403));
    assert_eq!(
        status(
            &roles,
            write("a very long role, longer than the buffer in it, which holds 16 or 64")
        ),
        Some(403)
    );
    // What a client says of itself is no claim.
    let forged = json!({"method": "POST", "headers": {"role": "admin", "x-role": "admin"}});
    assert_eq!(status(&roles, forged), Some(403));
    if language == "rust" {
        assert_eq!(status(&roles, write("editor")), None);
        assert_eq!(status(&roles, json!({"method": "GET"})), None);
        let passed = run(&roles, write("admin"));
        assert_eq!(
            passed.headers,
            [("add".to_owned(), "x-role".to_owned(), Some("admin".to_owned()))]
        );
        assert!(!PolicyEngine::new().unwrap().check(&policy("claim_access", "")).ok);
    } else {
        let refused = run(&roles, json!({}));
        assert_eq!(refused.reason.as_deref(), Some("only for administrators"));
    }
}

fn redaction(redact: &PolicyConfig) {
    let redacted = |body: &str| {
        let outcome = run(redact, json!({"method": "POST", "body": body}));
        assert!(outcome.allows(), "{outcome:?}");
        outcome.body_base64.map(|body| {
            use base64::{Engine as _, engine::general_purpose::STANDARD};
            String::from_utf8(STANDARD.decode(body).unwrap()).unwrap()
        })
    };
    for (body, left) in [
        ("card 4111111111111111, ok", Some("card ************1111, ok")),
        ("4222222222222", Some("*********2222")),
        ("6304000000000000000", Some("***************0000")),
        (
            "4111111111111111 5500005555555559",
            Some("************1111 ************5559"),
        ),
        ("order 123456789012", None),
        ("12345678901234567890 is too long", None),
        ("", None),
    ] {
        assert_eq!(redacted(body).as_deref(), left, "{body}");
    }
    let huge = run(redact, json!({"method": "POST", "body": "x".repeat(70_000)}));
    assert_eq!(huge.status, Some(413));
}

fn body_size(language: &str, policy: &dyn Fn(&str, &str) -> PolicyConfig) {
    let configured = language != "wat";
    let size = policy(
        "body_size",
        if configured {
            "application/json 4096\n* 1024"
        } else {
            ""
        },
    );
    let post = |media_type: &str, len: usize| {
        let body = "x".repeat(len);
        status(
            &size,
            json!({"method": "POST", "headers": {"content-type": media_type}, "body": body}),
        )
    };
    assert_eq!(post("application/json; charset=utf-8", 4_096), None);
    assert_eq!(post("application/json", 4_097), Some(413));
    assert_eq!(post("application/jsonl", 1_025), Some(413));
    assert_eq!(post("text/plain", 1_024), None);
    assert_eq!(post("text/plain", 1_025), Some(413));
    assert_eq!(
        status(&size, json!({"method": "POST", "body": "x".repeat(1_025)})),
        Some(413)
    );
    if configured {
        for wrong in [
            "application/json",
            "application/json x",
            "4096",
            "application/json 4096\n\n* 1",
        ] {
            assert!(
                !PolicyEngine::new().unwrap().check(&policy("body_size", wrong)).ok,
                "{language}: {wrong}"
            );
        }
        let only = policy("body_size", "application/json 4");
        assert_eq!(
            status(
                &only,
                json!({"method": "POST", "body": "what has no line is not limited"})
            ),
            None
        );
    }
}

fn maintenance(language: &str, policy: &dyn Fn(&str, &str) -> PolicyConfig) {
    let on = policy("maintenance", "on");
    assert_eq!(status(&on, json!({"method": "POST"})), Some(503));
    assert_eq!(
        status(&policy("maintenance", "off"), json!({"method": "POST"})),
        None
    );
    if language != "wat" {
        assert_eq!(status(&on, json!({"method": "GET"})), None);
        assert!(
            !PolicyEngine::new()
                .unwrap()
                .check(&policy("maintenance", "maybe"))
                .ok
        );
    }
}
