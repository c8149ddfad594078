//! `serve` with a real nats-server.

use std::time::Duration;

use arqon_test_support::NatsServer;
use async_nats::jetstream;
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::timeout;

use super::process::{Gateway, PATIENCE, eventually};

fn config(server: &NatsServer) -> String {
    let unique = server.unique();
    format!(
        r#"
[nats]
url = "{}"
stream = "ARQON_IN"

[platform.overseer]
deadline = "1s"
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"

[platform.registry]
kv_bucket = "ARQON_SCHEMAS_{unique}"
mappings = [{{ subject = "in.t.default.{unique}.users", schema_id = "v1.events.user_created", required = ["user_id"] }}]

[platform.mirroring]
rules = [{{ prefix = "in.t.default.{unique}.>", percent = "100%" }}]
"#,
        server.url()
    )
}

/// The descriptor set of a source, gzipped.
pub(crate) fn descriptors(source: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("s.proto");
    std::fs::write(&file, source).expect("written");
    use prost::Message;
    let set = protox::compile([&file], [folder.path()])
        .expect("compiles")
        .encode_to_vec();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, &set).expect("compressed");
    gzip.finish().expect("compressed")
}

#[tokio::test]
async fn a_publish_is_acknowledged_by_the_stream_and_its_copy_arrives_under_shadow() {
    let server = NatsServer::start().await.expect("a nats-server");
    let client = server.client().await.expect("connected");
    let unique = server.unique().to_owned();
    let mut copies = client
        .subscribe(format!("shadow.in.t.default.{unique}.>"))
        .await
        .expect("subscribed");
    client.flush().await.expect("flushed");
    let gateway = Gateway::ready(&config(&server), &[]).await;

    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("traceparent", trace),
        ("Nats-Msg-Id", "m-1"),
        ("x-arqon-shadow", "true"),
        ("x-own", "1"),
    ];
    let answer = gateway
        .publish(&format!("{unique}.free"), &headers, "hello")
        .await;
    assert_eq!(answer.status, 202, "{:?}", answer.json());
    let ack = answer.json();
    assert_eq!(ack["subject"], format!("in.t.default.{unique}.free"));
    assert_eq!(
        (&ack["stream"], &ack["duplicate"]),
        (&json!("ARQON_IN"), &json!(false))
    );
    let sequence = ack["sequence"].as_u64().expect("a sequence");

    let again = gateway
        .publish(&format!("{unique}.free"), &headers, "hello")
        .await
        .json();
    assert_eq!(
        (again["sequence"].as_u64(), &again["duplicate"]),
        (Some(sequence), &json!(true))
    );

    let stream = jetstream::new(client.clone())
        .get_stream("ARQON_IN")
        .await
        .expect("there");
    let stored = stream.get_raw_message(sequence).await.expect("stored");
    assert_eq!(stored.payload, "hello");
    let header = |name: &str| stored.headers.get(name).map(|value| value.as_str().to_owned());
    assert_eq!(
        header("Nats-Msg-Id").as_deref(),
        Some("default:m-1"),
        "a tenant's own"
    );
    assert_eq!(header("traceparent").as_deref(), Some(trace));
    assert_eq!(header("x-own").as_deref(), Some("1"));
    assert_eq!(header("x-arqon-shadow"), None, "a client cannot mark the primary");

    let copy = timeout(PATIENCE, copies.next())
        .await
        .expect("in time")
        .expect("a copy");
    assert_eq!(
        (copy.subject.as_str(), &copy.payload[..]),
        (
            format!("shadow.in.t.default.{unique}.free").as_str(),
            &b"hello"[..]
        )
    );
    let headers = copy.headers.expect("headers");
    assert_eq!(
        headers
            .get_all("x-arqon-shadow")
            .map(|value| value.as_str())
            .collect::<Vec<_>>(),
        ["true"]
    );
    assert_eq!(
        headers.get("x-arqon-shadow-of").map(|v| v.as_str()),
        Some("0af7651916cd43dd8448eb211c80319c")
    );
    assert!(headers.get("Nats-Msg-Id").is_none() && headers.get("nats-msg-id").is_none());
    assert!(copy.reply.is_none());
}

