//! One request in 500 makes the guest loop for ever: how soon it is stopped, and what the others feel.
//!
//! A guest that loops uses the core whenever its thread has one. What the wall clock says beyond that thread's CPU time,
//! others had: other threads, or the host. A native loop that looks at the clock itself, in the guest's place, says what
//! nobody can be better than.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig};
use http::HeaderValue;
use tokio::time::{MissedTickBehavior, interval};
use tower::{Layer, ServiceExt};

use crate::guests::{inner, request, thread_cpu};

/// Loops for ever where the header `x-block-me` is there, else allows.
const TRAP: &str = r#"(module
  (import "arqon_host_v1" "host_get_header" (func $get_header (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global (export "arqon_abi_v1") i32 (i32.const 1))
  (data (i32.const 16) "X-Block-Me")
  (func (export "on_request") (result i32)
    (if (i32.ge_s (call $get_header (i32.const 16) (i32.const 10) (i32.const 0) (i32.const 0)) (i32.const 0))
      (then (loop $again (br $again))))
    (i32.const 0)))"#;

const CLIENTS: u32 = 8;
const DEADLINE: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Runaway {
    No,
    Guest,
    Native,
}

#[derive(Default)]
struct Took {
    others: Vec<Duration>,
    /// By the wall clock, and by the CPU clock of the guest's thread.
    stopped: Vec<(Duration, Duration)>,
}

pub(crate) fn run(short: bool) {
    let each = if short { 500 } else { 4_000 };
    println!(
        "## runaway guests: us of wall clock, {CLIENTS} clients, a request each 2 ms, deadline 5 ms, 2 workers"
    );
    for (name, fuel, runaway) in [
        ("no runaway", None, Runaway::No),
        ("1 in 500, default fuel", None, Runaway::Guest),
        ("1 in 500, deadline only", Some(u64::MAX / 4), Runaway::Guest),
        ("1 in 500, a native loop", None, Runaway::Native),
    ] {
        let config = OverseerConfig {
            fuel_limit: fuel,
            deadline: Some(format!("{}ms", DEADLINE.as_millis())),
            ..OverseerConfig::of([PolicyConfig::from_module("trap", TRAP)])
        };
        let layer = OverseerLayer::new(config).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let Took { others, stopped } = runtime.block_on(clients(&layer, each, runaway));
        let at = |took: &[Duration], share: f64| {
            took.get((took.len() as f64 * share) as usize)
                .map_or(0, Duration::as_micros)
        };
        println!(
            "{name:<26} others p50 {:>5}  p99 {:>6}  max {:>6}",
            at(&others, 0.5),
            at(&others, 0.99),
            others.last().map_or(0, Duration::as_micros),
        );
        if runaway != Runaway::No {
            verdict(&stopped);
        }
    }
}

/// Whether all were stopped within twice their deadline, by either clock; and what the worst one's thread was without a core.
fn verdict(stopped: &[(Duration, Duration)]) {
    let limit = 2 * DEADLINE;
    let sorted = |clock: fn(&(Duration, Duration)) -> Duration| {
        let mut took: Vec<_> = stopped.iter().map(clock).collect();
        took.sort_unstable();
        let over = took.iter().filter(|took| **took > limit).count();
        let at = |at: usize| took.get(at).map_or(0, Duration::as_micros);
        (at(took.len() / 2), at(took.len().saturating_sub(1)), over)
    };
    let (wall, cpu) = (sorted(|took| took.0), sorted(|took| took.1));
    let worst = stopped.iter().max().copied().unwrap_or_default();
    println!(
        "  {} runaways, stopped after p50 {:>5}  max {:>5}, {} of them over {}; CPU they had p50 {:>5}  max {:>5}, {} over; \
         the slowest was without a core for {}",
        stopped.len(),
        wall.0,
        wall.1,
        wall.2,
        limit.as_micros(),
        cpu.0,
        cpu.1,
        cpu.2,
        worst.0.saturating_sub(worst.1).as_micros(),
    );
}

/// Uses the core until the deadline has passed.
fn loop_natively(begun: Instant) {
    while begun.elapsed() < DEADLINE {
        std::hint::spin_loop();
    }
}

async fn clients(layer: &OverseerLayer, each: u32, bad: Runaway) -> Took {
    let took: Arc<Mutex<Took>> = Arc::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (layer, took) = (layer.clone(), Arc::clone(&took));
            tokio::spawn(async move {
                let mut ticks = interval(Duration::from_millis(2));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                for at in 0..each {
                    let due = ticks.tick().await;
                    let runaway = bad != Runaway::No && (at * CLIENTS + client).is_multiple_of(500);
                    let mut request = request();
                    if runaway && bad == Runaway::Guest {
                        let value = HeaderValue::from_static("1");
                        request.headers_mut().insert("x-block-me", value);
                    }
                    let (here, cpu, begun) = (thread::current().id(), thread_cpu(), Instant::now());
                    if runaway && bad == Runaway::Native {
                        loop_natively(begun);
                    }
                    let response = layer.layer(inner()).oneshot(request).await.unwrap();
                    let stopped = (begun.elapsed(), thread_cpu().saturating_sub(cpu));
                    let mut took = took.lock().unwrap();
                    if runaway {
                        assert_eq!(response.status(), if bad == Runaway::Guest { 503 } else { 200 });
                        assert_eq!(
                            thread::current().id(),
                            here,
                            "a guest runs to its end in one poll"
                        );
                        took.stopped.push(stopped);
                    } else {
                        assert_eq!(response.status(), 200);
                        // From when it was due: a request that waited for a worker has felt it.
                        took.others.push(due.into_std().elapsed());
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let mut took = std::mem::take(&mut *took.lock().unwrap());
    took.others.sort_unstable();
    took
}
