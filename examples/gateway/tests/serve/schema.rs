//! Contracts as clients and operators meet them: malformed payloads, the bucket, its faults.

mod bucket;
mod faults;
mod load;
mod site;
mod swaps;
mod watch;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{
    embedded::{next, open},
    process::{Gateway, eventually},
};

const CONFIG: &str = r#"
[telemetry]
log = "text"

[platform.registry]
dir = "schemas"
mappings = [{ subject = "in.t.default.users", schema_id = "v1.events.user_created", message = "events.v1.UserCreated", required = ["user_id"] }]
"#;
const MISSING: &str = "field 'user_id' missing";

/// What a payload is refused with over HTTP, and as a frame.
async fn refusals(gateway: &Gateway, media_type: &'static str, payload: &[u8]) -> (Value, Value) {
    use base64::Engine;

    let answer = gateway
        .publish("users", &[("content-type", media_type)], payload.to_vec())
        .await;
    assert_eq!(answer.status, 400, "{:?}", answer.json());
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let mut socket = open(gateway, &[("sec-websocket-protocol", "arqon.v1.json")])
        .await
        .expect("upgraded");
    let encoded = base64::engine::general_purpose::STANDARD.encode(payload);
    let frame = json!({ "id": "1", "subject": "users", "headers": { "content-type": media_type }, "payload": encoded });
    socket.send(Message::text(frame.to_string())).await.expect("sent");
    let reply = next(&mut socket).await;
    assert_eq!(reply["id"], "1", "{reply}");
    (answer.json(), reply["nack"].clone())
}

/// Source 004: malformed payloads are refused, and its case "invalid JSON payload against valid Protobuf" (S4-6, S3-18).
#[tokio::test]
async fn test_malformed() {
    let gateway = Gateway::logged(CONFIG).await;
    let (protobuf, text) = ("application/x-protobuf", "application/json");
    let cases: [(&str, &[u8], &str); 9] = [
        (protobuf, b"\x0a\x09u1", "user_id"),
        (protobuf, b"\x0a", "user_id"),
        (protobuf, b"\x08\x01", "user_id"),
        (protobuf, b"not protobuf at all", ""),
        (protobuf, br#"{"userId":"u1"}"#, ""),
        (text, b"\x0a\x02u1", ""),
        (text, br#"{"userId":"u1""#, ""),
        (text, br#"{"userId":5}"#, "user_id"),
        (text, br#"{"userId":"u1","age":"many"}"#, "age"),
    ];
    for (media_type, payload, path) in cases {
        let (problem, nack) = refusals(&gateway, media_type, payload).await;
        for said in [&problem, &nack] {
            assert_eq!(
                said["code"], "schema.violation",
                "{media_type} {payload:?}: {said}"
            );
            let violations = said["violations"].as_array().expect("violations");
            assert!(!violations.is_empty(), "{said}");
            assert!(
                path.is_empty() || violations.iter().any(|one| one["path"] == path),
                "{media_type} {payload:?}: {said}"
            );
        }
    }
    // The words of the source, where that is the reason: on the wire, in JSON, both ways in.
    for (media_type, payload) in [
        (protobuf, &b"\x10\x05"[..]),
        (protobuf, b""),
        (text, b"{\"age\":5}"),
        (text, b"{}"),
    ] {
        let (problem, nack) = refusals(&gateway, media_type, payload).await;
        for said in [&problem, &nack] {
            assert_eq!(said["detail"], MISSING, "{media_type} {payload:?}: {said}");
            assert_eq!(said["violations"][0]["message"], MISSING);
            assert_eq!(said["violations"][0]["path"], "user_id");
        }
    }
    // And what fits passes.
    for (media_type, payload) in [(protobuf, &b"\x0a\x02u1"[..]), (text, br#"{"userId":"u1"}"#)] {
        let answer = gateway
            .publish("users", &[("content-type", media_type)], payload)
            .await;
        assert_eq!(answer.status, 202, "{:?}", answer.json());
    }
    // A line a second: the one with these words may be the next one.
    let line = eventually(async || {
        gateway.publish("users", &[], &b"\x10\x05"[..]).await;
        let log = std::fs::read_to_string(gateway.path("gateway.log")).ok()?;
        let line = log
            .lines()
            .find(|line| line.contains(&format!("error=\"{MISSING}\"")));
        line.map(str::to_owned)
    })
    .await;
    for part in ["WARN", "component=registry", "tenant_id=default"] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test]
async fn a_garbage_source_in_the_watched_folder_is_told_and_the_last_good_one_stays() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let mut events = site::Events::of(&gateway).await;
    let file = "schemas/v1.events.user_created.proto";
    std::fs::write(gateway.path(file), "this is no schema").expect("written");
    let service = json!("schema:v1.events.user_created");
    let told = events
        .until(|event| event["event"] == "health" && event["service"] == service)
        .await;
    assert_eq!(told["ok"], false);
    let state = gateway.get("/v1/state").await.json();
    let refused = &state["registry"]["refused"][0];
    assert_eq!(refused["id"], "v1.events.user_created", "{state}");
    assert!(
        refused["reason"]
            .as_str()
            .is_some_and(|why| why.contains(".proto")),
        "{refused}"
    );
    let ready = gateway.get("/readyz").await;
    assert_eq!(ready.status, 200, "the last good one serves");
    assert!(
        ready
            .json()
            .to_string()
            .contains("refused: v1.events.user_created"),
        "{}",
        ready.json()
    );
    assert_eq!(
        gateway.publish("users", &[], &b"\x0a\x02u1"[..]).await.status,
        202
    );
    site::counts(&gateway, "shield_schema_load_errors_total", 1.0).await;

    std::fs::write(gateway.path(file), super::process::SCHEMA).expect("written");
    let told = events
        .until(|event| event["event"] == "health" && event["service"] == service && event["ok"] == true)
        .await;
    assert_eq!(told["ok"], true);
}
