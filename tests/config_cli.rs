//! `arqon config`, completions and the man page, as an operator calls them.

use std::{
    error::Error,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

struct Ran {
    code: Option<i32>,
    out: String,
    errors: String,
}

fn arqon(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Ran, Box<dyn Error>> {
    let output = Command::new(env!("CARGO_BIN_EXE_arqon"))
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(folder)
        .output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ran {
        code: output.status.code(),
        out: text(output.stdout),
        errors: text(output.stderr),
    })
}

#[test]
fn the_schema_is_the_one_that_is_checked_in_and_lists_every_key() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let ran = arqon(folder.path(), &["config", "schema"], &[])?;
    assert_eq!(ran.code, Some(0));
    let checked_in = include_str!("../docs/config.schema.json");
    assert!(
        ran.out == checked_in,
        "the schema has changed: arqon config schema > docs/config.schema.json"
    );
    let schema: Value = serde_json::from_str(&ran.out)?;
    let keys: Vec<_> = schema["x-keys"]
        .as_array()
        .ok_or("keys")?
        .iter()
        .filter_map(|key| key["key"].as_str())
        .collect();
    let reference = include_str!("../examples/gateway/gateway.toml");
    // The reference names every key (its own test): what it has at the margin is in the schema.
    let mut missing = Vec::new();
    let mut section = String::new();
    for line in reference
        .lines()
        .map(|line| line.strip_prefix('#').unwrap_or(line))
    {
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.split(']').next()) {
            section = format!("{name}[]");
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = name.to_owned();
        } else if let Some((name, _)) = line.split_once(" = ")
            && !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
        {
            let key = format!("{section}.{name}");
            let nested = [format!("{key}."), format!("{key}[")];
            if !keys
                .iter()
                .any(|known| *known == key || nested.iter().any(|start| known.starts_with(start)))
            {
                missing.push(key);
            }
        }
    }
    assert!(missing.is_empty(), "not in the schema: {missing:#?}");
    let listen = schema["x-keys"]
        .as_array()
        .ok_or("keys")?
        .iter()
        .find(|key| key["key"] == "gateway.listen");
    let listen = listen.ok_or("gateway.listen")?;
    assert_eq!(
        (&listen["env"], &listen["flag"]),
        (&"ARQON_GATEWAY__LISTEN".into(), &"--listen".into())
    );
    assert_eq!(listen["default"], "127.0.0.1:8080");
    Ok(())
}

#[test]
fn print_says_where_each_value_came_from_and_shows_no_secret() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = "[nats]\nurl = \"nats://user:hunter2@h:1\"\n[bus]\ncapacity = 8\n[platform.mirroring]\nseed = 77\nrules = [{ prefix = \"in.>\", percent = 0.5 }]\n";
    fs::write(folder.path().join("g.toml"), file)?;
    let environment = [
        ("ARQON_GATEWAY__MAX_BODY_BYTES", "1000"),
        ("RON_BUS_OVERFLOW_WARN_RATE_PER_MIN", "7"),
    ];
    let arguments = [
        "--json",
        "config",
        "print",
        "g.toml",
        "--listen",
        "127.0.0.1:1",
        "--bus-capacity",
        "16",
    ];
    let ran = arqon(folder.path(), &arguments, &environment)?;
    assert_eq!(ran.code, Some(0), "{}", ran.errors);
    let told: Value = serde_json::from_str(&ran.out)?;
    let values = told["values"].as_array().ok_or("values")?;
    for (key, value, source, from) in [
        (
            "gateway.listen",
            Value::from("127.0.0.1:1"),
            "flag",
            Some("--listen"),
        ),
        ("bus.capacity", 16.into(), "flag", Some("--bus-capacity")),
        (
            "gateway.max_body_bytes",
            1_000.into(),
            "env",
            Some("ARQON_GATEWAY__MAX_BODY_BYTES"),
        ),
        (
            "bus.overflow_warn_rate_per_min",
            7.into(),
            "env",
            Some("RON_BUS_OVERFLOW_WARN_RATE_PER_MIN"),
        ),
        ("nats.url", "nats://h:1".into(), "file", Some("g.toml")),
        (
            "platform.mirroring.seed",
            "[redacted]".into(),
            "file",
            Some("g.toml"),
        ),
        (
            "platform.mirroring.rules[0].percent",
            0.5.into(),
            "file",
            Some("g.toml"),
        ),
        (
            "platform.mirroring.rules[0].compare",
            false.into(),
            "default",
            None,
        ),
        ("gateway.admin_listen", "127.0.0.1:9901".into(), "default", None),
    ] {
        let found = values.iter().find(|one| one["key"] == key).ok_or(key)?;
        assert_eq!(
            (&found["value"], found["source"].as_str()),
            (&value, Some(source)),
            "{key}"
        );
        let origin = found["from"].as_str();
        assert_eq!(
            origin.map(|origin| from.is_some_and(|from| origin.contains(from))),
            from.map(|_| true),
            "{key}: {origin:?}"
        );
    }
    assert!(
        !ran.out.contains("hunter2") && !ran.out.contains("77"),
        "{}",
        ran.out
    );
    let ran = arqon(folder.path(), &["config", "print", "g.toml", "--set"], &[])?;
    assert!(ran.out.contains("bus.capacity = 8"), "{}", ran.out);
    assert!(
        ran.out.lines().all(|line| line.contains("# file ")),
        "{}",
        ran.out
    );
    Ok(())
}

