//! Golden vectors in `tests/vectors/governance/`, checked here and by `check.py` there, which shares no code.
//!
//! `UPDATE_VECTORS=1` writes the files anew. A change of one is a break of the wire.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::{collections::HashMap, path::PathBuf};

use arqon_rollout::{
    AlertSeverity, Control, Digest, DownstreamMessage, EnforcementAction, Envelope, KeyPair, Message,
    Proposal, Reason, RolloutConfig, Rotation, UpstreamMessage, canonical,
};
use serde_json::{Value, json};

fn proposal() -> Proposal {
    Proposal {
        id: "prop_001".to_owned(),
        timestamp_us: 1_700_000_000_000_000,
        variant_id: Some(42),
        params: Some(HashMap::from([("alpha".to_owned(), 0.25)])),
        reason: "Latency regression detected".to_owned(),
        confidence: 0.92,
        scope: None,
    }
}

fn messages() -> Vec<(&'static str, Message)> {
    let enforce = |action| DownstreamMessage::Enforce {
        action,
        reason: "incident 7".to_owned(),
    };
    let metrics = HashMap::from([("latency_p99".to_owned(), 0.012)]);
    let context = HashMap::from([("variant".to_owned(), "42".to_owned())]);
    let approval = |rollout| DownstreamMessage::Approval {
        proposal_id: "prop_001".to_owned(),
        proposal_digest: Digest::of_proposal(&proposal()).unwrap().to_string(),
        rollout,
    };
    let ramp = RolloutConfig {
        initial_percent: 5.0,
        increment_per_minute: 2.5,
        max_percent: 50.0,
    };
    let catalog = |digest: Option<&str>| DownstreamMessage::CatalogUpdate {
        version: 2,
        source_uri: "kv://ARQON_CATALOG/default".to_owned(),
        digest: digest.map(str::to_owned),
    };
    let key = |seed| KeyPair::from_seed("k", [seed; 32]).public().to_config().ed25519;
    vec![
        (
            "telemetry",
            UpstreamMessage::Telemetry {
                timestamp_us: 1,
                node_id: "gw-1".to_owned(),
                metrics,
            }
            .into(),
        ),
        ("proposal", proposal().into()),
        (
            "proposal_scoped",
            Proposal {
                scope: Some("in.t.default.users.>".to_owned()),
                params: None,
                ..proposal()
            }
            .into(),
        ),
        (
            "alert",
            UpstreamMessage::Alert {
                timestamp_us: 1,
                severity: AlertSeverity::Critical,
                message: "error rate".to_owned(),
                context,
            }
            .into(),
        ),
        ("approval", approval(Some(ramp)).into()),
        ("approval_unramped", approval(None).into()),
        ("set_variant", enforce(EnforcementAction::SetVariant(42)).into()),
        (
            "set_params",
            enforce(EnforcementAction::SetParams(HashMap::from([(
                "alpha".to_owned(),
                0.5,
            )])))
            .into(),
        ),
        ("emergency_stop", enforce(EnforcementAction::EmergencyStop).into()),
        (
            "pause_adaptation",
            enforce(EnforcementAction::PauseAdaptation).into(),
        ),
        (
            "resume_adaptation",
            enforce(EnforcementAction::ResumeAdaptation).into(),
        ),
        ("catalog_update", catalog(None).into()),
        ("catalog_update_digest", catalog(Some("sha256:00")).into()),
        (
            "rotation",
            Rotation {
                threshold: 1,
                keys: [("ops-2".to_owned(), key(2))].into(),
                stop_keys: [("sre-2".to_owned(), key(3))].into(),
                node_keys: [].into(),
            }
            .into(),
        ),
        (
            "rotation_nodes",
            Rotation {
                threshold: 1,
                keys: [("ops-2".to_owned(), key(2))].into(),
                stop_keys: [("sre-2".to_owned(), key(3))].into(),
                node_keys: [("gw-2".to_owned(), key(4))].into(),
            }
            .into(),
        ),
    ]
}

/// Proposals in many spellings, and what has no digest.
fn proposals() -> Vec<&'static str> {
    vec![
        r#"{"id":"prop_001","timestamp_us":1700000000000000,"variant_id":42,"params":{"beta":1.0,"alpha":0.25,"gamma":100},"reason":"Latency regression detected","confidence":0.92}"#,
        r#"{"type":"proposal","confidence":9.2e-1,"reason":"Latency regression detected","params":{"gamma":1e2,"alpha":0.250,"beta":1},"variant_id":42,"timestamp_us":1700000000000000,"id":"prop_001","scope":null}"#,
        r#"{"id":"a","timestamp_us":9007199254740991,"reason":"","confidence":0}"#,
        r#"{"id":"a","timestamp_us":0,"reason":"\u20ac$\u000f\nA'B\"\\\\\"/ \ud83d\ude02 A\u030a","confidence":1,"scope":"in.t.default.users.>"}"#,
        r#"{"id":"a","timestamp_us":1,"reason":"","confidence":0.5,"params":{"\ufb33":1,"\ud83d\ude02":2,"z":-0.0,"e":1e30,"f":4.50,"g":2e-3,"h":1e-27,"i":1e21,"j":1e-7,"k":5e-324,"l":333333333.33333329,"m":1.7976931348623157e308}}"#,
        r#"{"id":"a","timestamp_us":9007199254740993,"reason":"","confidence":0}"#,
        r#"{"id":"a","timestamp_us":1,"reason":"","confidence":0,"params":{"x":9007199254740993}}"#,
        r#"{"id":"a","id":"a","timestamp_us":1,"reason":"","confidence":0}"#,
        r#"{"id":"a","timestamp_us":1,"reason":"","confidence":0,"note":""}"#,
        r#"{"id":"a","timestamp_us":1,"reason":"","confidence":1e999}"#,
        r#"{"id":"a","timestamp_us":1,"reason":""}"#,
    ]
}

