//! `serve` without NATS.

use std::io::{Read, Write};

use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Method};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::process::{Gateway, PATIENCE, eventually};

const CONFIG: &str = r#"
[gateway]
control_token_file = "control.token"
max_body_bytes = 65536

[platform.overseer]
deadline = "1s"
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"

[platform.registry]
dir = "schemas"
mappings = [{ subject = "in.t.default.users", schema_id = "v1.events.user_created", message = "events.v1.UserCreated", required = ["user_id"] }]

[platform.mirroring]
rules = [{ prefix = "in.t.default.>", percent = "100%" }]
"#;

pub(crate) type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

pub(crate) async fn open(gateway: &Gateway, headers: &[(&'static str, &'static str)]) -> Result<Socket, u16> {
    let mut request = format!("ws://{}/v1/ws", gateway.public)
        .into_client_request()
        .expect("URI");
    for (name, value) in headers {
        request
            .headers_mut()
            .insert(*name, HeaderValue::from_static(value));
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) async fn next(socket: &mut Socket) -> Value {
    match timeout(PATIENCE, socket.next())
        .await
        .expect("in time")
        .expect("open")
        .expect("a frame")
    {
        Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn ask(socket: &mut Socket, frame: Value) -> Value {
    socket.send(Message::text(frame.to_string())).await.expect("sent");
    next(socket).await
}

const JSON: (&str, &str) = ("sec-websocket-protocol", "arqon.v1.json");

#[tokio::test]
async fn routes_methods_subjects_and_bodies_are_refused_in_words() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let send = async |method: Method, path: &str, body: Vec<u8>| {
        gateway
            .try_send(gateway.public, method, path, &[], body)
            .await
            .expect("answered")
    };
    for (method, path, size, status, code) in [
        (Method::GET, "/v1/publish/users", 0, 405, "method.not_allowed"),
        (Method::POST, "/v1/ws", 0, 405, "method.not_allowed"),
        (Method::GET, "/", 0, 404, "not_found"),
        (Method::POST, "/v1/publish/a%20b", 1, 400, "subject.invalid"),
        (Method::POST, "/v1/publish/a.%2A", 1, 400, "subject.invalid"),
        (Method::POST, "/v1/publish/a..b", 1, 400, "subject.invalid"),
        (Method::POST, "/v1/publish/%FF", 1, 400, "subject.invalid"),
        (Method::POST, "/v1/publish/a%0D%0Ab", 1, 400, "subject.invalid"),
        (Method::POST, "/v1/publish/free", 65_537, 413, "body.too_large"),
        (Method::POST, "/v1/publish/users", 65_537, 413, "body.too_large"),
    ] {
        let answer = send(method, path, vec![b'x'; size]).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{path}"
        );
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(answer.headers.contains_key("x-request-id"));
    }
    assert_eq!(
        send(Method::POST, "/v1/publish/free", vec![b'x'; 65_536])
            .await
            .status,
        202
    );
    let plain = gateway.publish("a%20b", &[("accept", "text/plain")], "x").await;
    assert_eq!(plain.headers["content-type"], "text/plain; charset=utf-8");
}

#[tokio::test]
async fn the_same_payload_has_the_same_verdict_over_http_and_websocket() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let mut socket = open(&gateway, &[JSON]).await.expect("upgraded");
    for (payload, expected) in [
        (&b"\x0a\x02u1"[..], None),
        (b"\x0a\x09u1", Some("schema.violation")),
        (b"\x0a\x02u1\x38\x01", Some("schema.violation")),
        (b"\x10\x05", Some("schema.violation")),
        (b"", Some("schema.violation")),
    ] {
        let over_http = gateway.publish("users", &[], payload).await;
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, payload);
        let reply = ask(
            &mut socket,
            json!({ "id": 7, "subject": "users", "payload": base64 }),
        )
        .await;
        assert_eq!(reply["id"], 7);
        match expected {
            None => {
                assert_eq!(over_http.status, 202);
                assert_eq!(reply["ack"], over_http.json(), "the ack is the 202 body");
            }
            Some(code) => {
                assert_eq!(
                    (over_http.status.as_u16(), over_http.code().as_str()),
                    (400, code)
                );
                assert_eq!(reply["nack"]["code"], code);
                assert_eq!(reply["nack"]["violations"], over_http.json()["violations"]);
            }
        }
    }
}

