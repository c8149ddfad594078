//! The key that makes decisions coherent.

mod context;
mod traceparent;

use std::fmt;

use http::{Extensions, HeaderMap, HeaderName};

pub use self::context::TraceContext;
use crate::ConnectionId;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const B3: HeaderName = HeaderName::from_static("b3");
const X_B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 64;

/// What decides for a whole trace at once: its id, or that of the connection (DESIGN 4).
///
/// The bytes are the 32 lower-case hex characters of the trace id as they stand in `traceparent`, so any language can
/// hash the same key; or `c:` and the 32 hex digits of the [`ConnectionId`]; or, by opt-in, `r:` and a request id.
/// It is `Copy` and holds its bytes inline: finding one allocates nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceKey {
    bytes: [u8; KEY_BYTES_MAX],
    len: u8,
    source: KeySource,
}

/// Where a [`TraceKey`] was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeySource {
    /// The program gave it.
    Given,
    /// The W3C `traceparent` header.
    Traceparent,
    /// The `b3` or `X-B3-TraceId` header.
    B3,
    /// The `x-request-id` header, by opt-in.
    RequestId,
    /// The connection.
    Connection,
}

impl KeySource {
    /// Every source.
    pub const ALL: &'static [Self] = &[
        Self::Given,
        Self::Traceparent,
        Self::B3,
        Self::RequestId,
        Self::Connection,
    ];

    /// The label that metrics carry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Traceparent => "traceparent",
            Self::B3 => "b3",
            Self::RequestId => "request_id",
            Self::Connection => "connection",
        }
    }
}

impl TraceKey {
    /// The key of a request: a [`TraceKey`] in its extensions, else a valid `traceparent`, else `b3`, else the
    /// [`ConnectionId`]. A malformed header falls to the next source.
    #[must_use]
    pub fn from_request(headers: &HeaderMap, extensions: &Extensions) -> Option<Self> {
        Self::known(headers, extensions).or_else(|| Self::of_connection(extensions))
    }

    /// As [`from_request`](Self::from_request), with `x-request-id` before the connection. Only where the id stays the
    /// same for a whole trace: usually it does not, and then two requests of one connection part.
    #[must_use]
    pub fn with_request_id(headers: &HeaderMap, extensions: &Extensions) -> Option<Self> {
        Self::known(headers, extensions)
            .or_else(|| {
                single(headers, &X_REQUEST_ID).and_then(|id| Self::build(b"r:", id, KeySource::RequestId))
            })
            .or_else(|| Self::of_connection(extensions))
    }

    /// Gives `read` the key that [`from_request`](Self::from_request) would find, where it stands: for those who hash it
    /// and have no use for it afterwards.
    #[inline]
    pub fn read<R>(
        headers: &HeaderMap,
        extensions: &Extensions,
        read: impl FnOnce(&[u8], KeySource) -> R,
    ) -> Option<R> {
        if let Some(key) = extensions.get::<Self>() {
            return Some(read(key.as_bytes(), key.source));
        }
        if let Some(id) = single(headers, &TRACEPARENT).and_then(traceparent::trace_id) {
            return Some(read(id, KeySource::Traceparent));
        }
        Self::from_request(headers, extensions).map(|key| read(key.as_bytes(), key.source))
    }

    fn known(headers: &HeaderMap, extensions: &Extensions) -> Option<Self> {
        extensions.get().copied().or_else(|| Self::of_trace(headers))
    }

    /// The key that the trace headers name, if any.
    #[must_use]
    pub fn of_trace(headers: &HeaderMap) -> Option<Self> {
        if let Some(key) = single(headers, &TRACEPARENT).and_then(Self::of_traceparent) {
            return Some(key);
        }
        let id = single(headers, &B3)
            .and_then(traceparent::b3_trace_id)
            .or_else(|| single(headers, &X_B3_TRACE_ID).and_then(traceparent::hex_id))?;
        let mut padded = [b'0'; 32];
        padded[32 - id.len()..].copy_from_slice(id);
        padded.make_ascii_lowercase();
        Self::build(b"", &padded, KeySource::B3)
    }

    /// The key that the value of a `traceparent` names, if it is a valid one.
    #[must_use]
    pub fn of_traceparent(value: &[u8]) -> Option<Self> {
        Self::build(
            b"",
            traceparent::trace_id(value.trim_ascii())?,
            KeySource::Traceparent,
        )
    }

    fn of_connection(extensions: &Extensions) -> Option<Self> {
        ConnectionId::of(extensions).map(Self::from)
    }

    /// A key that the program chose, such as a user's id.
    ///
    /// `None` when `key` is empty or longer than 64 bytes: hash a longer one first.
    #[must_use]
    pub fn given(key: &[u8]) -> Option<Self> {
        Self::build(b"", key, KeySource::Given)
    }

    fn build(tag: &[u8], key: &[u8], source: KeySource) -> Option<Self> {
        let len = tag.len() + key.len();
        if key.is_empty() || len > KEY_BYTES_MAX {
            return None;
        }
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes[..tag.len()].copy_from_slice(tag);
        bytes[tag.len()..len].copy_from_slice(key);
        Some(Self {
            bytes,
            len: len as u8,
            source,
        })
    }

    /// What is hashed.
    #[must_use]
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The key as text; a given key that is not UTF-8 is shown as `?`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or("?")
    }

    /// Where it was found.
    #[must_use]
    pub const fn source(&self) -> KeySource {
        self.source
    }

    /// The trace id, 32 lower-case hex digits, when the key is one.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        matches!(self.source, KeySource::Traceparent | KeySource::B3).then(|| self.as_str())
    }
}

impl From<ConnectionId> for TraceKey {
    fn from(id: ConnectionId) -> Self {
        Self::build(b"c:", &id.hex(), KeySource::Connection).expect("34 bytes fit")
    }
}

/// The header's value when it stands exactly once, without white space around it (RFC 9110, 5.5).
#[inline]
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes().trim_ascii()),
        _ => None,
    }
}

impl fmt::Debug for TraceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceKey({:?}, {})", self.as_str(), self.source.as_str())
    }
}

impl fmt::Display for TraceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
