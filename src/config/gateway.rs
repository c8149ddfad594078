//! The sections that belong to the gateway itself.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use arqon_message::Fraction;
use ron_bus::BusConfig;
use serde::{Deserialize, Serialize};

use super::{Finding, RateLimitConfig, TlsConfig, WebSocketConfig};
use crate::{edge::peers::TrustedPeers, files};

/// `[gateway]`: the listeners and their limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct GatewayConfig {
    /// Where clients connect. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// Where operators connect. Default `127.0.0.1:9901`.
    pub admin_listen: SocketAddr,
    /// The largest body, in bytes. Default 1,048,576. The edge reads up to twice as much before it closes, so that the
    /// 413 arrives.
    pub max_body_bytes: usize,
    /// The file with the token that opens the control routes; without it they are off.
    pub control_token_file: Option<PathBuf>,
    /// How many connections are served at once; more wait in the listen queue. Default 10,000.
    pub max_connections: usize,
    /// How many requests one HTTP/2 connection may have open, 1 to 10,000. Default 256.
    pub max_streams: u32,
    /// How many requests are served at once; more are answered 503 `overloaded`. From four fifths of it, no new WebSocket
    /// session is opened and HTTP/1 connections are closed with their answer. Default 4,096.
    pub max_requests: usize,
    /// How many bytes all bodies that are being served may have, as they announce it (the largest body, where they do
    /// not); more are answered 503 `overloaded`. A request of more than 100 headers counts with 128 bytes for each. Default
    /// 268,435,456. A quarter of it, at least 1 MiB, goes besides to heads and handshakes that are not whole yet.
    pub max_requests_bytes: usize,
    /// The certificate of the public listener; absent: plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Proxies of ours, as addresses or networks such as `10.0.0.0/8`: their `X-Forwarded-For` names the client, and the
    /// shadow marker stays on what they send. Default none.
    pub trusted_peers: Vec<String>,
    /// How much one tenant may ask for; absent: no limit.
    pub rate_limit: Option<RateLimitConfig>,
    /// How many requests and frames of one tenant are served at once, 1 to 1,000,000; absent: no limit of its own.
    pub tenant_concurrency: Option<u32>,
    /// `[gateway.websocket]`
    pub websocket: WebSocketConfig,
    /// How long a request's head may take, in milliseconds. Default 10,000.
    pub header_timeout_ms: u64,
    /// How long nothing may come of a body, in milliseconds. Default 30,000.
    pub body_idle_timeout_ms: u64,
    /// How long a request may take, its body included, in milliseconds; then 503. Default 60,000.
    pub request_timeout_ms: u64,
    /// Origins whose pages may publish from a browser, such as `https://app.example`; `*` is all. Default none.
    pub cors_origins: Vec<String>,
    /// How long a drain may take after SIGTERM, in milliseconds. Default 25,000.
    pub drain_timeout_ms: u64,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9901)),
            max_body_bytes: arqon_message::MAX_BODY_BYTES,
            control_token_file: None,
            max_connections: 10_000,
            max_streams: 256,
            max_requests: 4_096,
            max_requests_bytes: 268_435_456,
            tls: None,
            trusted_peers: Vec::new(),
            rate_limit: None,
            tenant_concurrency: None,
            websocket: WebSocketConfig::default(),
            header_timeout_ms: 10_000,
            body_idle_timeout_ms: 30_000,
            request_timeout_ms: 60_000,
            cors_origins: Vec::new(),
            drain_timeout_ms: 25_000,
        }
    }
}

/// The largest body cap that can be configured: every body under it is held in memory once.
const BODY_BYTES_CEILING: usize = 64 * 1024 * 1024;

