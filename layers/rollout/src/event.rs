//! What the layer tells the rest of the program: facts, by a callback that must not block.

use std::sync::Arc;

use arqon_message::TenantId;
use serde::Serialize;

use crate::{refusal::Refusal, table::Phase, wire::AlertSeverity};

/// Receives facts. It runs on the executor's task: it must return at once.
pub type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;

/// A fact.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A message was accepted and is in force.
    Accepted {
        /// Whose.
        tenant: TenantId,
        /// Its position in the log.
        seq: u64,
        /// Its type or action, such as `approval` or `emergency_stop`.
        kind: &'static str,
        /// The names of the keys that signed.
        signed_by: Vec<String>,
    },
    /// A message was refused and changed nothing.
    Refused {
        /// Whose.
        tenant: TenantId,
        /// Its position in the log; None if it never got there.
        seq: Option<u64>,
        /// Why.
        refusal: Refusal,
    },
    /// A scope is in another state, or serves another variant.
    Changed(Change),
    /// Another number of stops and pauses hold on this node alone, because the log refused them or this node had no room for
    /// their scopes.
    Alone {
        /// Whose.
        tenant: TenantId,
        /// How many; 0 when the last one ended.
        orders: usize,
    },
    /// Something a person should know.
    Alert {
        /// How bad.
        severity: AlertSeverity,
        /// What.
        message: String,
    },
}

/// A scope's new state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Whose.
    pub tenant: TenantId,
    /// The subject pattern; empty for the whole tenant.
    pub scope: String,
    /// The state before.
    pub from: Phase,
    /// The state now.
    pub to: Phase,
    /// What is served now, in percent.
    pub percent: f64,
    /// The proposal that runs.
    pub proposal_id: Option<String>,
}
