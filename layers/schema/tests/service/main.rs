//! The tower contract, and the answers over HTTP.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

mod cases;
mod copies;
mod keys;
mod stores;
mod updates;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arqon_message::{MessageBody, Rejection, Subject, TenantId};
use arqon_schema::{
    Change, Descriptors, Encoding, Entry, Event, Level, MappingConfig, MemoryStore, Mode, Registry,
    RegistryConfig, SCHEMA_HEADER, SchemaLayer, Unmapped, ValidatedBy, channel, channel_with,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, ServiceExt, service_fn};
use tower_test::mock;

const ID: &str = "v1.events.user_created";
const SOURCE: &str =
    r#"syntax = "proto3"; package events.v1; message UserCreated { string user_id = 1; int32 age = 2; }"#;
const SUBJECT: &str = "in.t.default.users.created";

fn config() -> RegistryConfig {
    let mapping = MappingConfig::new("in.t.*.users.created", ID)
        .message("events.v1.UserCreated")
        .require("user_id");
    RegistryConfig {
        mappings: vec![mapping],
        ..RegistryConfig::default()
    }
}

fn registry(config: RegistryConfig) -> (Registry, MemoryStore) {
    let (registry, writer) = channel(config).unwrap();
    let store = MemoryStore::new();
    store.load(&writer).unwrap();
    store.put_source(ID, SOURCE).unwrap();
    (registry, store)
}

fn request(subject: &str, body: &'static [u8]) -> Request<Full<Bytes>> {
    let mut request = Request::post("/v1/publish").body(Full::from(body)).unwrap();
    request.extensions_mut().insert(Subject::parse(subject).unwrap());
    request
}

type Handed = (http::request::Parts, Bytes);

/// The answer, and what reached the inner service.
async fn send(registry: &Registry, request: Request<Full<Bytes>>) -> (Response<Bytes>, Option<Handed>) {
    let handed = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&handed);
    let inner = service_fn(move |request: Request<MessageBody<Full<Bytes>>>| {
        let seen = Arc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            *seen.lock().unwrap() = Some((parts, body.collect().await.unwrap().to_bytes()));
            Ok::<_, Infallible>(
                Response::builder()
                    .status(202)
                    .body(Full::<Bytes>::default())
                    .unwrap(),
            )
        }
    });
    let response = SchemaLayer::new(registry.clone())
        .layer(inner)
        .oneshot(request)
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let handed = handed.lock().unwrap().take();
    (Response::from_parts(parts, body), handed)
}

#[tokio::test]
async fn a_payload_that_keeps_the_contract_goes_on_unchanged_with_its_contract_named() {
    let (registry, _store) = registry(config());
    let mut good = request(SUBJECT, b"\x0a\x02u1");
    good.headers_mut()
        .insert(SCHEMA_HEADER, "forged@1".parse().unwrap());
    let (response, handed) = send(&registry, good).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let (parts, body) = handed.unwrap();
    assert_eq!(&body[..], b"\x0a\x02u1");
    assert_eq!(
        parts.headers.get_all(SCHEMA_HEADER).iter().collect::<Vec<_>>(),
        ["v1.events.user_created@1"]
    );
    let by = parts.extensions.get::<ValidatedBy>().unwrap();
    assert_eq!(
        (&*by.schema_id, by.revision, &*by.message),
        (ID, 1, "events.v1.UserCreated")
    );
}

#[tokio::test]
async fn a_violation_is_a_400_with_path_rule_and_message() {
    let (registry, _store) = registry(config());
    let (response, handed) = send(&registry, request(SUBJECT, b"\x10\x05\x98\x06\x01")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(handed.is_none());
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "application/problem+json"
    );
    let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(problem["code"], "schema.violation");
    assert_eq!(problem["violations"][0]["path"], "99");
    assert_eq!(problem["violations"][1]["rule"], "required");
    assert_eq!(problem["violations"][1]["message"], "field 'user_id' missing");
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.problem().violations.len(), 2);
}

