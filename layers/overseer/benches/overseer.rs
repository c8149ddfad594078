//! What policies cost, as figures of one run: against the bare service, a native check and wasmtime used directly.
//!
//! `cargo bench -p arqon-overseer --features cache --bench overseer` prints all parts; a word picks some: `request`
//! (the request path, and what refilling costs besides), `scaling` (two workers against one), `reload` (a module that is
//! kept compiled, and memory over a thousand reloads), `runaway` (one busy guest in 500 requests).
//! `OVERSEER_BENCH=short` runs a tenth, `OVERSEER_RELOADS=10000` so many reloads. Times are CPU times of the thread, where nothing else is said, so that other
//! work on the machine counts little; figures are medians over rounds in which the variants take turns.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

#[path = "overseer/direct.rs"]
mod direct;
#[path = "overseer/guests.rs"]
mod guests;
#[path = "overseer/reload.rs"]
mod reload;
#[path = "overseer/request.rs"]
mod request;
#[path = "overseer/runaway.rs"]
mod runaway;
#[path = "overseer/scaling.rs"]
mod scaling;

use arqon_overseer::EXECUTION_SECONDS_BUCKETS;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench") {
        println!("0 passed, 0 failed: this is no test; `cargo bench` runs it");
        return;
    }
    // What is counted costs something too: the recorder is the gateway's.
    let metric = Matcher::Full("shield_wasm_execution_duration_seconds".to_owned());
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(metric, &EXECUTION_SECONDS_BUCKETS);
    let metrics = recorder.unwrap().install_recorder().unwrap();
    let short = std::env::var("OVERSEER_BENCH").is_ok_and(|mode| mode == "short");
    let parts = ["request", "scaling", "reload", "runaway"];
    let asked = |part: &str| args.iter().any(|arg| arg == part);
    for part in parts
        .into_iter()
        .filter(|part| asked(part) || !parts.into_iter().any(asked))
    {
        match part {
            "request" => request::run(&metrics, short),
            "scaling" => scaling::run(short),
            "reload" => reload::run(short),
            _ => runaway::run(short),
        }
    }
}
