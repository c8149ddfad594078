//! Where an executor writes what it did, before it acknowledges it.

use std::{future::Future, pin::Pin};

use bytes::Bytes;

use crate::refusal::Refusal;

/// What [`AuditSink::append`] yields: done means on disk.
pub type AuditFuture<'a> = Pin<Box<dyn Future<Output = Result<(), AuditError>> + Send + 'a>>;

/// The trail could not be written: nothing may be loosened until it can.
#[derive(Debug, thiserror::Error)]
#[error("the audit trail cannot be written")]
pub struct AuditError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// One control message and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Position in the log; None for a message that was refused before it got there.
    pub seq: Option<u64>,
    /// When the log stored it, or the node refused it.
    pub received_at_us: u64,
    /// The channel, `gov.t.<tenant>.down` or `gov.t.<tenant>.up.<node>`; `unread` if that could not be told.
    pub channel: String,
    /// The envelope, verbatim.
    pub envelope: Bytes,
    /// The catalog it brought.
    pub catalog: Option<Bytes>,
    /// Why it was refused; None if it was accepted.
    pub refusal: Option<Refusal>,
}

/// An append-only trail.
pub trait AuditSink: Send + Sync + 'static {
    /// Writes an entry; ready when it is on disk.
    fn append(&self, entry: AuditEntry) -> AuditFuture<'_>;

    /// Whether it is a trail at all: what it took outlives this process.
    fn is_durable(&self) -> bool {
        true
    }
}

/// Keeps nothing: for programs whose control log is kept elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAudit;

impl AuditSink for NoAudit {
    fn append(&self, _entry: AuditEntry) -> AuditFuture<'_> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_durable(&self) -> bool {
        false
    }
}