#[tokio::test]
async fn a_schema_put_into_the_bucket_is_enforced_and_a_bad_one_is_not() {
    let server = NatsServer::start().await.expect("a nats-server");
    let client = server.client().await.expect("connected");
    let unique = server.unique().to_owned();
    let gateway = Gateway::ready(&config(&server), &[]).await;
    let subject = format!("{unique}.users");
    let publish = async |payload: &'static [u8]| gateway.publish(&subject, &[], payload).await;

    let missing = publish(b"\x0a\x02u1").await;
    assert_eq!(
        (missing.status.as_u16(), missing.code().as_str()),
        (503, "schema.unavailable")
    );
    assert_eq!(missing.headers["retry-after"], "1");

    let bucket = eventually(async || {
        jetstream::new(client.clone())
            .get_key_value(format!("ARQON_SCHEMAS_{unique}"))
            .await
            .ok()
    })
    .await;
    assert_eq!(bucket.status().await.expect("status").history(), 16);
    let source = r#"syntax = "proto3"; package e; message U { string user_id = 1; }"#;
    let revision = bucket
        .put("v1.events.user_created", descriptors(source).into())
        .await
        .expect("put");
    eventually(async || (publish(b"\x0a\x02u1").await.status == 202).then_some(())).await;
    let unknown = publish(b"\x0a\x02u1\x38\x01").await;
    assert_eq!(
        (unknown.status.as_u16(), &unknown.json()["violations"][0]["path"]),
        (400, &json!("7"))
    );

    bucket
        .put("v1.events.user_created", "not a schema".into())
        .await
        .expect("put");
    let wider = r#"syntax = "proto3"; package e; message U { string user_id = 1; int32 n = 7; }"#;
    bucket
        .put("v1.events.user_created", descriptors(wider).into())
        .await
        .expect("put");
    eventually(async || (publish(b"\x0a\x02u1\x38\x01").await.status == 202).then_some(())).await;
    let state = gateway.get("/v1/state").await.json();
    assert!(
        state["registry"]["schemas"][0]["revision"].as_u64() > Some(revision),
        "{state}"
    );

    bucket.delete("v1.events.user_created").await.expect("deleted");
    eventually(async || (publish(b"\x0a\x02u1").await.status == 503).then_some(())).await;
}

#[tokio::test]
async fn without_nats_the_gateway_starts_says_not_ready_and_answers_503_at_once() {
    let mut server = NatsServer::start_own().await.expect("a nats-server");
    let config = config(&server);
    server.stop().await.expect("stopped");
    let gateway = Gateway::start(&config, &[]);
    let ready = gateway.becomes_ready(false).await;
    let nats = ready["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .find(|check| check["name"] == "nats");
    assert_eq!(nats.expect("named")["ok"], false);
    let subject = format!("{}.free", server.unique());
    let answer = timeout(Duration::from_secs(1), gateway.publish(&subject, &[], "x"))
        .await
        .expect("within a second");
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (503, "publish.unavailable")
    );
    assert_eq!(answer.headers["retry-after"], "1");

    server.start_again().await.expect("started");
    gateway.becomes_ready(true).await;
    assert_eq!(gateway.publish(&subject, &[], "x").await.status, 202);

    // It stalls: it holds its connections and reads nothing.
    server.pause().await.expect("paused");
    let answer = timeout(Duration::from_secs(5), gateway.publish(&subject, &[], "x"))
        .await
        .expect("in time");
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (503, "publish.unavailable")
    );
    server.resume().await.expect("resumed");
    eventually(async || (gateway.publish(&subject, &[], "x").await.status == 202).then_some(())).await;
}

