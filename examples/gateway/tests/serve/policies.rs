//! Policies changed while the gateway serves: by file, by upload, as candidates, and what each session is told.

use std::{fs, path::Path};

use futures_util::{SinkExt, StreamExt};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::process::{Answer, Gateway, PATIENCE, eventually};

const TOKEN: &str = "Bearer 0123456789abcdef";

fn config(on_reject: &str) -> String {
    format!(
        r#"
[gateway]
control_token_file = "control.token"

[platform.overseer]
watch_interval = "20ms"
deadline = "1s"
cache_dir = "cache"
[[platform.overseer.policies]]
name = "block_me"
path = "block_me.wat"
on_reject = "{on_reject}"
"#
    )
}

/// A policy that answers every request with `code`.
fn answers(code: u16) -> String {
    format!(
        r#"(module (import "arqon_host_v1" "host_reject" (func $reject (param i32 i32 i32)))
             (memory (export "memory") 1) (global (export "arqon_abi_v1") i32 (i32.const 1))
             (func (export "on_request") (result i32)
               (call $reject (i32.const {code}) (i32.const 0) (i32.const 0)) (i32.const 0)))"#
    )
}

const ALLOW: &str = r#"(module (memory (export "memory") 1) (global (export "arqon_abi_v1") i32 (i32.const 1))
  (func (export "on_request") (result i32) i32.const 0))"#;

/// The bus as server-sent events, read line by line.
async fn events(gateway: &Gateway) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(gateway.admin).await.expect("connected");
    let head = format!("GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: {TOKEN}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        timeout(PATIENCE, lines.read_line(&mut line))
            .await
            .expect("in time")
            .expect("answered");
    }
    lines
}

/// The next `policy_reloaded`, and whether it says that the module was taken.
async fn reloaded(events: &mut BufReader<TcpStream>) -> (String, bool) {
    let mut line = String::new();
    loop {
        line.clear();
        timeout(PATIENCE, events.read_line(&mut line))
            .await
            .expect("in time")
            .expect("open");
        let Some(data) = line.strip_prefix("data:") else {
            continue;
        };
        let event: Value = serde_json::from_str(data.trim()).expect("JSON");
        if event["event"] == "policy_reloaded" {
            let name = event["policy"].as_str().expect("a name").to_owned();
            return (name, event["ok"] == true);
        }
    }
}

async fn operate(gateway: &Gateway, method: Method, path: &str, body: impl Into<bytes::Bytes>) -> Answer {
    gateway
        .try_send(gateway.admin, method, path, &[("authorization", TOKEN)], body)
        .await
        .expect("answered")
}

async fn status(gateway: &Gateway, headers: &[(&str, &str)]) -> u16 {
    gateway.publish("free", headers, "x").await.status.as_u16()
}

/// The policy, once all of so many calls are accounted for: candidates are tried beside the requests.
async fn tried(gateway: &Gateway, calls: u64) -> Value {
    eventually(async || {
        let policy = policy(gateway).await;
        let count = |key: &str| policy["candidate"][key].as_u64().expect("a count");
        let all = count("same") + count("differs") + count("not_asked") + count("skipped");
        (all == calls).then_some(policy)
    })
    .await
}

async fn policy(gateway: &Gateway) -> Value {
    gateway.get("/v1/state").await.json()["overseer"]["policies"][0].clone()
}

/// Puts a file in the place of another, whole from the beginning: one that is written in place may be looked at before.
fn put(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).expect("written");
    fs::rename(new, file).expect("renamed");
}

#[tokio::test]
async fn a_changed_file_is_obeyed_a_broken_one_is_told_and_nothing_fails_meanwhile() {
    let gateway = Gateway::ready(&config("nack"), &[]).await;
    let mut told = events(&gateway).await;
    assert_eq!(status(&gateway, &[]).await, 202);
    assert_eq!(status(&gateway, &[("x-block-me", "1")]).await, 403);
    let file = gateway.path("block_me.wat");

    put(&file, "(module");
    assert_eq!(reloaded(&mut told).await, ("block_me".to_owned(), false));
    assert_eq!(
        status(&gateway, &[("x-block-me", "1")]).await,
        403,
        "the last good one stays"
    );

    // Whatever comes while modules are swapped has the verdict of one of them.
    let mut answered = 0;
    for code in [451, 410, 451, 410] {
        put(&file, &answers(code));
        let mut swapped = std::pin::pin!(reloaded(&mut told));
        loop {
            tokio::select! {
                told = &mut swapped => {
                    assert_eq!(told, ("block_me".to_owned(), true));
                    break;
                }
                status = status(&gateway, &[]) => {
                    assert!([202, 451, 410].contains(&status), "{status}");
                    answered += 1;
                }
            }
        }
        assert_eq!(status(&gateway, &[]).await, code);
    }
    assert!(answered > 0, "requests came while modules were swapped");
    let metrics = gateway.get("/metrics").await.body;
    let metrics = String::from_utf8(metrics.to_vec()).expect("text");
    for series in [
        "shield_overseer_reloads_total{module=\"block_me\",result=\"ok\"} 4",
        "shield_overseer_reloads_total{module=\"block_me\",result=\"refused\"} 1",
    ] {
        assert!(metrics.contains(series), "{series} in\n{metrics}");
    }
    assert!(
        fs::read_dir(gateway.path("cache"))
            .expect("made")
            .next()
            .is_some(),
        "compiled modules are kept"
    );
}

