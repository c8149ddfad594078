//! Bodies that come in pieces, break or are too long; names and keys that want to be headers; mappings that overlap.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Method};
use http_body::{Body, Frame, SizeHint};

use super::*;

/// A body of those frames, and how many of them were asked for.
struct Frames {
    left: VecDeque<Result<Frame<Bytes>, &'static str>>,
    asked: Arc<Mutex<usize>>,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        *self.asked.lock().unwrap() += 1;
        Poll::Ready(self.left.pop_front())
    }

    // As a client may say it: anything.
    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

fn data(bytes: &'static [u8]) -> Result<Frame<Bytes>, &'static str> {
    Ok(Frame::data(Bytes::from_static(bytes)))
}

/// The status, what reached the inner service (with its trailers), and how many frames were asked for.
async fn send_frames(
    registry: &Registry,
    frames: Vec<Result<Frame<Bytes>, &'static str>>,
) -> (StatusCode, Option<(Bytes, Option<HeaderMap>)>, usize) {
    let asked = Arc::new(Mutex::new(0));
    let handed = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&handed);
    let inner = service_fn(move |request: Request<MessageBody<Frames>>| {
        let seen = Arc::clone(&seen);
        async move {
            let collected = request.into_body().collect().await.unwrap();
            let trailers = collected.trailers().cloned();
            *seen.lock().unwrap() = Some((collected.to_bytes(), trailers));
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    let body = Frames {
        left: frames.into(),
        asked: Arc::clone(&asked),
    };
    let mut request = Request::post("/v1/publish").body(body).unwrap();
    request.extensions_mut().insert(Subject::parse(SUBJECT).unwrap());
    let service = SchemaLayer::new(registry.clone()).layer(inner);
    let status = service.oneshot(request).await.unwrap().status();
    let handed = handed.lock().unwrap().take();
    let asked = *asked.lock().unwrap();
    (status, handed, asked)
}

#[tokio::test]
async fn a_body_in_pieces_is_checked_whole_and_goes_on_with_its_trailers() {
    let (registry, _store) = registry(config());
    let trailers = HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("\"x\""))]);
    let pieces = [&b"\x0a"[..], b"\x02u", b"", b"1", b"\x10", b"\x05"];
    let mut frames: Vec<_> = pieces.map(data).into();
    frames.push(Ok(Frame::trailers(trailers.clone())));
    let (status, handed, _) = send_frames(&registry, frames).await;
    assert_eq!(status, StatusCode::OK);
    let whole = Bytes::from_static(b"\x0a\x02u1\x10\x05");
    assert_eq!(handed, Some((whole, Some(trailers))));
    // The same in pieces, and wrong in the last one.
    let frames = [&b"\x0a\x02u"[..], b"1", b"\x98\x06\x01"].map(data).into();
    let (status, handed, _) = send_frames(&registry, frames).await;
    assert_eq!((status, handed), (StatusCode::BAD_REQUEST, None));
}

#[tokio::test]
async fn a_body_that_grows_past_the_limit_is_refused_where_it_does() {
    let (registry, _store) = registry(RegistryConfig {
        max_body_bytes: 8,
        ..config()
    });
    let (status, handed, _) = send_frames(&registry, [&b"\x0a\x06user"[..], b"-1"].map(data).into()).await;
    assert_eq!((status, handed.is_some()), (StatusCode::OK, true), "eight bytes");
    let endless: Vec<_> = (0..1_000).map(|_| data(b"\x0a\x02u1")).collect();
    let (status, handed, asked) = send_frames(&registry, endless).await;
    assert_eq!((status, handed), (StatusCode::PAYLOAD_TOO_LARGE, None));
    assert!(asked <= 4, "{asked} frames were read");
}

#[tokio::test]
async fn a_body_that_breaks_off_never_reaches_the_handler() {
    let (registry, _store) = registry(config());
    // What came is a whole message by itself.
    let frames = vec![data(b"\x0a\x02u1"), Err("the connection was lost")];
    let (status, handed, _) = send_frames(&registry, frames).await;
    assert!(status.is_client_error() || status.is_server_error(), "{status}");
    assert_eq!(handed, None);
    let frames = vec![Err("the connection was lost")];
    assert_eq!(send_frames(&registry, frames).await.1, None);
}