#[tokio::test]
async fn the_same_json_has_the_same_verdict_over_http_and_websocket() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let mut socket = open(&gateway, &[JSON]).await.expect("upgraded");
    for (text, accepted) in [
        (r#"{"userId":"u1"}"#, true),
        (r#"{"user_id":"u1","age":7}"#, true),
        (r#"{"userId":"u1","nick":"x"}"#, false),
        (r#"{"userId":7}"#, false),
        (r#"{"userId":"u1","userId":"u2"}"#, false),
        ("null", false),
        ("[]", false),
        (r#""u1""#, false),
    ] {
        let over_http = gateway
            .publish("users", &[("content-type", "application/json")], text)
            .await;
        let frame = format!(r#"{{"id":7,"subject":"users","json":{text}}}"#);
        socket.send(Message::text(frame)).await.expect("sent");
        let reply = next(&mut socket).await;
        if accepted {
            assert_eq!(over_http.status, 202, "{text}");
            assert_eq!(reply["ack"], over_http.json(), "{text}");
        } else {
            assert_eq!(over_http.code(), "schema.violation", "{text}");
            assert_eq!(reply["nack"]["code"], "schema.violation", "{text}: {reply}");
            assert_eq!(
                reply["nack"]["violations"],
                over_http.json()["violations"],
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn browsers_of_configured_origins_may_publish_and_no_others() {
    let preflight = async |gateway: &Gateway, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type,traceparent"),
        ];
        let path = "/v1/publish/free";
        gateway
            .try_send(gateway.public, Method::OPTIONS, path, &headers, "")
            .await
            .expect("answered")
    };
    let gateway = Gateway::ready(CONFIG, &[]).await;
    assert_eq!(
        preflight(&gateway, "https://app.example").await.code(),
        "method.not_allowed"
    );

    let config = CONFIG.replace("[gateway]", "[gateway]\ncors_origins = [\"https://app.example\"]");
    let gateway = Gateway::ready(&config, &[]).await;
    let asked = preflight(&gateway, "https://app.example").await;
    assert_eq!(asked.status, 200);
    assert_eq!(
        asked.headers["access-control-allow-origin"],
        "https://app.example"
    );
    assert_eq!(
        asked.headers["access-control-allow-headers"],
        "content-type,traceparent"
    );
    let other = preflight(&gateway, "https://evil.example").await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));
    let sent = gateway
        .publish("free", &[("origin", "https://app.example")], "x")
        .await;
    assert_eq!(sent.status, 202);
    assert_eq!(sent.headers["access-control-allow-origin"], "https://app.example");
}

#[test]
fn a_body_that_takes_longer_than_its_request_may_is_refused_in_words() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let config = CONFIG.replace("[gateway]", "[gateway]\nrequest_timeout_ms = 200");
    let gateway = runtime.block_on(Gateway::ready(&config, &[]));
    let mut stream = std::net::TcpStream::connect(gateway.public).expect("connected");
    let head = "POST /v1/publish/users HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\x0a";
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = [0; 4_096];
    let mut read = 0;
    while !answer[..read].ends_with(b"}") {
        let more = stream.read(&mut answer[read..]).expect("answered");
        assert_ne!(more, 0, "{}", String::from_utf8_lossy(&answer[..read]));
        read += more;
    }
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(
        answer.contains("body.timeout") && answer.contains("/v1/publish/users"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_unreadable_frame_is_nacked_without_an_id_and_the_session_goes_on() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let mut socket = open(&gateway, &[JSON]).await.expect("upgraded");
    socket.send(Message::text("{")).await.expect("sent");
    let reply = next(&mut socket).await;
    assert_eq!(
        (&reply["id"], &reply["nack"]["code"]),
        (&Value::Null, &json!("frame.invalid"))
    );
    let reply = ask(&mut socket, json!({ "id": "1", "subject": "a b" })).await;
    assert_eq!(reply["nack"]["code"], "subject.invalid");
    let reply = ask(
        &mut socket,
        json!({ "id": "2", "subject": "free", "headers": { "X-Block-Me": "1" } }),
    )
    .await;
    assert_eq!(reply["nack"]["code"], "overseer.denied");
    let reply = ask(&mut socket, json!({ "id": "3", "subject": "free" })).await;
    assert_eq!(reply["ack"]["subject"], "in.t.default.free");
}

#[tokio::test]
async fn an_upgrade_needs_the_subprotocol_and_passes_the_policies() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    assert_eq!(open(&gateway, &[]).await.err(), Some(400));
    assert_eq!(
        open(&gateway, &[JSON, ("x-block-me", "1")]).await.err(),
        Some(403)
    );
    let plain = gateway
        .try_send(gateway.public, Method::GET, "/v1/ws", &[], "")
        .await
        .expect("answered");
    assert_eq!(
        (plain.status.as_u16(), plain.code().as_str()),
        (400, "frame.invalid")
    );
}

#[tokio::test]
async fn a_subscription_gets_the_tenants_messages_with_what_the_layers_added() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let mut socket = open(&gateway, &[JSON]).await.expect("upgraded");
    assert!(ask(&mut socket, json!({ "id": "s", "subscribe": ">" })).await["ack"].is_object());
    let headers = [
        ("x-arqon-shadow", "true"),
        ("X_Arqon_Variant", "9"),
        ("cookie", "a=b"),
        ("x-own", "1"),
    ];
    assert_eq!(gateway.publish("users", &headers, "\x0a\x02u1").await.status, 202);
    let delivered = next(&mut socket).await;
    assert_eq!(
        (&delivered["subject"], &delivered["payload"]),
        (&json!("users"), &json!("CgJ1MQ=="))
    );
    let headers = delivered["headers"].as_object().expect("headers");
    assert_eq!(headers["x-arqon-schema"], "v1.events.user_created@1");
    assert_eq!(headers["x-own"], "1");
    for gone in [
        "x-arqon-shadow",
        "x_arqon_variant",
        "cookie",
        "host",
        "content-length",
    ] {
        assert!(!headers.contains_key(gone), "{gone} in {headers:?}");
    }
}

#[tokio::test]
async fn a_binary_frame_and_a_message_over_the_cap_close_the_session() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let mut socket = open(&gateway, &[JSON]).await.expect("upgraded");
    socket
        .send(Message::text("x".repeat(262_144)))
        .await
        .expect("sent");
    assert_eq!(
        next(&mut socket).await["nack"]["code"],
        "frame.invalid",
        "at the cap it is read"
    );
    for (frame, code) in [
        (Message::binary(vec![1, 2, 3]), 1003),
        (Message::text("x".repeat(262_145)), 1009),
    ] {
        let mut socket = open(&gateway, &[JSON]).await.expect("upgraded");
        let _ = socket.send(frame).await;
        let closed = loop {
            match timeout(PATIENCE, socket.next()).await.expect("in time") {
                Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(closed, code);
    }
}

#[tokio::test]
async fn operators_see_metrics_readiness_state_and_events() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let ready = gateway.get("/readyz").await.json();
    assert_eq!(
        (&ready["bus_attached"], &ready["bus_capacity"]),
        (&json!(true), &json!(256))
    );
    assert_eq!(gateway.get("/healthz").await.status, 200);
    assert_eq!(gateway.get("/nothing").await.code(), "not_found");
    let state = gateway.get("/v1/state").await.json();
    assert_eq!(state["engine"], "embedded");
    assert_eq!(state["overseer"]["policies"][0]["name"], "block_me");
    assert_eq!(state["registry"]["schemas"][0]["id"], "v1.events.user_created");
    let text = String::from_utf8(gateway.get("/metrics").await.body.to_vec()).expect("text");
    for name in [
        "shield_wasm_execution_duration_seconds_bucket{module=\"block_me\",le=\"0.0000001\"}",
        "shield_wasm_fuel_consumed_total{module=\"block_me\"}",
        "shield_overseer_decisions_total{module=\"block_me\",decision=\"allow\"}",
        "shield_overseer_failures_total{module=\"block_me\",cause=\"fuel\"} 0",
        "shield_overseer_standby_total{result=\"hit\"}",
        "shield_mirror_traffic_total{rule=\"in.t.default.>\"}",
        "shield_mirror_dropped_total{reason=\"queue_full\"} 0",
        "shield_mirror_key_source_total{source=\"traceparent\"} 0",
        "shield_schema_violation_total{schema_id=\"v1.events.user_created\"} 0",
        "shield_schema_validation_duration_seconds",
        "shield_schema_registry_age_seconds",
        "bus_overflow_dropped_total",
        "bus_queue_depth",
        "bus_subscribers_total",
    ] {
        assert!(text.contains(name), "{name} in\n{text}");
    }
}

#[tokio::test]
async fn control_routes_want_the_token_and_refuse_in_words() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let send = async |method: Method, path: &str, token: Option<&str>, body: &'static [u8]| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer
            .iter()
            .map(|bearer| ("authorization", bearer.as_str()))
            .collect();
        gateway
            .try_send(gateway.admin, method, path, &headers, body)
            .await
            .expect("answered")
    };
    const TOKEN: Option<&str> = Some("0123456789abcdef");
    for (token, code) in [(None, "auth.missing"), (Some("wrong"), "auth.invalid")] {
        for path in ["/v1/control", "/v1/policies/block_me/promote"] {
            let answer = send(Method::POST, path, token, b"{}").await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, code));
        }
    }
    let refused = send(Method::POST, "/v1/control", TOKEN, b"{}").await;
    assert_eq!(
        (refused.status.as_u16(), refused.code().as_str()),
        (409, "control.refused")
    );
    assert_eq!(refused.json()["reason"], "malformed");

    let refused = send(Method::PUT, "/v1/policies/block_me", TOKEN, b"not wasm").await;
    assert_eq!(
        (refused.status.as_u16(), refused.code().as_str()),
        (422, "policy.refused")
    );
    let unknown = send(Method::PUT, "/v1/policies/nobody", TOKEN, b"").await;
    assert_eq!(unknown.status, 404);
    assert_eq!(
        gateway.publish("free", &[("x-block-me", "1")], "").await.status,
        403,
        "the last good one stays"
    );

    let allow_all =
        br#"(module (memory (export "memory") 1) (global (export "arqon_abi_v1") i32 (i32.const 1))
        (func (export "on_request") (result i32) i32.const 0))"#;
    let report = send(Method::PUT, "/v1/policies/block_me", TOKEN, allow_all).await;
    assert_eq!(
        (report.status.as_u16(), &report.json()["ok"]),
        (200, &json!(true))
    );
    assert_eq!(
        gateway.publish("free", &[("x-block-me", "1")], "").await.status,
        202
    );
    assert_eq!(
        send(Method::POST, "/v1/policies/block_me/rollback", TOKEN, b"")
            .await
            .status,
        200
    );
    assert_eq!(
        gateway.publish("free", &[("x-block-me", "1")], "").await.status,
        403
    );
    assert_eq!(
        send(Method::POST, "/v1/policies/block_me/promote", TOKEN, b"")
            .await
            .status,
        422,
        "no candidate"
    );
}

