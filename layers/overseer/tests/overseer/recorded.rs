//! Live requests written down, and replayed.

use std::{convert::Infallible, fs, path::Path};

use arqon_message::{Claims, MessageBody, Subject, TraceKey};
use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig, PolicyEngine, RecordConfig, Recording};
use axum::body::Body;
use http::{Request, Response};
use tower::{Layer, ServiceExt};

use crate::guests::{BLOCK_ME, module, on_request, small};

/// Adds a header, so that the next policy sees more than the client sent.
fn adds() -> String {
    module(
        r#"(data (i32.const 0) "x-edgearqon")
           (func (export "on_request") (result i32)
             (call $host_add_header (i32.const 0) (i32.const 6) (i32.const 6) (i32.const 5)))"#,
    )
}

/// Looks at everything a record holds: denies with a status made of what it saw.
fn looks() -> String {
    module(
        r#"(data (i32.const 0) "x-edge") (data (i32.const 16) "sub") (data (i32.const 32) "subject")
           (data (i32.const 48) "authorization")
           (func (export "on_request") (result i32)
             (if (i32.ge_s (call $host_get_header (i32.const 0) (i32.const 6) (i32.const 256) (i32.const 64)) (i32.const 0))
               (then (call $host_reject
                 (i32.add (i32.const 400)
                   (i32.add (call $host_get_claim (i32.const 16) (i32.const 3) (i32.const 256) (i32.const 64))
                     (i32.add (call $host_get_property (i32.const 32) (i32.const 7) (i32.const 256) (i32.const 64))
                       (call $host_get_header (i32.const 48) (i32.const 13) (i32.const 256) (i32.const 64)))))
                 (i32.const 0) (i32.const 0))))
             (i32.const 0))"#,
    )
}

fn recordings(path: &Path) -> Vec<Recording> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn send(layer: &OverseerLayer, request: Request<Body>) -> u16 {
    let inner = tower::service_fn(|_: Request<MessageBody<Body>>| async {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    layer
        .layer(inner)
        .oneshot(request)
        .await
        .unwrap()
        .status()
        .as_u16()
}

fn request() -> Request<Body> {
    let mut request = Request::post("/v1/publish/users?a=1")
        .header("authorization", "Bearer secret")
        .header("x-api-key", "hidden")
        .body(Body::from("a body"))
        .unwrap();
    let claims = serde_json::json!({"sub": "u-1"}).as_object().cloned().unwrap();
    request.extensions_mut().insert(Claims::new(claims));
    request
        .extensions_mut()
        .insert(Subject::parse("in.t.acme.users").unwrap());
    request
}

#[tokio::test]
async fn what_was_decided_live_replays_with_the_same_verdict_and_the_same_fuel() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let body_len = on_request("(i32.ne (call $host_payload_len) (i32.const 6))");
    let modules = [("adds", adds()), ("body", body_len), ("looks", looks())];
    for (standby, bodies) in [(4, true), (0, false)] {
        let config = OverseerConfig {
            standby,
            record: Some(RecordConfig {
                path: path.clone(),
                bodies,
                masked_headers: vec!["x-api-key".to_owned()],
                ..RecordConfig::default()
            }),
            ..small(
                modules
                    .iter()
                    .map(|(name, wat)| PolicyConfig::from_module(name, wat.clone())),
            )
        };
        let layer = OverseerLayer::new(config).unwrap();
        for _ in 0..3 {
            // 3 of the claim, 15 of the subject, 13 of the masked header.
            assert_eq!(send(&layer, request()).await, 431);
        }
        drop(layer);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("secret") && !text.contains("hidden"), "{text}");
        let recordings = recordings(&path);
        assert_eq!(recordings.len(), 9);
        let engine = PolicyEngine::new().unwrap();
        for recording in &recordings {
            let (_, wat) = modules
                .iter()
                .find(|(name, _)| *name == recording.policy)
                .unwrap();
            let policy = engine
                .load(&PolicyConfig::from_module(&recording.policy, wat.clone()))
                .unwrap();
            assert_eq!(recording.sha256, policy.report().facts.as_ref().unwrap().sha256);
            assert_eq!(recording.is_replayable(), bodies || recording.policy != "body");
            if recording.is_replayable() {
                let outcome = engine.validate_with_context(&policy, &recording.request).unwrap();
                assert_eq!(
                    (outcome.verdict, outcome.status, outcome.cause, outcome.fuel),
                    (
                        recording.verdict.clone(),
                        recording.status,
                        recording.cause.clone(),
                        recording.fuel
                    ),
                    "{} standby {standby}",
                    recording.policy
                );
            }
        }
        fs::remove_file(&path).unwrap();
    }
}

