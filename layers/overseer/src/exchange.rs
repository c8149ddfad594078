//! One request or response on its way through the chain.

use bytes::Bytes;
use http::{HeaderMap, request, response};
use serde::{Deserialize, Serialize};

use crate::edit::Edits;

/// What the policies of a chain see and amend. It moves into each store in turn and out again, so nothing is copied.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) request: request::Parts,
    /// Present when it is the response that is being looked at.
    pub(crate) response: Option<response::Parts>,
    /// Present when the body was collected; the payload as amended so far.
    pub(crate) body: Option<Bytes>,
    /// Whether a policy replaced the payload.
    pub(crate) rewritten: bool,
    pub(crate) edits: Edits,
    /// Where guest log lines are kept, if anybody wants them.
    pub(crate) logs: Option<Vec<LogLine>>,
}

impl Exchange {
    pub(crate) fn request(request: request::Parts, body: Option<Bytes>) -> Self {
        Self {
            request,
            response: None,
            body,
            rewritten: false,
            edits: Edits::default(),
            logs: None,
        }
    }

    pub(crate) fn response(request: request::Parts, response: response::Parts) -> Self {
        Self {
            request,
            response: Some(response),
            body: None,
            rewritten: false,
            edits: Edits::default(),
            logs: None,
        }
    }

    /// What policies have amended so far.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            edits: self.edits.len(),
            body: self.body.clone(),
            rewritten: self.rewritten,
        }
    }

    /// Undoes what was amended since `mark`.
    pub(crate) fn restore(&mut self, mark: Mark) {
        self.edits.truncate(mark.edits);
        self.body = mark.body;
        self.rewritten = mark.rewritten;
    }

    /// The headers that are being looked at.
    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response
            .as_ref()
            .map_or(&self.request.headers, |response| &response.headers)
    }
}

/// A point in the chain to go back to.
#[derive(Debug)]
pub(crate) struct Mark {
    edits: usize,
    body: Option<Bytes>,
    rewritten: bool,
}

/// A line a guest logged: control characters escaped, capped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// The text.
    pub message: String,
}
