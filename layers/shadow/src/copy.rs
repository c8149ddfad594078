//! What a sink gets: the copy of one request.

use std::{fmt, sync::Arc};

use arqon_message::{Subject, TraceContext, TraceKey};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, Uri};

use crate::{
    Answer,
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
    /// The whole body. One frame is the primary's own `Bytes`; several are joined by the drain task.
    pub body: Bytes,
    /// The trailers, if the request had any, without what headers may not carry either.
    pub trailers: Option<HeaderMap>,
    /// The primary's answer, if the rule compares and a [`ResponseTapLayer`](crate::ResponseTapLayer) looked at it.
    pub primary: Option<Box<Answer>>,
    /// The key that decided.
    pub key: TraceKey,
    context: Option<TraceContext>,
    head: Head,
    rule: Arc<Rule>,
}

impl ShadowCopy {
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
    /// ([`TraceContext`]), as on what the primary publishes, else the original's. The map is made by each call.
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
    pub fn each_header(&self, mut each: impl FnMut(&str, &[u8])) {
        each(marker::SHADOW.as_str(), b"true");
        each(marker::SHADOW_OF.as_str(), self.key.as_bytes());
        if let Some(context) = &self.context {
            each(marker::TRACEPARENT.as_str(), context.traceparent().as_bytes());
        }
        self.lines(|line| each(line.name, line.value));
    }

    /// The original's headers that the copy carries too.
    fn lines(&self, mut each: impl FnMut(&Line<'_>)) {
        let hops = marker::Hops::of(self.head.lines().map(|line| (line.name, line.value)));
        self.head
            .lines()
            .filter(|line| !hops.drops(line.name, &self.rule.terms.strip))
            .filter(|line| self.context.is_none() || line.name != marker::TRACEPARENT.as_str())
            .for_each(|line| each(&line));
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

/// The frames of a body, as they were: reference counts.
#[derive(Debug, Default)]
pub(crate) enum Frames {
    #[default]
    None,
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Frames {
    pub(crate) fn push(&mut self, frame: Bytes) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(frame),
            Self::One(first) => Self::Many(vec![first, frame]),
            Self::Many(mut frames) => {
                frames.push(frame);
                Self::Many(frames)
            }
        };
    }

    /// The same bytes in a buffer of their own. A frame holds on to all of the buffer that a server read it into.
    pub(crate) fn unpin(&mut self) {
        *self = match std::mem::take(self) {
            Self::None => Self::None,
            Self::One(frame) => Self::One(Bytes::copy_from_slice(&frame)),
            many @ Self::Many(_) => Self::One(many.join()),
        };
    }

    pub(crate) fn join(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(frame) => frame,
            Self::Many(frames) => {
                let mut whole = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
                frames.iter().for_each(|frame| whole.extend_from_slice(frame));
                whole.freeze()
            }
        }
    }
}

/// A copy under way: the request's head as it came in, and what of the body has been seen. The request path does no more
/// than fill it; all the rest happens in [`Draft::finish`], in the drain task.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) ticket: Ticket,
    pub(crate) subject: Subject,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) head: Head,
    pub(crate) context: Option<TraceContext>,
    pub(crate) frames: Frames,
    pub(crate) trailers: Option<Box<HeaderMap>>,
    pub(crate) answer: Option<Box<Answer>>,
    /// Of the key.
    pub(crate) hash: u64,
    /// Why it was not shed.
    pub(crate) fate: Fate,
}

impl Draft {
    /// The finished copy, which goes to `shadow`, and the ticket to settle.
    pub(crate) fn finish(self, shadow: Subject) -> (ShadowCopy, Ticket) {
        let Self {
            ticket,
            subject,
            method,
            uri,
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
        let trailers = trailers.map(|mut trailers| {
            marker::strip(&mut trailers, &rule.terms.strip);
            *trailers
        });
        let copy = ShadowCopy {
            subject: shadow,
            original: subject,
            method,
            uri,
            head,
            context,
            body: frames.join(),
            trailers,
            primary: answer,
            key,
            rule,
        };
        (copy, ticket)
    }
}