/// Refuses with 500 and a number made of everything that a guest can see of its policy, of the trace and of odd bytes.
fn sees() -> String {
    let ask = |function: &str, at: usize, len: usize| {
        format!("(call ${function} (i32.const {at}) (i32.const {len}) (i32.const 256) (i32.const 64))")
    };
    module(&format!(
        r#"(data (i32.const 0) "module") (data (i32.const 16) "trace_id") (data (i32.const 32) "x-name")
           (data (i32.const 48) "x-role") (data (i32.const 64) "admin") (data (i32.const 80) "x-else")
           (func (export "on_request") (result i32) (local $sum i32)
             (local.set $sum (i32.add {module} {trace}))
             (drop {name})
             (local.set $sum (i32.add (local.get $sum) (i32.load8_u (i32.const 256))))
             (local.set $sum (i32.add (local.get $sum) (call $host_get_config (i32.const 256) (i32.const 64))))
             (local.set $sum (i32.sub (local.get $sum) (call $host_set_header (i32.const 48) (i32.const 6) (i32.const 64) (i32.const 5))))
             (local.set $sum (i32.sub (local.get $sum) (call $host_set_header (i32.const 80) (i32.const 6) (i32.const 64) (i32.const 5))))
             (local.set $sum (i32.add (local.get $sum) (memory.grow (i32.const 80))))
             (call $host_reject (i32.add (i32.const 400) (i32.rem_u (local.get $sum) (i32.const 200))) (i32.const 0) (i32.const 0))
             (i32.const 0))"#,
        module = ask("host_get_property", 0, 6),
        trace = ask("host_get_property", 16, 8),
        name = ask("host_get_header", 32, 6),
    ))
}

#[tokio::test]
async fn a_record_tells_what_the_guest_could_see_of_its_policy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let policy = PolicyConfig {
        config: Some("some text".to_owned()),
        headers: Some(vec!["x-role".to_owned()]),
        ..PolicyConfig::from_module("a_name_of_its_own", sees())
    };
    let config = OverseerConfig {
        memory_bytes_max: 16 << 20,
        fuel_limit: Some(1_000_000),
        record: Some(RecordConfig {
            path: path.clone(),
            ..RecordConfig::default()
        }),
        ..small([policy])
    };
    let layer = OverseerLayer::new(config).unwrap();
    let mut live = request();
    let odd = http::HeaderValue::from_bytes(b"\xc3\xa9tienne").unwrap();
    live.headers_mut().insert("x-name", odd);
    let trace = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("traceparent"),
        http::HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    )]);
    // As a frame of a WebSocket has it: of the upgrade, in no header.
    live.extensions_mut().insert(TraceKey::of_trace(&trace).unwrap());
    let status = send(&layer, live).await;
    drop(layer);
    let recordings = recordings(&path);
    let recording = &recordings[0];
    // 17 of the name, 32 of the trace, 0xc3, 9 of the text, 3 of the header that it may not set, 1 page of memory.
    assert_eq!(status, 400 + (17 + 32 + 0xc3 + 9 + 3 + 1) % 200);
    let conditions = recording.conditions.clone().unwrap();
    assert_eq!(
        (conditions.fuel, conditions.memory_bytes_max),
        (1_000_000, 16 << 20)
    );
    let engine = PolicyEngine::with_limits(&conditions.limits()).unwrap();
    let again = conditions.applied_to(PolicyConfig::from_module(&recording.policy, sees()));
    let replayed = engine
        .replay(&engine.load(&again).unwrap(), &recording.request)
        .unwrap();
    assert_eq!(replayed.masked_read, Vec::<String>::new());
    assert_eq!(
        (replayed.outcome.status, replayed.outcome.fuel),
        (Some(status), recording.fuel)
    );
}

