//! The keys of `[platform.registry]`.

use super::*;

#[test]
fn every_config_finding_comes_at_once() {
    let mut config = RegistryConfig {
        kv_bucket: Some("A B".to_owned()),
        dir: Some("schemas".into()),
        cache_ttl_seconds: 0,
        max_body_bytes: 0,
        ..config()
    };
    config.mappings.push(
        MappingConfig::new("in.t.*.users.created", "t.x")
            .encoding(Encoding::Proto)
            .transcode()
            .message("a b"),
    );
    config.mappings.push(
        MappingConfig::new("in..x", "v1")
            .encoding(Encoding::Json)
            .require("a..b"),
    );
    let keys: Vec<String> = config.validate().into_iter().map(|finding| finding.key).collect();
    assert_eq!(
        keys,
        [
            "dir",
            "kv_bucket",
            "cache_ttl_seconds",
            "max_body_bytes",
            "mappings[1].subject",
            "mappings[1].schema_id",
            "mappings[1].message",
            "mappings[1].transcode",
            "mappings[2].subject",
            "mappings[2].required",
        ]
    );
    assert_eq!(channel(config).unwrap_err().0.len(), keys.len());
}

#[test]
fn the_keys_of_the_design_are_read() {
    let config: RegistryConfig = serde_json::from_value(serde_json::json!({
        "enabled": true, "kv_bucket": "ARQON_SCHEMAS", "cache_ttl_seconds": 300, "unmapped": "allow",
        "on_stale": "serve", "mode": "monitor", "max_body_bytes": 1024,
        "mappings": [{ "subject": "in.t.default.users.created", "schema_id": ID, "message": "events.v1.UserCreated",
            "level": "strict", "encoding": "json", "required": ["user_id"] }],
    }))
    .unwrap();
    assert!(config.validate().is_empty());
    assert_eq!(config.mappings[0].level, Level::Strict);
}

#[test]
fn the_keys_of_the_store_are_checked_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("schemas.lkg");
    let bucket = || RegistryConfig {
        kv_bucket: Some("ARQON_SCHEMAS".to_owned()),
        ..config()
    };
    let keys = |config: RegistryConfig| -> Vec<String> {
        config.validate().into_iter().map(|finding| finding.key).collect()
    };
    let good = RegistryConfig {
        last_known_good: Some(copy.clone()),
        pins: [(ID.to_owned(), 1), (format!("t.acme.{ID}"), 7)].into(),
        ..bucket()
    };
    assert!(keys(good).is_empty());
    let no_bucket = RegistryConfig {
        last_known_good: Some(copy),
        pins: [(ID.to_owned(), 1)].into(),
        ..config()
    };
    assert_eq!(keys(no_bucket), ["last_known_good", "pins"]);
    for path in [
        folder.path().to_owned(),
        folder.path().join("gone/schemas.lkg"),
        "/".into(),
    ] {
        let config = RegistryConfig {
            last_known_good: Some(path.clone()),
            ..bucket()
        };
        assert_eq!(keys(config), ["last_known_good"], "{}", path.display());
    }
    let pins = RegistryConfig {
        pins: [("a b".to_owned(), 1), ("t.x".to_owned(), 1), (ID.to_owned(), 0)].into(),
        ..bucket()
    };
    assert_eq!(
        keys(pins),
        ["pins.a b".to_owned(), "pins.t.x".to_owned(), format!("pins.{ID}")]
    );
    let many = RegistryConfig {
        pins: (0..=arqon_schema::PINS_MAX)
            .map(|at| (format!("v1.s{at}"), 1))
            .collect(),
        ..bucket()
    };
    assert_eq!(keys(many), ["pins"]);
    for (key, value) in [
        ("compatibility", "BACKWARDS"),
        ("profile", "json"),
        ("on_incompatible", "warn"),
        ("on_regression", "reject"),
    ] {
        let read = serde_json::from_value::<RegistryConfig>(serde_json::json!({ key: value }));
        assert!(read.is_err(), "{key} = {value}");
    }
}