#[tokio::test]
async fn pages_without_a_body_pass_and_any_body_is_checked_whatever_the_method() {
    let (registry, _store) = registry(config());
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        let mut page = request(SUBJECT, b"");
        *page.method_mut() = method.clone();
        assert_eq!(
            send(&registry, page).await.0.status(),
            StatusCode::ACCEPTED,
            "{method}"
        );
        let mut smuggled = request(SUBJECT, b"\x10\x05");
        *smuggled.method_mut() = method.clone();
        assert_eq!(
            send(&registry, smuggled).await.0.status(),
            StatusCode::BAD_REQUEST,
            "{method}"
        );
    }
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let mut empty = request(SUBJECT, b"");
        *empty.method_mut() = method.clone();
        let (response, handed) = send(&registry, empty).await;
        assert_eq!(
            (response.status(), handed.is_none()),
            (StatusCode::BAD_REQUEST, true),
            "{method}"
        );
    }
}

#[tokio::test]
async fn keys_and_names_that_want_to_be_headers_or_markup_are_escaped_and_cut() {
    let source = r#"syntax = "proto3"; package e; message M { map<string, N> stock = 1; }
        message N { string sku = 1; }"#;
    let config = RegistryConfig {
        mappings: vec![
            MappingConfig::new("in.t.*.stock", "v1.stock")
                .message("e.M")
                .require("stock[].sku"),
        ],
        ..RegistryConfig::default()
    };
    let (registry, writer) = channel(config).unwrap();
    let store = MemoryStore::new();
    store.load(&writer).unwrap();
    store.put_source("v1.stock", source).unwrap();
    let evil = "eu\r\nX-Evil: 1\r\n\r\n\"it's\" <b>\u{1b}[31m\u{202e}\0";
    let mut keys = vec![evil.to_owned(), format!("{evil}{}", "k".repeat(1_000))];
    keys.push("\u{1f600}".repeat(40));
    for key in keys {
        let text = serde_json::json!({ "stock": { &*key: {} }, &*key: 1 }).to_string();
        let entry = [
            &[0x0a, key.len() as u8 & 0x7f | 0x80, (key.len() >> 7) as u8],
            key.as_bytes(),
        ]
        .concat();
        let length = entry.len();
        let binary = [&[0x0a, length as u8 & 0x7f | 0x80, (length >> 7) as u8], &*entry].concat();
        for (media_type, body) in [
            ("application/json", text.into_bytes()),
            ("application/x-protobuf", binary),
        ] {
            let mut request = Request::post("/").body(Full::from(body)).unwrap();
            request
                .extensions_mut()
                .insert(Subject::parse("in.t.default.stock").unwrap());
            request
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
            let (response, _) = send(&registry, request).await;
            assert_eq!(response.status(), StatusCode::BAD_REQUEST);
            for (name, value) in response.headers() {
                assert!(value.to_str().unwrap().len() < 200 && name != "x-evil", "{name}");
            }
            let rejection = response.extensions().get::<Rejection>().unwrap();
            let problem = rejection.problem();
            let said = problem
                .violations
                .iter()
                .flat_map(|one| [&one.path, &one.message]);
            let mut texts: Vec<String> = said.cloned().collect();
            texts.push(problem.detail.to_string());
            assert!(texts.iter().any(|text| text.contains("stock[\"")), "{texts:?}");
            for text in texts {
                assert!(!text.contains(|letter: char| letter.is_control()), "{text:?}");
                assert!(!text.contains('\u{202e}') && text.len() < 700, "{text:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_most_specific_mapping_counts_and_no_header_names_the_tenant() {
    let mapping = |subject: &str, id: &str| MappingConfig::new(subject, id).message("o.M");
    let (registry, writer) = channel(RegistryConfig {
        mappings: vec![
            mapping("in.t.*.orders.>", "v1.deep"),
            mapping("in.t.*.orders.*", "v1.one"),
            mapping("in.t.*.orders.eu", "v1.exact"),
        ],
        unmapped: Unmapped::Reject,
        ..RegistryConfig::default()
    })
    .unwrap();
    let store = MemoryStore::new();
    store.load(&writer).unwrap();
    for (id, field) in [
        ("v1.exact", 1),
        ("v1.one", 2),
        ("v1.deep", 3),
        ("t.acme.v1.exact", 4),
    ] {
        let source = format!("syntax = \"proto3\"; package o; message M {{ int32 f = {field}; }}");
        store.put_source(id, &source).unwrap();
    }
    let by = async |subject: &str, field: u8, tenant: Option<&'static str>| {
        let mut request = Request::post("/").body(Full::from(vec![field << 3, 1])).unwrap();
        request.extensions_mut().insert(Subject::parse(subject).unwrap());
        if let Some(tenant) = tenant {
            for name in ["x-arqon-tenant", "x-tenant-id", "tenant_id", "x-arqon-schema"] {
                request
                    .headers_mut()
                    .insert(name, HeaderValue::from_static(tenant));
            }
        }
        let (response, handed) = send(&registry, request).await;
        let named = handed.and_then(|(parts, _)| parts.headers.get(SCHEMA_HEADER).cloned());
        named.map_or_else(
            || response.status().to_string(),
            |named| named.to_str().unwrap().split('@').next().unwrap().to_owned(),
        )
    };
    assert_eq!(by("in.t.default.orders.eu", 1, None).await, "v1.exact");
    assert_eq!(by("in.t.default.orders.us", 2, None).await, "v1.one");
    assert_eq!(by("in.t.default.orders.eu.north", 3, None).await, "v1.deep");
    for subject in [
        "in.t.default.ordersx",
        "in.t.default.ordersx.eu",
        "in.t.default.orders",
    ] {
        assert_eq!(by(subject, 1, None).await, "400 Bad Request", "{subject}");
    }
    assert_eq!(by("in.t.acme.orders.eu", 4, None).await, "t.acme.v1.exact");
    assert_eq!(by("in.t.acme.orders.eu", 1, None).await, "400 Bad Request");
    assert_eq!(by("in.t.default.orders.eu", 1, Some("acme")).await, "v1.exact");
    assert_eq!(
        by("in.t.default.orders.eu", 4, Some("acme")).await,
        "400 Bad Request"
    );
}

/// A set of that many messages.
fn large(messages: usize) -> String {
    let all: String = (0..messages)
        .map(|at| {
            format!(
                "message M{at} {{ string a = 1; int32 b = 2; M{} c = 3; }}",
                (at + 1) % messages
            )
        })
        .collect();
    format!("{SOURCE} {all}")
}

#[tokio::test]
async fn a_set_is_compiled_on_no_thread_that_serves_requests() {
    let threads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&threads);
    let told = move |event| {
        if matches!(event, Event::SchemaChanged { .. }) {
            seen.lock().unwrap().push(std::thread::current().id());
        }
    };
    let (registry, writer) = channel_with(config(), Arc::new(told)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.proto");
    std::fs::write(&path, large(1_800)).unwrap();
    let entry = Entry::new(ID, 1, Bytes::from(arqon_schema::read_schema(&path).unwrap()));
    let applied = writer.apply_in_background(Change::Put(entry)).await;
    assert_eq!((applied.changed, applied.refused.len()), (1, 0));
    let (response, _) = send(&registry, request(SUBJECT, b"\x0a\x02u1")).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let threads = threads.lock().unwrap();
    assert_eq!(threads.len(), 1);
    assert_ne!(threads[0], std::thread::current().id());
}

#[test]
fn a_thousand_puts_in_a_row_end_with_the_last() {
    let (registry, store) = registry(config());
    for round in 0..1_000_u32 {
        let source = SOURCE.replace(
            "int32 age = 2;",
            &format!("int32 age = 2; int32 f = {};", round % 2 + 3),
        );
        store.put_source(ID, &source).unwrap();
    }
    assert_eq!(registry.schemas()[0].revision, 1_001);
    assert!(store.delete(ID));
    assert!(registry.schemas().is_empty());
    let again = store.put_source(ID, SOURCE).unwrap();
    assert!(again > 1_001, "what is made anew is newer: {again}");
}
