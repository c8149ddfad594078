//! Facts about the mirror that the rest of the program may want to know.

use std::sync::Arc;

use crate::Reason;

/// A change of the mirror's health or rules. Events are reports: nothing depends on their delivery.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ShadowEvent {
    /// Copies are being lost to a fault of the mirror (see [`Reason::is_fault`]); told when it begins and once in ten
    /// seconds while it lasts.
    Degraded {
        /// The reason that lost most.
        reason: Reason,
        /// Copies lost to all faults since the last event.
        dropped: u64,
        /// The share of each rule's sample that is still being mirrored, 0.0 to 1.0 (1.0: nothing is shed).
        kept: f64,
    },
    /// No copy was lost to a fault for ten seconds, and nothing is shed any more.
    Recovered,
    /// The rules, or a rule's percent, changed at run time.
    RulesChanged {
        /// How many rules there are now.
        rules: usize,
    },
}

/// What is called with each event: from the drain task or the thread that uses the handle, never from a request.
pub type OnEvent = Arc<dyn Fn(ShadowEvent) + Send + Sync>;
