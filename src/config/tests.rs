use super::*;

fn load(toml: &str) -> Result<Config, Vec<String>> {
    let figment = Figment::new().merge(Toml::string(toml));
    Config::from_figment(&figment, Path::new(""))
        .map_err(|error| error.0.iter().map(ToString::to_string).collect())
}

#[test]
fn an_empty_file_is_the_embedded_default() {
    let config = load("").expect("valid");
    assert_eq!(config.gateway, GatewayConfig::default());
    assert_eq!(config.nats, None);
    assert_eq!(config.bus.capacity, 256);
}

#[test]
fn every_finding_comes_in_one_run_and_names_key_value_and_fix() {
    let findings = load(
        r#"
        [gatway]
        [gateway]
        listen = "0.0.0.0:80"
        max_body_bytes = 0
        max_conections = 3
        [nats]
        url = "http://x"
        publish_timeout_ms = "soon"
        [auth]
        issuers = []
        [platform.mirroring]
        rules = [{ prefix = "in.t.default.>", percent = 10 }]
        "#,
    )
    .expect_err("findings");
    let text = findings.join("\n");
    for said in [
        "gatway: unknown section; did you mean `[gateway]`?",
        "gateway.max_body_bytes: 0 is not within 1 to",
        "gateway.max_conections: unknown key; did you mean `max_connections`?",
        "nats.url: \"http://x\" is not a NATS URL",
        "nats.publish_timeout_ms: ",
        "auth.issuers: 0 issuers are not within 1 to 64",
        "platform.mirroring.rules[0].percent",
        "0.1",
    ] {
        assert!(text.contains(said), "missing: {said}\nin:\n{text}");
    }
}

