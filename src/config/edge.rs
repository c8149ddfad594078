//! What `[gateway]` says of its edge in tables of their own: TLS, rates, WebSockets.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// `gateway.tls`: the certificate that clients see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TlsConfig {
    /// The certificate and its chain (PEM), the leaf first. Read again when it changes.
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// The authorities that clients' own certificates have to come from (PEM). Absent: clients need none.
    pub client_ca: Option<PathBuf>,
}

impl TlsConfig {
    pub(super) fn check(&self, refuse: &mut dyn FnMut(&str, String)) {
        let files = [
            ("tls.cert", Some(&self.cert)),
            ("tls.key", Some(&self.key)),
            ("tls.client_ca", self.client_ca.as_ref()),
        ];
        for (key, path) in files {
            if let Some(path) = path.filter(|path| !path.is_file()) {
                refuse(
                    key,
                    format!("{:?} is not a file: mend the path", path.display().to_string()),
                );
            }
        }
    }

    pub(super) fn resolve_paths(&mut self, base: &Path) {
        for path in [&mut self.cert, &mut self.key]
            .into_iter()
            .chain(&mut self.client_ca)
        {
            if !path.as_os_str().is_empty() {
                *path = base.join(&path);
            }
        }
    }
}

/// `gateway.rate_limit`: how much one tenant may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct RateLimitConfig {
    /// Requests and frames a second, in the long run, 1 to 1,000,000. Default 1,000.
    pub per_second: u32,
    /// How many may come at once, 1 to 1,000,000. Default 2,000.
    pub burst: u32,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self {
            per_second: 1_000,
            burst: 2_000,
        }
    }
}

impl RateLimitConfig {
    pub(super) fn check(&self, refuse: &mut dyn FnMut(&str, String)) {
        for (key, value) in [
            ("rate_limit.per_second", self.per_second),
            ("rate_limit.burst", self.burst),
        ] {
            if !(1..=1_000_000).contains(&value) {
                refuse(key, format!("{value} is not within 1 to 1000000"));
            }
        }
    }
}

/// `[gateway.websocket]`: the limits of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct WebSocketConfig {
    /// The largest message of a client, in bytes as it comes; more closes the session with 1009. Default 262,144.
    pub max_message_bytes: usize,
    /// How often a silent client is pinged, in seconds. Default 20.
    pub ping_seconds: u64,
    /// How long nothing may come, not even a pong, in seconds; then the session is closed with 1001. Default 60.
    pub idle_seconds: u64,
    /// How long a client may take to take what it is sent, in milliseconds; then it is closed with 1013. Default 10,000.
    pub send_timeout_ms: u64,
    /// What all sessions together may hold of messages that are not whole yet and of deliveries that wait, in bytes; the
    /// session that would hold more is closed with 1013. Default 268,435,456.
    pub max_buffered_bytes: usize,
    /// How many sessions of one tenant are open at once, 1 to 1,000,000; absent: no limit of its own.
    pub tenant_sessions: Option<u32>,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 262_144,
            ping_seconds: 20,
            idle_seconds: 60,
            send_timeout_ms: 10_000,
            max_buffered_bytes: 268_435_456,
            tenant_sessions: None,
        }
    }
}

impl WebSocketConfig {
    pub(super) fn check(&self, refuse: &mut dyn FnMut(&str, String)) {
        if !(1..=134_217_728).contains(&self.max_message_bytes) {
            let message = format!("{} is not within 1 to 134217728", self.max_message_bytes);
            refuse("websocket.max_message_bytes", message);
        }
        for (key, seconds) in [
            ("websocket.ping_seconds", self.ping_seconds),
            ("websocket.idle_seconds", self.idle_seconds),
        ] {
            if !(1..=86_400).contains(&seconds) {
                refuse(key, format!("{seconds} is not within 1 to 86400 seconds"));
            }
        }
        if self.idle_seconds <= self.ping_seconds {
            let message = format!(
                "{} is not more than websocket.ping_seconds ({}): a client could never answer in time",
                self.idle_seconds, self.ping_seconds
            );
            refuse("websocket.idle_seconds", message);
        }
        if !(1..=600_000).contains(&self.send_timeout_ms) {
            let message = format!("{} is not within 1 to 600000 milliseconds", self.send_timeout_ms);
            refuse("websocket.send_timeout_ms", message);
        }
        if !(self.max_message_bytes..=1 << 40).contains(&self.max_buffered_bytes) {
            let message = format!(
                "{} is not within websocket.max_message_bytes ({}) to 1 TiB: no message could come whole",
                self.max_buffered_bytes, self.max_message_bytes
            );
            refuse("websocket.max_buffered_bytes", message);
        }
        if let Some(most) = self
            .tenant_sessions
            .filter(|most| !(1..=1_000_000).contains(most))
        {
            refuse(
                "websocket.tenant_sessions",
                format!("{most} is not within 1 to 1000000"),
            );
        }
    }
}
