//! The HTTP sink: copies as requests to another service.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::Duration,
};

use arqon_shadow::{CopyBody, HttpSink, Reason, is_shadow};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{net::TcpListener, sync::Semaphore};

use super::support::*;

fn target(text: &str) -> Uri {
    text.parse().expect("uri")
}

fn body() -> Full<Bytes> {
    Full::new(Bytes::from_static(b"42 apples"))
}

fn client() -> Client<HttpConnector, CopyBody> {
    Client::builder(TokioExecutor::new()).build_http()
}

#[tokio::test]
async fn a_copy_arrives_at_another_service_under_its_own_host() {
    let (tell, mut told) = tokio::sync::mpsc::channel(10);
    let app = axum::Router::new().fallback(
        move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
            tell.send((method, uri, headers, body)).await.expect("told");
            http::StatusCode::IM_A_TEAPOT
        },
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { axum::serve(listener, app).await });

    let sink = HttpSink::new(client(), target(&format!("http://{address}/candidate/"))).expect("target");
    let (layer, handle, _drain) = with_sink(&all(), sink.methods([Method::POST]));
    for _ in 0..2 {
        let mut original = request(body());
        original
            .headers_mut()
            .insert("host", http::HeaderValue::from_static("primary.example"));
        send(&layer, original, echo).await;
        let (method, uri, headers, body) = told.recv().await.expect("told");
        assert_eq!(
            (method, uri.to_string().as_str(), &body[..]),
            (Method::POST, "/candidate/orders?x=1", &b"42 apples"[..])
        );
        assert_eq!(headers["host"], address.to_string());
        assert_eq!(headers["content-length"], "9");
        assert_eq!(headers["x-arqon-shadow-subject"], "shadow.in.t.default.orders");
        assert!(is_shadow(&headers));
    }
    // Any answer will do: what the candidate thinks is not the mirror's business.
    assert_eq!(handle.shutdown(Duration::from_secs(5)).await.mirrored, 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_away_is_left_alone_after_five_failures() {
    let port = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = port.local_addr().expect("address");
    drop(port);
    let sink = HttpSink::new(client(), target(&format!("http://{address}")))
        .expect("target")
        .methods([Method::POST])
        .in_flight(NonZeroUsize::MIN);
    let (layer, handle, _drain) = with_sink(&all(), sink);
    for _ in 0..20 {
        send(&layer, request(body()), echo).await;
    }
    let stats = handle.shutdown(Duration::from_secs(600)).await;
    assert_eq!(
        (
            stats.dropped_by(Reason::PublishError),
            stats.dropped_by(Reason::Disconnected)
        ),
        (5, 15)
    );
}

#[tokio::test]
async fn methods_that_are_not_listed_are_refused_and_requests_under_way_are_bounded() {
    let gate = Arc::new(Semaphore::new(0));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = {
        let (gate, seen) = (Arc::clone(&gate), Arc::clone(&seen));
        tower::service_fn(move |request: Request<CopyBody>| {
            let (gate, seen) = (Arc::clone(&gate), Arc::clone(&seen));
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                seen.lock().expect("lock").push(body);
                gate.acquire().await.expect("open").forget();
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(vec![0; 200_000]))))
            }
        })
    };
    let sink = HttpSink::new(service, target("http://candidate")).expect("target");
    let sink = sink.in_flight(NonZeroUsize::new(3).expect("positive"));
    let (layer, handle, _drain) = with_sink(&all(), sink);
    send(&layer, request(body()), echo).await;
    for _ in 0..7 {
        let mut get = request(body());
        *get.method_mut() = Method::GET;
        send(&layer, get, echo).await;
    }
    while seen.lock().expect("lock").len() < 3 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen.lock().expect("lock").len(), 3);
    gate.add_permits(7);
    let stats = handle.shutdown(Duration::from_secs(5)).await;
    assert_eq!((stats.mirrored, stats.dropped_by(Reason::PublishError)), (7, 1));
}

#[test]
fn a_target_needs_scheme_and_host() {
    for bad in ["/path", "candidate:80", "http://candidate?x=1"] {
        let refused = HttpSink::new((), target(bad)).map(|_| ()).expect_err(bad);
        assert!(refused.to_string().contains("http://candidate:8080"), "{refused}");
    }
}