#[test]
fn the_limits_hold_at_their_borders() {
    for (toml, fits) in [
        ("[gateway]\nmax_body_bytes = 67_108_864", true),
        ("[gateway]\nmax_body_bytes = 67_108_865", false),
        ("[gateway]\nheader_timeout_ms = 600_000", true),
        ("[gateway]\nheader_timeout_ms = 600_001", false),
        ("[gateway]\nmax_connections = 0", false),
        ("[gateway]\nlisten = \"[::1]:0\"", true),
        ("[gateway]\nlisten = \"nowhere\"", false),
        ("[gateway]\nlisten = \"0.0.0.0:80\"", false),
        ("[gateway]\nmax_streams = 10_000", true),
        ("[gateway]\nmax_streams = 10_001", false),
        ("[gateway]\nmax_streams = 0", false),
        ("[gateway]\nmax_requests = 1", true),
        ("[gateway]\nmax_requests = 0", false),
        ("[gateway]\nmax_requests_bytes = 1_048_576", true),
        ("[gateway]\nmax_requests_bytes = 1_048_575", false),
        ("[gateway]\ntenant_concurrency = 0", false),
        ("[gateway]\nrate_limit = { per_second = 1, burst = 1 }", true),
        ("[gateway]\nrate_limit = { per_second = 0 }", false),
        ("[gateway]\nrate_limit = { burst = 1_000_001 }", false),
        ("[gateway]\nrate_limit = { per_seconds = 1 }", false),
        ("[gateway]\ntrusted_peers = [\"10.0.0.0/8\", \"::1\"]", true),
        ("[gateway]\ntrusted_peers = [\"10.0.0.1/8\"]", false),
        ("[gateway]\ntrusted_peers = [\"proxy.example\"]", false),
        (
            "[gateway]\ntls = { cert = \"no/such.pem\", key = \"no/such.pem\" }",
            false,
        ),
        ("[gateway]\ntls = {}", false),
        ("[gateway.websocket]\nmax_message_bytes = 0", false),
        ("[gateway.websocket]\nping_seconds = 60", false),
        ("[gateway.websocket]\nping_seconds = 59", true),
        ("[gateway.websocket]\nidle_seconds = 86_401", false),
        ("[gateway.websocket]\nsend_timeout_ms = 0", false),
        ("[gateway.websocket]\nmax_buffered_bytes = 262143", false),
        ("[gateway.websocket]\nmax_buffered_bytes = 262144", true),
        ("[gateway.websocket]\ntenant_sessions = 0", false),
        ("[gateway.websocket]\ntenant_sessions = 1", true),
        ("[gateway.websocket]\ntenant_sessions = 1000000", true),
        ("[gateway.websocket]\ntenant_sessions = 1000001", false),
        ("[auth]", false),
        (
            "[auth]\nissuers = [{ issuer = \"i\", audience = \"a\", jwks_url = \"https://i/\" }]",
            true,
        ),
        (
            "[auth]\nissuers = [{ issuer = \"i\", jwks_url = \"https://i/\" }]",
            false,
        ),
        (
            "[auth]\nissuers = [{ issuer = \"i\", audience = \"a\", jwks_url = \"https://i/\", secret = \"x\" }]",
            false,
        ),
        ("[gateway]\nlisten = \"127.0.0.1:9901\"", false),
        ("[nats]\nurl = \"nats://h:1\"\nstream = \"A_b-1\"", true),
        ("[nats]\nurl = \"nats://h:1\"\nstream = \"a.b\"", false),
        ("[nats]\nurl = \"nats://h:1\"\nreplicas = 3", true),
        ("[nats]\nurl = \"nats://h:1\"\nreplicas = 2", false),
        ("[telemetry]\nlog = \"xml\"", false),
        ("[platform.rollout]\ncatalog = { kv = \"B/k\" }", true),
        ("[platform.rollout]\ncatalog = { kv = \"B\" }", false),
        (
            "[platform.rollout]\ncatalog = { kv = \"B/k\", path = \"c.json\" }",
            false,
        ),
        ("[platform.rollout]\ncatalog = { kvv = \"B/k\" }", false),
        ("[platform.rollout]\naudit = { path = \"\" }", false),
        ("[platform.rollout]\nguard = { window_seconds = 30 }", true),
        ("[platform.rollout]\nguard = { window_seconds = 0 }", false),
        ("[platform.rollout]\nguard = { min_samples = 0 }", false),
        (
            "[platform.rollout]\nguard = { error_rate_increase = 1.01 }",
            false,
        ),
        ("[platform.rollout]\nguard = { latency_factor = 0.9 }", false),
        ("[platform.rollout]\nguard = { action = \"shrug\" }", false),
        ("[platform.rollout]\ncohort = \"new_sessions\"", true),
        ("[platform.rollout]\ncohort = \"old\"", false),
        ("[platform.rollout]\nsampling = \"random\"", true),
        ("[platform.rollout]\nsampling = \"guess\"", false),
        ("[platform.rollout]\nkey = \"cookie:\"", false),
        ("[platform.rollout]\nnode_id = \"a.b\"", false),
        ("[platform.rollout]\ntelemetry_seconds = -1", false),
        ("[platform.rollout]\nenabled = true", false),
        ("[platform.rollout]\nenabled = true\nallow_unsigned = true", true),
        (
            "[platform.rollout]\nthreshold = 2\nkeys = [{ keyid = \"a\", ed25519 = \"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\" }]",
            false,
        ),
        (
            "[platform.rollout]\nkeys = [{ keyid = \"a\", ed25519 = \"11qY\" }]",
            false,
        ),
        ("[bus]\ncapacity = -1", false),
        ("[gateway]\ncontrol_token_file = \"no/such/file\"", false),
    ] {
        assert_eq!(load(toml).is_ok(), fits, "{toml}: {:?}", load(toml).err());
    }
}

#[test]
fn a_rule_that_compares_needs_a_candidate() {
    let rule = "rules = [{ prefix = \"in.t.*.>\", percent = 1.0, compare = true, methods = [\"POST\"] }]";
    let found = load(&format!("[platform.mirroring]\n{rule}")).expect_err("nothing to compare with");
    assert!(
        found.len() == 1 && found[0].contains("platform.mirroring.rules[0].compare"),
        "{found:?}"
    );
    let table = "compare = { candidate = \"http://candidate\", methods = [\"POST\"] }";
    load(&format!("[platform.mirroring]\n{table}\n{rule}")).expect("valid");
}

