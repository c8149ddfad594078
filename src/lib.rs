//! Tower middleware that turns any axum or hyper server into a programmable, governed edge.
//!
//! Four layers, one at a time or as one [`Stack`]: [`OverseerLayer`] runs sandboxed Wasm policies, [`SchemaLayer`] checks
//! payloads against Protobuf contracts, [`RolloutLayer`] sends a growing, sticky share of traffic to an approved variant,
//! [`ShadowLayer`] mirrors a coherent sample. [`bus`] tells the rest of the program what changed.
//!
//! A *message is a request*: HTTP publishes, WebSocket frames and NATS messages pass the same stack as `http::Request`s,
//! and a refusal is a response with a typed [`Rejection`], never an error. So `.layer(ours)` compiles on an axum `Router`
//! and on a bare hyper-util server alike.
//!
//! ```
//! use arqon::{OverseerLayer, overseer::{OverseerConfig, PolicyConfig}};
//! use axum::{Router, routing::get};
//!
//! let deny_all = r#"(module
//!   (memory (export "memory") 1)
//!   (global (export "arqon_abi_v1") i32 (i32.const 1))
//!   (func (export "on_request") (result i32) i32.const 1))"#;
//! let overseer = OverseerLayer::new(OverseerConfig::of([PolicyConfig::from_module("deny_all", deny_all)]))?;
//! let app: Router = Router::new().route("/", get(|| async { "never reached" })).layer(overseer);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`config::Config`] and [`platform::Platform`] make a whole program of a `gateway.toml`; `memory` is the embedded
//! engine, `nats` (a feature) the distributed one. Features: `nats`, `jwt` (bearer tokens), `axum` (extractors), `cli` (the operator's command
//! line), `full`.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod audit;
pub mod config;
pub mod edge;
pub mod events;
pub mod files;
pub mod memory;
pub mod observe;
#[cfg(any(feature = "jwt", feature = "otlp"))]
mod outbound;
pub mod platform;
pub mod publish;
mod stack;
pub mod supervise;

#[cfg(feature = "cli")]
#[cfg_attr(docsrs, doc(cfg(feature = "cli")))]
pub mod cli;
#[cfg(feature = "nats")]
#[cfg_attr(docsrs, doc(cfg(feature = "nats")))]
pub mod nats;

pub use arqon_message::*;
pub use arqon_overseer::{self as overseer, OverseerLayer};
pub use arqon_rollout::{self as rollout, RolloutLayer, Variant};
pub use arqon_schema::{self as schema, SchemaLayer, ValidatedBy};
pub use arqon_shadow::{self as shadow, ShadowLayer, is_shadow};
pub use ron_bus as bus;

#[cfg(feature = "axum")]
pub use self::events::RequestBus;
pub use self::{
    events::{BusLayer, WireEvent},
    stack::{Authentication, Stack, Stacked},
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
