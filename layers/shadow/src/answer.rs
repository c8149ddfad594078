//! An answer that was looked at in passing.

use bytes::Bytes;
use http::StatusCode;

/// What somebody answered: status and body, as far as it was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body; empty when it is not complete.
    pub body: Bytes,
    /// Whether `body` is the whole body: it was within the cap and the budget, and was read to its end.
    pub complete: bool,
}

impl Answer {
    /// A whole answer.
    #[must_use]
    pub fn new(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            body: body.into(),
            complete: true,
        }
    }

    /// An answer of which only the status is known.
    #[must_use]
    pub fn of_status(status: StatusCode) -> Self {
        Self {
            status,
            body: Bytes::new(),
            complete: false,
        }
    }
}