#[tokio::test]
async fn json_is_told_by_the_media_type() {
    let (registry, _store) = registry(config());
    for (body, status) in [
        (&br#"{"userId":"u1"}"#[..], StatusCode::ACCEPTED),
        (br#"{"userId":"u1","x":1}"#, StatusCode::BAD_REQUEST),
        (b"", StatusCode::BAD_REQUEST),
    ] {
        let mut request = request(SUBJECT, body);
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        assert_eq!(send(&registry, request).await.0.status(), status, "{body:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_checked_is_refused() {
    let (registry, _store) = registry(RegistryConfig {
        max_body_bytes: 8,
        ..config()
    });
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain"),
        (header::CONTENT_TYPE, "application/grpc"),
        (header::CONTENT_ENCODING, "gzip"),
    ] {
        let mut refused = request(SUBJECT, b"\x0a\x02u1");
        refused.headers_mut().insert(name, value.parse().unwrap());
        let (response, handed) = send(&registry, refused).await;
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{value}");
        assert!(handed.is_none());
    }
    let (response, handed) = send(&registry, request(SUBJECT, b"\x0a\x08user-id1")).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(handed.is_none());
}

#[tokio::test]
async fn unmapped_subjects_pass_or_not_as_configured() {
    let (open, _store) = registry(config());
    for subject in [
        "in.t.default.other",
        "in.t.default.users.createdx",
        "in.t.default.users",
    ] {
        let (response, handed) = send(&open, request(subject, b"anything")).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        let (parts, body) = handed.unwrap();
        assert_eq!(&body[..], b"anything");
        assert!(parts.extensions.get::<ValidatedBy>().is_none());
    }
    let (closed, _store) = registry(RegistryConfig {
        unmapped: Unmapped::Reject,
        ..config()
    });
    let (response, handed) = send(&closed, request("in.t.default.other", b"anything")).await;
    assert_eq!(
        (response.status(), handed.is_none()),
        (StatusCode::BAD_REQUEST, true)
    );
    let mut without = request(SUBJECT, b"x");
    without.extensions_mut().clear();
    assert_eq!(send(&closed, without).await.0.status(), StatusCode::BAD_REQUEST);
    let mut page = request("in.t.default.other", b"");
    *page.method_mut() = http::Method::GET;
    assert_eq!(
        send(&closed, page).await.0.status(),
        StatusCode::ACCEPTED,
        "a GET without a body is no message"
    );
}

#[tokio::test]
async fn a_schema_that_is_not_there_is_a_503_until_it_comes_and_after_it_goes() {
    let (registry, writer) = channel(config()).unwrap();
    let store = MemoryStore::new();
    assert!(!registry.is_ready());
    store.load(&writer).unwrap();
    assert!(registry.is_ready());
    let status = async || send(&registry, request(SUBJECT, b"\x0a\x02u1")).await.0;
    let response = status().await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(registry.unavailable().len(), 1);
    store.put_source(ID, SOURCE).unwrap();
    assert_eq!(status().await.status(), StatusCode::ACCEPTED);
    assert!(store.delete(ID));
    assert_eq!(status().await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn monitor_counts_and_lets_through() {
    let (registry, _store) = registry(RegistryConfig {
        mode: Mode::Monitor,
        ..config()
    });
    let (response, handed) = send(&registry, request(SUBJECT, b"\x10\x05")).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let (parts, body) = handed.unwrap();
    assert_eq!(&body[..], b"\x10\x05");
    assert!(parts.extensions.get::<ValidatedBy>().is_none() && !parts.headers.contains_key(SCHEMA_HEADER));
}

#[tokio::test]
async fn a_tenants_own_schema_goes_before_the_common_one() {
    let (registry, store) = registry(config());
    let strict = SOURCE.replace("int32 age = 2;", "");
    store.put_source(&format!("t.acme.{ID}"), &strict).unwrap();
    let payload = b"\x0a\x02u1\x10\x05";
    assert_eq!(
        send(&registry, request(SUBJECT, payload)).await.0.status(),
        StatusCode::ACCEPTED
    );
    let of_acme = request("in.t.acme.users.created", payload);
    assert_eq!(send(&registry, of_acme).await.0.status(), StatusCode::BAD_REQUEST);
    let mut named = request(SUBJECT, payload);
    named.extensions_mut().insert(TenantId::new("acme").unwrap());
    assert_eq!(send(&registry, named).await.0.status(), StatusCode::BAD_REQUEST);
    assert!(store.delete(&format!("t.acme.{ID}")));
    let of_acme = request("in.t.acme.users.created", payload);
    assert_eq!(send(&registry, of_acme).await.0.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_registry_out_of_touch_is_stale() {
    let (registry, writer) = channel(RegistryConfig {
        cache_ttl_seconds: 1,
        ..config()
    })
    .unwrap();
    let store = MemoryStore::new();
    store.load(&writer).unwrap();
    store.put_source(ID, SOURCE).unwrap();
    let status = async || send(&registry, request(SUBJECT, b"\x0a\x02u1")).await.0.status();
    // On a machine that stands still for a second the first contact is stale at once.
    let fresh = async || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            writer.contact();
            if status().await == StatusCode::ACCEPTED {
                return true;
            }
        }
        false
    };
    assert!(fresh().await);
    while registry.age().as_secs() < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(status().await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(fresh().await);
}

type Inner = mock::Mock<Request<MessageBody<Full<Bytes>>>, Response<Full<Bytes>>>;
type Handle = mock::Handle<Request<MessageBody<Full<Bytes>>>, Response<Full<Bytes>>>;

fn mocked(registry: &Registry) -> (mock::Spawn<arqon_schema::Schema<Inner>>, Handle) {
    mock::spawn_layer(SchemaLayer::new(registry.clone()))
}

#[tokio::test]
async fn readiness_is_the_inner_services_and_the_readied_one_is_called() {
    let (registry, _store) = registry(config());
    let (mut service, mut handle) = mocked(&registry);
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert_ready!(service.poll_ready()).unwrap();
    // The mock panics when a service that was not readied is called.
    let mut call = task::spawn(service.call(request(SUBJECT, b"\x0a\x02u1")));
    assert_pending!(call.poll());
    let (_, respond) = handle.next_request().await.unwrap();
    respond.send_response(Response::new(Full::default()));
    assert!(call.await.is_ok());
}

#[tokio::test]
async fn an_early_answer_and_a_cancelled_request_free_the_inner_service() {
    let (registry, _store) = registry(config());
    let (mut service, mut handle) = mocked(&registry);
    handle.allow(1);
    assert_ready!(service.poll_ready()).unwrap();
    let mut refused = request(SUBJECT, b"\x0a\x02u1");
    refused
        .headers_mut()
        .insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
    let response = service.call(refused).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    handle.allow(1);
    assert_ready!(service.poll_ready()).unwrap();
    drop(service.call(request(SUBJECT, b"\x0a\x02u1")));
    handle.allow(1);
    assert_ready!(service.poll_ready()).unwrap();
}

#[tokio::test]
async fn an_inner_error_passes_untouched() {
    let (registry, _store) = registry(config());
    for body in [&b"\x0a\x02u1"[..], b"unmapped"] {
        let (mut service, mut handle) = mocked(&registry);
        handle.allow(1);
        assert_ready!(service.poll_ready()).unwrap();
        let subject = if body == b"unmapped" {
            "in.t.default.x"
        } else {
            SUBJECT
        };
        let mut call = task::spawn(service.call(request(subject, body)));
        assert_pending!(call.poll());
        let (_, respond) = handle.next_request().await.unwrap();
        respond.send_error("the inner error");
        assert_eq!(call.await.unwrap_err().to_string(), "the inner error");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_swaps_each_request_is_answered_by_exactly_one_revision() {
    let (registry, store) = registry(config());
    // Odd revisions know `age`, even ones do not.
    let writer = std::thread::spawn(move || {
        for round in 0..60 {
            let source = if round % 2 == 0 {
                SOURCE.replace("int32 age = 2;", "")
            } else {
                SOURCE.to_owned()
            };
            store.put_source(ID, &source).unwrap();
        }
    });
    let mut last = 0;
    let mut answered = 0;
    while !writer.is_finished() || answered < 100 {
        let (response, handed) = send(&registry, request(SUBJECT, b"\x0a\x02u1\x10\x05")).await;
        answered += 1;
        match handed {
            Some((parts, _)) => {
                let by = parts.extensions.get::<ValidatedBy>().unwrap();
                assert_eq!(by.revision % 2, 1, "the revision named is the one that accepted");
                assert_eq!(parts.headers[SCHEMA_HEADER], format!("{ID}@{}", by.revision));
                assert!(by.revision >= last, "no request goes back to an old revision");
                last = by.revision;
            }
            None => assert_eq!(response.status(), StatusCode::BAD_REQUEST),
        }
    }
    writer.join().unwrap();
    let (_, handed) = send(&registry, request(SUBJECT, b"\x0a\x02u1\x10\x05")).await;
    assert_eq!(
        handed
            .unwrap()
            .0
            .extensions
            .get::<ValidatedBy>()
            .unwrap()
            .revision,
        61
    );
}

#[test]
fn a_violation_is_logged_in_the_words_of_the_source_once_a_second() {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let start = Instant::now();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let (registry, _store) = registry(config());
    let inner = service_fn(async |_: Request<MessageBody<Full<Bytes>>>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let service = SchemaLayer::new(registry).layer(inner);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..20 {
            let answer = service.clone().oneshot(request(SUBJECT, b"\x10\x07"));
            assert_eq!(
                runtime.block_on(answer).unwrap().status(),
                StatusCode::BAD_REQUEST
            );
        }
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let warnings: Vec<&str> = text.lines().filter(|line| line.contains("WARN")).collect();
    let most = 2 + start.elapsed().as_secs() as usize;
    assert!((1..=most).contains(&warnings.len()), "{text}");
    for part in [
        "component=registry",
        "error=\"field 'user_id' missing\"",
        "tenant_id=default",
        "schema_id=v1.events.user_created",
    ] {
        assert!(warnings[0].contains(part), "{text}");
    }
}
