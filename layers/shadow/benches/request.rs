//! What the mirror costs a request, as ratios in one run, with allocations (issue 6).
//!
//! `cargo bench -p arqon-shadow`. Best of several rounds; the machine's noise is the spread between rounds.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use arqon_message::{Fraction, Sampler, Subject};
use arqon_shadow::{RuleConfig, ShadowBody, ShadowConfig, ShadowCopy, ShadowHandle, ShadowLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, Service};

/// 42.1 % of the range.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01";
const BATCH: usize = 1_000;
const ROUNDS: usize = 400;

fn request(body: &Bytes) -> Request<Full<Bytes>> {
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
    let mut request = request
        .header("traceparent", TRACE)
        .body(Full::new(body.clone()))
        .expect("request");
    request
        .extensions_mut()
        .insert(Subject::parse("in.t.default.orders").expect("subject"));
    request
}

fn primary<B: Body<Data = Bytes>>(request: Request<B>) -> Ready<Result<Response<()>, Infallible>> {
    let mut body = pin!(request.into_body());
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut context) {
        let _ = black_box(frame);
    }
    ready(Ok(Response::new(())))
}

/// Nanoseconds for one call: the best batch. Requests are made beforehand and dropped by the primary.
fn measure(mut call: impl FnMut(Request<Full<Bytes>>), mut between: impl FnMut()) -> f64 {
    let body = Bytes::from(vec![7; 256]);
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let requests: Vec<_> = (0..BATCH).map(|_| request(&body)).collect();
        let begun = Instant::now();
        requests.into_iter().for_each(&mut call);
        best = best.min(begun.elapsed());
        between();
    }
    best.as_nanos() as f64 / BATCH as f64
}

fn finish<F: Future>(future: F) {
    let mut context = Context::from_waker(Waker::noop());
    assert!(pin!(future).as_mut().poll(&mut context).is_ready());
}

type Run = (ShadowLayer, ShadowHandle, tokio::task::JoinHandle<()>);

fn mirror(runtime: &tokio::runtime::Runtime, config: &ShadowConfig) -> Run {
    let sink = |copy: ShadowCopy| {
        black_box(copy);
        ready(Ok(()))
    };
    let (layer, handle, drain) = ShadowLayer::channel(config, sink).expect("config");
    let task = runtime.spawn(drain.run());
    (layer, handle, task)
}

fn layered(runtime: &tokio::runtime::Runtime, config: &ShadowConfig) -> (f64, u64) {
    let (layer, handle, _task) = mirror(runtime, config);
    let mut shadow = layer.layer(tower::service_fn(primary::<ShadowBody<Full<Bytes>>>));
    // Between batches the queue is drained, off the clock.
    let wait = || {
        runtime.block_on(async {
            while handle.stats().in_flight > 0 {
                tokio::task::yield_now().await;
            }
        });
    };
    let nanos = measure(|request| finish(shadow.call(request)), wait);
    let one = request(&Bytes::from(vec![7; 256]));
    let allocations = allocation_counter::measure(|| finish(shadow.call(one))).count_total;
    assert_eq!(handle.stats().dropped_sum(), 0, "{:?}", handle.stats());
    (nanos, allocations)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let mut bare_service = tower::service_fn(primary::<Full<Bytes>>);
    let bare = measure(|request| finish(bare_service.call(request)), || ());

    // The floor of any such decision: find the header, hash 32 bytes of it, compare.
    let (sampler, border) = (Sampler::new(0), Fraction::new(0.1).expect("share").threshold());
    let looked_up = measure(
        |request| {
            let parent = request
                .headers()
                .get("traceparent")
                .map(|value| &value.as_bytes()[3..35]);
            black_box(parent.is_some_and(|key| sampler.sample(key, border)));
            finish(bare_service.call(request));
        },
        || (),
    );
    let floor = looked_up - bare;

    let rule = |share| {
        ShadowConfig::default()
            .rule(RuleConfig::new("in.t.*.>", share))
            .with_queue(4_096, 64 << 20)
    };
    println!(
        "{:<28}{:>10}{:>12}{:>10}{:>13}",
        "", "ns/call", "over bare", "x floor", "allocations"
    );
    println!("{:<28}{bare:>10.1}", "bare primary");
    println!(
        "{:<28}{looked_up:>10.1}{floor:>12.1}{:>10.2}",
        "header lookup + XXH3", 1.0
    );
    for (name, config) in [
        ("layer, no rule", ShadowConfig::default()),
        ("layer, 0 %", rule(0.0)),
        ("layer, not chosen at 10 %", rule(0.10)),
        ("layer, mirrored", rule(1.0)),
    ] {
        let (nanos, allocations) = layered(&runtime, &config);
        let over = nanos - bare;
        println!(
            "{name:<28}{nanos:>10.1}{over:>12.1}{:>10.2}{allocations:>13}",
            over / floor
        );
    }

    // The drain task alone: copies a second into a sink that takes everything.
    let (layer, handle, _task) = mirror(&runtime, &rule(1.0));
    let mut shadow = layer.layer(tower::service_fn(primary::<ShadowBody<Full<Bytes>>>));
    let body = Bytes::from(vec![7; 256]);
    let mut best = Duration::MAX;
    for _ in 0..100 {
        (0..2_000).for_each(|_| finish(shadow.call(request(&body))));
        let begun = Instant::now();
        runtime.block_on(async {
            while handle.stats().in_flight > 0 {
                tokio::task::yield_now().await;
            }
        });
        best = best.min(begun.elapsed());
    }
    println!(
        "drain: {:.0} copies/s of 256 B to an empty sink",
        2_000.0 / best.as_secs_f64()
    );
}
