//! An answer that was looked at in passing.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// What somebody answered: status, type and body, as far as it was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The header `content-type`.
    pub content_type: Option<HeaderValue>,
    /// The body; empty when it is not complete.
    pub body: Bytes,
    /// Whether `body` is the whole body: it was within the cap and the budget, and was read to its end.
    pub complete: bool,
    /// Whether the body broke off: its sender failed in the middle of it.
    pub broken: bool,
    /// The body is larger than so many bytes, and was not kept.
    pub cut_at: Option<usize>,
}

impl Answer {
    /// A whole answer.
    #[must_use]
    pub fn new(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: None,
            body: body.into(),
            complete: true,
            broken: false,
            cut_at: None,
        }
    }

    /// An answer of which only the status is known.
    #[must_use]
    pub fn of_status(status: StatusCode) -> Self {
        Self {
            complete: false,
            ..Self::new(status, Bytes::new())
        }
    }

    /// The same, of the type that `headers` name.
    #[must_use]
    pub fn typed(mut self, headers: &HeaderMap) -> Self {
        self.content_type = headers.get(header::CONTENT_TYPE).cloned();
        self
    }

    /// How much the body has at least, in bytes, where that alone tells it from the body of `primary`.
    #[cfg(feature = "compare")]
    pub(crate) fn larger_than(&self, primary: &Self) -> Option<usize> {
        self.cut_at
            .filter(|least| primary.complete && primary.body.len() <= *least)
    }

    /// The media type without parameters, such as `application/json`; empty when none is named.
    #[must_use]
    pub fn media_type(&self) -> &str {
        let text = self.content_type.as_ref().and_then(|value| value.to_str().ok());
        text.and_then(|text| text.split(';').next())
            .unwrap_or_default()
            .trim()
    }
}
