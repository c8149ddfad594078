//! The mark that tells a copy from the original, and what a copy must not carry.

use arqon_message::TraceKey;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// `x-arqon-shadow`: every copy carries it exactly once, with the value `true` (S3-12).
pub const SHADOW: HeaderName = HeaderName::from_static("x-arqon-shadow");

/// `x-arqon-shadow-of`: the trace key of the request that was copied.
pub const SHADOW_OF: HeaderName = HeaderName::from_static("x-arqon-shadow-of");

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Whether a request or message is a shadow copy: a consumer that gets `true` must cause no side effect.
///
/// The name is compared after normalising: case, `_` and `.` do not matter, so no alias passes as unmarked.
///
/// ```
/// use http::{HeaderMap, HeaderName, HeaderValue};
///
/// let mut headers = HeaderMap::new();
/// assert!(!arqon_shadow::is_shadow(&headers));
/// headers.insert(HeaderName::from_static("x_arqon.shadow"), HeaderValue::from_static("true"));
/// assert!(arqon_shadow::is_shadow(&headers));
/// ```
#[must_use]
pub fn is_shadow(headers: &HeaderMap) -> bool {
    headers
        .iter()
        .any(|(name, value)| is_shadow_field(name.as_str(), value.as_bytes()))
}

/// [`is_shadow`] of one header, for protocols whose headers are no [`HeaderMap`].
///
/// ```
/// assert!(arqon_shadow::is_shadow_field("X-Arqon_Shadow", b" TRUE"));
/// assert!(!arqon_shadow::is_shadow_field("x-arqon-shadow", b"false"));
/// assert!(!arqon_shadow::is_shadow_field("x-arqon-shadow-of", b"true"));
/// ```
#[must_use]
pub fn is_shadow_field(name: &str, value: &[u8]) -> bool {
    is_named(name, SHADOW.as_str()) && value.trim_ascii().eq_ignore_ascii_case(b"true")
}

/// Whether `name` is `wanted` (lower case, with `-`) after normalising.
fn is_named(name: &str, wanted: &str) -> bool {
    name.len() == wanted.len() && starts_with(name, wanted)
}

fn starts_with(name: &str, wanted: &str) -> bool {
    name.len() >= wanted.len() && name.bytes().map(normal).zip(wanted.bytes()).all(|(a, b)| a == b)
}

const fn normal(byte: u8) -> u8 {
    match byte {
        b'_' | b'.' => b'-',
        other => other.to_ascii_lowercase(),
    }
}

/// Names that mean one hop, one exchange or one stream position, and nothing to a copy.
const DROPPED: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "reply-to",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// `nats-*` holds `Nats-Msg-Id` (a copy would be deduplicated against the original), `Nats-Expected-*`, `Nats-Rollup`,
/// TTLs and schedules; `x-arqon-shadow*` is ours to set.
const DROPPED_PREFIXES: [&str; 2] = ["nats-", "x-arqon-shadow"];

/// What a message's own `Connection` headers name.
pub(crate) struct Hops(Vec<HeaderName>);

impl Hops {
    pub(crate) fn of<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let named = headers
            .filter(|(name, _)| *name == header::CONNECTION.as_str())
            .flat_map(|(_, value)| std::str::from_utf8(value).unwrap_or_default().split(','))
            .filter_map(|token| HeaderName::try_from(token.trim()).ok())
            .filter(is_hop);
        Self(named.collect())
    }

    /// Whether a copy must not carry a header: hop-by-hop ones and those that `Connection` names, replies and stream
    /// instructions, the rule's `strip` list, and every alias of the mark.
    pub(crate) fn drops(&self, name: &str, strip: &[HeaderName]) -> bool {
        is_dropped(name, strip) || self.0.iter().any(|hop| hop.as_str() == name)
    }
}

/// Removes what a copy must not carry.
pub(crate) fn strip(headers: &mut HeaderMap, strip: &[HeaderName]) {
    let lines = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    let hops = Hops::of(lines);
    let doomed: Vec<_> = headers
        .keys()
        .filter(|name| hops.drops(name.as_str(), strip))
        .cloned()
        .collect();
    for name in doomed {
        headers.remove(name);
    }
}

/// `Connection` may not talk a copy out of its trace (CVE-2024-45410).
fn is_hop(name: &HeaderName) -> bool {
    !matches!(name.as_str(), "traceparent" | "tracestate") && !starts_with(name.as_str(), "x-arqon-")
}

fn is_dropped(name: &str, strip: &[HeaderName]) -> bool {
    DROPPED.iter().any(|dropped| is_named(name, dropped))
        || DROPPED_PREFIXES.iter().any(|prefix| starts_with(name, prefix))
        || strip
            .iter()
            .any(|stripped| is_named_either(name, stripped.as_str()))
}

/// Both sides normalised, because an operator may write `x_api_key`.
fn is_named_either(name: &str, other: &str) -> bool {
    name.len() == other.len() && name.bytes().map(normal).eq(other.bytes().map(normal))
}

/// Sets the mark and the key, into a map that is new.
pub(crate) fn mark(headers: &mut HeaderMap, key: &TraceKey) {
    headers.insert(SHADOW, HeaderValue::from_static("true"));
    if let Ok(value) = HeaderValue::from_bytes(key.as_bytes()) {
        headers.insert(SHADOW_OF, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers
                .try_append(HeaderName::from_static(name), HeaderValue::from_static(value))
                .expect("room");
        }
        headers
    }

    #[test]
    fn every_alias_of_the_mark_counts() {
        for name in [
            "x-arqon-shadow",
            "x_arqon_shadow",
            "x.arqon.shadow",
            "x-arqon_shadow",
        ] {
            assert!(is_shadow(&map(&[(name, "true")])), "{name}");
        }
        assert!(is_shadow(&map(&[
            ("x-arqon-shadow", "false"),
            ("x-arqon-shadow", " TRUE ")
        ])));
        for (name, value) in [
            ("x-arqon-shadow", "false"),
            ("x-arqon-shadow-of", "true"),
            ("x-arqon-shado", "true"),
        ] {
            assert!(!is_shadow(&map(&[(name, value)])), "{name}");
        }
    }

    #[test]
    fn a_copy_loses_hops_replies_stream_instructions_and_secrets() {
        let mut headers = map(&[
            ("connection", "close, x-hop, traceparent, x-arqon-schema"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("reply-to", "inbox.1"),
            ("nats-msg-id", "7"),
            ("nats_msg_id", "7"),
            ("nats-expected-last-sequence", "9"),
            ("nats-rollup", "all"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("proxy-authorization", "x"),
            ("x-arqon-shadow", "false"),
            ("x_arqon.shadow", "false"),
            ("x-arqon-shadow-of", "forged"),
            ("x-api-key", "secret"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("x-arqon-schema", "v1@3"),
            ("content-type", "application/json"),
        ]);
        let listed = ["authorization", "cookie", "x_api_key"].map(HeaderName::from_static);
        strip(&mut headers, &listed);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "traceparent", "x-arqon-schema"]);
    }
}
