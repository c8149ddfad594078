//! What a request costs in memory: the extension's entry, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/node.rs"]
mod node;

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use arqon_message::{Subject, TraceKey};
use arqon_rollout::{RolloutLayer, Variant};
use http::{Request, Response, header::CONTENT_TYPE};
use tower::{Layer, Service, service_fn};

use self::node::Node;

fn request(trace: u32) -> Request<()> {
    let traceparent = format!("00-{:032x}-00f067aa0ba902b7-01", u128::from(trace) + 1);
    let mut request = Request::builder()
        .header("traceparent", traceparent)
        .header("content-type", "application/json")
        .body(())
        .unwrap();
    let key = TraceKey::of_trace(request.headers()).unwrap();
    request.extensions_mut().insert(key);
    request
        .extensions_mut()
        .insert(Subject::parse("in.t.default.orders").unwrap());
    request
}

fn finish<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("it answers at once"),
    }
}

type Answer = Response<Option<Request<()>>>;
type Answered = Ready<Result<Answer, Infallible>>;

/// Answers at once with what it was given: nothing of it is made or dropped while allocations are counted.
fn echo() -> impl Service<Request<()>, Response = Answer, Error = Infallible, Future = Answered> + Clone {
    service_fn(|request: Request<()>| {
        let mut response = Response::new(None);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        *response.body_mut() = Some(request);
        ready(Ok(response))
    })
}

#[tokio::test(start_paused = true)]
async fn a_decision_allocates_the_extension_s_entry_and_nothing_else() {
    let node = Node::start();
    node.roll_out("p1", (50.0, 0.0, 50.0)).await;
    node.settle().await;
    let mut layered = RolloutLayer::new(&node.handle).layer(echo());
    let mut bare = echo();
    let mut seen = [0_u32; 2];
    for trace in 0..200 {
        // The first clones of a name are counted by nobody.
        drop(finish(layered.call(request(trace))));
        let (one, other) = (request(trace), request(trace));
        let mut answers = (None, None);
        let floor = measure(|| answers.0 = Some(finish(bare.call(one)))).count_total;
        let cost = measure(|| answers.1 = Some(finish(layered.call(other)))).count_total;
        assert_eq!(cost - floor, 1, "trace {trace}");
        let request = answers.1.unwrap().unwrap().into_body().unwrap();
        let variant = request.extensions().get::<Variant>().unwrap();
        seen[usize::from(!variant.baseline)] += 1;
    }
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_layer_with_nothing_to_do_allocates_nothing() {
    let mut layered = RolloutLayer::disabled().layer(echo());
    let mut bare = echo();
    // The first read of a snapshot on a thread sets up that thread.
    drop(finish(layered.call(request(1))));
    let (one, other) = (request(1), request(1));
    let mut answers = (None, None);
    let floor = measure(|| answers.0 = Some(finish(bare.call(one)))).count_total;
    let cost = measure(|| answers.1 = Some(finish(layered.call(other)))).count_total;
    assert_eq!(cost, floor);
}
