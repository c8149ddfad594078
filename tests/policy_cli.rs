//! `arqon policy bench` and `replay`, as an operator calls them.

use std::{error::Error, fs, path::Path, process::Command};

use serde_json::{Value, json};

const BLOCK_ME: &str = include_str!("../examples/policies/wat/block_me.wat");
const DENY: &str = r#"(module (memory (export "memory") 1) (global (export "arqon_abi_v1") i32 (i32.const 1))
  (func (export "on_request") (result i32) i32.const 1))"#;

/// The exit code and what was printed.
fn arqon(folder: &Path, arguments: &[&str]) -> Result<(Option<i32>, String, String), Box<dyn Error>> {
    let output = Command::new(env!("CARGO_BIN_EXE_arqon"))
        .args(arguments)
        .current_dir(folder)
        .output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

fn record(policy: &str, headers: Value, said: Value) -> String {
    let mut record = json!({
        "policy": policy, "sha256": "", "complete": true, "status": null, "cause": null,
        "request": { "path": "/v1/publish/free", "headers": headers },
    });
    for (key, value) in said.as_object().into_iter().flatten() {
        record[key] = value.clone();
    }
    record.to_string()
}

#[test]
fn records_are_held_against_any_module() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("block_me.wat"), BLOCK_ME)?;
    fs::write(folder.path().join("deny.wat"), DENY)?;
    fs::write(
        folder.path().join("request.json"),
        r#"{"headers":{"X-Block-Me":"1"}}"#,
    )?;
    let run = [
        "--json",
        "policy",
        "run",
        "block_me.wat",
        "--request",
        "request.json",
    ];
    let fuel = serde_json::from_str::<Value>(&arqon(folder.path(), &run)?.1)?["fuel"].clone();
    let (code, checked, _) = arqon(folder.path(), &["--json", "policy", "check", "block_me.wat"])?;
    assert_eq!(code, Some(0));
    let sha256 = serde_json::from_str::<Value>(&checked)?["reports"][0]["facts"]["sha256"].clone();
    let denied =
        json!({ "verdict": "reject", "status": 403, "cause": "denied", "fuel": fuel, "sha256": sha256 });
    let late =
        json!({ "verdict": "reject", "status": 503, "cause": "deadline", "fuel": 1, "sha256": sha256 });
    let other = json!({ "verdict": "allow", "fuel": 1, "sha256": "of another module" });
    let lines = [
        record("block_me", json!({ "x-block-me": "1" }), denied.clone()),
        record("block_me", json!({}), late),
        record("block_me", json!({}), other),
        record("somebody", json!({}), denied.clone()),
    ];
    fs::write(folder.path().join("records.jsonl"), lines.join("\n"))?;
    let replay = |module: &'static str| {
        arqon(
            folder.path(),
            &[
                "--json",
                "policy",
                "replay",
                module,
                "--records",
                "records.jsonl",
                "--policy",
                "block_me",
            ],
        )
    };
    let (code, said, errors) = replay("block_me.wat")?;
    let said: Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {errors}"))?;
    assert_eq!(code, Some(0));
    assert_eq!(
        said,
        json!({
            "replayed": 2, "same": 2, "differs": 0, "skipped": 1, "skipped_masked": 0, "masked_read": [], "differences": []
        })
    );

    let (code, said, _) = replay("deny.wat")?;
    let said: Value = serde_json::from_str(&said)?;
    assert_eq!((code, &said["differs"]), (Some(1), &json!(1)));
    assert_eq!(said["differences"][0]["line"], 3);
    assert_eq!(said["differences"][0]["recorded"]["verdict"], "allow");
    assert_eq!(said["differences"][0]["replayed"]["status"], 403);

    // The same module with other fuel is a difference: one of the two was not what it says it is.
    let mut wrong = denied;
    wrong["fuel"] = json!(1);
    fs::write(
        folder.path().join("records.jsonl"),
        record("block_me", json!({ "x-block-me": "1" }), wrong),
    )?;
    let (code, said, _) = arqon(
        folder.path(),
        &["policy", "replay", "block_me.wat", "--records", "records.jsonl"],
    )?;
    assert_eq!(code, Some(1));
    assert!(
        said.contains("was reject 403 denied (fuel 1), is reject 403 denied (fuel ")
            && said.contains("1 different"),
        "{said}"
    );
    fs::write(folder.path().join("records.jsonl"), "no record")?;
    assert_eq!(replay("block_me.wat")?.0, Some(2));
    Ok(())
}

