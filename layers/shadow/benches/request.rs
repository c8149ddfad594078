//! What the mirror costs a request, as ratios in one run, with allocations (issue 6).
//!
//! `cargo bench -p arqon-shadow`. Best of several rounds; the machine's noise is the spread between rounds.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use arqon_message::{Fraction, Sampler, Subject, TraceKey};
use arqon_shadow::{RuleConfig, ShadowBody, ShadowConfig, ShadowCopy, ShadowHandle, ShadowLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, Service};

/// 42.1 % of the range.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01";
/// As many as a core's second cache holds: a server has the request it works on in its caches too.
const BATCH: usize = 100;
const ROUNDS: usize = 4_000;

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

/// Requests that were served, kept so that nothing is dropped on the clock.
type Served<B> = Rc<RefCell<Vec<Request<B>>>>;

/// Reads the body and puts the request aside.
fn primary<B: Body<Data = Bytes> + Unpin>(
    served: Served<B>,
) -> impl Service<
    Request<B>,
    Response = Response<()>,
    Error = Infallible,
    Future = Ready<Result<Response<()>, Infallible>>,
> {
    tower::service_fn(move |mut request: Request<B>| {
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(frame)) = pin!(request.body_mut()).poll_frame(&mut context) {
            let _ = black_box(frame);
        }
        served.borrow_mut().push(request);
        ready(Ok(Response::new(())))
    })
}

fn served<B>() -> Served<B> {
    Rc::new(RefCell::new(Vec::with_capacity(BATCH)))
}

/// Nanoseconds a call takes in one batch.
fn batch<B>(served: &Served<B>, mut call: impl FnMut(Request<Full<Bytes>>)) -> f64 {
    let body = Bytes::from(vec![7; 256]);
    let requests: Vec<_> = (0..BATCH).map(|_| request(&body)).collect();
    let begun = Instant::now();
    for request in requests {
        call(request);
    }
    let nanos = begun.elapsed().as_nanos() as f64 / BATCH as f64;
    served.borrow_mut().clear();
    nanos
}

fn finish<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).as_mut().poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the primary answers at once"),
    }
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

/// One line of the table.
struct Case<'a> {
    name: &'static str,
    round: Box<dyn FnMut() -> f64 + 'a>,
    best: f64,
    allocations: u64,
}

/// The primary behind a mirror; between batches the queue is drained, off the clock.
fn layered<'a>(runtime: &'a tokio::runtime::Runtime, name: &'static str, config: &ShadowConfig) -> Case<'a> {
    let (layer, handle, _task) = mirror(runtime, config);
    let aside = served::<ShadowBody<Full<Bytes>>>();
    let mut shadow = layer.layer(primary(Rc::clone(&aside)));
    let one = request(&Bytes::from(vec![7; 256]));
    let allocations = allocation_counter::measure(|| drop(finish(shadow.call(one)))).count_total;
    let round = move || {
        let nanos = batch(&aside, |request| drop(finish(shadow.call(request))));
        drained(runtime, &handle);
        assert_eq!(handle.stats().dropped_sum(), 0, "{:?}", handle.stats());
        nanos
    };
    Case {
        name,
        round: Box::new(round),
        best: f64::MAX,
        allocations,
    }
}

fn drained(runtime: &tokio::runtime::Runtime, handle: &ShadowHandle) {
    runtime.block_on(async {
        while handle.stats().in_flight > 0 {
            tokio::task::yield_now().await;
        }
    });
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let rule = |share| {
        ShadowConfig::default()
            .rule(RuleConfig::new("in.t.*.>", share))
            .with_queue(4_096, 64 << 20)
    };
    let aside = served::<Full<Bytes>>();
    let (mut bare, mut looking) = (primary(Rc::clone(&aside)), primary(Rc::clone(&aside)));
    // The floor of any such decision: find the key in its header, hash it, compare.
    let (sampler, border) = (Sampler::new(0), Fraction::new(0.1).expect("share").threshold());
    let mut look_up = move |request: Request<Full<Bytes>>| {
        let key = TraceKey::of_trace(request.headers());
        assert!(!black_box(
            key.is_some_and(|key| sampler.sample(key.as_bytes(), border))
        ));
        drop(finish(looking.call(request)));
    };
    let mut cases = [
        Case {
            name: "bare primary",
            round: Box::new(|| batch(&aside, |request| drop(finish(bare.call(request))))),
            best: f64::MAX,
            allocations: 0,
        },
        Case {
            name: "key lookup + XXH3",
            round: Box::new(|| batch(&aside, &mut look_up)),
            best: f64::MAX,
            allocations: 0,
        },
        layered(&runtime, "layer, no rule", &ShadowConfig::default()),
        layered(&runtime, "layer, 0 %", &rule(0.0)),
        layered(&runtime, "layer, not chosen at 10 %", &rule(0.10)),
        // Some rule takes every key, so this one's has to be found.
        layered(
            &runtime,
            "layer, not chosen, 2 rules",
            &rule(0.10).rule(RuleConfig::new("out.t.*.>", 1.0)),
        ),
        // The same, of rules that begin alike: which of them it is shows only behind the wildcard.
        layered(
            &runtime,
            "layer, not chosen, alike",
            &ShadowConfig::default()
                .rule(RuleConfig::new("in.t.*.orders", 0.10))
                .rule(RuleConfig::new("in.t.*.payments", 1.0)),
        ),
        layered(&runtime, "layer, mirrored", &rule(1.0)),
    ];
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    for _ in 0..ROUNDS {
        for case in cases
            .iter_mut()
            .filter(|case| only.as_ref().is_none_or(|only| case.name.contains(only)))
        {
            case.best = case.best.min((case.round)());
        }
    }
    let (bare, floor) = (cases[0].best, cases[1].best - cases[0].best);
    println!(
        "{:<28}{:>10}{:>12}{:>10}{:>13}",
        "", "ns/call", "over bare", "x lookup", "allocations"
    );
    for Case {
        name,
        best,
        allocations,
        ..
    } in &cases
    {
        let over = best - bare;
        println!(
            "{name:<28}{best:>10.1}{over:>12.1}{:>10.2}{allocations:>13}",
            over / floor
        );
    }
    drop(cases);

    // The drain task alone: copies a second into a sink that takes everything.
    let (layer, handle, _task) = mirror(&runtime, &rule(1.0));
    let aside = served::<ShadowBody<Full<Bytes>>>();
    let mut shadow = layer.layer(primary(Rc::clone(&aside)));
    let body = Bytes::from(vec![7; 256]);
    let mut best = Duration::MAX;
    for _ in 0..100 {
        (0..2_000).for_each(|_| drop(finish(shadow.call(request(&body)))));
        aside.borrow_mut().clear();
        let begun = Instant::now();
        drained(&runtime, &handle);
        best = best.min(begun.elapsed());
    }
    println!(
        "drain: {:.0} copies/s of 256 B to an empty sink",
        2_000.0 / best.as_secs_f64()
    );
}