#[tokio::test]
async fn sigterm_closes_sessions_with_1001_and_exits_0() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let mut socket = open(&gateway, &[JSON]).await.expect("upgraded");
    assert!(ask(&mut socket, json!({ "id": "1", "subject": "free" })).await["ack"].is_object());
    let ending = tokio::spawn(gateway.terminate());
    let closed = timeout(PATIENCE, socket.next()).await.expect("in time");
    match closed {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
    drop(socket);
    assert_eq!(ending.await.expect("no panic").code(), Some(0));
}

#[tokio::test]
async fn a_changed_schema_file_is_enforced_and_a_broken_one_is_not() {
    let gateway = Gateway::ready(CONFIG, &[]).await;
    let unknown = b"\x0a\x02u1\x38\x01";
    assert_eq!(gateway.publish("users", &[], &unknown[..]).await.status, 400);
    let file = gateway.path("schemas/v1.events.user_created.proto");
    std::fs::write(&file, "no schema any more").expect("written");
    std::fs::write(
        &file,
        r#"syntax = "proto3"; package events.v1; message UserCreated { string user_id = 1; int32 age = 2; int32 n = 7; }"#,
    )
    .expect("written");
    eventually(async || (gateway.publish("users", &[], &unknown[..]).await.status == 202).then_some(()))
        .await;
}

/// RFC 9110, 10.1.1 and the edge's own promise: an answer arrives although the body was refused unread.
#[test]
fn a_client_that_sends_its_whole_body_first_reads_the_413() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let gateway = runtime.block_on(Gateway::ready(CONFIG, &[]));
    let mut stream = std::net::TcpStream::connect(gateway.public).expect("connected");
    let body = vec![b'x'; 2 * 65_536];
    let head = format!(
        "POST /v1/publish/free HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(&body).expect("sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 413");
}
