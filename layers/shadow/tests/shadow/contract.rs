//! The `Service` contract, with tower-test: it panics when the inner service is called unready.

use std::pin::pin;

use arqon_shadow::{Reason, Shadow, ShadowBody};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt};
use tower_test::mock;

use super::support::*;

type In = Request<ShadowBody<Full<Bytes>>>;
type Mock = mock::Mock<In, Response<&'static str>>;

fn body() -> Full<Bytes> {
    Full::new(Bytes::from_static(b"x"))
}

fn behind(rig: &Rig) -> (Shadow<Mock>, mock::Handle<In, Response<&'static str>>) {
    let (primary, handle) = mock::pair();
    (rig.layer.layer(primary), handle)
}

#[tokio::test]
async fn readiness_is_the_inner_services_own() {
    let rig = rig(&all());
    let (mut shadow, mut handle) = behind(&rig);
    handle.allow(0);
    let mut ready = pin!(ServiceExt::<Request<Full<Bytes>>>::ready(&mut shadow));
    assert!(poll_once(ready.as_mut()).await.is_pending());
    handle.allow(1);
    assert!(ready.await.is_ok());
}

#[tokio::test]
async fn the_readied_inner_service_is_the_one_that_is_called() {
    let rig = rig(&all());
    let (mut shadow, mut handle) = behind(&rig);
    for _ in 0..3 {
        let answer = shadow.ready().await.expect("ready").call(request(body()));
        let (seen, respond) = handle.next_request().await.expect("called");
        read(seen.into_body()).await;
        respond.send_response(Response::new("ok"));
        assert_eq!(answer.await.expect("answer").into_body(), "ok");
    }
    assert_eq!(rig.settled().await.0.mirrored, 3);
}

#[tokio::test]
async fn each_clone_readies_for_itself() {
    let rig = rig(&all());
    let (shadow, mut handle) = behind(&rig);
    let calls = (0..4)
        .map(|_| tokio::spawn(shadow.clone().oneshot(request(body()))))
        .collect::<Vec<_>>();
    for _ in 0..4 {
        let (_, respond) = handle.next_request().await.expect("called");
        respond.send_response(Response::new("ok"));
    }
    for call in calls {
        assert!(call.await.expect("joined").is_ok());
    }
}

#[tokio::test]
async fn an_inner_error_passes_untouched() {
    let rig = rig(&all());
    let (mut shadow, mut handle) = behind(&rig);
    let answer = shadow.ready().await.expect("ready").call(request(body()));
    let (_, respond) = handle.next_request().await.expect("called");
    respond.send_error("its own");
    assert_eq!(answer.await.expect_err("error").to_string(), "its own");

    let (mut shadow, mut handle) = behind(&rig);
    handle.send_error("not ready");
    let refused = ServiceExt::<Request<Full<Bytes>>>::ready(&mut shadow)
        .await
        .map(|_| ());
    assert_eq!(refused.expect_err("error").to_string(), "not ready");
}

#[tokio::test]
async fn cancelling_before_and_after_the_body_is_read_settles_the_books() {
    let rig = rig(&all());
    for read_first in [false, true] {
        let (mut shadow, mut handle) = behind(&rig);
        let answer = shadow.ready().await.expect("ready").call(request(body()));
        let (seen, respond) = handle.next_request().await.expect("called");
        if read_first {
            read(seen.into_body()).await;
        }
        drop(answer);
        drop(respond);
    }
    // Never polled at all.
    let (mut shadow, _handle) = behind(&rig);
    drop(shadow.ready().await.expect("ready").call(request(body())));
    drop((shadow, _handle));
    assert_eq!(rig.settled().await.0.dropped_by(Reason::Cancelled), 3);
}
