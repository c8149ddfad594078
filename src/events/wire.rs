//! The form in which facts leave the process.

use std::fmt;

use ron_bus::Event;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::redact::{redacted, redacted_name, redacted_rollout};

/// A fact in the form in which it leaves the process: JSON with the tag `event` (source: INTEROP 8.1; the reports are
/// additive; ADR 9). Reading is strict: another tag, field or type is an error. Vectors: `tests/vectors/events/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    remote = "Self",
    tag = "event",
    rename_all = "snake_case",
    deny_unknown_fields
)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "the fields are those of `ron_bus::Event`, documented there; `corr_id` names the fact"
)]
pub enum WireEvent {
    Health {
        service: String,
        ok: bool,
        corr_id: String,
    },
    ConfigUpdated {
        version: u64,
        corr_id: String,
    },
    ServiceCrashed {
        service: String,
        reason: String,
        corr_id: String,
    },
    Shutdown {
        corr_id: String,
    },
    PolicyReloaded {
        policy: String,
        revision: u64,
        ok: bool,
        corr_id: String,
    },
    SchemaChanged {
        schema_id: String,
        revision: u64,
        corr_id: String,
    },
    RolloutChanged {
        rollout: String,
        seq: u64,
        basis_points: u16,
        corr_id: String,
    },
    MirrorDegraded {
        reason: String,
        dropped: u64,
        corr_id: String,
    },
}

impl Serialize for WireEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// From an object alone: what is derived would take a list of the fields too.
impl<'de> Deserialize<'de> for WireEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = WireEvent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the tag `event`")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WireEvent, A::Error> {
                WireEvent::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Who reads the exported events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// Anybody who may see metrics.
    #[default]
    Observer,
    /// A holder of the control token: sees `Shutdown` too.
    Admin,
}

impl WireEvent {
    /// The exported form of one fact (not of a batch: export each of [`Event::facts`]), or `None` when it stays inside:
    /// `Shutdown` for observers, and whatever a later version of the bus adds. A reason keeps its first line only, cut
    /// at 120 characters; a name (of a service, policy, schema or rollout) its first line, cut at 256 characters. Both
    /// are without what looks like a credential: best effort, so no host publishes a secret on purpose.
    #[must_use]
    pub fn export(fact: &Event, corr_id: &str, audience: Audience) -> Option<Self> {
        let corr_id = corr_id.to_owned();
        Some(match fact {
            Event::Health { service, ok } => Self::Health {
                service: redacted_name(service),
                ok: *ok,
                corr_id,
            },
            Event::ConfigUpdated { version } => Self::ConfigUpdated {
                version: *version,
                corr_id,
            },
            Event::ServiceCrashed { service, reason } => Self::ServiceCrashed {
                service: redacted_name(service),
                reason: redacted(reason),
                corr_id,
            },
            Event::Shutdown if audience == Audience::Admin => Self::Shutdown { corr_id },
            Event::PolicyReloaded { policy, revision, ok } => Self::PolicyReloaded {
                policy: redacted_name(policy),
                revision: *revision,
                ok: *ok,
                corr_id,
            },
            Event::SchemaChanged { schema_id, revision } => Self::SchemaChanged {
                schema_id: redacted_name(schema_id),
                revision: *revision,
                corr_id,
            },
            Event::RolloutChanged {
                rollout,
                seq,
                basis_points,
            } => Self::RolloutChanged {
                rollout: redacted_rollout(rollout),
                seq: *seq,
                basis_points: *basis_points,
                corr_id,
            },
            Event::MirrorDegraded { reason, dropped } => Self::MirrorDegraded {
                reason: redacted(reason),
                dropped: *dropped,
                corr_id,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
