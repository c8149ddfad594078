//! Facts for the rest of the program.

use std::sync::Arc;

use serde::Serialize;

use crate::verdict::Cause;

/// Something that happened to the policies. Events are facts, not state: whoever misses one reads
/// [`OverseerHandle::policies`](crate::OverseerHandle::policies).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A policy runs another module now.
    PolicyReloaded {
        /// The policy.
        name: String,
        /// SHA-256 of the module's file.
        sha256: String,
    },
    /// A module was refused; the policy goes on with the one it had.
    PolicyRefused {
        /// The policy.
        name: String,
        /// Every error found.
        findings: Vec<String>,
    },
    /// A candidate runs beside the active module.
    CandidateInstalled {
        /// The policy.
        name: String,
        /// SHA-256 of the candidate's file.
        sha256: String,
    },
    /// A candidate was taken away; the policy goes on with the module it has.
    CandidateDropped {
        /// The policy.
        name: String,
        /// SHA-256 of the candidate's file.
        sha256: String,
    },
    /// The chain was replaced by that of a new configuration.
    Reconfigured {
        /// The policies, in order.
        names: Vec<String>,
    },
    /// A new configuration was refused; everything goes on as it was.
    ReconfigureRefused {
        /// Why.
        reason: String,
    },
    /// A policy gave no verdict and the request passed, because the operator wrote so. At most one a second for each policy
    /// and cause; `shield_overseer_failures_total` counts all.
    FailedOpen {
        /// The policy.
        name: String,
        /// Why it gave none.
        cause: Cause,
    },
}

/// Takes events. It is called on the thread where they happen and must not block.
pub type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;