#[test]
fn a_file_that_is_not_toml_is_one_finding_with_its_place() {
    let findings = load("[gateway\n").expect_err("broken");
    assert_eq!(findings.len(), 1, "{findings:?}");
}

#[test]
fn a_missing_file_says_so() {
    let error = Config::load(Some(Path::new("no/such.toml")), &[])
        .expect_err("missing")
        .to_string();
    assert!(error.starts_with("no/such.toml: cannot be read: "), "{error}");
}

#[test]
fn a_flag_goes_before_the_file() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(
        file.path(),
        "[bus]\ncapacity = 8\n[gateway]\nlisten = \"127.0.0.1:1\"",
    )
    .expect("written");
    let flags = [("gateway.listen", "127.0.0.1:2".to_owned())];
    let config = Config::load(Some(file.path()), &flags).expect("valid");
    assert_eq!((config.bus.capacity, config.gateway.listen.port()), (8, 2));
}

#[test]
fn the_bus_section_is_the_buss_own_configuration() {
    let config = load(
        "[bus]\ncapacity = 8\noverflow_warn_rate_per_min = 6\nmetrics_namespace = \"edge\"\nemit_amnesia_label = false",
    )
    .expect("valid");
    let expected = ron_bus::BusConfig::new(8)
        .with_overflow_warn_rate_per_min(6)
        .with_metrics_namespace("edge")
        .with_emit_amnesia_label(false);
    assert_eq!(config.bus.to_config(), expected);
    assert_eq!(BusSection::default().to_config(), ron_bus::BusConfig::default());
    for (toml, said) in [
        (
            "capacity = 1",
            "bus.capacity: 1: bus.capacity must be >= 2 (recommended >= 8)",
        ),
        (
            "overflow_warn_rate_per_min = 0",
            "bus.overflow_warn_rate_per_min: 0: bus.overflow_warn_rate_per_min must be >= 1",
        ),
        (
            "metrics_namespace = \"7up\"",
            "bus.metrics_namespace: \"7up\": bus.metrics_namespace must be an ASCII identifier",
        ),
        (
            "capcity = 8",
            "bus.capcity: unknown key; did you mean `capacity`?",
        ),
    ] {
        let findings = load(&format!("[bus]\n{toml}")).expect_err("refused").join("\n");
        assert!(findings.starts_with(said), "{said} in {findings}");
    }
}

#[test]
fn a_reload_swaps_policies_and_mirror_rules_and_names_what_needs_a_restart() {
    let running = load("[platform.mirroring]\nrules = []").expect("valid");
    for (toml, keys) in [
        ("", &[][..]),
        (
            "[platform.mirroring]\nseed = 7\nrules = [{ prefix = \"in.t.*.>\", percent = 0.5 }]",
            &[],
        ),
        ("[platform.overseer]\nfuel_limit = 5\nstandby = 1", &[]),
        (
            "[platform.mirroring]\nqueue_messages = 7",
            &["platform.mirroring.queue_messages"],
        ),
        (
            "[bus]\ncapacity = 8\n[gateway]\nlisten = \"127.0.0.1:1\"",
            &["bus.capacity", "gateway.listen"],
        ),
        ("[nats]\nurl = \"nats://h:1\"", &["nats"]),
        (
            "[platform.registry]\nunmapped = \"reject\"",
            &["platform.registry.unmapped"],
        ),
        ("[telemetry]\nlog = \"text\"", &["telemetry.log"]),
        (
            "[platform.overseer]\nwatch_interval = \"1s\"",
            &["platform.overseer.watch_interval"],
        ),
    ] {
        let next = load(toml).expect("valid");
        assert_eq!(running.restart_keys(&next), keys, "{toml}");
        assert_eq!(running.says_the_same(&next), toml.is_empty(), "{toml}");
    }
}

