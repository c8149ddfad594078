//! The messages of the governance protocol, names and fields as the source gives them (S0-3 to S0-10).
//!
//! On the wire they are JSON objects tagged by `type`, actions are tagged by `kind`:
//!
//! ```
//! use arqon_rollout::{DownstreamMessage, EnforcementAction};
//!
//! let enforce = DownstreamMessage::Enforce {
//!     action: EnforcementAction::SetVariant(42),
//!     reason: "incident 7".to_owned(),
//! };
//! assert_eq!(
//!     serde_json::to_string(&enforce)?,
//!     r#"{"type":"enforce","action":{"kind":"set_variant","value":42},"reason":"incident 7"}"#,
//! );
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! Additive to the source: `scope` of a proposal and `digest` of a catalog update, both optional.
//! An unknown key is refused, for a governance message must never mean more than its reader saw.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Names one variant of the catalog.
pub type VariantId = u32;

/// What a node says to the control plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum UpstreamMessage {
    /// A digest of what the node measured (S0-3).
    Telemetry {
        /// Microseconds since the Unix epoch.
        timestamp_us: u64,
        /// Which node measured.
        node_id: String,
        /// Figures by name, such as `latency_p99` (seconds) and `throughput` (requests per second).
        metrics: HashMap<String, f64>,
    },
    /// Asks for a variant to be rolled out (S0-4). Build it from a [`Proposal`].
    Proposal {
        /// Names the proposal; 1 to 128 visible characters.
        id: String,
        /// Microseconds since the Unix epoch.
        timestamp_us: u64,
        /// The variant; without one, `params` tune the baseline.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        variant_id: Option<VariantId>,
        /// Values that replace the variant's defaults, inside the catalog's bounds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        params: Option<HashMap<String, f64>>,
        /// Why, for people.
        reason: String,
        /// 0.0 to 1.0.
        confidence: f64,
        /// Limits the rollout to the subjects of a pattern (additive).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
    },
    /// Something a person should know (S0-5).
    Alert {
        /// Microseconds since the Unix epoch.
        timestamp_us: u64,
        /// How bad.
        severity: AlertSeverity,
        /// What happened.
        message: String,
        /// The figures.
        context: HashMap<String, String>,
    },
}

/// How bad an [`UpstreamMessage::Alert`] is (S0-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertSeverity {
    /// Good to know.
    Info,
    /// Look at it today.
    Warning,
    /// Look at it now.
    Error,
    /// Wake someone.
    Critical,
}

/// The fields of [`UpstreamMessage::Proposal`] as a struct, so that `..Default::default()` works.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// Names the proposal; 1 to 128 visible characters.
    pub id: String,
    /// Microseconds since the Unix epoch. [`GovernanceClient::send`](crate::GovernanceClient::send) fills in a zero.
    pub timestamp_us: u64,
    /// The variant; without one, `params` tune the baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant_id: Option<VariantId>,
    /// Values that replace the variant's defaults, inside the catalog's bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<HashMap<String, f64>>,
    /// Why, for people.
    pub reason: String,
    /// 0.0 to 1.0.
    pub confidence: f64,
    /// Limits the rollout to the subjects of a pattern (additive).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl From<Proposal> for UpstreamMessage {
    fn from(proposal: Proposal) -> Self {
        let Proposal {
            id,
            timestamp_us,
            variant_id,
            params,
            reason,
            confidence,
            scope,
        } = proposal;
        Self::Proposal {
            id,
            timestamp_us,
            variant_id,
            params,
            reason,
            confidence,
            scope,
        }
    }
}

impl UpstreamMessage {
    /// The proposal in this message, if it is one.
    pub fn into_proposal(self) -> Option<Proposal> {
        match self {
            Self::Proposal {
                id,
                timestamp_us,
                variant_id,
                params,
                reason,
                confidence,
                scope,
            } => Some(Proposal {
                id,
                timestamp_us,
                variant_id,
                params,
                reason,
                confidence,
                scope,
            }),
            Self::Telemetry { .. } | Self::Alert { .. } => None,
        }
    }
}

/// What the control plane says to the nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum DownstreamMessage {
    /// Lets a pending proposal go live (S0-6).
    Approval {
        /// The proposal's id.
        proposal_id: String,
        /// `sha256:<hex>` of the proposal, see [`Digest`](crate::Digest): what was approved is what runs.
        proposal_digest: String,
        /// The ramp. None means at once and is refused unless `allow_unramped`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollout: Option<RolloutConfig>,
    },
    /// Overrides what runs (S0-8).
    Enforce {
        /// What to do.
        action: EnforcementAction,
        /// Why, for people.
        reason: String,
    },
    /// Replaces the catalog of variants (S0-10).
    CatalogUpdate {
        /// Strictly newer than the one in use.
        version: u64,
        /// `kv://<bucket>/<key>` or an allow-listed `file://`.
        source_uri: String,
        /// `sha256:<hex>` of the catalog's bytes (additive).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
}

/// How the share of traffic grows, in percent, 0.0 to 100.0 (S0-7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutConfig {
    /// Where it starts.
    pub initial_percent: f64,
    /// How much a minute of active time adds.
    pub increment_per_minute: f64,
    /// Where it stops.
    pub max_percent: f64,
}

/// What [`DownstreamMessage::Enforce`] orders (S0-9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    content = "value",
    rename_all = "snake_case",
    deny_unknown_fields
)]
pub enum EnforcementAction {
    /// Everyone gets this variant.
    SetVariant(VariantId),
    /// Everyone gets the variant in use with these parameters.
    SetParams(HashMap<String, f64>),
    /// Everyone gets the baseline, at once, until resumed.
    EmergencyStop,
    /// Nothing changes but by another enforcement.
    PauseAdaptation,
    /// Ends a pause or a stop.
    ResumeAdaptation,
}

impl EnforcementAction {
    /// The name on the wire.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::SetVariant(_) => "set_variant",
            Self::SetParams(_) => "set_params",
            Self::EmergencyStop => "emergency_stop",
            Self::PauseAdaptation => "pause_adaptation",
            Self::ResumeAdaptation => "resume_adaptation",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_in_every_message() {
        for text in [
            r#"{"type":"approval","proposal_id":"a","proposal_digest":"b","extra":1}"#,
            r#"{"type":"enforce","action":{"kind":"emergency_stop","by":1},"reason":"r"}"#,
            r#"{"type":"enforce","action":{"kind":"reboot"},"reason":"r"}"#,
            r#"{"type":"approve","proposal_id":"a"}"#,
        ] {
            assert!(serde_json::from_str::<DownstreamMessage>(text).is_err(), "{text}");
        }
        let text = r#"{"type":"proposal","id":"a","timestamp_us":1,"reason":"","confidence":1,"x":0}"#;
        assert!(serde_json::from_str::<UpstreamMessage>(text).is_err());
    }

    #[test]
    fn a_unit_action_has_only_a_kind() {
        let text = r#"{"type":"enforce","action":{"kind":"emergency_stop"},"reason":"r"}"#;
        let message: DownstreamMessage = serde_json::from_str(text).unwrap();
        assert!(matches!(
            &message,
            DownstreamMessage::Enforce {
                action: EnforcementAction::EmergencyStop,
                ..
            }
        ));
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
    }
}