impl GatewayConfig {
    /// What does not hold.
    #[must_use]
    pub fn validate(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut refuse =
            |key: &str, message: String| findings.push(Finding::new(format!("gateway.{key}"), message));
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            refuse(
                "admin_listen",
                format!("{} is `listen` too: give it another port", self.admin_listen),
            );
        }
        if !(1..=BODY_BYTES_CEILING).contains(&self.max_body_bytes) {
            refuse(
                "max_body_bytes",
                format!("{} is not within 1 to {BODY_BYTES_CEILING}", self.max_body_bytes),
            );
        }
        if !(1..=1_000_000).contains(&self.max_connections) {
            refuse(
                "max_connections",
                format!("{} is not within 1 to 1000000", self.max_connections),
            );
        }
        for (key, value) in [
            ("header_timeout_ms", self.header_timeout_ms),
            ("body_idle_timeout_ms", self.body_idle_timeout_ms),
            ("request_timeout_ms", self.request_timeout_ms),
            ("drain_timeout_ms", self.drain_timeout_ms),
        ] {
            if !(1..=600_000).contains(&value) {
                refuse(key, format!("{value} is not within 1 to 600000 milliseconds"));
            }
        }
        for (at, origin) in self.cors_origins.iter().enumerate() {
            if origin != "*" && !is_origin(origin) {
                refuse(
                    &format!("cors_origins[{at}]"),
                    format!(
                        "{origin:?} is not an origin: write scheme://host or scheme://host:port, without a path, or \"*\""
                    ),
                );
            }
        }
        if let Some(path) = &self.control_token_file
            && let Err(error) = control_token(path)
        {
            refuse("control_token_file", error);
        }
        self.check_edge(&mut refuse);
        findings
    }

    fn check_edge(&self, refuse: &mut dyn FnMut(&str, String)) {
        if !(1..=10_000).contains(&self.max_streams) {
            refuse(
                "max_streams",
                format!("{} is not within 1 to 10000", self.max_streams),
            );
        }
        if !(1..=1_000_000).contains(&self.max_requests) {
            refuse(
                "max_requests",
                format!("{} is not within 1 to 1000000", self.max_requests),
            );
        }
        if !(self.max_body_bytes..=1 << 40).contains(&self.max_requests_bytes) {
            let message = format!(
                "{} is not within gateway.max_body_bytes ({}) to 1 TiB: no body could be served",
                self.max_requests_bytes, self.max_body_bytes
            );
            refuse("max_requests_bytes", message);
        }
        if let Some(most) = self
            .tenant_concurrency
            .filter(|most| !(1..=1_000_000).contains(most))
        {
            refuse("tenant_concurrency", format!("{most} is not within 1 to 1000000"));
        }
        if let Err((at, message)) = TrustedPeers::parse(&self.trusted_peers) {
            refuse(&format!("trusted_peers[{at}]"), message);
        }
        if let Some(tls) = &self.tls {
            tls.check(refuse);
        }
        if let Some(rate) = &self.rate_limit {
            rate.check(refuse);
        }
        self.websocket.check(refuse);
    }

    pub(super) fn resolve_paths(&mut self, base: &Path) {
        if let Some(path) = &mut self.control_token_file {
            *path = base.join(&path);
        }
        if let Some(tls) = &mut self.tls {
            tls.resolve_paths(base);
        }
    }
}

/// Whether the text is an origin as browsers send it: scheme, host and maybe port, nothing behind (RFC 6454).
fn is_origin(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        let written = uri
            .scheme_str()
            .zip(uri.authority())
            .map(|(scheme, host)| format!("{scheme}://{host}"));
        written.is_some_and(|written| written == text && !text.contains('@'))
    })
}

/// Reads the control token: 16 to 1,024 visible characters, white space around them ignored.
///
/// # Errors
/// One sentence that names the file and the fix.
pub fn control_token(path: &Path) -> Result<String, String> {
    let text = files::read_text(path, files::TOKEN_BYTES_MAX)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let token = text.trim();
    if (16..=1_024).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(token.to_owned())
    } else {
        Err(format!(
            "{} does not hold one token of 16 to 1024 visible characters",
            path.display()
        ))
    }
}

/// `[bus]`: the bus of control events (source: CONFIG 2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct BusSection {
    /// How many events may wait for the slowest subscriber, 2 to 1,048,576. Default 256.
    pub capacity: u32,
    /// The most warnings of lost events in the log in any minute, at least 1. Default 60.
    pub overflow_warn_rate_per_min: u32,
    /// The name under which `/v1/state` shows the bus, an identifier; no metric's name begins with it. Default `ron_bus`.
    pub metrics_namespace: String,
    /// Whether the bus's metrics carry the label `amnesia`, where `RON_AMNESIA` is `on` or `off`. Default `true`.
    pub emit_amnesia_label: bool,
}

impl Default for BusSection {
    fn default() -> Self {
        let BusConfig {
            capacity,
            overflow_warn_rate_per_min,
            metrics_namespace,
            emit_amnesia_label,
            ..
        } = BusConfig::default();
        Self {
            capacity,
            overflow_warn_rate_per_min,
            metrics_namespace,
            emit_amnesia_label,
        }
    }
}

impl BusSection {
    /// The bus's own form of it.
    #[must_use]
    pub fn to_config(&self) -> BusConfig {
        BusConfig::new(self.capacity)
            .with_overflow_warn_rate_per_min(self.overflow_warn_rate_per_min)
            .with_metrics_namespace(&self.metrics_namespace)
            .with_emit_amnesia_label(self.emit_amnesia_label)
    }

