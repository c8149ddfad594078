//! What a sink gets: the copy of one request.

use std::{fmt, sync::Arc};

use arqon_message::{Subject, TraceKey};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Uri};

use crate::{Answer, head::Head, ledger::Ticket, marker, rule::Rule};

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
    /// The request's headers without hop-by-hop and stripped ones, with `x-arqon-shadow: true` exactly once and
    /// `x-arqon-shadow-of: <key>`.
    pub headers: HeaderMap,
    /// The whole body. One frame is the primary's own `Bytes`; several are joined by the drain task.
    pub body: Bytes,
    /// The trailers, if the request had any, without what headers may not carry either.
    pub trailers: Option<HeaderMap>,
    /// The primary's answer, if the rule compares and a [`ResponseTapLayer`](crate::ResponseTapLayer) looked at it.
    pub primary: Option<Box<Answer>>,
    /// The key that decided.
    pub key: TraceKey,
    rule: Arc<Rule>,
}

impl ShadowCopy {
    /// The pattern of the rule that chose the request.
    #[must_use]
    pub fn rule(&self) -> &str {
        self.rule.terms.pattern.as_str()
    }

    /// Body and headers in bytes, a header as `name: value\r\n`.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len() + header_bytes(&self.headers)
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

/// The size of headers as `name: value\r\n` lines, in bytes.
fn header_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
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
    pub(crate) frames: Frames,
    pub(crate) trailers: Option<Box<HeaderMap>>,
    pub(crate) answer: Option<Box<Answer>>,
}

impl Draft {
    /// The finished copy and the ticket to settle.
    pub(crate) fn finish(self) -> (ShadowCopy, Ticket) {
        let Self {
            ticket,
            subject,
            method,
            uri,
            head,
            frames,
            trailers,
            answer,
        } = self;
        let mut headers = head.unpack();
        let rule = Arc::clone(ticket.rule());
        let key = *ticket.key();
        marker::strip(&mut headers, &rule.terms.strip);
        marker::mark(&mut headers, &key);
        let trailers = trailers.map(|mut trailers| {
            marker::strip(&mut trailers, &rule.terms.strip);
            *trailers
        });
        let copy = ShadowCopy {
            subject: subject.shadow(),
            original: subject,
            method,
            uri,
            headers,
            body: frames.join(),
            trailers,
            primary: answer,
            key,
            rule,
        };
        (copy, ticket)
    }
}
