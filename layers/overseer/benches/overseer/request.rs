//! The request path: what a policy adds to it, and what it costs besides.

use std::{
    thread,
    time::{Duration, Instant},
};

use arqon_message::MessageBody;
use arqon_overseer::{OverseerConfig, OverseerLayer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::yield_now;
use tower::Service;

use crate::{
    direct::direct,
    guests::{
        BLOCK_ME, Incoming, REACHED, config, inner, median, now, process_cpu, request, service, thread_cpu,
    },
};

/// Requests of a round that are timed, after some that warm the caches as a busy server's are.
const TIMED: usize = 48;
const WARMING: usize = 16;
/// Turns of the runtime in which the queues fill up again, and more.
const REFILL: u32 = 32;

struct Variant {
    name: &'static str,
    run: Box<dyn FnMut(Incoming)>,
    /// CPU time of one request in each round, in ns.
    nanos: Vec<f64>,
    /// Wall clock until the handler is called, of each request, in ns.
    until: Vec<f64>,
}

fn variant(name: &'static str, run: impl FnMut(Incoming) + 'static) -> Variant {
    Variant {
        name,
        run: Box::new(run),
        nanos: Vec::new(),
        until: Vec::new(),
    }
}

/// The requests are those of one worker of a server: between two of them the runtime does what is due.
pub(crate) fn run(metrics: &PrometheusHandle, short: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        path(metrics, short).await;
        total(short).await;
    });
}

async fn refill() {
    for _ in 0..REFILL {
        yield_now().await;
    }
}

async fn path(metrics: &PrometheusHandle, short: bool) {
    let rounds = if short { 40 } else { 400 };
    let layer = |config| OverseerLayer::new(config).unwrap();
    let (mut bare, mut closure) = (inner(), inner());
    let mut variants = vec![
        variant("bare service", move |request| {
            drop(now(bare.call(request.map(MessageBody::streaming))));
        }),
        variant("native closure", move |request| {
            assert!(!request.headers().contains_key("x-block-me"));
            drop(now(closure.call(request.map(MessageBody::streaming))));
        }),
        variant("no policy", service(&layer(OverseerConfig::default()))),
        variant("standby ready", service(&layer(config(TIMED + WARMING, 1)))),
        variant("inline fresh", service(&layer(config(0, 1)))),
        variant("wasmtime directly", direct()),
    ];
    // The first instances are made by a thread.
    thread::sleep(Duration::from_millis(100));
    for round in 0..rounds + rounds / 8 {
        for variant in &mut variants {
            // The server is busy: what stands by was made a moment ago, and the caches are its own.
            for request in (0..WARMING + TIMED).map(|_| request()) {
                (variant.run)(request);
            }
            refill().await;
            let mut requests: Vec<_> = (0..WARMING + TIMED).map(|_| request()).collect();
            for request in requests.drain(..WARMING) {
                (variant.run)(request);
            }
            let begun = thread_cpu();
            for request in requests {
                (variant.run)(request);
            }
            let took = thread_cpu() - begun;
            refill().await;
            let mut until = Vec::with_capacity(WARMING + TIMED);
            for _ in 0..WARMING + TIMED {
                // Its headers were parsed a moment ago.
                let request = request();
                let begun = Instant::now();
                REACHED.set(Some(begun));
                (variant.run)(request);
                let reached = REACHED.take().unwrap_or(begun) - begun;
                until.push(reached.as_nanos() as f64);
                yield_now().await;
            }
            if round >= rounds / 8 {
                variant.until.extend(until.drain(WARMING..));
                variant.nanos.push(took.as_nanos() as f64 / TIMED as f64);
            }
        }
    }
    let mut rows = Vec::new();
    for variant in &mut variants {
        let p50 = median(&mut variant.nanos);
        let best = variant.nanos[0];
        let p99 = variant.nanos[variant.nanos.len() * 99 / 100];
        refill().await;
        let allocations = allocations(&mut variant.run);
        let until = median(&mut variant.until);
        rows.push((variant.name, best, p50, p99, until, allocations));
    }
    println!(
        "## request path: ns of CPU a request, and of wall clock until the handler is called; {rounds} rounds of {TIMED}"
    );
    println!(
        "{:<20} {:>8} {:>8} {:>8} {:>10} {:>11} {:>9} {:>11} {:>12}",
        "variant", "best", "p50", "p99", "p50 added", "to handler", "x native", "x wasmtime", "allocations"
    );
    let (bare, native, directly, reached) = (rows[0].2, rows[1].2, rows[5].2, rows[0].4);
    for (name, best, p50, p99, until, allocations) in &mut rows {
        println!(
            "{name:<20} {best:>8.0} {p50:>8.0} {p99:>8.0} {:>10.0} {:>11.0} {:>9.1} {:>11.2} {allocations:>12.2}",
            *p50 - bare,
            *until - reached,
            *p50 / native,
            *p50 / directly,
        );
    }
    let text = metrics.render();
    let counted = |result: &str| {
        let series = format!("shield_overseer_standby_total{{result=\"{result}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.and_then(|count| count.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let (hit, miss) = (counted("hit"), counted("miss"));
    println!(
        "instances that stood by: {:.1} % of {:.0}",
        100.0 * hit / (hit + miss),
        hit + miss
    );
}

/// Allocations on the request's thread, a request.
fn allocations(run: &mut dyn FnMut(Incoming)) -> f64 {
    let mut requests: Vec<_> = (0..TIMED).map(|_| request()).collect();
    let first = requests.pop().unwrap();
    run(first);
    let count = requests.len();
    let counted = allocation_counter::measure(|| {
        for request in requests {
            run(request);
        }
    });
    counted.count_total as f64 / count as f64
}

/// CPU time of all threads: instances made before and dropped after count too.
async fn total(short: bool) {
    let count = if short { 20_000 } else { 200_000 };
    println!("## all threads: ns of CPU a request over the bare service's, {count} requests");
    let mut bare = inner();
    let (bare, _) = spent(count, |request| {
        drop(now(bare.call(request.map(MessageBody::streaming))));
    })
    .await;
    for (name, standby) in [("standby", 32), ("inline", 0), ("standby, a candidate", 32)] {
        let (layer, handle) = OverseerLayer::channel(config(standby, 1)).unwrap();
        if name.ends_with("candidate") {
            handle.candidate("block_me", BLOCK_ME.into()).await.unwrap();
        }
        let (all, here) = spent(count, service(&layer)).await;
        println!(
            "{name:<20} {:>8.0} of which on the request's thread {:>6.0}",
            all - bare,
            here - bare
        );
    }
}

/// CPU time a request of all threads, and of this one.
async fn spent(count: u32, mut run: impl FnMut(Incoming)) -> (f64, f64) {
    let (process, thread) = (process_cpu(), thread_cpu());
    for _ in 0..count {
        run(request());
        // What is due once the response is on its way.
        yield_now().await;
    }
    let per_request = |took: Duration| took.as_nanos() as f64 / f64::from(count);
    (
        per_request(process_cpu() - process),
        per_request(thread_cpu() - thread),
    )
}
