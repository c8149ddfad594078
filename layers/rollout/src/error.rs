//! What can go wrong outside of a refusal.

use crate::{log::LogError, refusal::Refusal};

/// Why a config cannot be used: every finding at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ConfigError(pub Vec<Finding>);

/// One thing that is wrong in a config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` = {value}: {fix}")]
pub struct Finding {
    /// The key, below `[platform.rollout]`.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What to do.
    pub fix: String,
}

impl Finding {
    pub(crate) fn new(key: impl Into<String>, value: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            fix: fix.into(),
        }
    }
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// It was refused. It changed nothing, but for a stop or a pause that holds on this node alone, as the detail says.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be written to the log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// It is in the log, and this node has not come to it in time.
    #[error("in the log at {seq}, not yet in force on this node")]
    Pending {
        /// Its position.
        seq: u64,
    },
}

/// Why a [`GovernanceClient`](crate::GovernanceClient) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The proposal was refused, or could not be written.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Telemetry or an alert is out of bounds.
    #[error("{0}")]
    Report(String),
    /// The log did not take the report.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The reader was too slow: so many messages are lost to it. The state is not; read the status.
    #[error("{0} messages were missed")]
    Lagged(u64),
    /// The executor is gone.
    #[error("the executor is gone")]
    Closed,
}
