//! Why a bus refused (source: API 1; `Batch` and `Cutover` are additive).

use std::{error::Error, fmt};

/// What went wrong in building or using a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusError {
    /// The configuration breaks a rule of [`BusConfig::validate`](crate::BusConfig::validate); its text.
    Config(String),
    /// Channel closed: nobody subscribes at this moment. The bus stays usable; the event went nowhere.
    Closed,
    /// A batch was empty, too long, too large, or held an event that is not a report.
    Batch(String),
    /// A bus could not be replaced now.
    Cutover(String),
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(reason) => write!(f, "invalid bus config: {reason}"),
            Self::Closed => f.write_str("channel closed (no subscribers)"),
            Self::Batch(reason) => write!(f, "invalid batch: {reason}"),
            Self::Cutover(reason) => write!(f, "cutover refused: {reason}"),
        }
    }
}

impl Error for BusError {}
