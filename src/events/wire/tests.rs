//! The golden vectors, which a witness in Python reads too (`tests/witness/test_events.py`).

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value;

use super::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/events")
}

fn file(name: &str) -> Value {
    let path = folder().join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// The fact that a vector describes, `{"Variant": {fields}}`.
fn fact(described: &Value) -> Event {
    let (variant, fields) = described
        .as_object()
        .and_then(|fact| fact.iter().next())
        .expect("a variant");
    let text = |name: &str| fields[name].as_str().expect("text").to_owned();
    let number = |name: &str| fields[name].as_u64().expect("a number");
    let truth = |name: &str| fields[name].as_bool().expect("a truth value");
    match variant.as_str() {
        "Health" => Event::Health {
            service: text("service"),
            ok: truth("ok"),
        },
        "ConfigUpdated" => Event::ConfigUpdated {
            version: number("version"),
        },
        "ServiceCrashed" => Event::ServiceCrashed {
            service: text("service"),
            reason: text("reason"),
        },
        "Shutdown" => Event::Shutdown,
        "PolicyReloaded" => Event::PolicyReloaded {
            policy: text("policy"),
            revision: number("revision"),
            ok: truth("ok"),
        },
        "SchemaChanged" => Event::SchemaChanged {
            schema_id: text("schema_id"),
            revision: number("revision"),
        },
        "RolloutChanged" => Event::RolloutChanged {
            rollout: text("rollout"),
            seq: number("seq"),
            basis_points: u16::try_from(number("basis_points")).expect("16 bits"),
        },
        "MirrorDegraded" => Event::MirrorDegraded {
            reason: text("reason"),
            dropped: number("dropped"),
        },
        other => panic!("{other}: teach this test"),
    }
}

/// The tag of an event; no catch-all, so that a new event needs its vectors.
fn tag(event: &WireEvent) -> &'static str {
    match event {
        WireEvent::Health { .. } => "health",
        WireEvent::ConfigUpdated { .. } => "config_updated",
        WireEvent::ServiceCrashed { .. } => "service_crashed",
        WireEvent::Shutdown { .. } => "shutdown",
        WireEvent::PolicyReloaded { .. } => "policy_reloaded",
        WireEvent::SchemaChanged { .. } => "schema_changed",
        WireEvent::RolloutChanged { .. } => "rollout_changed",
        WireEvent::MirrorDegraded { .. } => "mirror_degraded",
    }
}

const TAGS: [&str; 8] = [
    "health",
    "config_updated",
    "service_crashed",
    "shutdown",
    "policy_reloaded",
    "schema_changed",
    "rollout_changed",
    "mirror_degraded",
];

#[test]
fn every_event_has_the_bytes_of_its_vectors() {
    for name in TAGS {
        let vectors = file(name);
        let cases = vectors["cases"].as_array().expect("cases");
        let mut shown = 0;
        for case in cases {
            let fact = fact(&case["fact"]);
            let corr_id = case["corr_id"].as_str().expect("text");
            let audience = match case["audience"].as_str() {
                Some("observer") => Audience::Observer,
                Some("admin") => Audience::Admin,
                other => panic!("{other:?}"),
            };
            let exported = WireEvent::export(&fact, corr_id, audience);
            let text = exported
                .as_ref()
                .map(|event| serde_json::to_string(event).expect("JSON"));
            assert_eq!(text.as_deref(), case["wire"].as_str(), "{name}: {}", case["name"]);
            if let (Some(event), Some(text)) = (exported, text) {
                shown += 1;
                assert_eq!((tag(&event), fact.kind()), (name, name));
                assert_eq!(
                    serde_json::from_str::<WireEvent>(&text).expect("it reads what it wrote"),
                    event
                );
                for secret in case["secrets"].as_array().into_iter().flatten() {
                    let secret = secret.as_str().expect("text");
                    assert!(!text.contains(secret), "{secret} in {text}");
                }
            }
        }
        assert!(shown > 0, "{name} is never shown");
    }
}

#[test]
fn the_vectors_are_those_of_every_event_and_no_other() {
    let files: BTreeSet<String> = std::fs::read_dir(folder())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    let expected: BTreeSet<_> = TAGS.into_iter().chain(["refused"]).map(str::to_owned).collect();
    assert_eq!(files, expected);
}

#[test]
fn what_is_no_event_is_refused() {
    let vectors = file("refused");
    let refused = vectors["refused"].as_array().expect("a list");
    assert!(refused.len() >= 20);
    for case in refused {
        let text = case["text"].as_str().expect("text");
        assert!(
            serde_json::from_str::<WireEvent>(text).is_err(),
            "{}: {text}",
            case["name"]
        );
    }
}

#[test]
fn a_batch_is_not_exported_as_one_event() {
    let bus = ron_bus::Bus::new(4).expect("a capacity");
    let mut receiver = bus.subscribe();
    let report = Event::MirrorDegraded {
        reason: "shed".to_owned(),
        dropped: 1,
    };
    bus.publish_batch(vec![report]).expect("somebody listens");
    let batch = receiver.try_recv().expect("it is there");
    assert_eq!(WireEvent::export(&batch, "c", Audience::Admin), None);
    assert!(WireEvent::export(&batch.facts()[0], "c", Audience::Observer).is_some());
}
