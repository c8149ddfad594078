//! What a record does not keep of a request: values that let somebody in. Lengths are kept.

use arqon_message::TraceKey;
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};

use crate::scope::decoded;

/// How `masked` names the query; no header can be called so.
pub(crate) const QUERY: &str = ":query";

/// Headers that are masked without being asked for.
const SECRETS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-auth-token"),
];

/// What a WebSocket client that cannot set headers puts before its token.
const BEARER: &str = "arqon.bearer.";

/// Names of parameters, whole.
const KEYS: [&str; 6] = ["key", "sig", "code", "pass", "pwd", "sid"];
/// And parts of names.
const KEY_PARTS: [&str; 13] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "api_key",
    "api-key",
    "auth",
    "signature",
    "credential",
    "session",
    "jwt",
];

/// A value as it may be written down, and whether that is less than there was.
pub(super) fn header(name: &HeaderName, value: &HeaderValue, masked: &[HeaderName]) -> (Vec<u8>, bool) {
    if SECRETS.contains(name) || masked.contains(name) {
        return (vec![b'x'; value.len()], true);
    }
    let bytes = value.as_bytes();
    if *name != header::SEC_WEBSOCKET_PROTOCOL {
        return (bytes.to_vec(), false);
    }
    let (mut kept, mut less) = (Vec::with_capacity(bytes.len()), false);
    for (at, protocol) in bytes.split(|byte| *byte == b',').enumerate() {
        if at > 0 {
            kept.push(b',');
        }
        let from = protocol.len() - protocol.trim_ascii_start().len() + BEARER.len();
        let bears = protocol
            .get(from - BEARER.len()..from)
            .is_some_and(|start| start.eq_ignore_ascii_case(BEARER.as_bytes()));
        let keep = if bears { from } else { protocol.len() };
        kept.extend_from_slice(&protocol[..keep]);
        kept.resize(kept.len() + protocol.len() - keep, b'x');
        less |= bears;
    }
    (kept, less)
}

/// Path and query, the values of parameters that look like secrets masked; and whether any was.
pub(super) fn path(path_and_query: &str) -> (String, bool) {
    let Some((path, query)) = path_and_query.split_once('?') else {
        return (path_and_query.to_owned(), false);
    };
    let mut less = false;
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if is_secret(key) && !value.is_empty() => {
                less = true;
                format!("{key}={}", "x".repeat(value.len()))
            }
            _ => pair.to_owned(),
        })
        .collect();
    (format!("{path}?{}", pairs.join("&")), less)
}

fn is_secret(key: &str) -> bool {
    let key = decoded(key).to_ascii_lowercase();
    KEYS.contains(&key.as_str()) || KEY_PARTS.iter().any(|part| key.contains(part))
}

/// The trace that a guest is told, where the headers as recorded do not tell it; `""` is none.
pub(super) fn trace_id(request: &Parts, recorded: &HeaderMap) -> Option<String> {
    let id = |headers: &HeaderMap, extensions: &http::Extensions| {
        TraceKey::from_request(headers, extensions).and_then(|key| key.trace_id().map(str::to_owned))
    };
    let live = id(&request.headers, &request.extensions);
    (live != id(recorded, &http::Extensions::new())).then(|| live.unwrap_or_default())
}

/// The key that gives a guest this trace id.
pub(super) fn trace_key(id: &str) -> Option<TraceKey> {
    if id.is_empty() {
        return TraceKey::given(b"none");
    }
    let value = HeaderValue::from_str(&format!("00-{id}-0000000000000001-00")).ok()?;
    let headers = HeaderMap::from_iter([(HeaderName::from_static("traceparent"), value)]);
    TraceKey::of_trace(&headers)
}
