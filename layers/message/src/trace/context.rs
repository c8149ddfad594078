//! Our own place in a trace (W3C Trace Context).

use http::{Extensions, HeaderMap, HeaderValue};

use super::{TRACEPARENT, TraceKey, single, traceparent};
use crate::ConnectionId;

/// Where a request stands in its trace: the trace's id, the id of our own span, and that of the span which called us.
///
/// An observing layer puts it into a request's extensions; problems and published messages then name it. It decides
/// nothing: what is sampled, mirrored or rolled out goes by the [`TraceKey`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 32],
    span_id: [u8; 16],
    parent_id: Option<[u8; 16]>,
    sampled: bool,
}

impl TraceContext {
    /// Goes on with the trace that a request's `traceparent` names, else with that of its [`TraceKey`], else begins one. A
    /// malformed header is no header (W3C Trace Context, 3.2).
    #[must_use]
    pub fn of_request(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let span_id = hex(ConnectionId::mint().as_u128() as u64 | 1);
        if let Some(value) = single(headers, &TRACEPARENT)
            && let Some(trace_id) = traceparent::trace_id(value).and_then(|id| id.try_into().ok())
            && let Some(parent_id) = value.get(36..52).and_then(|id| id.try_into().ok())
        {
            // The last of the two digits holds the flag (3.2.2.5).
            let sampled = value.get(54).is_some_and(|digit| {
                char::from(*digit)
                    .to_digit(16)
                    .is_some_and(|flags| flags & 1 == 1)
            });
            return Self {
                trace_id,
                span_id,
                parent_id: Some(parent_id),
                sampled,
            };
        }
        let known = TraceKey::from_request(headers, extensions)
            .and_then(|key| key.trace_id().and_then(|id| id.as_bytes().try_into().ok()));
        Self {
            trace_id: known.unwrap_or_else(|| hex(ConnectionId::mint().as_u128() | 1)),
            span_id,
            parent_id: None,
            sampled: true,
        }
    }

    /// The trace's id, 32 lower-case hex digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        ascii(&self.trace_id)
    }

    /// The id of our own span, 16 lower-case hex digits.
    #[must_use]
    pub fn span_id(&self) -> &str {
        ascii(&self.span_id)
    }

    /// The id of the span that called us, where the request named one.
    #[must_use]
    pub fn parent_id(&self) -> Option<&str> {
        self.parent_id.as_ref().map(|id| ascii(id))
    }

    /// Whether the caller records the trace; true for one that begins here.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// The header with which others go on below our span.
    #[must_use]
    pub fn traceparent(&self) -> HeaderValue {
        let flags = if self.sampled { "01" } else { "00" };
        let text = format!("00-{}-{}-{flags}", self.trace_id(), self.span_id());
        HeaderValue::try_from(text).expect("hex digits and dashes are a header value")
    }
}

/// The lower-case hex digits of a number.
fn hex<const N: usize>(number: impl Into<u128>) -> [u8; N] {
    let number = number.into();
    let mut digits = [0; N];
    for (at, digit) in digits.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * at)) as usize & 0xf];
    }
    digits
}

fn ascii(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).expect("hex digits are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(traceparent: Option<&'static str>) -> TraceContext {
        let mut headers = HeaderMap::new();
        if let Some(value) = traceparent {
            headers.insert(TRACEPARENT, HeaderValue::from_static(value));
        }
        TraceContext::of_request(&headers, &Extensions::new())
    }

    #[test]
    fn a_trace_goes_on_below_the_caller() {
        let context = of(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.parent_id(), Some("b7ad6b7169203331"));
        assert!(context.is_sampled());
        let header = context.traceparent();
        let text = header.to_str().expect("ASCII");
        assert_eq!(
            text,
            format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", context.span_id())
        );
        assert_ne!(context.span_id(), "b7ad6b7169203331");
        assert!(!of(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02")).is_sampled());
    }

    #[test]
    fn a_malformed_or_absent_header_begins_a_trace() {
        let mut ids = std::collections::HashSet::new();
        for header in [
            None,
            Some("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
            Some("00-00000000000000000000000000000000-b7ad6b7169203331-01"),
            Some("junk"),
        ] {
            let context = of(header);
            assert_eq!(context.parent_id(), None, "{header:?}");
            assert!(context.is_sampled());
            assert_eq!((context.trace_id().len(), context.span_id().len()), (32, 16));
            ids.insert(context.trace_id().to_owned());
        }
        assert_eq!(ids.len(), 4);
    }

    #[test]
    fn a_sessions_trace_goes_on_in_its_frames() {
        let mut headers = HeaderMap::new();
        headers.insert(
            TRACEPARENT,
            HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        );
        let mut extensions = Extensions::new();
        extensions.insert(TraceKey::of_trace(&headers).expect("a key"));
        let frame = TraceContext::of_request(&HeaderMap::new(), &extensions);
        assert_eq!(frame.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(frame.parent_id(), None);
    }
}
