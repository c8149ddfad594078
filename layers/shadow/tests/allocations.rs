//! What the layer allocates on the request path: nothing for a request that is not chosen, little for one that is.

use std::{convert::Infallible, future::ready};

use arqon_message::Subject;
use arqon_shadow::{RecordingSink, RuleConfig, ShadowBody, ShadowConfig, ShadowLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, Service};

/// 42.1 % of the range.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01";

fn request() -> Request<Full<Bytes>> {
    let mut request = Request::post("/orders");
    for name in [
        "host",
        "user-agent",
        "accept",
        "content-type",
        "x-a",
        "x-b",
        "x-c",
        "x-d",
    ] {
        request = request.header(name, "value");
    }
    // A body that owns its memory, as one off a socket does.
    let body = Bytes::from(vec![7; 256]);
    let mut request = request
        .header("traceparent", TRACE)
        .body(Full::new(body))
        .expect("request");
    request
        .extensions_mut()
        .insert(Subject::parse("in.t.default.orders").expect("subject"));
    request
}

/// Allocations of one request through a primary that reads the body in place and answers at once.
fn allocations(share: f64) -> u64 {
    let config = ShadowConfig::default().rule(RuleConfig::new("in.t.*.>", share));
    let (layer, handle, _drain) = ShadowLayer::channel(&config, RecordingSink::new(10)).expect("config");
    let mut shadow = layer.layer(tower::service_fn(|request: Request<ShadowBody<Full<Bytes>>>| {
        let mut body = std::pin::pin!(request.into_body());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut context) {
            drop(frame);
        }
        ready(Ok::<_, Infallible>(Response::new(())))
    }));
    let mut run = |request| {
        let mut answer = std::pin::pin!(shadow.call(request));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(answer.as_mut().poll(&mut context).is_ready());
    };
    // What is allocated once: a block of the queue, thread-locals.
    for _ in 0..3 {
        run(request());
    }
    let next = request();
    let counted = allocation_counter::measure(|| run(next));
    assert_eq!(handle.stats().sampled, if share > 0.42 { 4 } else { 0 });
    counted.count_total
}

#[test]
fn a_request_that_is_not_chosen_costs_no_allocation() {
    assert_eq!(allocations(0.42), 0);
    assert_eq!(allocations(0.0), 0);
}

#[test]
fn a_request_that_is_chosen_costs_at_most_eight() {
    let count = allocations(0.43);
    println!("{count} allocations on the request path of a mirrored request");
    assert!(count <= 8, "{count}");
}
