//! Approved variants to a growing, sticky share of traffic, as a tower layer.
//!
//! A node proposes a variant, operators approve exactly that proposal with a signed ramp, and every node
//! serves the same users the same variant at the same moment: the state is a pure fold ([`apply`]) over an
//! ordered log of signed messages, and a decision is a hash of the user's key against the share of now.
//! An emergency stop serves everyone the baseline, at once, and stays until resumed.
//!
//! # In an axum program
//!
//! ```
//! use arqon_rollout::{Catalog, Config, Executor, RolloutLayer, Variant};
//! use axum::{Extension, Router, routing::get};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let catalog = Catalog::parse(br#"{"version": 1, "baseline": 1, "variants": [
//!     {"id": 1, "name": "stable"},
//!     {"id": 42, "name": "fast", "params": {"alpha": {"default": 0.5, "min": 0, "max": 1}}}
//! ]}"#)?;
//! // Operators' keys belong here; without any, only `allow_unsigned` lets messages in.
//! let config = Config { enabled: true, allow_unsigned: true, ..Config::default() };
//! let executor = Executor::builder(&config).catalog(catalog).build()?;
//! let layer = RolloutLayer::new(&executor.handle());
//! tokio::spawn(executor.run());
//!
//! let app: Router = Router::new()
//!     .route("/", get(|Extension(variant): Extension<Variant>| async move { variant.name.to_string() }))
//!     .layer(layer);
//! # use tower::ServiceExt;
//! # let response = app.oneshot(http::Request::new(axum::body::Body::empty())).await?;
//! # assert_eq!(response.headers()["x-arqon-variant"], "stable");
//! # Ok(())
//! # }
//! ```
//!
//! With feature `axum`, [`Variant`] is an extractor. A handler and the program behind it read `variant.id`,
//! `variant.name` and `variant.param("alpha")`; [`Split`] sends variants to different services instead.
//!
//! # What is sticky
//!
//! [`Key`] says by what: the trace, a verified claim, a header or a cookie. The same key gets the same answer
//! on every node and after every restart, and who is in at 10 % is in at every later percent. A request
//! without the key gets the baseline. A new proposal makes a new cohort, independent of the last one and of
//! what is mirrored. [`Sampling::Random`] is a coin flip for each request.
//!
//! The layer reads the tenant and scope from the request's extensions: [`Subject`](arqon_message::Subject),
//! else [`TenantId`](arqon_message::TenantId), else the only tenant of the config. It puts
//! `Extension<Variant>` and the header `x-arqon-variant` on the request it hands on, and the same header on
//! the response. A tenant without a catalog gets neither.
//!
//! Testers see a variant early by a signed [`Pin`]; an open WebSocket session keeps its variant with
//! [`Cohort::NewSessions`].
//!
//! # Control
//!
//! [`Handle::submit`] takes signed envelopes ([`Control::sign`]); [`GovernanceClient`] is a node's end;
//! [`ControlLog`] is the log, in memory here ([`MemoryLog`]), on JetStream in `arqon`.
//!
//! # Under load
//!
//! A decision is one atomic load, one key lookup and one hash. It takes no lock, does not wait, does not look
//! at the body, and allocates nothing but the extension's entry. It never refuses a request.
//!
//! # Cancellation
//!
//! Dropping the response future drops the inner one. Dropping [`Executor::run`] stops all progress: what is
//! served stays, never rises, and a stop still acts. Dropping [`Handle::submit`] loses only the answer.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod apart;
mod apply;
mod assignment;
mod audit;
mod builder;
mod catalog;
mod catalog_source;
mod client;
mod clock;
mod config;
mod decider;
mod digest;
mod envelope;
mod error;
mod event;
mod executor;
mod future;
mod guard;
mod handle;
mod held;
mod keys;
mod latch;
mod layer;
mod live;
mod log;
mod metrics;
mod moment;
mod pin;
mod ramp;
mod reach;
mod record;
mod refusal;
mod reports;
mod scope;
mod service;
mod session;
mod snapshot;
mod spent;
mod split;
mod state;
mod stats;
mod status;
mod strict;
mod submit;
mod table;
mod tracker;
mod variant;
mod watch;
mod wire;

pub use self::{
    apart::MAX_WAITING_RECORDS,
    apply::{Accepted, MAX_REASON_BYTES, apply},
    assignment::{Cohort, InvalidKey, Key, Sampling},
    audit::{AuditEntry, AuditError, AuditFuture, AuditSink, NoAudit},
    builder::ExecutorBuilder,
    catalog::{Catalog, CatalogError, MAX_CATALOG_BYTES, MAX_PARAMS, MAX_VARIANTS, ParamSpec, VariantSpec},
    catalog_source::{CatalogFuture, CatalogSource, CatalogWanted, FetchError, FileCatalogs, NoCatalogs},
    client::{GovernanceClient, MAX_ENTRIES, PROPOSAL_LIFE_US},
    clock::{Clock, ManualClock, SystemClock, Uptime},
    config::{AuditConfig, CatalogConfig, Config},
    digest::{Digest, DigestError, canonical},
    envelope::{
        Control, Envelope, MAX_ENVELOPE_BYTES, MAX_SIGNATURES, Message, PAYLOAD_TYPE, Rotation, Signature,
        VERSION,
    },
    error::{ClientError, ConfigError, Finding, SubmitError},
    event::{Change, Event, OnEvent},
    executor::{CURRENT, Executor, TICK},
    future::ResponseFuture,
    guard::{GuardAction, GuardConfig},
    handle::{CLIENT_BUFFER, Handle},
    keys::{KeyConfig, KeyError, KeyPair, KeySet, MAX_KEYS, PublicKey},
    latch::Brake,
    layer::RolloutLayer,
    log::{Appended, Batch, ControlLog, LogError, LogFuture, MAX_MEMORY_RECORDS, MemoryLog},
    metrics::{ALONE, DECISIONS, FRACTION, REFUSED, STOPPED, register_metrics},
    pin::{PIN_HEADER, PIN_TYPE, Pin, PinToken},
    ramp::InvalidRollout,
    record::{Channel, InvalidChannel, InvalidNodeId, NodeId, Record, Recovered},
    refusal::{Reason, Refusal},
    service::{Rollout, VARIANT_HEADER},
    session::SessionVariant,
    split::Split,
    state::{
        ApprovedRollout, Cause, Lane, MAX_ORDERS, MAX_PENDING, MAX_SCOPES, MAX_TOMBSTONES, Pending, Policy,
        Scope, State,
    },
    status::{
        CohortStatus, DecisionStatus, GuardStatus, HeldBy, OrderStatus, PendingStatus, RolloutStatus,
        ScopeStatus, SharePoint, SideStatus, Status, TenantStatus,
    },
    submit::{APPEND_TIMEOUT, Reach, Receipt, STOP_TIMEOUT},
    table::{Effect, Phase, Trigger, document, effect},
    tracker::RolloutTracker,
    variant::{Params, Variant},
    wire::{
        AlertSeverity, DownstreamMessage, EnforcementAction, Proposal, RolloutConfig, UpstreamMessage,
        VariantId,
    },
};
