//! Bodies over the cap, bodies that break, more requests than places.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arqon_message::{BodyTimeout, BoxError, MessageBody, Rejection};
use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig};
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tower::{Layer, Service, ServiceExt};

use crate::guests::{busy, on_request, small};

fn looks(max_body_bytes: usize) -> OverseerLayer {
    let policy = PolicyConfig::from_module(
        "looks",
        on_request("(drop (call $host_payload_len)) (i32.const 0)"),
    );
    OverseerLayer::new(OverseerConfig {
        max_body_bytes,
        ..small([policy])
    })
    .unwrap()
}

/// An inner service that counts its calls.
fn counting<B>(
    calls: &Arc<AtomicUsize>,
) -> impl Service<Request<MessageBody<B>>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ use<B> {
    let calls = Arc::clone(calls);
    tower::service_fn(move |_: Request<MessageBody<B>>| {
        calls.fetch_add(1, Ordering::SeqCst);
        async { Ok(Response::new(Body::empty())) }
    })
}

#[tokio::test]
async fn a_body_over_the_cap_is_413_and_one_at_the_cap_passes() {
    let calls = Arc::new(AtomicUsize::new(0));
    for (len, status) in [(0, 200), (100, 200), (101, 413), (1 << 20, 413)] {
        let service = looks(100).layer(counting(&calls));
        let response = service
            .oneshot(Request::post("/").body(Body::from(vec![0; len])).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status().as_u16(), status, "{len} bytes");
        if status == 413 {
            assert_eq!(
                response
                    .extensions()
                    .get::<Rejection>()
                    .unwrap()
                    .problem()
                    .code
                    .as_str(),
                "body.too_large"
            );
        }
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_policy_that_does_not_look_at_the_body_does_not_cap_it() {
    let calls = Arc::new(AtomicUsize::new(0));
    let policy = PolicyConfig::from_module("allows", on_request("(i32.const 0)"));
    let layer = OverseerLayer::new(OverseerConfig {
        max_body_bytes: 10,
        ..small([policy])
    })
    .unwrap();
    let response = layer
        .layer(counting(&calls))
        .oneshot(Request::post("/").body(Body::from(vec![0; 100])).unwrap())
        .await;
    assert_eq!(response.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_breaks_never_reaches_the_inner_service() {
    let calls = Arc::new(AtomicUsize::new(0));
    for (error, code) in [
        (BoxError::from("connection reset"), "overseer.body"),
        (BoxError::from(BodyTimeout), "body.timeout"),
    ] {
        let frames = [Ok(Frame::data(bytes::Bytes::from_static(b"half"))), Err(error)];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let response = looks(100)
            .layer(counting(&calls))
            .oneshot(Request::post("/").body(body).unwrap())
            .await
            .unwrap();
        assert_eq!(
            response
                .extensions()
                .get::<Rejection>()
                .unwrap()
                .problem()
                .code
                .as_str(),
            code
        );
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn more_requests_than_places_wait_or_are_refused_but_never_let_past() {
    let calls = Arc::new(AtomicUsize::new(0));
    let config = OverseerConfig {
        concurrency: 1,
        pool_wait: "1ms".to_owned(),
        fuel_limit: Some(u64::MAX / 4),
        deadline: Some("20ms".to_owned()),
        ..small([PolicyConfig::from_module("busy", busy())])
    };
    let layer = OverseerLayer::new(config).unwrap();
    let requests = (0..20).map(|_| {
        let service = layer.layer(counting(&calls));
        tokio::spawn(service.oneshot(Request::get("/").body(Body::empty()).unwrap()))
    });
    let mut codes = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        let response = request.await.unwrap().unwrap();
        codes.push(
            response
                .extensions()
                .get::<Rejection>()
                .unwrap()
                .problem()
                .code
                .as_str(),
        );
    }
    assert!(codes.contains(&"overseer.deadline"), "{codes:?}");
    assert!(codes.contains(&"overseer.pool"), "{codes:?}");
    assert_eq!(
        codes
            .iter()
            .filter(|code| !["overseer.deadline", "overseer.pool"].contains(code))
            .count(),
        0
    );
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}