#[test]
fn a_finding_shows_no_secret_of_what_does_not_fit() {
    for (toml, said) in [
        (
            "nats = \"nats://u:hunter2@h:1\"",
            "nats: a text does not fit: expected struct NatsConfig",
        ),
        (
            "[nats]\nurl = \"nats://h\"\nserve = \"Bearer hunter2\"",
            "nats.serve: a text does not fit: expected struct NatsServeConfig",
        ),
        (
            "[auth]\nissuers = \"https://u:hunter2@id/keys\"",
            "auth.issuers: a text does not fit: write a list in brackets",
        ),
        (
            "[bus]\ncapacity = \"https://u:hunter2@h?hunter2\"",
            "bus.capacity: \"https://h?[redacted]\" does not fit: write a whole number",
        ),
        (
            "[telemetry]\nlog = \"https://u:hunter2@h/\"",
            "telemetry.log: \"https://h/\" does not fit: unknown variant `https://h/`, expected",
        ),
        (
            "[telemetry]\nlog = \"https://u:hunter2\\\"@h/\"",
            "telemetry.log: \"https://h/\" does not fit: ",
        ),
        (
            "[nats]\nurl = \"nats://u:hunter2@h:1\nstream = \"A\"",
            "url = [redacted]\n  |                            ^\ninvalid basic string",
        ),
        (
            "[nats]\nurl = \"nats://u:hunter2@h:1\"\nurl = \"nats://u:hunter2@h:1\"",
            "duplicate key",
        ),
        // What is no secret is shown, as the key's value and fix.
        (
            "[bus]\ncapacity = \"many\"",
            "bus.capacity: \"many\" does not fit",
        ),
        ("[telemetry]\nlog = \"xml\"", "unknown variant `xml`, expected"),
        ("[nats]\nurl = nats", "url = nats"),
    ] {
        let found = load(toml).expect_err("it does not hold").join("\n");
        assert!(!found.contains("hunter2"), "{toml}: {found}");
        assert!(found.contains(said), "{said} in {found}");
    }
}

const REFERENCE: &str = include_str!("../../examples/gateway/gateway.toml");

/// The reference with every key on.
fn reference() -> String {
    let on = |line: &'static str| {
        let off = line
            .strip_prefix('#')
            .filter(|rest| !rest.is_empty() && !rest.starts_with(' '));
        off.unwrap_or(line)
    };
    REFERENCE.lines().map(on).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_reference_names_every_key() {
    let shown: toml::Table = toml::from_str(&reference()).expect("TOML");
    let shown = serde_json::to_value(shown).expect("JSON");
    let mut absent = Vec::new();
    for known in known() {
        let mut table = &shown;
        for part in known.path().split('.') {
            table = &table[part];
            table = table.get(0).unwrap_or(table);
        }
        for field in known.fields() {
            // Another name of `prefix`, and a key that excludes `path`.
            let others = [
                ("platform.mirroring.rules", "subject"),
                ("platform.rollout.catalog", "kv"),
            ];
            // A user of its own is named as the first one is: said once.
            let user = ["nats.mirror", "nats.control"].contains(&known.path());
            let alias =
                others.contains(&(known.path(), *field)) || user && shown["nats"].get(field).is_some();
            if table.get(field).is_none() && !alias {
                absent.push(format!("{}.{field}", known.path()));
            }
        }
    }
    assert!(absent.is_empty(), "not in gateway.toml: {absent:#?}");
}

#[test]
fn the_reference_is_valid_with_every_key_on() {
    // Keys that exclude another: one of each pair is enough.
    let lines = reference();
    let lines = lines.lines().filter(|line| {
        let left_out = [
            "budget",
            "kv_bucket",
            "last_known_good",
            "pins",
            "nkey_file",
            "token_file",
        ];
        !left_out.iter().any(|key| line.starts_with(key))
    });
    let findings = load(&lines.collect::<Vec<_>>().join("\n"))
        .err()
        .unwrap_or_default();
    // Only what it names is not there, seen from here.
    let absent = ["cannot be read", "is not a file", "is not a folder"];
    for finding in &findings {
        assert!(absent.iter().any(|said| finding.contains(said)), "{finding}");
    }
    assert_eq!(findings.len(), 17, "{findings:?}");
}

