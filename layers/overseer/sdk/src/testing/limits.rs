//! What the host takes, with its default limits. A test of `arqon-overseer` holds these against the host's own.

/// Headers no policy may edit, in lower case; neither those that start with [`RESERVED_PREFIX`].
pub const RESERVED: [&str; 16] = [
    "authorization",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];
/// How the names of Arqon's own headers start.
pub const RESERVED_PREFIX: &str = "x-arqon-";
/// What [`property`](crate::property) knows.
pub const PROPERTIES: [&str; 11] = [
    "content_type",
    "method",
    "module",
    "path",
    "protocol",
    "query",
    "remote_addr",
    "status",
    "subject",
    "tenant",
    "trace_id",
];
/// Bytes of a header's name, a claim's key or a property's name.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Header edits of one call: `header_edits_max`.
pub const HEADER_EDITS_MAX: usize = 32;
/// Bytes of names and values in the header edits of one call: `header_bytes_max`.
pub const HEADER_BYTES_MAX: usize = 8_192;
/// Bytes of a payload: `max_body_bytes`.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Lines of one call that are logged: `log_lines_max`.
pub const LOG_LINES_MAX: usize = 32;
/// Bytes of a line that are logged: `log_bytes_max`.
pub const LOG_BYTES_MAX: usize = 1_024;
/// Bytes of a reason that are told: `reason_bytes_max`.
pub const REASON_BYTES_MAX: usize = 256;