/// What is wrong with the policy's file, once that is `wrong` or nothing any more.
async fn refused(gateway: &Gateway, wrong: bool) -> String {
    eventually(async || {
        let refused = policy(gateway).await["refused"].clone();
        let all = refused.as_array().expect("a list");
        (all.is_empty() != wrong).then(|| refused.to_string())
    })
    .await
}

#[tokio::test]
async fn the_state_says_that_a_file_is_not_what_runs_until_it_is() {
    let gateway = Gateway::ready(&config("nack"), &[]).await;
    let file = gateway.path("block_me.wat");
    let good = fs::read_to_string(&file).expect("read");
    refused(&gateway, false).await;
    put(&file, "(module");
    let broken = refused(&gateway, true).await;
    fs::remove_file(&file).expect("removed");
    let gone = eventually(async || {
        let gone = refused(&gateway, true).await;
        (gone != broken).then_some(gone)
    })
    .await;
    assert!(gone.contains("cannot be read"), "{gone}");
    put(&file, &good);
    refused(&gateway, false).await;
    assert_eq!(status(&gateway, &[("x-block-me", "1")]).await, 403);
    put(&file, "(module");
    refused(&gateway, true).await;
    put(&file, ALLOW);
    refused(&gateway, false).await;
    assert_eq!(status(&gateway, &[("x-block-me", "1")]).await, 202);
}

#[tokio::test]
async fn the_state_counts_calls_by_the_fuel_they_took() {
    let gateway = Gateway::ready(&config("nack"), &[]).await;
    for _ in 0..3 {
        assert_eq!(status(&gateway, &[]).await, 202);
    }
    assert_eq!(status(&gateway, &[("x-block-me", "1")]).await, 403);
    let fuel = policy(&gateway).await["fuel"].clone();
    assert_eq!(fuel["limit"], 10_000_000);
    let buckets = fuel["buckets"].as_array().expect("a list");
    let calls = |bucket: &Value| bucket["calls"].as_u64().expect("a count");
    assert_eq!(buckets.iter().map(calls).sum::<u64>(), 4);
    let bounds: Vec<_> = buckets.iter().map(|bucket| bucket["at_most"].as_u64()).collect();
    let (last, bounds) = bounds.split_last().expect("some");
    assert_eq!(*last, None);
    assert!(
        bounds.is_sorted() && bounds.iter().all(Option::is_some),
        "{bounds:?}"
    );
    // What the policy takes on a request without the header is known from its load report.
    let report = policy(&gateway).await["report"].clone();
    let dry_run = report["facts"]["dry_run"]["fuel"].as_u64();
    let at = bounds.iter().position(|most| *most >= dry_run).expect("a bucket");
    assert!(calls(&buckets[at]) >= 3, "{fuel} {dry_run:?}");
}

