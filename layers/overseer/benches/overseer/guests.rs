//! Guests, requests and services that the parts share.

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use arqon_message::MessageBody;
use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use rustix::time::{ClockId, clock_gettime};
use tower::{Layer, Service};

/// Asks for one header and allows: the policy of all figures. One page of memory, a data segment in it.
pub(crate) const BLOCK_ME: &str = include_str!("../../tests/fixtures/block_me.wat");

pub(crate) type Incoming = Request<Empty<Bytes>>;
pub(crate) type Inner = tower::util::ServiceFn<
    fn(Request<MessageBody<Empty<Bytes>>>) -> Ready<Result<Response<Empty<Bytes>>, Infallible>>,
>;

thread_local! {
    /// When the handler was called last.
    pub(crate) static REACHED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A handler that notes when it was called, if [`REACHED`] is set, and does nothing.
pub(crate) fn inner() -> Inner {
    tower::service_fn(|request| {
        if REACHED.get().is_some() {
            REACHED.set(Some(Instant::now()));
        }
        black_box(&request);
        ready(Ok(Response::new(Empty::new())))
    })
}

/// Eight headers, no body.
pub(crate) fn request() -> Incoming {
    let mut request = Request::post("/v1/publish/users");
    for (name, value) in [
        ("host", "localhost"),
        ("user-agent", "bench"),
        ("accept", "*/*"),
        ("content-type", "application/json"),
        ("x-request-id", "1"),
        ("authorization", "Bearer x"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("x-other", "1"),
    ] {
        request = request.header(name, value);
    }
    request.body(Empty::new()).unwrap()
}

/// Polls once what is ready at once.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("not ready at once"),
    }
}

/// One policy, with so many instances standing by and so many shards.
pub(crate) fn config(standby: usize, shards: usize) -> OverseerConfig {
    OverseerConfig {
        standby,
        shards,
        deadline: Some("1s".to_owned()),
        pagemap_scan: std::env::var("NOSCAN").is_err(),
        ..OverseerConfig::of([PolicyConfig::from_module("block_me", BLOCK_ME)])
    }
}

/// The layer around the handler, called as a server would.
pub(crate) fn service(layer: &OverseerLayer) -> impl FnMut(Incoming) + use<> {
    let mut service = layer.layer(inner());
    move |request| {
        let response = now(service.call(request)).unwrap();
        assert_eq!(response.status(), 200);
    }
}

/// CPU time of this thread.
pub(crate) fn thread_cpu() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

/// CPU time of all threads.
pub(crate) fn process_cpu() -> Duration {
    cpu(ClockId::ProcessCPUTime)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap())
}

/// The middle value.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