    /// What does not hold: the first rule that is broken, in the bus's words.
    #[must_use]
    pub fn validate(&self) -> Vec<Finding> {
        let Err(text) = self.to_config().validate() else {
            return Vec::new();
        };
        let (key, value) = match text.split(' ').next() {
            Some(key @ "bus.capacity") => (key, self.capacity.to_string()),
            Some(key @ "bus.overflow_warn_rate_per_min") => {
                (key, self.overflow_warn_rate_per_min.to_string())
            }
            Some(key @ "bus.metrics_namespace") => (key, format!("{:?}", self.metrics_namespace)),
            _ => ("bus", String::new()),
        };
        vec![Finding::new(key, format!("{value}: {text}"))]
    }
}

/// `RON_AMNESIA`: whether the host says that it keeps nothing on disk; `None` where it does not say.
///
/// # Errors
/// One sentence when it is neither `on` nor `off`.
pub fn amnesia() -> Result<Option<bool>, Finding> {
    match std::env::var("RON_AMNESIA").as_deref() {
        Err(std::env::VarError::NotPresent) => Ok(None),
        Ok("on") => Ok(Some(true)),
        Ok("off") => Ok(Some(false)),
        Ok(other) => Err(Finding::new(
            "RON_AMNESIA",
            format!("{other:?} is neither `on` nor `off`: write one of them, or unset it"),
        )),
        Err(std::env::VarError::NotUnicode(_)) => Err(Finding::new(
            "RON_AMNESIA",
            "the value is not UTF-8: write `on` or `off`, or unset it",
        )),
    }
}

/// `[telemetry]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct TelemetryConfig {
    /// `"json"` (default) or `"text"`.
    pub log: LogFormat,
    /// How many lines a minute one tenant may cause: those of its requests in the access log, and others that name it; requests
    /// without a tenant are one. What is held back is counted, and said with the tenant's next line. Default 60,000.
    pub log_tenant_per_min: u32,
    /// How many lines a minute one place in the code may write; what is held back is counted. Default 60. The access
    /// log is held back by `log_tenant_per_min` alone.
    pub log_repeats_per_min: u32,
    /// One log line for each request, frame and message. Default `false`.
    pub access_log: bool,
    /// Where traces are sent, by OTLP over HTTP, such as `http://127.0.0.1:4318` or `https://collector.example`. Default none.
    pub otlp: Option<String>,
    /// Whose certificates an `https` collector's must be signed by (PEM). Default: those that the system trusts.
    pub otlp_ca_file: Option<PathBuf>,
    /// The share of traces that begin here and are sent; what a caller says of its own goes before it. Default 1.0.
    #[cfg_attr(feature = "cli", schemars(with = "arqon_shadow::Share"))]
    pub otlp_percent: Fraction,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: LogFormat::Json,
            log_repeats_per_min: 60,
            log_tenant_per_min: 60_000,
            access_log: false,
            otlp: None,
            otlp_ca_file: None,
            otlp_percent: Fraction::ONE,
        }
    }
}

impl TelemetryConfig {
    /// What does not hold.
    #[must_use]
    pub fn validate(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !(1..=1_000_000).contains(&self.log_repeats_per_min) {
            findings.push(Finding::new(
                "telemetry.log_repeats_per_min",
                format!("{} is not within 1 to 1000000", self.log_repeats_per_min),
            ));
        }
        if !(1..=60_000_000).contains(&self.log_tenant_per_min) {
            findings.push(Finding::new(
                "telemetry.log_tenant_per_min",
                format!("{} is not within 1 to 60000000", self.log_tenant_per_min),
            ));
        }
        #[cfg(feature = "otlp")]
        if let Some(endpoint) = &self.otlp
            && let Err(why) = crate::observe::otlp::traces_url(endpoint)
        {
            let shown = super::shown_url(endpoint);
            findings.push(Finding::new(
                "telemetry.otlp",
                format!("{shown:?} cannot be used: {why}"),
            ));
        }
        #[cfg(feature = "otlp")]
        if let Some(file) = &self.otlp_ca_file
            && let Err(why) = crate::outbound::connector(Some(file))
        {
            findings.push(Finding::new("telemetry.otlp_ca_file", why));
        }
        #[cfg(not(feature = "otlp"))]
        if self.otlp.is_some() {
            let message = "this program was built without the feature `otlp`: remove the key";
            findings.push(Finding::new("telemetry.otlp", message));
        }
        findings
    }

    pub(super) fn resolve_paths(&mut self, base: &Path) {
        if let Some(file) = &mut self.otlp_ca_file {
            *file = base.join(&file);
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
