//! The facts a bus carries (source: API 1, INTEROP 2.1; the reports are additive).

use std::slice;

use crate::Reports;

/// A fact about the program. Match with a catch-all arm: variants are added in minor versions.
///
/// An event says *that* something changed, never *what the state is*: after a loss a subscriber reads the
/// state itself. Never put a secret, a token or a payload into one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A component's health flipped.
    Health {
        /// The component.
        service: String,
        /// Healthy or not.
        ok: bool,
    },
    /// The host has a new configuration.
    ConfigUpdated {
        /// Grows with each configuration.
        version: u64,
    },
    /// A supervised component died.
    ServiceCrashed {
        /// The component.
        service: String,
        /// For operators; free of secrets.
        reason: String,
    },
    /// The host begins to shut down.
    Shutdown,
    /// Report: a policy module was swapped, or a bad one refused and the last good one kept.
    PolicyReloaded {
        /// The policy's name.
        policy: String,
        /// Counts the loads of this policy.
        revision: u64,
        /// `false`: refused, the last good one stays.
        ok: bool,
    },
    /// Report: a schema has a new revision.
    SchemaChanged {
        /// The schema's id.
        schema_id: String,
        /// The store's revision.
        revision: u64,
    },
    /// Report: a rollout moved (ramp step, pause, stop, resume).
    RolloutChanged {
        /// The rollout: tenant, or tenant and scope.
        rollout: String,
        /// Position in the control log.
        seq: u64,
        /// Share of traffic now, 0 to 10,000.
        basis_points: u16,
    },
    /// Report: mirrored traffic is being shed or lost.
    MirrorDegraded {
        /// Why, from the mirror's closed set of reasons.
        reason: String,
        /// Messages lost for this reason so far.
        dropped: u64,
    },
    /// Several reports in one slot, made by [`Bus::publish_batch`](crate::Bus::publish_batch) only.
    ///
    /// A raw receiver sees a batch as one event, and its `Lagged(n)` counts slots. A
    /// [`Subscriber`](crate::Subscriber) counts events, by these numbers.
    #[non_exhaustive]
    Batch {
        /// Batches sent on this bus before this one.
        batch_index: u64,
        /// Reports sent in batches on this bus before this one's first.
        first_seq: u64,
        /// Reports in this batch, 1 to 64.
        len: u32,
        /// The reports, in order; shared, never copied.
        reports: Reports,
    },
}

impl Event {
    /// The variant's name in snake case: a label, a log's `event` field.
    #[must_use]
    #[inline]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Health { .. } => "health",
            Self::ConfigUpdated { .. } => "config_updated",
            Self::ServiceCrashed { .. } => "service_crashed",
            Self::Shutdown => "shutdown",
            Self::PolicyReloaded { .. } => "policy_reloaded",
            Self::SchemaChanged { .. } => "schema_changed",
            Self::RolloutChanged { .. } => "rollout_changed",
            Self::MirrorDegraded { .. } => "mirror_degraded",
            Self::Batch { .. } => "batch",
        }
    }

    /// Whether it only reports, so that it may travel in a batch. The source's four variants do not.
    #[must_use]
    pub fn is_report(&self) -> bool {
        matches!(
            self,
            Self::PolicyReloaded { .. }
                | Self::SchemaChanged { .. }
                | Self::RolloutChanged { .. }
                | Self::MirrorDegraded { .. }
        )
    }

    /// The facts in it: a batch's reports, else the event itself. A loop over this needs no batch arm.
    ///
    /// ```
    /// use ron_bus::Event;
    /// assert_eq!(Event::Shutdown.facts(), [Event::Shutdown]);
    /// ```
    #[must_use]
    #[inline]
    pub fn facts(&self) -> &[Event] {
        match self {
            Self::Batch { reports, .. } => reports,
            _ => slice::from_ref(self),
        }
    }

    /// Bytes of its slot and its text, and of what its text has reserved besides.
    pub(crate) fn size(&self) -> Size {
        let mut size = Size {
            used: size_of::<Self>(),
            spare: 0,
        };
        let mut add = |text: &String| {
            size.used += text.len();
            size.spare += text.capacity() - text.len();
        };
        match self {
            Self::Health { service: text, .. }
            | Self::PolicyReloaded { policy: text, .. }
            | Self::SchemaChanged { schema_id: text, .. }
            | Self::RolloutChanged { rollout: text, .. }
            | Self::MirrorDegraded { reason: text, .. } => add(text),
            Self::ServiceCrashed { service, reason } => {
                add(service);
                add(reason);
            }
            // A batch in a batch is refused before its size is asked.
            Self::ConfigUpdated { .. } | Self::Shutdown | Self::Batch { .. } => {}
        }
        size
    }
}

/// Bytes of one event, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Slots and text.
    pub(crate) used: usize,
    /// Reserved by the texts and never written.
    pub(crate) spare: usize,
}