#[tokio::test]
async fn a_record_keeps_no_token_of_the_query_or_of_a_websocket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let config = OverseerConfig {
        record: Some(RecordConfig {
            path: path.clone(),
            ..RecordConfig::default()
        }),
        ..small([PolicyConfig::from_module("p", BLOCK_ME)])
    };
    let layer = OverseerLayer::new(config).unwrap();
    let request = Request::get("/v1/ws?a=1&access_token=SECRET&api%5Fkey=SECRET&b=")
        .header("sec-websocket-protocol", "arqon.v1.json, Arqon.bearer.SECRET,c")
        .header("x-api-key", "SECRET")
        .body(Body::empty())
        .unwrap();
    assert_eq!(send(&layer, request).await, 200);
    drop(layer);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains("SECRET"), "{text}");
    let request = &recordings(&path)[0].request;
    assert_eq!(
        request.path.as_deref(),
        Some("/v1/ws?a=1&access_token=xxxxxx&api%5Fkey=xxxxxx&b=")
    );
    assert_eq!(request.masked, ["sec-websocket-protocol", "x-api-key", ":query"]);
    let (parts, _) = request.parts().unwrap();
    assert_eq!(
        parts.headers["sec-websocket-protocol"],
        "arqon.v1.json, Arqon.bearer.xxxxxx,c"
    );
}

#[tokio::test]
async fn no_more_is_recorded_than_was_asked_for_and_only_its_owner_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let config = OverseerConfig {
        record: Some(RecordConfig {
            path: path.clone(),
            requests_max: 2,
            ..RecordConfig::default()
        }),
        ..small([PolicyConfig::from_module("p", BLOCK_ME)])
    };
    let layer = OverseerLayer::new(config).unwrap();
    for _ in 0..5 {
        assert_eq!(send(&layer, request()).await, 200);
    }
    drop(layer);
    assert_eq!(recordings(&path).len(), 2);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let config = OverseerConfig {
        record: Some(RecordConfig {
            path: folder.path().join("no/such/folder"),
            ..RecordConfig::default()
        }),
        ..small([PolicyConfig::from_module("p", BLOCK_ME)])
    };
    let error = OverseerLayer::new(config).unwrap_err().to_string();
    assert!(error.contains("record.path"), "{error}");
}

#[test]
fn a_policy_is_timed_on_one_request() {
    let engine = PolicyEngine::new().unwrap();
    let policy = engine.load(&PolicyConfig::from_module("p", BLOCK_ME)).unwrap();
    let record = serde_json::from_value(serde_json::json!({"headers": {"x-block-me": "1"}})).unwrap();
    let timing = engine.time(&policy, &record, 20).unwrap();
    assert_eq!((timing.count, timing.outcome.status), (20, Some(403)));
    assert!(timing.nanos_best > 0);
    assert!(timing.nanos_best <= timing.nanos_p50 && timing.nanos_p50 <= timing.nanos_p99);
}

/// A pipe that nobody reads: the records stand still, and what they hold is held.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn records_that_wait_hold_so_many_bytes_and_the_rest_is_dropped_and_counted() {
    use std::{io::Read, os::unix::fs::OpenOptionsExt};

    const MIB: usize = 1 << 20;
    // In each row: bytes of each of the bodies, beside a path of one byte; and how many records are dropped.
    for (bodies, dropped) in [
        (vec![MIB - 1; 16], 0),
        (vec![MIB - 1; 17], 1),
        ([vec![MIB - 1; 15], vec![MIB]].concat(), 1),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let mut options = fs::OpenOptions::new();
        // O_NONBLOCK: it opens before there is a writer.
        let mut pipe = options.read(true).custom_flags(0o4000).open(&path).unwrap();
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let rendered = recorder.handle();
        let config = OverseerConfig {
            record: Some(RecordConfig {
                path,
                bodies: true,
                ..RecordConfig::default()
            }),
            ..small([PolicyConfig::from_module(
                "p",
                on_request("(drop (call $host_payload_len)) (i32.const 0)"),
            )])
        };
        let layer = metrics::with_local_recorder(&recorder, || OverseerLayer::new(config).unwrap());
        let count = bodies.len();
        for bytes in bodies {
            let request = Request::post("/").body(Body::from(vec![0; bytes])).unwrap();
            assert_eq!(send(&layer, request).await, 200);
        }
        let counted = rendered.render();
        // Read now, the others come to their end.
        let reading = std::thread::spawn(move || {
            let (mut lines, mut buffer) = (0, vec![0; MIB]);
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => return lines,
                    Ok(read) => lines += buffer[..read].iter().filter(|byte| **byte == b'\n').count(),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        drop(layer);
        assert_eq!(reading.join().unwrap(), count - dropped);
        let series = format!("shield_overseer_records_dropped_total {dropped}\n");
        assert!(counted.contains(&series), "{count}: {counted}");
    }
}