#[test]
fn a_replay_that_compared_nothing_is_an_error() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("deny.wat"), DENY)?;
    let late = json!({ "verdict": "reject", "status": 503, "cause": "deadline", "fuel": 1 });
    fs::write(folder.path().join("late.jsonl"), record("p", json!({}), late))?;
    fs::write(folder.path().join("empty.jsonl"), "")?;
    for (file, policy, said) in [
        ("late.jsonl", "p", "all 1 records were skipped"),
        (
            "late.jsonl",
            "typo",
            "no record is of a policy called `typo`; there are: p",
        ),
        ("empty.jsonl", "p", "empty.jsonl holds no record"),
    ] {
        let words = [
            "policy",
            "replay",
            "deny.wat",
            "--records",
            file,
            "--policy",
            policy,
        ];
        let (code, _, errors) = arqon(folder.path(), &words)?;
        assert_eq!(code, Some(2), "{errors}");
        assert!(errors.contains(said), "{errors}");
    }
    Ok(())
}

#[test]
fn a_replay_skips_what_a_module_read_masked() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let reads = r#"(module (import "arqon_host_v1" "host_get_header" (func $get (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (global (export "arqon_abi_v1") i32 (i32.const 1))
      (data (i32.const 0) "Cookie")
      (func (export "on_request") (result i32)
        (drop (call $get (i32.const 0) (i32.const 6) (i32.const 64) (i32.const LEN)))
        (i32.eq (i32.load8_u (i32.const 64)) (i32.const 120))))"#;
    fs::write(folder.path().join("reads.wat"), reads.replace("LEN", "64"))?;
    fs::write(folder.path().join("asks.wat"), reads.replace("LEN", "0"))?;
    let mut masked: Value = serde_json::from_str(&record(
        "p",
        json!({ "cookie": "xxx" }),
        json!({ "verdict": "allow", "fuel": 1 }),
    ))?;
    masked["request"]["masked"] = json!(["cookie"]);
    let plain = record(
        "p",
        json!({ "cookie": "abc" }),
        json!({ "verdict": "allow", "fuel": 1 }),
    );
    fs::write(
        folder.path().join("records.jsonl"),
        format!("{masked}\n{plain}\n"),
    )?;
    for (module, skipped, names) in [("reads.wat", 1, json!(["cookie"])), ("asks.wat", 0, json!([]))] {
        let words = ["--json", "policy", "replay", module, "--records", "records.jsonl"];
        let (code, said, errors) = arqon(folder.path(), &words)?;
        assert_eq!(code, Some(0), "{said} {errors}");
        let said: Value = serde_json::from_str(&said)?;
        assert_eq!(
            (&said["skipped_masked"], &said["masked_read"], &said["same"]),
            (&json!(skipped), &names, &json!(2 - skipped))
        );
    }
    Ok(())
}

#[test]
fn a_missing_file_hides_no_other_and_a_wrong_option_is_no_refusal() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("block_me.wat"), BLOCK_ME)?;
    fs::write(folder.path().join("r.json"), "{}")?;
    let (code, said, errors) = arqon(folder.path(), &["policy", "check", "block_me.wat", "missing.wat"])?;
    assert_eq!(code, Some(2), "{errors}");
    assert!(
        said.contains("block_me.wat: ok") && said.contains("missing.wat: refused"),
        "{said}"
    );
    for json in [&[][..], &["--json"][..]] {
        let words = [
            "policy",
            "run",
            "block_me.wat",
            "--request",
            "r.json",
            "--grant",
            "rewrote",
        ];
        let (code, said, errors) = arqon(folder.path(), &[json, &words].concat())?;
        assert_eq!((code, said.as_str()), (Some(2), ""), "{errors}");
        assert!(errors.contains("config.invalid"), "{errors}");
    }
    Ok(())
}

