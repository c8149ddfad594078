//! JSON to binary: what prost-reflect reads of the document is what it reads of our bytes, and the layer hands on bytes
//! that say what they are.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

mod support;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use arqon_message::{MessageBody, Subject};
use arqon_schema::{
    Level, MappingConfig, MemoryStore, Mode, RegistryConfig, SCHEMA_HEADER, SchemaLayer, ValidatedBy,
    channel, rule,
};
use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use prost::Message;
use prost_reflect::DynamicMessage;
use support::Rng;
use tower::{Layer, ServiceExt, service_fn};

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_binary_form_is_the_same_message(seed: u64) {
        for syntax in ["proto2", "proto3"] {
            let set = support::set(syntax);
            let descriptor = support::oracle(&set);
            let validator = support::validator(&set, Level::Wire, &[]);
            let strict = support::validator(&set, Level::Strict, &[]);
            for round in 0..30 {
                let payload = support::payload(&descriptor, &mut Rng(seed.wrapping_add(round)), 0);
                let message = DynamicMessage::decode(descriptor.clone(), payload.as_slice()).unwrap();
                let Ok(text) = serde_json::to_string(&message) else { continue };
                let Ok(bytes) = validator.transcode(text.as_bytes()) else { continue };
                let mut reader = serde_json::Deserializer::from_str(&text);
                let theirs = DynamicMessage::deserialize(descriptor.clone(), &mut reader).unwrap();
                let ours = DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).unwrap();
                // As values: maps have no order, and NaN is not equal to itself. As short as any encoder writes it.
                let value = |message: &DynamicMessage| serde_json::to_value(message).unwrap();
                prop_assert_eq!(value(&ours), value(&theirs), "{}", text);
                prop_assert_eq!(bytes.len(), ours.encoded_len(), "{}", text);
                prop_assert!(strict.validate_wire(&bytes).is_ok(), "{}", text);
            }
        }
    }
}

#[test]
fn a_broken_document_is_no_bytes_and_deep_ones_stay_linear() {
    let set = support::set("proto3");
    let validator = support::validator(&set, Level::Strict, &["f_bool"]);
    let missing = validator.transcode(b"{}").unwrap_err();
    assert_eq!(missing.as_slice()[0].rule, rule::REQUIRED);
    assert!(validator.transcode(b"{\"fBool\":true").is_err() && validator.transcode(b"\xff").is_err());
    let validator = support::validator(&set, Level::Strict, &[]);
    let deep = |inner: &str| format!("{}{inner}{}", "{\"fSelf\":".repeat(99), "}".repeat(99));
    let wide = deep(&format!("{{\"rInt32\":[{}1]}}", "1,".repeat(200_000)));
    let bytes = validator.transcode(wide.as_bytes()).unwrap();
    assert!(validator.validate_wire(&bytes).is_ok() && bytes.len() > 200_000);
}

const SUBJECT: &str = "in.t.default.a";

fn config(mode: Mode, limit: usize) -> RegistryConfig {
    RegistryConfig {
        mode,
        max_body_bytes: limit,
        mappings: vec![MappingConfig::new(SUBJECT, "v1.a").transcode()],
        ..RegistryConfig::default()
    }
}

async fn send(
    config: RegistryConfig,
    kind: &str,
    body: &str,
) -> (StatusCode, Option<(http::request::Parts, Bytes)>) {
    let (registry, writer) = channel(config).unwrap();
    let store = MemoryStore::new();
    store.load(&writer).unwrap();
    let source = r#"syntax = "proto3"; message A { string id = 1; repeated fixed64 n = 2; }"#;
    store.put_source("v1.a", source).unwrap();
    let handed = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&handed);
    let inner = service_fn(move |request: Request<MessageBody<Full<Bytes>>>| {
        let seen = Arc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            *seen.lock().unwrap() = Some((parts, body.collect().await.unwrap().to_bytes()));
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    let mut request = Request::post("/")
        .header(CONTENT_TYPE, kind)
        .header(CONTENT_LENGTH, body.len())
        .header("content-digest", "sha-256=:x:")
        .body(Full::from(body.to_owned()))
        .unwrap();
    request.extensions_mut().insert(Subject::parse(SUBJECT).unwrap());
    let answer = SchemaLayer::new(registry)
        .layer(inner)
        .oneshot(request)
        .await
        .unwrap();
    let handed = handed.lock().unwrap().take();
    (answer.status(), handed)
}

#[tokio::test]
async fn the_handler_gets_the_binary_form_and_is_told() {
    let json = "application/json; charset=utf-8";
    let (status, handed) = send(config(Mode::Enforce, 1_000), json, r#"{"id":"u1"}"#).await;
    let (parts, body) = handed.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(&body[..], b"\x0a\x02u1");
    assert_eq!(parts.headers[CONTENT_TYPE], "application/x-protobuf");
    assert_eq!(parts.headers[CONTENT_LENGTH], "4");
    assert_eq!(parts.headers[SCHEMA_HEADER], "v1.a@1");
    assert!(
        !parts.headers.contains_key("content-digest"),
        "it was the document's"
    );
    assert!(parts.extensions.get::<ValidatedBy>().is_some());
    // What is binary already goes on as it is.
    let (_, handed) = send(
        config(Mode::Enforce, 1_000),
        "application/x-protobuf",
        "\n\u{2}u1",
    )
    .await;
    let (parts, body) = handed.unwrap();
    assert_eq!(
        (&body[..], parts.headers["content-digest"].as_bytes()),
        (&b"\x0a\x02u1"[..], &b"sha-256=:x:"[..])
    );
}

#[tokio::test]
async fn what_grows_past_the_limit_or_breaks_the_contract_does_not_go_on() {
    let json = "application/json";
    // Two bytes of JSON are eight of binary.
    let wide = format!(r#"{{"n":[{}0]}}"#, "0,".repeat(100));
    let (status, handed) = send(config(Mode::Enforce, 500), json, &wide).await;
    assert!(status == StatusCode::PAYLOAD_TOO_LARGE && handed.is_none());
    let (status, handed) = send(config(Mode::Enforce, 500), json, r#"{"no":1}"#).await;
    assert!(status == StatusCode::BAD_REQUEST && handed.is_none());
    // Under monitor the document goes on as it came.
    let (status, handed) = send(config(Mode::Monitor, 500), json, r#"{"no":1}"#).await;
    let (parts, body) = handed.unwrap();
    assert_eq!((status, &body[..]), (StatusCode::OK, &br#"{"no":1}"#[..]));
    assert_eq!(parts.headers[CONTENT_TYPE], json);
}
