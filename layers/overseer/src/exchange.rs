//! One request or response on its way through the chain.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

use bytes::Bytes;
use http::{HeaderMap, header::MaxSizeReached, request, response};
use serde::{Deserialize, Serialize};

use crate::{
    edit::{self, Edits},
    tap::Awaiting,
};

/// What the policies of a chain see and amend. It moves into each store in turn and out again, so nothing is copied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exchange {
    /// Absent only in an exchange that waits to be used again.
    request: Option<request::Parts>,
    /// Present when it is the response that is being looked at.
    pub(crate) response: Option<Box<response::Parts>>,
    /// Present when the body was collected; the payload as amended so far.
    pub(crate) body: Option<Bytes>,
    /// Whether a policy replaced the payload.
    pub(crate) rewritten: bool,
    pub(crate) edits: Edits,
    /// Where guest log lines are kept, if anybody wants them.
    pub(crate) logs: Option<Vec<LogLine>>,
    /// What of the request is masked, where it is a record.
    pub(crate) masked: Option<Box<Masked>>,
    /// Trials that begin when the body was handed on; a copy has none.
    pub(crate) awaiting: Option<Box<Awaiting>>,
}

/// Names of what a record does not tell (headers in lower case, `:query`), and those that a guest was given all the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Masked {
    pub(crate) names: Vec<String>,
    pub(crate) read: Vec<String>,
}

impl Masked {
    /// A guest was given the value of `name`.
    pub(crate) fn gave(&mut self, name: &str) {
        let known = self.names.iter().find(|known| known.eq_ignore_ascii_case(name));
        if let Some(known) = known
            && !self.read.contains(known)
        {
            self.read.push(known.clone());
        }
    }
}

impl Exchange {
    pub(crate) const fn request(&self) -> &request::Parts {
        self.request.as_ref().expect(LENT)
    }

    /// Applies the edits to the request's headers.
    pub(crate) fn amend_request(&mut self) -> Result<(), MaxSizeReached> {
        let headers = &mut self.request.as_mut().expect(LENT).headers;
        if let (Some(body), true) = (&self.body, self.rewritten) {
            edit::mend(headers, body.len())?;
        }
        self.edits.apply(headers, false)
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

    /// Bytes that a copy of this holds: headers, path and query, body, edits. What copies share (claims) is not in it.
    pub(crate) fn bytes(&self) -> usize {
        let headers = |headers: &HeaderMap| -> usize {
            let each = headers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len());
            each.sum()
        };
        let request = self.request();
        let uri = request.uri.path_and_query().map_or(0, |text| text.as_str().len());
        let response = self.response.as_ref();
        uri + headers(&request.headers)
            + response.map_or(0, |response| headers(&response.headers))
            + self.body.as_ref().map_or(0, Bytes::len)
            + self.edits.bytes()
    }

    /// The headers that are being looked at.
    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response
            .as_ref()
            .map_or(&self.request().headers, |response| &response.headers)
    }
}

/// An exchange on the heap. Lending it to a store and taking it back moves a pointer. The next request of the thread uses the
/// box again, so nothing is allocated, and the parts of a request are moved in and out and not a time more.
#[derive(Clone, Debug)]
pub(crate) struct Lent(Box<Exchange>);

thread_local! {
    static SPARE: RefCell<Vec<Lent>> = const { RefCell::new(Vec::new()) };
}

/// Boxes that a thread keeps: requests that it may have in hand at once without allocating.
const SPARE_MAX: usize = 32;
const LENT: &str = "an exchange has a request until it is taken out";

impl Lent {
    #[inline(always)]
    pub(crate) fn request(request: request::Parts, body: Option<Bytes>) -> Self {
        let mut lent = Self::spare();
        // There is none in it. An assignment would drop one, and for that copy the new one twice.
        lent.request.get_or_insert(request);
        if body.is_some() {
            lent.body = body;
        }
        lent
    }

    fn spare() -> Self {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
        // None left, or the thread is ending.
        spare.ok().flatten().unwrap_or_else(|| Self(Box::default()))
    }

    pub(crate) fn response(request: request::Parts, response: response::Parts) -> Self {
        let mut lent = Self::request(request, None);
        lent.response = Some(Box::new(response));
        lent
    }

    /// The request; what else there is goes.
    pub(crate) fn into_request(mut self) -> request::Parts {
        let request = self.take_request();
        drop(Back::of(self));
        request
    }

    /// The request. What is left may be dropped, or go [`Back`].
    #[inline(always)]
    pub(crate) fn take_request(&mut self) -> request::Parts {
        self.request.take().expect(LENT)
    }

    fn keep(mut self) {
        self.request = None;
        self.body = None;
        self.response = None;
        self.logs = None;
        self.masked = None;
        self.awaiting = None;
        self.rewritten = false;
        self.edits.truncate(0);
        let _kept = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(self);
            }
        });
    }
}

/// An exchange whose request is taken out: once that was handed on, the next one of this thread has the box.
#[derive(Debug)]
pub(crate) struct Back(Option<Lent>);

impl Back {
    #[inline(always)]
    pub(crate) const fn of(lent: Lent) -> Self {
        Self(Some(lent))
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        if let Some(lent) = self.0.take() {
            lent.keep();
        }
    }
}

impl Deref for Back {
    type Target = Lent;

    #[inline(always)]
    fn deref(&self) -> &Lent {
        self.0.as_ref().expect(LENT)
    }
}

impl DerefMut for Back {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Lent {
        self.0.as_mut().expect(LENT)
    }
}

impl Deref for Lent {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Exchange {
        &mut self.0
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

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    fn parts() -> request::Parts {
        Request::new(()).into_parts().0
    }

    #[test]
    fn a_box_that_is_used_again_has_nothing_of_who_had_it_before() {
        let mut lent = Lent::request(parts(), Some(Bytes::from_static(b"somebody's")));
        let used = std::ptr::from_ref(&*lent.0);
        lent.rewritten = true;
        lent.response = Some(Box::new(Response::new(()).into_parts().0));
        lent.logs = Some(Vec::new());
        lent.masked = Some(Box::default());
        drop(lent.into_request());
        let again = Lent::request(parts(), None);
        assert_eq!(std::ptr::from_ref(&*again.0), used, "it is the same box");
        // All of them, so that one that comes to be there is looked at, too.
        let Exchange {
            request,
            response,
            body,
            rewritten,
            edits,
            logs,
            masked,
            awaiting,
        } = &*again.0;
        assert!(request.is_some() && response.is_none() && body.is_none() && !rewritten);
        assert_eq!(
            (edits.len(), logs.is_none(), masked.is_none(), awaiting.is_none()),
            (0, true, true, true)
        );
    }
}