#[test]
fn names_in_a_module_cannot_drive_the_terminal() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let module = r#"(module (import "evil\1b[2J\0d\0aok" "x\1b[31m\0anext line: ok" (func))
      (memory (export "memory") 1) (global (export "arqon_abi_v1") i32 (i32.const 1))
      (func (export "on_request") (result i32) i32.const 0)
      (func (export "e\1b[2J\0aok")))"#;
    let traps = r#"(module (memory (export "memory") 1) (global (export "arqon_abi_v1") i32 (i32.const 1))
      (func $"f\1b[2J\0aok" (export "on_request") (result i32) unreachable))"#;
    fs::write(folder.path().join("esc.wat"), module)?;
    fs::write(folder.path().join("traps.wat"), traps)?;
    fs::write(folder.path().join("r.json"), "{}")?;
    for words in [
        &["policy", "check", "esc.wat"][..],
        &["--json", "policy", "check", "esc.wat"],
        &["policy", "run", "esc.wat", "--request", "r.json"],
        &["policy", "run", "traps.wat", "--request", "r.json"],
    ] {
        let (code, said, errors) = arqon(folder.path(), words)?;
        assert_ne!(code, Some(0));
        let all = format!("{said}{errors}");
        assert!(!all.contains(['\u{1b}', '\r']), "{all:?}");
        assert!(
            !all.lines()
                .any(|line| line.starts_with("ok") || line.starts_with("next")),
            "{all:?}"
        );
        assert!(all.contains("u{1b}"), "{all:?}");
    }
    Ok(())
}

#[test]
fn a_module_is_timed() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("block_me.wat"), BLOCK_ME)?;
    let (code, said, errors) = arqon(
        folder.path(),
        &["--json", "policy", "bench", "block_me.wat", "--count", "50"],
    )?;
    assert_eq!(code, Some(0), "{errors}");
    let said: Value = serde_json::from_str(&said)?;
    assert_eq!(
        (&said["count"], &said["outcome"]["verdict"]),
        (&json!(50), &json!("allow"))
    );
    for key in ["nanos_best", "nanos_p50", "nanos_p99"] {
        assert!(said[key].as_u64().is_some_and(|nanos| nanos > 0), "{said}");
    }
    assert!(said["compile_ms"].as_f64().is_some());
    let (code, _, errors) = arqon(
        folder.path(),
        &["policy", "bench", "block_me.wat", "--count", "0"],
    )?;
    assert_eq!(code, Some(2), "{errors}");
    Ok(())
}

/// Refuses with 400, and 1 for each byte of its `config`, 16 if it may rewrite, 32 if it may edit `x-role`, 64 for `x-other`.
const TELLS: &str = r#"(module
  (import "arqon_host_v1" "host_get_config" (func $config (param i32 i32) (result i32)))
  (import "arqon_host_v1" "host_set_payload" (func $set (param i32 i32) (result i32)))
  (import "arqon_host_v1" "host_add_header" (func $add (param i32 i32 i32 i32) (result i32)))
  (import "arqon_host_v1" "host_reject" (func $reject (param i32 i32 i32)))
  (memory (export "memory") 1) (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 0) "x-role") (data (i32.const 16) "x-other")
  (func (export "on_request") (result i32) (local $code i32)
    (local.set $code (i32.add (i32.const 400) (call $config (i32.const 0) (i32.const 0))))
    (if (i32.eqz (call $set (i32.const 0) (i32.const 1))) (then (local.set $code (i32.add (local.get $code) (i32.const 16)))))
    (if (i32.eqz (call $add (i32.const 0) (i32.const 6) (i32.const 0) (i32.const 1)))
      (then (local.set $code (i32.add (local.get $code) (i32.const 32)))))
    (if (i32.eqz (call $add (i32.const 16) (i32.const 7) (i32.const 0) (i32.const 1)))
      (then (local.set $code (i32.add (local.get $code) (i32.const 64)))))
    (call $reject (local.get $code) (i32.const 0) (i32.const 0)) (i32.const 0)))"#;

