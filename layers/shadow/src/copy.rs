//! What a sink gets: the copy of one request.

use std::{fmt, sync::Arc};

use arqon_message::{Subject, TraceContext, TraceKey};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Uri};

use crate::{
    Answer, Sink,
    frames::Frames,
    head::{Head, Line},
    ledger::Ticket,
    marker,
    rule::Rule,
    shed::Fate,
};

/// The copy of one request, as a [`Sink`](crate::Sink) gets it: marked, and without what a copy must not carry.
#[derive(Clone)]
#[non_exhaustive]
pub struct ShadowCopy {
    /// Where it goes: `shadow.<original>` (S3-11).
    pub subject: Subject,
    /// The subject of the request that was copied.
    pub original: Subject,
    /// The method of the request.
    pub method: Method,
    /// The target of the request.
    pub uri: Uri,
    /// The whole body. One large frame may be the primary's own `Bytes`, which hold on to a server's read buffer: the mirror
    /// counts it until the delivery ends. Who keeps it any longer takes [`own_body`](Self::own_body).
    pub body: Bytes,
    /// The trailers, if the request had any, without what headers may not carry either.
    pub trailers: Option<HeaderMap>,
    /// The primary's answer, if the rule compares and a [`ResponseTapLayer`](crate::ResponseTapLayer) looked at it.
    pub primary: Option<Box<Answer>>,
    /// The key that decided.
    pub key: TraceKey,
    context: Option<TraceContext>,
    head: Head,
    /// `body` is not memory of its own.
    pinning: bool,
    rule: Arc<Rule>,
}

impl ShadowCopy {
    /// The body in memory of its own, for a sink that holds on to it when the delivery has ended: it is copied if it has to
    /// be, and otherwise counted.
    #[must_use]
    pub fn own_body(&self) -> Bytes {
        if self.pinning {
            Bytes::copy_from_slice(&self.body)
        } else {
            self.body.clone()
        }
    }

    /// Makes the body memory of its own.
    pub(crate) fn keep_body(&mut self) {
        self.body = self.own_body();
        self.pinning = false;
    }

    /// The pattern of the rule that chose the request.
    #[must_use]
    pub fn rule(&self) -> &str {
        self.rule.terms.pattern.as_str()
    }

    /// Whether the rule asks for a comparison of answers.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        self.rule.terms.compare
    }

    /// The request's headers without hop-by-hop and stripped ones, with `x-arqon-shadow: true` exactly once and
    /// `x-arqon-shadow-of: <key>`. `traceparent` is that of our own span where requests are observed
    /// ([`TraceContext`]), as on what the primary publishes, else the original's, if that is a valid one. The map is made by
    /// each call.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(16);
        marker::mark(&mut headers, &self.key);
        if let Some(context) = &self.context {
            headers.insert(marker::TRACEPARENT, context.traceparent());
        }
        self.lines(|line| {
            if let (Ok(name), Some(value)) = (HeaderName::try_from(line.name), self.head.value(line)) {
                // A map at its limit of 32,768 headers loses the last of them, never the mark.
                let _ = headers.try_append(name, value);
            }
        });
        headers
    }

    /// Gives `each` header of [`headers`](Self::headers), name and value, without making a map: the mark first, and all
    /// values of a name together.
    pub fn each_header(&self, each: impl FnMut(&str, &[u8])) {
        each_header(&self.head, &self.key, self.context.as_ref(), &self.rule, each);
    }

    /// The original's headers that the copy carries too.
    fn lines(&self, each: impl FnMut(&Line<'_>)) {
        lines(&self.head, self.context.as_ref(), &self.rule, each);
    }

    /// Body and headers in bytes, a header as `name: value\r\n`.
    #[must_use]
    pub fn size(&self) -> usize {
        let mut size = self.body.len();
        self.each_header(|name, value| size += name.len() + value.len() + 4);
        size
    }
}

