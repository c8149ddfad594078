//! What keeps a gateway from starting is said in words, all of it, before anything listens: exit 2.

use std::net::TcpListener;

use super::process::{folder, run};

const BASE: &str = "[gateway]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n";

/// The standard error of a gateway that must not start.
fn refused(config: &str) -> String {
    let folder = folder(&format!("{BASE}{config}"));
    let output = run(folder.path(), &["serve", "--config", "gateway.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

#[test]
fn all_findings_come_at_once() {
    let said = refused(
        "max_conections = 3\n[platform.mirroring]\nrules = [{ prefix = \"in.t.x.>\", percent = 10 }]\n[nats]\nurl = \"x\"\n",
    );
    for part in [
        "did you mean `max_connections`?",
        "platform.mirroring.rules[0].percent",
        "nats.url",
        "gateway.toml",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn a_bad_policy_a_missing_file_and_an_unreadable_schema_are_named() {
    let policy = |path: &str| format!("[[platform.overseer.policies]]\nname = \"p\"\npath = \"{path}\"\n");
    assert!(refused(&policy("no_such.wat")).contains("no_such.wat"));
    let said = refused(&policy("control.token"));
    assert!(
        said.contains("control.token") || said.contains("platform.overseer"),
        "{said}"
    );
    let registry = |dir: &str| {
        format!(
            "[platform.registry]\ndir = \"{dir}\"\nmappings = [{{ subject = \"in.t.default.a\", schema_id = \"a\" }}]\n"
        )
    };
    assert!(refused(&registry("no_such_folder")).contains("no_such_folder"));

    let folder = folder(&format!("{BASE}{}", registry("schemas")));
    std::fs::write(folder.path().join("schemas/a.proto"), "this is no schema").expect("written");
    let output = run(folder.path(), &["serve", "--config", "gateway.toml"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("a.proto") || said.contains("\"a\"") || said.contains("schema a"),
        "{said}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let folder = folder(BASE);
    let output = run(
        folder.path(),
        &["serve", "--config", "gateway.toml", "--listen", &address],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains(&format!("gateway.listen: {address} is in use")),
        "{said}"
    );
}

#[test]
fn check_says_ok_or_everything_that_is_wrong() {
    let folder = folder(BASE);
    let output = run(folder.path(), &["check", "--config", "gateway.toml"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "gateway.toml: ok\n");
    // All at once: values, files that are not there, and what the files hold.
    std::fs::write(
        folder.path().join("wrong.toml"),
        r#"
        [gateway]
        max_body_bytes = 0
        [[platform.overseer.policies]]
        name = "gone"
        path = "nope.wat"
        [platform.registry]
        dir = "nodir"
        "#,
    )
    .expect("written");
    let output = run(folder.path(), &["check", "--config", "wrong.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for key in [
        "gateway.max_body_bytes",
        "platform.overseer.policies[0].path",
        "platform.registry.dir",
    ] {
        assert!(said.contains(key), "{key} in {said}");
    }
    std::fs::write(
        folder.path().join("inside.toml"),
        r#"
        [[platform.overseer.policies]]
        name = "no_module"
        path = "control.token"
        [platform.registry]
        dir = "schemas"
        mappings = [{ subject = "in.t.default.users", schema_id = "v1.gone" }]
        "#,
    )
    .expect("written");
    for command in ["check", "serve"] {
        let output = run(folder.path(), &[command, "--config", "inside.toml"]);
        assert_eq!(output.status.code(), Some(2), "{command}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("no_module"), "{said}");
        assert!(
            said.contains("platform.registry.mappings[0].schema_id: \"v1.gone\" is not in"),
            "{said}"
        );
        assert!(said.contains("v1.events.user_created"), "{said}");
    }
    // One mistake is one finding, however much of the file the parser draws.
    std::fs::write(folder.path().join("drawn.toml"), "[gateway\nlisten = 1\n").expect("written");
    let output = run(folder.path(), &["check", "--config", "drawn.toml"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.starts_with("arqon-gateway: drawn.toml does not hold, 1 finding:\n")
            && said.contains("[gateway"),
        "{said}"
    );
    let output = run(folder.path(), &["check", "--config", "missing.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.toml: cannot be read"));
}

#[test]
fn a_variable_goes_before_the_file_and_an_unknown_one_is_an_error() {
    let folder = folder(BASE);
    let run = |variable: &str, value: &str| {
        let mut command = super::process::binary();
        let output = command
            .current_dir(folder.path())
            .env(variable, value)
            .args(["check", "--config", "gateway.toml"])
            .output()
            .expect("starts");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, said) = run("ARQON_GATEWAY__MAX_BODY_BYTES", "0");
    assert_eq!(code, Some(2));
    assert!(
        said.contains("gateway.max_body_bytes") && said.contains("environment"),
        "{said}"
    );
    let (code, said) = run("ARQON_GATEWAY__MAX_BODDY_BYTES", "1");
    assert_eq!(code, Some(2));
    assert!(said.contains("did you mean `max_body_bytes`?"), "{said}");
    assert_eq!(
        run("RON_BUS_CAPACITY", "1").0,
        Some(2),
        "a bus of one place is refused by the bus"
    );
    assert_eq!(run("RON_BUS_CAPACITY", "64").0, Some(0));
    let (code, said) = run("RON_BUS_OVERFLOW_WARN_RATE_PER_MIN", "0");
    assert_eq!(code, Some(2));
    assert!(
        said.contains("bus.overflow_warn_rate_per_min must be >= 1"),
        "{said}"
    );
    let (code, said) = run("RON_BUS_WARN_RATE", "6");
    assert_eq!(
        code,
        Some(2),
        "the source's deprecated names are not read: {said}"
    );
    assert_eq!(run("RON_AMNESIA", "perhaps").0, Some(2));
    assert_eq!(run("RON_AMNESIA", "off").0, Some(0));
}

#[test]
fn the_demo_ends_well_and_shows_every_check() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let output = run(folder.path(), &["demo"]);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(!shown.contains('\x1b'), "colour only on a terminal");
    for part in [
        "403 overseer.denied",
        "reject (7: strict.unknown_field)",
        "of 10 traces, whole",
        "sticky",
        "baseline for all",
        "nack schema.violation",
        "shield_mirror_traffic_total",
        "all 18 rows are as expected",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}