#[test]
fn a_replay_runs_under_the_conditions_of_the_record_and_options_win_over_them() -> Result<(), Box<dyn Error>>
{
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("tells.wat"), TELLS)?;
    let conditions = json!({
        "config": "abc", "grants": ["rewrite"], "headers": ["x-role"], "fuel": 1_000_000, "max_body_bytes": 1_024,
        "memory_bytes_max": 1 << 20, "stack_bytes_max": 65_536, "table_elements_max": 16, "log_bytes_max": 100,
        "log_lines_max": 1, "reason_bytes_max": 16, "header_edits_max": 32, "header_bytes_max": 8_192,
    });
    let with = |changes: Value| {
        let mut changed = conditions.clone();
        for (key, value) in changes.as_object().into_iter().flatten() {
            changed[key] = value.clone();
        }
        changed
    };
    let replayed = |conditions: &Value, options: &[&str]| -> Result<Value, Box<dyn Error>> {
        let said = json!({ "verdict": "allow", "fuel": 1, "conditions": conditions });
        fs::write(
            folder.path().join("records.jsonl"),
            record("tells", json!({}), said),
        )?;
        let replay = [
            "--json",
            "policy",
            "replay",
            "tells.wat",
            "--records",
            "records.jsonl",
        ];
        let (code, said, errors) = arqon(folder.path(), &[&replay[..], options].concat())?;
        if code == Some(2) {
            return Ok(Value::String(errors));
        }
        let said: Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {errors}"))?;
        let replayed = &said["differences"][0]["replayed"];
        Ok(if replayed["cause"] == "denied" {
            replayed["status"].clone()
        } else {
            replayed["cause"].clone()
        })
    };
    for (conditions, options, expected) in [
        (with(json!({})), &[][..], json!(400 + 3 + 16 + 32)),
        (with(json!({ "config": "" })), &[], json!(400 + 16 + 32)),
        (
            with(json!({ "headers": null })),
            &[],
            json!(400 + 3 + 16 + 32 + 64),
        ),
        (with(json!({ "headers": [] })), &[], json!(400 + 3 + 16)),
        (
            with(json!({ "headers": null, "header_edits_max": 1 })),
            &[],
            json!(400 + 3 + 16 + 32),
        ),
        (
            with(json!({ "headers": null, "header_bytes_max": 7 })),
            &[],
            json!(400 + 3 + 16 + 32),
        ),
        (with(json!({ "fuel": 1_000 })), &[], json!("fuel")),
        // What the command says goes before what was recorded.
        (with(json!({})), &["--config", "abcdef"], json!(400 + 6 + 16 + 32)),
        (with(json!({})), &["--config", ""], json!(400 + 16 + 32)),
        (
            with(json!({})),
            &["--header", "x-other"],
            json!(400 + 3 + 16 + 64),
        ),
        (
            with(json!({})),
            &["--header", "x-other", "--header", "X-Role"],
            json!(400 + 3 + 16 + 32 + 64),
        ),
        (with(json!({})), &["--fuel-limit", "1000"], json!("fuel")),
        (
            with(json!({ "fuel": 1_000 })),
            &["--fuel-limit", "1000000"],
            json!(400 + 3 + 16 + 32),
        ),
        (
            with(json!({ "grants": [] })),
            &["--grant", "rewrite"],
            json!(400 + 3 + 16 + 32),
        ),
        // A record of before conditions were recorded has the defaults.
        (Value::Null, &["--grant", "rewrite"], json!(400 + 16 + 32 + 64)),
    ] {
        assert_eq!(
            replayed(&conditions, options)?,
            expected,
            "{conditions} {options:?}"
        );
    }
    let refused = replayed(&with(json!({ "grants": [] })), &[])?.to_string();
    assert!(
        refused.contains("cannot be loaded") && refused.contains("host_set_payload"),
        "{refused}"
    );
    Ok(())
}