#[test]
fn the_values_shown_are_the_defaults() {
    let shown: toml::Table = toml::from_str(&reference()).expect("TOML");
    let shown = serde_json::to_value(shown).expect("JSON");
    let own = serde_json::to_value(Config {
        nats: Some(NatsConfig::default()),
        auth: Some(AuthConfig::default()),
        ..Config::default()
    })
    .expect("JSON");
    let mut wrong = Vec::new();
    for line in REFERENCE.lines() {
        let Some(rest) = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')) else {
            continue;
        };
        let Some((key, _)) = rest.split_once(" = ") else {
            continue;
        };
        if rest.contains("# example") {
            continue;
        }
        for section in [
            "gateway",
            "gateway/websocket",
            "auth",
            "nats",
            "bus",
            "telemetry",
            "platform/overseer",
            "platform/registry",
            "platform/rollout",
            "platform/mirroring",
        ] {
            let pointer = format!("/{section}/{key}");
            let (Some(said), Some(is)) = (shown.pointer(&pointer), own.pointer(&pointer)) else {
                continue;
            };
            // Said as none, and what none means: DESIGN 5's fuel and deadline, S3-13's bucket.
            if is.is_null() && ["fuel_limit", "deadline"].contains(&key) {
                continue;
            }
            if said != is {
                wrong.push(format!("{pointer}: the file says {said}, the default is {is}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn rules_that_match_no_message_are_warned_about_and_others_are_not() {
    let config = load(
        r#"
        [platform.mirroring]
        rules = [
            { prefix = "in.t.default.>", percent = 1.0 },
            { prefix = "in.*.default.x", percent = 1.0 },
            { prefix = "in.>", percent = 1.0 },
            { prefix = "foo.bar", percent = 1.0 },
            { prefix = "in.t.acme.>", percent = 1.0 },
            { prefix = "in.t.default", percent = 1.0 },
        ]
        "#,
    )
    .expect("valid");
    let keys: Vec<_> = config.warnings().into_iter().map(|warning| warning.key).collect();
    let rule = |at: usize| format!("platform.mirroring.rules[{at}].prefix");
    assert_eq!(keys, [rule(3), rule(4), rule(5)]);
}

#[test]
fn with_authentication_any_address_may_be_served_and_any_tenant_may_come() {
    let issuers = "issuers = [{ issuer = \"i\", audience = [\"a\", \"b\"], jwks_url = \"https://i/keys\" }]";
    let config = load(&format!(
        "[gateway]\nlisten = \"0.0.0.0:80\"\n[auth]\n{issuers}\n[platform.mirroring]\nrules = [\
         {{ prefix = \"in.t.acme.>\", percent = 1.0 }}, {{ prefix = \"in.x.>\", percent = 1.0 }}]"
    ))
    .expect("valid");
    let warned: Vec<_> = config.warnings().into_iter().map(|warning| warning.key).collect();
    assert_eq!(warned, ["platform.mirroring.rules[1].prefix", "gateway.tls"]);
    assert_eq!(config.auth.expect("there").issuers[0].audience, ["a", "b"]);
    let without = load("[gateway]\nlisten = \"0.0.0.0:80\"").expect_err("refused");
    assert!(
        without[0].starts_with("gateway.listen: 0.0.0.0:80 is not a loopback address: without [auth]"),
        "{without:?}"
    );
}

#[test]
fn origins_are_checked_one_by_one() {
    for (origin, fits) in [
        ("https://app.example", true),
        ("http://localhost:3000", true),
        ("*", true),
        ("https://app.example/", false),
        ("app.example", false),
        ("https://u@app.example", false),
        ("", false),
    ] {
        let toml = format!("[gateway]\ncors_origins = [\"https://ok.example\", {origin:?}]");
        let findings = load(&toml).err().unwrap_or_default();
        assert_eq!(findings.is_empty(), fits, "{origin}: {findings:?}");
        assert!(
            fits || findings[0].starts_with("gateway.cors_origins[1]: "),
            "{findings:?}"
        );
    }
}
