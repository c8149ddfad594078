//! Protobuf contracts enforced on the write path, as a tower layer.
//!
//! A mapping says which subjects carry which message of which schema; [`SchemaLayer`] checks the bytes of every message
//! against it, binary or JSON, and refuses what breaks the contract with every violation's path: 400
//! `schema.violation`, `field 'user_id' missing`. Nothing is materialised: a payload is walked once, by a table
//! compiled from the descriptor set, and accepting it allocates nothing.
//!
//! ```
//! use arqon_message::{Subject, SubjectLayer};
//! use arqon_schema::{MappingConfig, MemoryStore, RegistryConfig, SchemaLayer, ValidatedBy, channel};
//! use axum::{Extension, Router, routing::post};
//!
//! let mut config = RegistryConfig::default();
//! config.mappings.push(MappingConfig::new("in.t.*.users.created", "v1.events.user_created").require("user_id"));
//! let (registry, writer) = channel(config)?;
//! let store = MemoryStore::new();
//! store.load(&writer)?;
//! store.put_source(
//!     "v1.events.user_created",
//!     r#"syntax = "proto3"; package events.v1; message UserCreated { string user_id = 1; }"#,
//! )?;
//!
//! let app: Router = Router::new()
//!     .route("/users", post(|Extension(by): Extension<ValidatedBy>| async move { by.message.to_string() }))
//!     // The last layer is the outermost: the subject is named before the payload is checked.
//!     .layer(SchemaLayer::new(registry))
//!     .layer(SubjectLayer::fixed(Subject::parse("in.t.default.users.created")?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The pieces
//!
//! - [`RegistryConfig`] is `[platform.registry]`; [`channel`] makes a [`Registry`] (read by the layer) and a
//!   [`RegistryWriter`] (fed by a [`SchemaStore`]: [`DirStore`], [`MemoryStore`], or your own).
//! - [`Descriptors`] and [`Validator`] are the check itself, without tower, tasks or a clock.
//! - [`Level`] says how much is checked; required paths of a mapping are checked at every level.
//!
//! # Under load
//!
//! A mapped payload is held whole, up to `max_body_bytes`; then its check is linear in its size, binary or JSON, at
//! most 100 levels deep. A new schema revision is compiled off the request path and swapped in at once: a request uses
//! the revision it started with to its end. Warnings are limited to one a second and mapping.
//!
//! # Cancellation
//!
//! Dropping a response future drops what it holds: the body, the readied inner service or the inner future.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admission;
mod common;
mod compat;
mod config;
mod descriptor;
mod descriptors;
mod error;
mod event;
mod future;
mod handle;
mod json;
mod layer;
mod media_type;
mod metrics;
mod outline;
mod path;
mod plan;
mod registry;
mod rules;
mod service;
mod source;
mod store;
mod table;
mod validator;
mod violation;
mod wire;

pub use arqon_message::Violation;

pub use self::{
    admission::SCHEMA_HEADER,
    compat::{Break, Compatibility, Profile, compare},
    config::{
        Encoding, KV_BUCKET, Level, MAPPINGS_MAX, MAX_BODY_BYTES_MAX, MappingConfig, Mode, OnIncompatible,
        OnRegression, OnStale, PINS_MAX, Pins, RegistryConfig, SCHEMAS_MAX, TENANT_SCHEMAS_MAX, UnknownName,
        Unmapped, store_key,
    },
    descriptors::{DESCRIPTOR_BYTES_MAX, Descriptors},
    error::{ApplyError, ConfigError, Finding, LoadError, StoreError},
    event::{Event, EventSink},
    future::ResponseFuture,
    handle::{
        Applied, Origin, RefusedInfo, Registry, RegistryWriter, Route, SchemaInfo, channel, channel_with,
    },
    layer::SchemaLayer,
    registry::{Binding, Change, Contract, Entry, ValidatedBy},
    service::Schema,
    store::{
        Copies, DirStore, MemoryStore, Restored, SchemaStore, compile_folder, read_schema, schema_files,
        schema_id,
    },
    validator::Validator,
    violation::{VIOLATIONS_MAX, Violations, rule},
};
