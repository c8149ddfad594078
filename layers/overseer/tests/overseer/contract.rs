//! The Service contract (STYLE, 7 to 11), line by line.

use std::{convert::Infallible, sync::Arc};

use arqon_message::{MessageBody, Rejection};
use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel, Full};
use tower::{Layer, Service, ServiceExt};
use tower_test::mock;

use crate::guests::{BLOCK_ME, layer, on_request, small};

type Body = Full<Bytes>;
type Mock = mock::Spawn<arqon_overseer::Overseer<mock::Mock<Request<MessageBody<Body>>, Response<Body>>>>;
type Handle = mock::Handle<Request<MessageBody<Body>>, Response<Body>>;

fn spawn(layer: &OverseerLayer) -> (Mock, Handle) {
    mock::spawn_with(|inner| layer.layer(inner))
}

fn block_me() -> OverseerLayer {
    layer(PolicyConfig::from_module("block_me", BLOCK_ME))
}

fn request(headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::post("/orders");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from("payload")).unwrap()
}

#[tokio::test]
async fn the_readied_inner_service_is_the_one_called() {
    // tower-test panics when a service is called that was not readied.
    let (mut service, mut handle) = spawn(&block_me());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = tokio::spawn(service.call(request(&[])));
    let (seen, send) = handle.next_request().await.unwrap();
    assert_eq!(seen.uri(), "/orders");
    send.send_response(Response::new(Full::from("done")));
    let response = response.await.unwrap().unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "done");
    handle.allow(0);
    assert!(
        service.poll_ready().is_pending(),
        "readiness is the inner service's"
    );
}

#[tokio::test]
async fn an_early_answer_lets_go_of_the_inner_service() {
    let limited = tower::limit::ConcurrencyLimit::new(
        tower::service_fn(|_: Request<MessageBody<Body>>| async {
            Ok::<_, Infallible>(Response::new(Body::from("done")))
        }),
        1,
    );
    let mut service = block_me().layer(limited);
    for _ in 0..3 {
        let response = service
            .ready()
            .await
            .unwrap()
            .call(request(&[("x-block-me", "1")]))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let rejection = response.extensions().get::<Rejection>().unwrap();
        assert_eq!(rejection.problem().code.as_str(), "overseer.denied");
    }
    // Even while the answered future is still held.
    let mut clone = service.clone();
    let mut answered = Box::pin(
        service
            .ready()
            .await
            .unwrap()
            .call(request(&[("x-block-me", "1")])),
    );
    assert_eq!((&mut answered).await.unwrap().status(), StatusCode::FORBIDDEN);
    let response = clone.ready().await.unwrap().call(request(&[])).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    drop(answered);
}

#[tokio::test]
async fn an_error_of_the_inner_service_comes_through_untouched() {
    let (mut service, mut handle) = spawn(&block_me());
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = tokio::spawn(service.call(request(&[])));
    let (_, send) = handle.next_request().await.unwrap();
    send.send_error("broken");
    assert_eq!(response.await.unwrap().unwrap_err().to_string(), "broken");
}

#[tokio::test]
async fn a_request_dropped_while_its_body_is_collected_reaches_nobody() {
    let looks = on_request("(drop (call $host_payload_len)) (i32.const 0)");
    let layer = layer(PolicyConfig::from_module("looks", looks));
    let (inner, mut handle) =
        mock::pair::<Request<MessageBody<Channel<Bytes, Infallible>>>, Response<Body>>();
    let mut service = layer.layer(inner);
    handle.allow(2);
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(4);
    let mut future = tokio_test::task::spawn(
        service
            .ready()
            .await
            .unwrap()
            .call(Request::post("/").body(body).unwrap()),
    );
    sender.send_data(Bytes::from_static(b"half")).await.unwrap();
    assert!(future.poll().is_pending());
    drop(future);
    assert!(
        sender.send_data(Bytes::from_static(b"more")).await.is_err(),
        "the body is dropped with the future"
    );
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(4);
    let future = tokio::spawn(
        service
            .ready()
            .await
            .unwrap()
            .call(Request::post("/again").body(body).unwrap()),
    );
    sender.send_data(Bytes::from_static(b"whole")).await.unwrap();
    drop(sender);
    let (seen, send) = handle.next_request().await.unwrap();
    assert_eq!(seen.uri(), "/again", "the first never came");
    assert_eq!(seen.into_body().collect().await.unwrap().to_bytes(), "whole");
    send.send_response(Response::new(Full::default()));
    assert_eq!(future.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_dropped_in_the_inner_service_cancels_it() {
    let held = Arc::new(());
    let inner = {
        let held = Arc::clone(&held);
        tower::service_fn(move |_: Request<MessageBody<Body>>| {
            let held = Arc::clone(&held);
            async move {
                let _held = held;
                std::future::pending::<Result<Response<Body>, Infallible>>().await
            }
        })
    };
    let mut service = block_me().layer(inner);
    let mut future = tokio_test::task::spawn(service.ready().await.unwrap().call(request(&[])));
    assert!(future.poll().is_pending());
    assert_eq!(Arc::strong_count(&held), 3);
    drop((future, service));
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn trailers_and_bytes_reach_the_inner_service_unchanged() {
    let looks = on_request("(drop (call $host_payload_len)) (i32.const 0)");
    let layer = layer(PolicyConfig::from_module("looks", looks));
    let service = layer.layer(tower::service_fn(
        |request: Request<MessageBody<http_body_util::combinators::WithTrailers<Body, _>>>| async move {
            let collected = request.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()["x-sum"], "7");
            assert_eq!(collected.to_bytes(), "payload");
            Ok::<_, Infallible>(Response::new(Body::default()))
        },
    ));
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let body = Full::<Bytes>::from("payload").with_trailers(std::future::ready(Some(Ok(trailers))));
    let response = service
        .oneshot(Request::post("/").body(body).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn without_a_policy_every_request_passes() {
    for config in [
        OverseerConfig::default(),
        OverseerConfig {
            enabled: false,
            ..small([PolicyConfig::from_module("block_me", BLOCK_ME)])
        },
    ] {
        let layer = OverseerLayer::new(config).unwrap();
        let (mut service, mut handle) = spawn(&layer);
        handle.allow(1);
        assert!(service.poll_ready().is_ready());
        let response = tokio::spawn(service.call(request(&[("x-block-me", "1")])));
        let (_, send) = handle.next_request().await.unwrap();
        send.send_response(Response::new(Body::default()));
        assert_eq!(response.await.unwrap().unwrap().status(), StatusCode::OK);
    }
}
