//! Sandboxed Wasm policies on every request, as a tower layer.
//!
//! A policy is a small Wasm module that looks at a request and says yes or no; it may log, add headers, or (if granted)
//! rewrite the payload. It runs in an instance as it was made for every call, with bounded fuel, time, memory and stack, and sees
//! no file, no network, no clock. What gives no verdict is refused, unless the operator wrote otherwise.
//!
//! ```
//! use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig};
//! use axum::{Router, routing::get};
//!
//! let block_me = r#"(module
//!   (import "arqon_host_v1" "host_get_header" (func $get_header (param i32 i32 i32 i32) (result i32)))
//!   (memory (export "memory") 1)
//!   (global (export "arqon_abi_v1") i32 (i32.const 1))
//!   (data (i32.const 16) "X-Block-Me")
//!   (func (export "on_request") (result i32)
//!     (i32.ge_s (call $get_header (i32.const 16) (i32.const 10) (i32.const 0) (i32.const 0)) (i32.const 0))))"#;
//!
//! let overseer = OverseerLayer::new(OverseerConfig::of([PolicyConfig::from_module("block_me", block_me)]))?;
//! let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(overseer);
//! # drop(app);
//! # Ok::<(), arqon_overseer::BuildError>(())
//! ```
//!
//! With a handle, policies are replaced while requests run:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use arqon_overseer::{OverseerConfig, OverseerLayer, PolicyConfig};
//!
//! let config = OverseerConfig::of([PolicyConfig::from_path("auth", "policies/auth.wasm")]);
//! let (layer, handle) = OverseerLayer::channel(config)?;
//! let report = handle.replace("auth", std::fs::read("policies/auth_v2.wasm")?.into()).await?;
//! println!("{report}");
//! # drop(layer); Ok(()) }
//! ```
//!
//! # The parts
//!
//! - [`OverseerConfig`] and [`PolicyConfig`]: the keys of `[platform.overseer]`; [`OverseerConfig::validate`] names
//!   everything wrong at once, [`OverseerConfig::resolve_paths`] makes paths relative to the file.
//! - [`OverseerLayer`], [`Overseer`], [`ResponseFuture`]: the layer, its service and future.
//! - [`OverseerHandle`]: replace, reload, watch, candidate, promote, rollback, reconfigure; [`Event`] tells what happened.
//! - [`LoadReport`]: all findings about a module at once, and its facts. Serializable.
//! - [`PolicyEngine`], [`RecordedRequest`], [`Outcome`]: one policy on one recorded request, offline; [`RecordConfig`]
//!   writes live requests down as [`Recording`]s.
//! - [`EXECUTION_SECONDS_BUCKETS`]: the histogram's bounds, for the recorder.
//!
//! # The ABI `arqon_host_v1`
//!
//! A module imports from `arqon_host_v1` only, exports `memory`, the marker `arqon_abi_v1` and `on_request() -> i32` (0
//! allows, anything else denies with 403); the original's `policy_check(ptr, len) -> i32` is taken too. `on_response()`
//! and `on_configure()` are optional. The guest SDK `arqon-policy` wraps it.
//!
//! Policies of a chain run in order. Each sees the headers and the payload as those before it left them, and nothing is
//! applied before all of them allowed. `on_response` sees the response's headers; a refusal or a failure there replaces
//! the response. The body is collected only for a policy that imports payload functions, up to
//! [`max_body_bytes`](OverseerConfig::max_body_bytes).
//!
//! # Under load
//!
//! Instances are made ready before requests, [`standby`](OverseerConfig::standby) per policy and worker, and dropped after
//! the response, in batches, by a task on the runtime of the requests; one thread does what is left over. An empty
//! queue means that one is made inline, with the same verdict and fuel. Calls are counted with their instances, so up to a
//! quarter of a second late; [`OverseerHandle::settle`] before metrics are read makes them exact.
//!
//! Where nothing has to be waited for, the policies look when the service is called; else, that is for a body or for room,
//! when the future is polled. A guest runs to its end on that thread: typically a microsecond, at most the deadline. At most
//! [`concurrency`](OverseerConfig::concurrency) requests run policies at once; another waits
//! [`pool_wait`](OverseerConfig::pool_wait) and is then refused with 503 `overseer.pool`, never let past. Waiting needs a
//! tokio runtime with its timer on.
//!
//! A candidate runs beside the requests, on a thread of its own: none waits for it.
//!
//! # Cancellation
//!
//! Dropping the future drops the body that was being collected and the place it waited for. No guest is left half way.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod abi;
mod allowance;
mod assemble;
mod candidate;
mod chain;
mod conditions;
mod config;
mod edit;
mod engine;
mod error;
mod event;
mod exchange;
mod future;
mod handle;
mod layer;
mod metrics;
mod place;
mod record;
mod recorder;
mod replay;
mod report;
mod run;
mod scope;
mod service;
mod shared;
mod spec;
mod standby;
mod status;
mod tap;
mod trial;
mod verdict;
mod verify;
mod watch;

pub use self::{
    candidate::{DIVERGENCES_MAX, Divergence},
    conditions::Conditions,
    config::{FailureConfig, OverseerConfig, POLICIES_MAX, PolicyConfig, RecordConfig},
    error::{BuildError, ConfigError, EngineError, HandleError},
    event::{Event, OnEvent},
    exchange::LogLine,
    future::ResponseFuture,
    handle::OverseerHandle,
    layer::OverseerLayer,
    metrics::EXECUTION_SECONDS_BUCKETS,
    record::{HeaderValues, InvalidRecord, RecordedRequest},
    recorder::Recording,
    replay::{LoadedPolicy, Outcome, PolicyEngine, Replayed, Timing},
    report::{DryRun, Facts, Finding, LoadReport, Severity},
    service::Overseer,
    status::{CandidateStatus, FuelBucket, FuelStatus, PolicyStatus},
    verdict::Cause,
};
