//! One request or response on its way through the chain.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

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

/// An exchange on the heap. Lending it to a store and taking it back moves a pointer, and leaves the exchange in the cache of
/// the thread whose request it is: a store that stood by was made on another. The next request of the thread uses the box
/// again, so nothing is allocated.
#[derive(Debug)]
pub(crate) struct Lent(Place);

/// Where an exchange is, or was: a box that is used again.
type Place = Box<Option<Exchange>>;

thread_local! {
    static SPARE: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

/// Boxes that a thread keeps: requests that it may have in hand at once without allocating.
const SPARE_MAX: usize = 32;
const LENT: &str = "an exchange is there until it is taken out";

impl Lent {
    pub(crate) fn new(exchange: Exchange) -> Self {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
        // None left, or the thread is ending.
        let mut place = spare.ok().flatten().unwrap_or_default();
        *place = Some(exchange);
        Self(place)
    }

    pub(crate) fn into_inner(mut self) -> Exchange {
        let exchange = self.0.take().expect(LENT);
        let _kept = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(self.0);
            }
        });
        exchange
    }
}

impl Clone for Lent {
    fn clone(&self) -> Self {
        Self::new(Exchange::clone(self))
    }
}

impl Deref for Lent {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        self.0.as_ref().as_ref().expect(LENT)
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Exchange {
        self.0.as_mut().as_mut().expect(LENT)
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