#[tokio::test]
async fn a_candidate_runs_beside_the_active_policy_is_compared_and_promoted() {
    let gateway = Gateway::ready(&config("nack"), &[]).await;
    let upload = "/v1/policies/block_me?as=candidate";
    let report = operate(&gateway, Method::PUT, upload, answers(451)).await;
    assert_eq!(
        (report.status.as_u16(), &report.json()["ok"]),
        (200, &json!(true))
    );
    assert_eq!(status(&gateway, &[]).await, 202, "a candidate is not obeyed");
    tried(&gateway, 1).await;
    assert_eq!(status(&gateway, &[("x-block-me", "1")]).await, 403);

    let shown = tried(&gateway, 2).await;
    let candidate = &shown["candidate"];
    assert_eq!(
        candidate["sha256"],
        report.json()["facts"]["sha256"],
        "what runs beside is what was uploaded"
    );
    assert_eq!(
        (&candidate["same"], &candidate["differs"]),
        (&json!(0), &json!(2))
    );
    let sample = candidate["divergences"].as_array().expect("a sample");
    let said: Vec<_> = sample
        .iter()
        .map(|one| {
            (
                one["active"].as_str().unwrap_or_default(),
                one["candidate"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(said, [("reject 403", "reject 451"), ("allow", "reject 451")]);
    assert_eq!(sample[0]["path"], "/v1/publish/free");
    let metrics = gateway.get("/metrics").await.body;
    let metrics = String::from_utf8(metrics.to_vec()).expect("text");
    let series = "shield_overseer_candidate_total{module=\"block_me\",verdict=\"differs\"} 2";
    assert!(metrics.contains(series), "{series} in\n{metrics}");

    // A long stream of differing verdicts keeps a bounded sample. What comes faster than it is tried is skipped.
    for _ in 0..60 {
        assert_eq!(status(&gateway, &[]).await, 202);
    }
    let candidate = &tried(&gateway, 62).await["candidate"];
    let counted = |key: &str| candidate[key].as_u64().expect("a count");
    assert!(counted("differs") > 32, "{candidate}");
    assert_eq!(
        (counted("same"), counted("differs") + counted("skipped")),
        (0, 62)
    );
    assert_eq!(candidate["divergences"].as_array().map(Vec::len), Some(32));

    let mut told = events(&gateway).await;
    let promoted = operate(&gateway, Method::POST, "/v1/policies/block_me/promote", "").await;
    assert_eq!(promoted.status, 200);
    assert_eq!(reloaded(&mut told).await, ("block_me".to_owned(), true));
    assert_eq!(status(&gateway, &[]).await, 451);
    let shown = policy(&gateway).await;
    assert_eq!(
        (&shown["candidate"], &shown["sha256"]),
        (&Value::Null, &report.json()["facts"]["sha256"])
    );
    assert_eq!(shown["report"]["facts"]["sha256"], shown["sha256"]);
    let back = operate(&gateway, Method::POST, "/v1/policies/block_me/rollback", "").await;
    assert_eq!(back.status, 200);
    assert_eq!(status(&gateway, &[]).await, 202);
    let nothing = operate(&gateway, Method::PUT, "/v1/policies/block_me?as=canary", ALLOW).await;
    assert_eq!(nothing.status, 422);
}

#[tokio::test]
async fn an_upload_is_judged_as_a_whole_and_what_is_refused_changes_nothing() {
    let gateway = Gateway::ready(&config("nack"), &[]).await;
    let before = policy(&gateway).await;
    let wasi = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (import "arqon_host_v1" "host_set_payload" (func (param i32 i32) (result i32)))
        (memory (export "memory") 65))"#;
    let refused = operate(&gateway, Method::PUT, "/v1/policies/block_me", wasi).await;
    assert_eq!(
        (refused.status.as_u16(), refused.code().as_str()),
        (422, "policy.refused")
    );
    let findings = refused.json()["report"]["findings"].to_string();
    for said in ["import.wasi", "grant", "memory", "on_request", "arqon_abi_v1"] {
        assert!(findings.contains(said), "{said} in {findings}");
    }
    assert_eq!(policy(&gateway).await, before);
    assert_eq!(status(&gateway, &[("x-block-me", "1")]).await, 403);
}

#[tokio::test]
async fn a_request_to_a_control_route_that_cannot_be_read_is_a_problem_and_changes_nothing() {
    let gateway = Gateway::ready(&config("nack"), &[]).await;
    let before = policy(&gateway).await;
    let problem = |answer: &Answer| {
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        (answer.status.as_u16(), answer.code())
    };
    let refused = |status: u16| (status, "policy.refused".to_owned());
    for query in [
        "place=candidate",
        "As=candidate",
        "candidate",
        "as=candidate&as=active",
    ] {
        let path = format!("/v1/policies/block_me?{query}");
        let answer = operate(&gateway, Method::PUT, &path, ALLOW).await;
        assert_eq!(problem(&answer), refused(400), "{query}");
    }
    let answer = operate(&gateway, Method::PUT, "/v1/policies/%ff", ALLOW).await;
    assert_eq!(problem(&answer), refused(400));
    let answer = operate(&gateway, Method::POST, "/v1/policies/%ff/promote", "").await;
    assert_eq!(problem(&answer), refused(400));
    assert_eq!(policy(&gateway).await, before);
    for (path, method, bytes) in [
        ("/v1/policies/block_me", "PUT", (8 << 20) + 1),
        ("/v1/control", "POST", (64 << 10) + 1),
    ] {
        // Who has no token is refused without any of the body, which is only announced.
        for (token, status, code) in [
            (TOKEN, 413, "body.too_large"),
            ("Bearer wrong", 401, "auth.invalid"),
        ] {
            let head = format!(
                "{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: {token}\r\ncontent-length: {bytes}\r\n\r\n"
            );
            let stream = TcpStream::connect(gateway.admin).await.expect("connected");
            let mut stream = BufReader::new(stream);
            stream.write_all(head.as_bytes()).await.expect("sent");
            if token == TOKEN {
                stream.write_all(&vec![0; bytes]).await.expect("sent");
            }
            let mut seen = String::new();
            while !seen.contains(code) {
                let mut part = [0; 1_024];
                let read = timeout(PATIENCE, tokio::io::AsyncReadExt::read(&mut stream, &mut part))
                    .await
                    .expect("answered")
                    .expect("read");
                assert!(read > 0, "{code}: {seen}");
                seen.push_str(&String::from_utf8_lossy(&part[..read]));
            }
            assert!(seen.starts_with(&format!("HTTP/1.1 {status} ")), "{seen}");
            assert!(seen.contains("application/problem+json"), "{seen}");
            let limit = format!("at most {} bytes", bytes - 1);
            assert_eq!(seen.contains(&limit), status == 413, "{seen}");
        }
    }
}

#[tokio::test]
async fn a_control_message_at_the_limit_is_read() {
    let gateway = Gateway::ready(&config("nack"), &[]).await;
    let answer = operate(&gateway, Method::POST, "/v1/control", vec![b' '; 64 << 10]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (409, "control.refused")
    );
    assert_eq!(answer.json()["reason"], "malformed");
}

#[tokio::test]
async fn a_rejected_frame_is_nacked_or_ends_the_session_as_configured() {
    for (on_reject, closes) in [("nack", false), ("close", true)] {
        let gateway = Gateway::ready(&config(on_reject), &[]).await;
        let mut request = format!("ws://{}/v1/ws", gateway.public)
            .into_client_request()
            .expect("URI");
        let protocol = http::HeaderValue::from_static("arqon.v1.json");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("upgraded");
        let frame = |id: u8, headers: Value| {
            Message::text(json!({ "id": id, "subject": "free", "headers": headers }).to_string())
        };
        socket.send(frame(1, json!({}))).await.expect("sent");
        socket
            .send(frame(2, json!({ "X-Block-Me": "1" })))
            .await
            .expect("sent");
        let mut next = async || {
            timeout(PATIENCE, socket.next())
                .await
                .expect("in time")
                .expect("open")
                .expect("a frame")
        };
        let text = |message: Message| -> Value {
            serde_json::from_str(message.to_text().expect("text")).expect("JSON")
        };
        assert!(
            text(next().await)["ack"].is_object(),
            "each frame has its own verdict"
        );
        assert_eq!(text(next().await)["nack"]["code"], "overseer.denied");
        if closes {
            match next().await {
                Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1008),
                other => panic!("{other:?}"),
            }
        } else {
            // A policy that changes while the session is open counts from the next frame on.
            let changed = operate(&gateway, Method::PUT, "/v1/policies/block_me", answers(429)).await;
            assert_eq!(changed.status, 200);
            socket.send(frame(3, json!({}))).await.expect("sent");
            let reply = timeout(PATIENCE, socket.next()).await.expect("in time");
            let reply = text(reply.expect("open").expect("a frame"));
            assert_eq!(reply["nack"]["status"], 429);
        }
    }
}

#[tokio::test]
async fn a_gateway_whose_policy_has_no_module_is_never_ready() {
    let gateway = Gateway::start(
        &config("nack").replace("path = \"block_me.wat\"", "path = \"block_me.wat\"\nfailure = { load = \"open\" }\nsha256 = \"0000000000000000000000000000000000000000000000000000000000000000\""),
        &[],
    );
    // Let through because the operator wrote so, but never called ready while there is no module.
    let said = gateway.becomes_ready(false).await;
    let checks = said["checks"].to_string();
    assert!(checks.contains("policy block_me is not loaded"), "{checks}");
    assert_eq!(
        eventually(async || {
            let answer = gateway
                .try_send(gateway.public, Method::POST, "/v1/publish/free", &[], "x")
                .await?;
            Some(answer.status.as_u16())
        })
        .await,
        202
    );
}