impl fmt::Debug for ShadowCopy {
    /// No payload and no header values: a copy may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowCopy")
            .field("subject", &self.subject.as_str())
            .field("key", &self.key.as_str())
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Gives `each` header that a copy of this head carries: the mark, and what [`lines`] gives.
fn each_header(
    head: &Head,
    key: &TraceKey,
    context: Option<&TraceContext>,
    rule: &Rule,
    mut each: impl FnMut(&str, &[u8]),
) {
    each(marker::SHADOW.as_str(), b"true");
    each(marker::SHADOW_OF.as_str(), key.as_bytes());
    if let Some(context) = context {
        each(marker::TRACEPARENT.as_str(), context.traceparent().as_bytes());
    }
    lines(head, context, rule, |line| each(line.name, line.value));
}

fn lines(head: &Head, context: Option<&TraceContext>, rule: &Rule, mut each: impl FnMut(&Line<'_>)) {
    let hops = marker::Hops::of(head.lines().map(|line| (line.name, line.value)));
    let keeps_trace = context.is_none() && is_traced(head);
    head.lines()
        .filter(|line| !hops.drops(line.name, &rule.terms.strip))
        .filter(|line| keeps_trace || line.name != marker::TRACEPARENT.as_str())
        .for_each(|line| each(&line));
}

/// Whether the head has a `traceparent` that others can read: one, and a valid one.
fn is_traced(head: &Head) -> bool {
    let mut parents = head
        .lines()
        .filter(|line| line.name == marker::TRACEPARENT.as_str());
    match (parents.next(), parents.next()) {
        (Some(parent), None) => TraceKey::of_traceparent(parent.value).is_some(),
        _ => false,
    }
}

/// A copy under way: the request's head as it came in, and what of the body has been seen. The request path does no more
/// than fill it; all the rest happens in [`Draft::finish`], in the drain task.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) ticket: Ticket,
    pub(crate) subject: Subject,
    pub(crate) method: Method,
    /// Headers and target.
    pub(crate) head: Head,
    pub(crate) context: Option<TraceContext>,
    pub(crate) frames: Frames,
    pub(crate) trailers: Option<Head>,
    pub(crate) answer: Option<Box<Answer>>,
    /// Of the key.
    pub(crate) hash: u64,
    /// Why it was not shed.
    pub(crate) fate: Fate,
}

/// The most bytes that the mark, the key and a trace context add to a head.
const MARK_BYTES: usize = 256;

impl Draft {
    /// As [`ShadowCopy::is_compared`].
    pub(crate) fn is_compared(&self) -> bool {
        self.ticket.rule().terms.compare
    }

    /// Whether a sink that takes `most` bytes of one copy takes this one. Headers are counted one by one only where the
    /// size of all of them leaves it open.
    pub(crate) fn fits(&self, body_bytes: usize, most: usize, sink: &dyn Sink) -> bool {
        if self.head.len() + MARK_BYTES <= most.saturating_sub(body_bytes) {
            return true;
        }
        let (rule, context) = (self.ticket.rule(), self.context.as_ref());
        let mut size = body_bytes;
        each_header(&self.head, self.ticket.key(), context, rule, |name, value| {
            size = size.saturating_add(sink.header_bytes(name, value));
        });
        size <= most
    }

    /// The finished copy, which goes to `shadow`, and the ticket to settle.
    pub(crate) fn finish(self, shadow: Subject) -> (ShadowCopy, Ticket) {
        let Self {
            ticket,
            subject,
            method,
            head,
            context,
            frames,
            trailers,
            answer,
            hash: _,
            fate: _,
        } = self;
        let rule = Arc::clone(ticket.rule());
        let key = *ticket.key();
        let trailers = trailers.map(|trailers| {
            let mut trailers = trailers.headers();
            marker::strip(&mut trailers, &rule.terms.strip);
            trailers
        });
        let copy = ShadowCopy {
            subject: shadow,
            original: subject,
            method,
            uri: head.target(),
            head,
            context,
            pinning: frames.is_pinning(),
            body: frames.join(),
            trailers,
            primary: answer,
            key,
            rule,
        };
        (copy, ticket)
    }
}
