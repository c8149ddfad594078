use super::*;

fn keys(config: &OverseerConfig) -> Vec<String> {
    config.validate().into_iter().map(|error| error.key).collect()
}

#[test]
fn the_designs_example_holds() {
    let mut config: OverseerConfig = toml::from_str(
        r#"
        enabled = true
        fuel_limit = 10_000_000
        [[policies]]
        name = "auth_policy"
        path = "policies/block_me.wat"
        subject = "in.t.*.>"
        mode = "enforce"
        failure = "closed"
        config = "..."
        grants = ["rewrite"]
        on_reject = "nack"
        [[policies]]
        name = "second"
        path = "/abs/second.wasm"
        failure = { deadline = "open", fuel = "closed" }
        methods = ["POST"]
        route = "/v1/publish/{suffix}"
        tenant = "acme"
        headers = ["x-role"]
        "#,
    )
    .unwrap();
    assert_eq!(config.validate(), []);
    config.resolve_paths(Path::new("/etc/arqon"));
    assert_eq!(
        config.policies[0].path,
        Path::new("/etc/arqon/policies/block_me.wat")
    );
    assert_eq!(config.policies[1].path, Path::new("/abs/second.wasm"));
    let parsed = config.parse().unwrap();
    assert!(parsed.policies[1].open[crate::Cause::Deadline.index()]);
    assert!(!parsed.policies[1].open[crate::Cause::Trap.index()]);
}

#[test]
fn every_wrong_value_is_named_at_once_with_its_fix() {
    let config: OverseerConfig = toml::from_str(
        r#"
        fuel_limit = 0
        deadline = "5"
        memory_bytes_max = 100_000
        concurrency = 0
        pool_wait = "later"
        watch_interval = "1ms"
        record = { requests_max = 0, masked_headers = ["x key"] }
        [[policies]]
        name = "a b"
        sha256 = "xyz"
        subject = "in..t"
        methods = ["post"]
        route = "admin"
        tenant = "a.b"
        mode = "Enforce"
        failure = { deadlin = "open", trap = "opened", body = "open" }
        grants = ["write"]
        headers = ["host", "x role"]
        on_reject = "drop"
        [[policies]]
        name = "twice"
        path = "x"
        failure = "opn"
        [[policies]]
        name = "twice"
        path = "x"
        "#,
    )
    .unwrap();
    let keys = keys(&config);
    for key in [
        "fuel_limit",
        "deadline",
        "memory_bytes_max",
        "concurrency",
        "pool_wait",
        "watch_interval",
        "record.path",
        "record.requests_max",
        "record.masked_headers[0]",
        "policies[0].name",
        "policies[0].path",
        "policies[0].sha256",
        "policies[0].subject",
        "policies[0].methods[0]",
        "policies[0].route",
        "policies[0].tenant",
        "policies[0].mode",
        "policies[0].failure.deadlin",
        "policies[0].failure.trap",
        "policies[0].failure.body",
        "policies[0].grants[0]",
        "policies[0].headers[0]",
        "policies[0].headers[1]",
        "policies[0].on_reject",
        "policies[1].failure",
        "policies[2].name",
    ] {
        assert!(keys.iter().any(|found| found == key), "{key} in {keys:?}");
    }
    assert_eq!(keys.len(), 26, "{keys:?}");
    let errors = config.validate();
    let text = errors
        .iter()
        .find(|error| error.key == "policies[0].failure.deadlin")
        .unwrap()
        .to_string();
    assert!(text.contains("did you mean \"deadline\"?"), "{text}");
}

#[test]
fn fuel_and_budget_exclude_each_other() {
    let config = OverseerConfig {
        fuel_limit: Some(1),
        budget: Some("5ms".to_owned()),
        ..OverseerConfig::default()
    };
    assert_eq!(keys(&config), ["budget"]);
    let config = OverseerConfig {
        budget: Some("7ms".to_owned()),
        ..OverseerConfig::default()
    };
    let parsed = config.parse().unwrap();
    assert_eq!(parsed.fuel, Fuel::Worth(std::time::Duration::from_millis(7)));
    assert_eq!(parsed.deadline, std::time::Duration::from_millis(7));
}

#[test]
fn a_chain_has_at_most_64_policies() {
    let policies =
        |count| OverseerConfig::of((0..count).map(|at| PolicyConfig::from_path(&format!("p{at}"), "x")));
    assert!(policies(64).validate().is_empty());
    assert_eq!(keys(&policies(65)), ["policies"]);
}

#[test]
fn the_pools_keep_to_the_address_space_whatever_is_asked_for() {
    for (policies, standby, shards, concurrency) in [
        (1, 32, 2, 64),
        (64, 1_024, 64, 4_096),
        (64, 32, 16, 64),
        (4, 0, 1, 1),
        (64, 1_024, 1, 4_096),
    ] {
        let config = OverseerConfig {
            standby,
            shards,
            concurrency,
            ..OverseerConfig::of((0..policies).map(|at| PolicyConfig::from_path(&format!("p{at}"), "x")))
        };
        let settings = config.parse().unwrap().settings;
        let slots = settings.shards * settings.slots as usize;
        assert!(
            slots <= 8_192 + 64 * (256 + 16),
            "{slots} slots for {policies} policies, {shards} shards"
        );
        assert!(settings.standby <= standby);
        assert!(
            settings.standby > 0 || standby == 0 || shards == 64,
            "{settings:?}"
        );
    }
}

#[test]
fn the_deadlines_clock_rests_as_long_as_a_deadline_within_its_limits() {
    for (deadline, rest_us) in [
        ("10us", 1_000),
        ("1ms", 1_000),
        ("3ms", 3_000),
        ("5ms", 4_000),
        ("10s", 4_000),
    ] {
        let config = OverseerConfig {
            budget: Some(deadline.to_owned()),
            ..OverseerConfig::default()
        };
        let settings = config.parse().unwrap().settings;
        assert_eq!(settings.rest.as_micros(), rest_us, "{deadline}");
    }
}