#[tokio::test]
async fn the_same_frames_go_over_websocket_to_the_stream() {
    use futures_util::SinkExt;
    use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

    let server = NatsServer::start().await.expect("a nats-server");
    let gateway = Gateway::ready(&config(&server), &[]).await;
    let mut request = format!("ws://{}/v1/ws", gateway.public)
        .into_client_request()
        .expect("URI");
    request.headers_mut().insert(
        "sec-websocket-protocol",
        http::HeaderValue::from_static("arqon.v1.json"),
    );
    let (socket, _) = tokio_tungstenite::connect_async(request).await.expect("upgraded");
    let (mut sink, mut stream) = socket.split();
    let subject = format!("{}.ws", server.unique());
    let mut send = async |frame: serde_json::Value| {
        let frame = Message::text(frame.to_string());
        sink.send(frame).await.expect("sent");
    };
    let mut heard = async || {
        let text = timeout(PATIENCE, stream.next())
            .await
            .expect("in time")
            .expect("open")
            .expect("frame");
        serde_json::from_str::<serde_json::Value>(text.to_text().expect("text")).expect("JSON")
    };
    send(json!({ "id": "s", "subscribe": subject })).await;
    let subscribed = heard().await;
    assert!(subscribed["ack"].is_object(), "{subscribed}");
    send(json!({ "id": "1", "subject": subject, "payload": "aGk=" })).await;
    send(json!({ "id": "2", "subject": subject, "headers": { "X-Block-Me": "1" } })).await;
    // An ack, a nack and a delivery, which comes when it comes.
    let mut replies = Vec::new();
    while replies.len() < 3 {
        replies.push(heard().await);
    }
    let acked = replies.iter().find(|reply| reply["id"] == "1").expect("acked");
    assert_eq!(acked["ack"]["stream"], "ARQON_IN", "{acked}");
    assert!(
        replies.iter().any(|reply| reply["payload"] == "aGk="),
        "delivered: {replies:?}"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_drain_waits_for_open_requests_mirrors_them_and_says_not_ready_meanwhile() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let server = NatsServer::start().await.expect("a nats-server");
    let client = server.client().await.expect("connected");
    let unique = server.unique().to_owned();
    let mut copies = client
        .subscribe(format!("shadow.in.t.default.{unique}.>"))
        .await
        .expect("subscribed");
    client.flush().await.expect("flushed");
    let gateway = Gateway::ready(&config(&server), &[]).await;
    let mut stream = tokio::net::TcpStream::connect(gateway.public)
        .await
        .expect("connected");
    let head = format!("POST /v1/publish/{unique}.free HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe");
    stream.write_all(head.as_bytes()).await.expect("sent");
    // Another answer on the same listener: the first request is in the stack by now.
    assert_eq!(
        gateway.publish(&format!("{unique}.other"), &[], "x").await.status,
        202
    );
    timeout(PATIENCE, copies.next())
        .await
        .expect("in time")
        .expect("the other's copy");
    gateway.signal("TERM");
    let state = gateway.becomes_ready(false).await;
    assert!(state.to_string().contains("draining"), "{state}");
    stream.write_all(b"llo").await.expect("sent");
    let mut answer = [0; 12];
    timeout(PATIENCE, stream.read_exact(&mut answer))
        .await
        .expect("in time")
        .expect("answered");
    assert_eq!(&answer, b"HTTP/1.1 202");
    let copy = timeout(PATIENCE, copies.next())
        .await
        .expect("in time")
        .expect("its copy");
    assert_eq!(&copy.payload[..], b"hello");
    drop(stream);
    assert_eq!(gateway.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_drain_waits_for_nothing_where_nats_was_never_reached() {
    // More time than the test has: whatever asks NATS for something must not be waited for.
    let config = "[gateway]\ndrain_timeout_ms = 120000\n[nats]\nurl = \"nats://127.0.0.1:1\"\nserve = {}\n\
                  [platform.registry]\nkv_bucket = \"ARQON_SCHEMAS\"\n";
    let gateway = Gateway::start(config, &[]);
    gateway.becomes_ready(false).await;
    let started = std::time::Instant::now();
    let status = timeout(PATIENCE, gateway.terminate()).await.expect("in time");
    println!("drained in {:?}", started.elapsed());
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_stream_that_is_lost_is_made_again_and_until_then_the_gateway_says_no() {
    let server = NatsServer::start_own().await.expect("a nats-server");
    let streams = jetstream::new(server.client().await.expect("connected"));
    let config = format!("[nats]\nurl = \"{}\"\n", server.url());
    let gateway = Gateway::ready(&config, &[]).await;
    let is_taken = async || gateway.publish("orders", &[], "x").await.status == 202;
    assert!(is_taken().await);
    // The next publish finds none, and has it made again.
    streams.delete_stream("ARQON_IN").await.expect("deleted");
    eventually(async || is_taken().await.then_some(())).await;
    assert_eq!(gateway.get("/readyz").await.status, 200);
    // Where it cannot be made, since another one has its subjects, nobody has to publish for it to be seen.
    streams.delete_stream("ARQON_IN").await.expect("deleted");
    let other = jetstream::stream::Config {
        name: "OTHER".to_owned(),
        subjects: vec!["in.t.other.>".to_owned()],
        ..jetstream::stream::Config::default()
    };
    streams.create_stream(other).await.expect("made");
    let says = gateway.becomes_ready(false).await;
    let stream = says["checks"]
        .as_array()
        .and_then(|checks| checks.iter().find(|check| check["name"] == "stream"));
    assert_eq!(
        stream,
        Some(&json!({"name": "stream", "ok": false, "reason": "stream ARQON_IN is not there"}))
    );
    let answer = gateway.publish("orders", &[], "x").await;
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (503, "publish.unavailable".to_owned())
    );
    streams.delete_stream("OTHER").await.expect("deleted");
    gateway.becomes_ready(true).await;
    assert!(is_taken().await);
}

#[tokio::test]
async fn what_jetstream_would_refuse_again_is_too_large_and_not_to_be_tried_again() {
    let server = NatsServer::start_own().await.expect("a nats-server");
    let streams = jetstream::new(server.client().await.expect("connected"));
    let limited = jetstream::stream::Config {
        name: "ARQON_IN".to_owned(),
        subjects: vec!["in.t.>".to_owned()],
        max_message_size: 70_000,
        ..jetstream::stream::Config::default()
    };
    streams.create_stream(limited).await.expect("made");
    let config = format!(
        "[nats]\nurl = \"{}\"\nserve = {{ in_flight_max = 1 }}\n",
        server.url()
    );
    let _gateway = Gateway::ready(&config, &[]).await;
    let client = server.client().await.expect("connected");
    let publish = async |head: usize, body: usize| {
        let mut headers = async_nats::HeaderMap::new();
        if head > 0 {
            headers.insert("a", "v".repeat(head).as_str());
        }
        let payload = "x".repeat(body).into();
        let answer = eventually(async || {
            let asked = client.request_with_headers(
                "gateway.in.t.default.x",
                headers.clone(),
                bytes::Bytes::clone(&payload),
            );
            asked.await.ok()
        })
        .await;
        serde_json::from_slice::<serde_json::Value>(&answer.payload).expect("JSON")
    };
    assert_eq!(publish(60_000, 1).await["stream"], "ARQON_IN");
    let refused = publish(66_000, 1).await;
    assert_eq!(
        (&refused["code"], &refused["status"]),
        (&json!("publish.too_large"), &json!(413)),
        "{refused}"
    );
    assert_eq!(publish(0, 70_000).await["stream"], "ARQON_IN");
    let refused = publish(0, 70_001).await;
    assert_eq!(
        (&refused["code"], &refused["status"]),
        (&json!("publish.too_large"), &json!(413)),
        "{refused}"
    );
}