fn digests() -> Value {
    let vector = |text: &&str| {
        let canonical = serde_json::from_str::<Value>(text).ok().and_then(|mut value| {
            value.as_object_mut()?.remove("type");
            let proposal: Proposal = serde_json::from_value(value).ok()?;
            String::from_utf8(canonical(&proposal).ok()?).ok()
        });
        match Digest::of_proposal_json(text.as_bytes()) {
            Ok(digest) => json!({"json": text, "canonical": canonical, "digest": digest.to_string()}),
            Err(_) => json!({"json": text, "digest": null}),
        }
    };
    proposals().iter().map(vector).collect()
}

fn envelopes() -> Value {
    let (first, second) = (
        KeyPair::from_seed("ops-1", [1; 32]),
        KeyPair::from_seed("ops-2", [2; 32]),
    );
    let keys = [&first, &second]
        .map(|key| json!({"keyid": key.keyid(), "ed25519": key.public().to_config().ed25519}));
    let vectors = messages().into_iter().map(|(name, message)| {
        // The maps of one entry serialise the same each time.
        let control = Control::new("default", 1_700_000_000_000_000, 3_600_000_000, message).with_counter(7);
        let control = match name {
            "emergency_stop" => control.with_scope("in.t.default.users.>"),
            "approval" => control
                .with_effective_until_us(1_700_003_600_000_000)
                .superseding(),
            _ => control,
        };
        let envelope = control.sign(&[&first, &second]).unwrap();
        json!({"name": name, "payload": String::from_utf8(envelope.payload().to_vec()).unwrap(),
            "envelope": serde_json::from_str::<Value>(&envelope.to_json()).unwrap()})
    });
    json!({"keys": keys, "envelopes": vectors.collect::<Vec<_>>()})
}

fn check(name: &str, value: &Value) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/governance");
    if !folder.exists() {
        // A packaged crate has no workspace around it.
        return;
    }
    let path = folder.join(name);
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(value).unwrap() + "\n").unwrap();
    }
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(
        &golden, value,
        "{name}: run once with UPDATE_VECTORS=1 if the wire may break"
    );
}

#[test]
fn messages_are_written_as_the_golden_ones_and_read_back() {
    let mut golden = serde_json::Map::new();
    for (name, message) in messages() {
        let value = serde_json::to_value(&message).unwrap();
        assert_eq!(
            serde_json::from_value::<Message>(value.clone()).unwrap(),
            message,
            "{name}"
        );
        golden.insert(name.to_owned(), value);
    }
    check("messages.json", &Value::Object(golden));
}

#[test]
fn digests_are_the_golden_ones() {
    let digests = digests();
    assert_eq!(
        digests[0]["digest"],
        "sha256:ce9f54e011b55f870abdd9cafa166314b99ebfbb5fbff6c7c3d0f593e61a7d71"
    );
    assert_eq!(digests[0]["digest"], digests[1]["digest"]);
    check("digests.json", &digests);
}

#[test]
fn envelopes_are_the_golden_ones_and_read_back() {
    let envelopes = envelopes();
    for vector in envelopes["envelopes"].as_array().unwrap() {
        let text = vector["envelope"].to_string();
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!(envelope.payload(), vector["payload"].as_str().unwrap().as_bytes());
        envelope.control().unwrap();
    }
    check("envelopes.json", &envelopes);
}

#[test]
fn what_the_source_never_said_is_refused() {
    for (text, reason) in [
        (
            r#"{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[]}"#,
            Reason::PayloadType,
        ),
        (
            r#"{"payload":"e30","payloadType":"application/vnd.arqon.control.v1+json","signatures":[]}"#,
            Reason::Malformed,
        ),
        (
            r#"{"payload":"e31=","payloadType":"application/vnd.arqon.control.v1+json","signatures":[]}"#,
            Reason::Malformed,
        ),
        (
            r#"{"payload":"e30=","payloadType":"application/vnd.arqon.control.v1+json"}"#,
            Reason::Malformed,
        ),
        (
            r#"{"payload":"e30=","payloadType":"application/vnd.arqon.control.v1+json","signatures":[],"alg":"none"}"#,
            Reason::Malformed,
        ),
    ] {
        assert_eq!(
            Envelope::parse(text.as_bytes()).unwrap_err().reason,
            reason,
            "{text}"
        );
    }
}
