//! The vocabulary of Arqon: what a message is, whose it is, and how a request is refused.
//!
//! Every Arqon layer works on `http::Request` and `http::Response`. A message that comes in as an HTTP publish, a
//! WebSocket frame or a NATS message is one request; what HTTP has no place for travels in the request's extensions:
//! [`Subject`], [`TenantId`], [`TraceKey`], [`TraceContext`], [`ConnectionId`], [`Claims`], [`RemoteAddr`], [`Protocol`].
//!
//! ```
//! use arqon_message::{Fraction, Sampler, Subject, SubjectPattern, TenantId};
//!
//! let tenant = TenantId::new("default")?;
//! let subject = Subject::for_tenant(&tenant, "users.created")?;
//! assert_eq!(subject.as_str(), "in.t.default.users.created");
//! assert!(SubjectPattern::parse("in.t.*.users.>")?.matches(&subject));
//!
//! // The same key gets the same answer on every node, in every language, after every restart.
//! let ten_percent = Fraction::new(0.10)?.threshold();
//! let key = b"4bf92f3577b34da6a3ce929d0e0e4736";
//! assert!(!Sampler::new(0).sample(key, ten_percent));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Everything here is pure: no task, no clock, no I/O, and no knowledge of NATS or axum (the `axum` feature adds
//! `Connected` for [`ConnectionId`] and [`RemoteAddr`]).
#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod claims;
mod code;
mod collect;
mod connection;
mod fraction;
mod origin;
mod problem;
mod rejection;
mod sampler;
mod subject;
mod tenant;
mod trace;

pub use self::{
    body::{BodyTap, MessageBody},
    claims::Claims,
    code::Code,
    collect::{BodyBroken, BodyTimeout, Collect, CollectError, Collected, collect},
    connection::{ConnectionId, PerConnection},
    fraction::{Fraction, InvalidFraction, Threshold},
    origin::{Protocol, RemoteAddr},
    problem::{Problem, RequestIds, Violation},
    rejection::Rejection,
    sampler::Sampler,
    subject::{
        InvalidSubject, SUBJECT_BYTES_MAX, Subject,
        layer::{NameSubject, SubjectFuture, SubjectLayer, WithSubject},
        pattern::{InvalidPattern, SubjectPattern},
        trie::{DuplicatePattern, SubjectTrie},
    },
    tenant::{InvalidTenantId, TenantId},
    trace::{KeySource, TraceContext, TraceKey},
};

/// The default cap on a body that a layer has to see whole: 1 MiB, which is also NATS' default `max_payload`.
pub const MAX_BODY_BYTES: usize = 1_048_576;

/// A boxed error of any kind, as `tower` and `axum` spell it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
