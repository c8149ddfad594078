//! Why a governance message changes nothing.

use std::fmt;

use serde::Serialize;

use crate::wire::AlertSeverity;

/// A message was refused: it changes nothing but the audit trail and a metric. A stop or a pause may hold all the same, on the node
/// that it was sent to; then `detail` says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// The cause, a closed set: the label of `shield_rollout_refused_total`.
    pub reason: Reason,
    /// What exactly, for people.
    pub detail: String,
    /// The counter that the message's issuer has come to, where that is why: one above it is taken.
    pub last_counter: Option<u64>,
    /// What time it was by the log, microseconds since the Unix epoch, where the signer's clock is why.
    pub log_time_us: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            last_counter: None,
            log_time_us: None,
        }
    }

    /// Names the counter that the issuer has come to.
    pub(crate) fn after(self, last: u64) -> Self {
        Self {
            last_counter: Some(last),
            ..self
        }
    }

    /// Names the log's time, for who signs by another clock.
    pub(crate) fn at(self, log_time_us: u64) -> Self {
        Self {
            log_time_us: Some(log_time_us),
            ..self
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The closed set of causes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every cause.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in metrics, replies and the audit trail.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// Not the JSON of a control message.
    Malformed = "malformed",
    /// More than 64 KiB.
    Oversize = "oversize",
    /// A signature over another kind of payload.
    PayloadType = "payload_type",
    /// No signature where one is required.
    Unsigned = "unsigned",
    /// A signature that does not verify.
    BadSignature = "bad_signature",
    /// Signed by a key this node does not know.
    UnknownKey = "unknown_key",
    /// A stop or a pause of before this node's first contact, signed by a key that it does not know: other nodes may have it in
    /// force.
    KeyGone = "key_gone",
    /// Signed by fewer keys than required.
    Threshold = "threshold",
    /// Signed by a key that may not sign such a message.
    Role = "role",
    /// Meant for another tenant.
    WrongTenant = "wrong_tenant",
    /// The scope is not the proposal's, or not inside the tenant.
    WrongScope = "wrong_scope",
    /// Came by a channel such a message does not use.
    Channel = "channel",
    /// Signed for another key set.
    Epoch = "epoch",
    /// The counter is not above the last one.
    Stale = "stale",
    /// The very message was accepted before: nothing happens.
    Duplicate = "duplicate",
    /// The very message was refused before: it counts once, and has to be signed anew.
    Spent = "spent",
    /// A stop or a pause that holds on the node it was sent to, and that nobody keeps for the log: too many wait for that already.
    Crowded = "crowded",
    /// Too many messages of one issuer that change nothing.
    Rate = "rate",
    /// The same counter or id with other content.
    Equivocation = "equivocation",
    /// Recorded after it expired.
    Expired = "expired",
    /// Issued in the future.
    NotYetValid = "not_yet_valid",
    /// No pending proposal of this id.
    UnknownProposal = "unknown_proposal",
    /// The approval is of another text than the proposal's.
    DigestMismatch = "digest_mismatch",
    /// The proposal was stopped, replaced or finished.
    Tombstoned = "tombstoned",
    /// Another rollout runs in this scope.
    Busy = "busy",
    /// Stopped until resumed.
    Stopped = "stopped",
    /// An enforced variant is in force.
    Forced = "forced",
    /// Paused until resumed.
    Frozen = "frozen",
    /// One approval waits already.
    Parked = "parked",
    /// An approval without a ramp.
    Unramped = "unramped",
    /// A ramp out of range.
    InvalidRollout = "invalid_rollout",
    /// A variant the catalog does not have.
    UnknownVariant = "unknown_variant",
    /// A parameter the catalog does not have or allow.
    InvalidParams = "invalid_params",
    /// A proposal out of bounds.
    InvalidProposal = "invalid_proposal",
    /// Too many proposals wait.
    PendingFull = "pending_full",
    /// The catalog cannot be fetched or read, or is not the one announced.
    Catalog = "catalog",
    /// The catalog is not newer.
    CatalogVersion = "catalog_version",
    /// A key set that cannot be used.
    InvalidKeys = "invalid_keys",
    /// This node does not know what others have of the tenant, and serves only its baselines: another one may take it.
    Held = "held",
    /// The audit trail cannot be written, so nothing may be loosened.
    Audit = "audit",
}

impl Reason {
    /// How bad it is that somebody tried.
    pub fn severity(self) -> AlertSeverity {
        match self {
            Self::Equivocation | Self::Crowded | Self::KeyGone => AlertSeverity::Critical,
            Self::DigestMismatch | Self::BadSignature | Self::UnknownKey | Self::Unsigned | Self::Audit => {
                AlertSeverity::Error
            }
            Self::Duplicate => AlertSeverity::Info,
            _ => AlertSeverity::Warning,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serialised_name_is_the_label() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