#[test]
fn a_file_that_is_not_there_is_a_mistake_in_the_command() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for command in ["check", "print"] {
        let ran = arqon(folder.path(), &["config", command, "nope"], &[])?;
        assert_eq!(ran.code, Some(2), "{command}");
        assert!(
            ran.errors.starts_with("arqon: nope cannot be read: "),
            "{}",
            ran.errors
        );
    }
    Ok(())
}

#[test]
fn a_wrong_value_is_told_with_key_value_and_fix() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for (file, environment, said) in [
        (
            "[platform.overseer]\nfuel_limit = -1\n",
            &[][..],
            "platform.overseer.fuel_limit: -1 does not fit: write a whole number of 0 or more",
        ),
        (
            "[platform.mirroring]\nrules = [{ prefix = \"in.>\", percent = nan }]\n",
            &[],
            "platform.mirroring.rules[0].percent: nan is not a number that can be used: write a finite one",
        ),
        (
            "",
            &[("ARQON_BUS__CAPACITY", "many")],
            "bus.capacity: \"many\" does not fit: write a whole number from 0 to 4294967295 (from ARQON_BUS__CAPACITY in the environment)",
        ),
        (
            "",
            &[("ARQON_GATEWAY__LISTEN", "here")],
            "(from ARQON_GATEWAY__LISTEN in the environment)",
        ),
        (
            "",
            &[("RON_BUS_", "1")],
            "RON_BUS_: the variable names no key: write RON_BUS_<KEY>, or unset it",
        ),
        (
            "",
            &[("RON_AMNESIA", "yes")],
            "RON_AMNESIA: \"yes\" is neither `on` nor `off`: write one of them, or unset it",
        ),
        (
            "[telemetry]\notlp = \"ftp://h\"\n",
            &[],
            "telemetry.otlp: \"ftp://h\" cannot be used: write http://host:port",
        ),
        (
            "[telemetry]\nlog_repeats_per_min = 0\n",
            &[],
            "telemetry.log_repeats_per_min: 0 is not within 1 to 1000000",
        ),
        (
            "[telemetry]\nlog_tenant_per_min = 0\n",
            &[],
            "telemetry.log_tenant_per_min: 0 is not within 1 to 60000000",
        ),
        (
            "[nats]\nurl = \"nats://h:1\"\ncontrol = {}\n",
            &[],
            "nats.control.creds_file: names nobody",
        ),
        (
            "[telemetry]\notlp_percent = 10\n",
            &[],
            "telemetry.otlp_percent: ",
        ),
    ] {
        fs::write(folder.path().join("g.toml"), file)?;
        let ran = arqon(folder.path(), &["config", "check", "g.toml"], environment)?;
        assert_eq!(ran.code, Some(1), "{file}: {}", ran.out);
        assert!(ran.out.contains(said), "{said}\nin: {}", ran.out);
        assert_eq!(
            ran.out.trim_end().lines().count(),
            1,
            "one finding, one line: {}",
            ran.out
        );
    }
    Ok(())
}

#[test]
fn there_are_completions_and_a_man_page_with_every_command() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = arqon(folder.path(), &["completions", shell], &[])?;
        assert_eq!(ran.code, Some(0), "{shell}");
        assert!(
            ran.out.contains("audit") && ran.out.contains("completions"),
            "{shell}"
        );
    }
    assert_eq!(arqon(folder.path(), &["completions", "tcsh"], &[])?.code, Some(2));
    let ran = arqon(folder.path(), &["man"], &[])?;
    assert!(ran.out.contains(".TH arqon 1"), "{}", &ran.out[..200]);
    for part in [
        "POLICY RUN",
        "CONFIG PRINT",
        "GOV STOP",
        "AUDIT VERIFY",
        "SAMPLE",
        "COMPLETIONS",
    ] {
        let title = format!(".SH \"ARQON {part}\"");
        assert!(ran.out.contains(&title), "{title}");
    }
    assert!(
        !ran.out.contains("ARQON HELP"),
        "what --help says of itself is left out"
    );
    Ok(())
}

#[test]
fn a_reader_that_has_read_enough_is_no_mistake() -> Result<(), Box<dyn Error>> {
    for arguments in [
        &["config", "schema"][..],
        &["man"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["--help"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_arqon"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Nobody reads from the start.
        drop(child.stdout.take());
        let ran = child.wait_with_output()?;
        assert_eq!(
            (ran.status.code(), String::from_utf8_lossy(&ran.stderr).as_ref()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
    Ok(())
}

#[test]
fn a_module_that_cannot_be_loaded_and_a_key_nobody_knows_are_told() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("bad.wat"), "(module)")?;
    fs::write(folder.path().join("r.json"), "{}")?;
    let run = ["--json", "policy", "run", "bad.wat", "--request", "r.json"];
    let ran = arqon(folder.path(), &run, &[])?;
    assert_eq!(ran.code, Some(2), "{}", ran.errors);
    let told: Value = serde_json::from_str(&ran.out)?;
    assert_eq!(
        (&told["verdict"], &told["cause"], &told["status"]),
        (&"reject".into(), &"load".into(), &503.into())
    );
    let mut keys: Vec<_> = told
        .as_object()
        .ok_or("an object")?
        .keys()
        .map(String::as_str)
        .collect();
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
    fs::write(
        folder.path().join("ok.wat"),
        include_str!("../examples/policies/wat/block_me.wat"),
    )?;
    fs::write(folder.path().join("r.json"), r#"{"methd": "POST"}"#)?;
    let ran = arqon(
        folder.path(),
        &["policy", "run", "ok.wat", "--request", "r.json"],
        &[],
    )?;
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.errors.contains("methd") && ran.errors.contains("method"),
        "{}",
        ran.errors
    );
    Ok(())
}
