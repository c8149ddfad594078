//! What can be wrong with a configuration, a rule's name, or a delivery.

use std::fmt;

use arqon_message::BoxError;

use crate::Reason;

/// One thing wrong with a [`ShadowConfig`](crate::ShadowConfig): which key, which value, why, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigFinding {
    /// The key below `[platform.mirroring]`: `rules[0].percent`.
    pub key: String,
    /// The value as given; empty when the key is missing.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl ConfigFinding {
    pub(crate) fn new(
        key: impl Into<String>,
        value: impl fmt::Display,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            value: value.to_string(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for ConfigFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            write!(f, "{}: {}; {}", self.key, self.problem, self.fix)
        } else {
            write!(f, "{} = {}: {}; {}", self.key, self.value, self.problem, self.fix)
        }
    }
}

/// A configuration that cannot be used, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidConfig {
    pub(crate) findings: Vec<ConfigFinding>,
}

impl InvalidConfig {
    /// Every finding; never empty.
    #[must_use]
    pub fn findings(&self) -> &[ConfigFinding] {
        &self.findings
    }
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mirroring cannot be configured")?;
        self.findings
            .iter()
            .try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

impl std::error::Error for InvalidConfig {}

/// No rule has this pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no mirroring rule has the pattern {pattern:?}")]
pub struct UnknownRule {
    /// The pattern asked for.
    pub pattern: String,
}

/// Why a [`Sink`](crate::Sink) did not take a copy. Each kind is one [`Reason`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The copy is larger than the sink takes.
    #[error("a copy of {size} bytes is above the sink's limit of {limit} bytes")]
    MaxPayload {
        /// The size of the copy in bytes, headers included where the sink counts them.
        size: usize,
        /// The most that the sink takes, in bytes.
        limit: usize,
    },
    /// The sink has no connection now.
    #[error("the sink is not connected")]
    Disconnected,
    /// The sink did not answer in its own time.
    #[error("the sink did not answer in time")]
    Timeout,
    /// The sink refused or failed.
    #[error("the sink failed")]
    Publish(#[source] BoxError),
}

impl SinkError {
    /// A failure with any cause.
    pub fn publish(cause: impl Into<BoxError>) -> Self {
        Self::Publish(cause.into())
    }

    /// The reason under which it is counted.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::MaxPayload { .. } => Reason::MaxPayload,
            Self::Disconnected => Reason::Disconnected,
            Self::Timeout => Reason::Timeout,
            Self::Publish(_) => Reason::PublishError,
        }
    }
}
