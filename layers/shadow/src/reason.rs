//! Why a sampled request has no copy.

use std::fmt;

use serde::Serialize;

/// Why a sampled request was not mirrored: a closed set, the `reason` label of `shield_mirror_dropped_total` (DESIGN 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The queue held its maximum of messages.
    QueueFull,
    /// The bytes held for copies (being teed, queued and being delivered) reached their budget.
    ByteBudget,
    /// The body is larger than the rule's `max_body_bytes`.
    BodyTooLarge,
    /// The copy is larger than the sink takes (for NATS: the server's `max_payload`).
    MaxPayload,
    /// The sink has no connection.
    Disconnected,
    /// The sink refused or failed.
    PublishError,
    /// The sink did not take the copy within `timeout_ms`.
    Timeout,
    /// Overload: the threshold is lowered and this trace is above it.
    Shed,
    /// The body or the request ended before it was complete: a cancelled upload, a dropped request, or a primary that
    /// answered without reading the whole body.
    Cancelled,
    /// The primary did not answer 2xx, or failed (only with `when = "accepted"`).
    PrimaryRejected,
    /// The sink panicked.
    Panic,
    /// The mirror was shut down, or its drain task is gone.
    Shutdown,
}

impl Reason {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 12] = [
        Self::QueueFull,
        Self::ByteBudget,
        Self::BodyTooLarge,
        Self::MaxPayload,
        Self::Disconnected,
        Self::PublishError,
        Self::Timeout,
        Self::Shed,
        Self::Cancelled,
        Self::PrimaryRejected,
        Self::Panic,
        Self::Shutdown,
    ];

    /// The label: `queue_full`, `byte_budget`, ...
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::ByteBudget => "byte_budget",
            Self::BodyTooLarge => "body_too_large",
            Self::MaxPayload => "max_payload",
            Self::Disconnected => "disconnected",
            Self::PublishError => "publish_error",
            Self::Timeout => "timeout",
            Self::Shed => "shed",
            Self::Cancelled => "cancelled",
            Self::PrimaryRejected => "primary_rejected",
            Self::Panic => "panic",
            Self::Shutdown => "shutdown",
        }
    }

    /// Whether the mirror, and not the request, is at fault: such drops make the mirror degraded.
    #[must_use]
    pub const fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::BodyTooLarge | Self::Cancelled | Self::PrimaryRejected | Self::Shutdown
        )
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_the_place_in_all() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert_eq!(serde_json::to_value(reason).expect("json"), reason.as_str());
        }
    }
}
