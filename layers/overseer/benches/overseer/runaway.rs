//! One request in 500 makes the guest loop for ever: how soon it is stopped, and what the others feel.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig};
use http::HeaderValue;
use tokio::time::{MissedTickBehavior, interval};
use tower::{Layer, ServiceExt};

use crate::guests::{inner, request};

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

pub(crate) fn run(short: bool) {
    let each = if short { 500 } else { 4_000 };
    println!(
        "## runaway guests: us of wall clock, {CLIENTS} clients, a request each 2 ms, deadline 5 ms, 2 workers"
    );
    for (name, fuel, bad) in [
        ("no runaway", None, false),
        ("1 in 500, default fuel", None, true),
        ("1 in 500, deadline only", Some(u64::MAX / 4), true),
    ] {
        let config = OverseerConfig {
            fuel_limit: fuel,
            ..OverseerConfig::of([PolicyConfig::from_module("trap", TRAP)])
        };
        let layer = OverseerLayer::new(config).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .unwrap();
        let (others, stopped) = runtime.block_on(clients(&layer, each, bad));
        let at = |took: &[Duration], share: f64| {
            took.get((took.len() as f64 * share) as usize)
                .map_or(0, Duration::as_micros)
        };
        println!(
            "{name:<26} others p50 {:>5}  p99 {:>6}  max {:>6}; runaways {:>3}, stopped after p50 {:>5}  max {:>5}",
            at(&others, 0.5),
            at(&others, 0.99),
            others.last().map_or(0, Duration::as_micros),
            stopped.len(),
            at(&stopped, 0.5),
            stopped.last().map_or(0, Duration::as_micros),
        );
    }
}

async fn clients(layer: &OverseerLayer, each: u32, bad: bool) -> (Vec<Duration>, Vec<Duration>) {
    let took: Arc<Mutex<(Vec<Duration>, Vec<Duration>)>> = Arc::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (layer, took) = (layer.clone(), Arc::clone(&took));
            tokio::spawn(async move {
                let mut ticks = interval(Duration::from_millis(2));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                for at in 0..each {
                    let due = ticks.tick().await;
                    let runaway = bad && (at * CLIENTS + client).is_multiple_of(500);
                    let mut request = request();
                    if runaway {
                        let value = HeaderValue::from_static("1");
                        request.headers_mut().insert("x-block-me", value);
                    }
                    let begun = Instant::now();
                    let response = layer.layer(inner()).oneshot(request).await.unwrap();
                    let mut took = took.lock().unwrap();
                    if runaway {
                        assert_eq!(response.status(), 503);
                        took.1.push(begun.elapsed());
                    } else {
                        assert_eq!(response.status(), 200);
                        // From when it was due: a request that waited for a worker has felt it.
                        took.0.push(due.into_std().elapsed());
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let mut took = std::mem::take(&mut *took.lock().unwrap());
    took.0.sort_unstable();
    took.1.sort_unstable();
    took
}
