//! Coherent traffic mirroring that the primary never feels, as a `tower` layer.
//!
//! [`ShadowLayer`] copies a sample of the requests that pass to a [`Sink`]: to `shadow.<subject>` on NATS, to another
//! HTTP service, to a recording. The sample is *coherent*: it is chosen by a hash of the request's trace (or
//! connection), so of one trace everything is copied or nothing, on every node, after every restart.
//!
//! ```
//! use arqon_message::{Subject, SubjectLayer};
//! use arqon_shadow::{RecordingSink, RuleConfig, ShadowConfig, ShadowLayer};
//! use axum::{Router, body::Body, http::Request, routing::post};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sink = RecordingSink::new(100);
//! let config = ShadowConfig::default().rule(RuleConfig::new("in.t.default.>", "100%"));
//! let (shadow, _handle, drain) = ShadowLayer::channel(&config, sink.clone())?;
//! tokio::spawn(drain.run());
//!
//! let app = Router::new()
//!     .route("/orders", post(|body: String| async move { format!("got {body}") }))
//!     .layer(shadow)
//!     .layer(SubjectLayer::fixed(Subject::parse("in.t.default.orders")?)); // the last layer is the outermost
//!
//! let order = Request::post("/orders")
//!     .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
//!     .body(Body::from("42 apples"))?;
//! assert!(app.oneshot(order).await?.status().is_success());
//!
//! sink.recorded(1).await;
//! let copy = &sink.copies()[0];
//! assert_eq!(copy.subject.as_str(), "shadow.in.t.default.orders");
//! assert_eq!(copy.body, "42 apples");
//! assert!(arqon_shadow::is_shadow(&copy.headers()));
//! # Ok(())
//! # }
//! ```
//!
//! A request that carries the mark is taken for a copy, and its primary for one that causes no effects: where clients are not
//! trusted, something outside of this layer takes the mark off them (in `arqon` that is `ReservedHeadersLayer`).
//!
//! Rules name subject patterns; the most specific one decides. Percents, methods, caps and the time of the copy are the
//! rule's, and a percent changes at run time:
//!
//! ```
//! use arqon_message::Fraction;
//! use arqon_shadow::{RecordingSink, RuleConfig, ShadowConfig, ShadowLayer};
//!
//! let config = ShadowConfig::default()
//!     .rule(RuleConfig::new("in.t.*.>", 0.01))
//!     .rule(RuleConfig::new("in.t.*.orders.*", 0.10).with_methods(["POST"]).with_max_body_bytes(16_384).at_arrival());
//! let (_layer, handle, _drain) = ShadowLayer::channel(&config, RecordingSink::new(100))?;
//! handle.set_percent("in.t.*.>", Fraction::new(0.02)?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Coherence
//! A request is in when `xxh3_64_with_seed(key, seed)` lies below the rule's threshold. All rules share one seed, so the
//! 5 % of one subject are among the 10 % of another. Stated exceptions, all counted: a live change of percent moves the
//! border once, bodies above the cap and overload drop copies. The key is [`TraceKey`](arqon_message::TraceKey); a
//! request without a trace or a [`ConnectionId`](arqon_message::ConnectionId) is not mirrored, and counted.
//!
//! # Under load
//! The request path never waits for the mirror: it takes a `try_send` into a queue that is bounded in messages and bytes
//! (bodies being teed count too). One [`DrainTask`] delivers, with a timeout for each copy. Above the high-water mark the
//! threshold is lowered, so that whole traces are let go and not random messages. [`ShadowHandle::stats`] keeps exact
//! books: sampled = mirrored + dropped by [`Reason`] + in flight.
//!
//! # Cancellation
//! Dropping the response future or the body at any point cancels the primary as if this layer were not there; a copy
//! that is not complete then is counted as `cancelled`. A partial copy is never sent.
//!
//! # For those who consume the copies
//! Every copy carries `x-arqon-shadow: true` once; a consumer asks [`is_shadow`] and causes no side effect.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod body;
#[cfg(feature = "compare")]
#[cfg_attr(docsrs, doc(cfg(feature = "compare")))]
pub mod compare;
mod config;
mod copy;
mod decision;
mod drain;
mod error;
mod event;
mod frames;
mod future;
mod gate;
mod handle;
mod head;
mod layer;
mod ledger;
mod limits;
mod marker;
mod metrics;
mod mirror;
mod pin;
mod reason;
mod rule;
mod rules;
mod service;
mod shed;
mod sink;
mod tap;
mod tee;

pub use self::{
    answer::Answer,
    body::ShadowBody,
    config::{CompareConfig, RuleConfig, ShadowConfig, Share, When},
    copy::ShadowCopy,
    drain::DrainTask,
    error::{ConfigFinding, InvalidConfig, SinkError, UnknownRule},
    event::{OnEvent, ShadowEvent},
    future::ResponseFuture,
    handle::{RuleState, ShadowHandle, ShadowState, ShadowStats},
    layer::ShadowLayer,
    marker::{SHADOW, SHADOW_OF, is_shadow, is_shadow_field},
    pin::SessionPin,
    reason::Reason,
    service::Shadow,
    sink::{CopyBody, Delivery, HttpSink, InvalidTarget, RecordingSink, Sink},
    tap::{ResponseTap, ResponseTapLayer, TapBody, TapFuture},
};
