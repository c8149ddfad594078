//! The table `[platform.mirroring]`.

mod check;
mod compare;

use arqon_message::Fraction;
use serde::{Deserialize, Serialize};

pub use self::compare::CompareConfig;
use crate::{ConfigFinding, InvalidConfig, rule::Terms};

/// The table `[platform.mirroring]` (S3-16, DESIGN 14).
///
/// Values are kept as they were written, so that [`validate`](Self::validate) can report *everything* that is wrong at
/// once, with key, value and fix; only a value of the wrong type is an error of serde's.
///
/// ```
/// use arqon_shadow::{RuleConfig, ShadowConfig};
///
/// let config = ShadowConfig::default().rule(RuleConfig::new("in.t.*.orders.>", 0.10));
/// assert!(config.validate().is_empty());
///
/// let config = ShadowConfig::default().rule(RuleConfig::new("in.t.", 10.0));
/// let findings: Vec<_> = config.validate().iter().map(ToString::to_string).collect();
/// assert_eq!(
///     findings[0],
///     r#"rules[0].prefix = "in.t.": a pattern's tokens are joined by single dots; write "in.t.>" for everything below it"#
/// );
/// assert!(findings[1].contains("write 0.1 or \"10%\""));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct ShadowConfig {
    /// Whether anything is mirrored. Default true; without rules nothing is.
    pub enabled: bool,
    /// The seed of the sample, shared by all rules, so that 5 % of one subject nests in 10 % of another. Default 0; a
    /// secret seed keeps a client from choosing trace ids that are in.
    pub seed: u64,
    /// What is mirrored; the most specific pattern decides.
    pub rules: Vec<RuleConfig>,
    /// The most copies that wait for the drain task. Default 4,096.
    pub queue_messages: usize,
    /// The most bytes held for copies: being teed, queued and being delivered, headers included. Default 32 MiB.
    pub queue_bytes: usize,
    /// How long a sink may take for one copy, in milliseconds. Default 1,000.
    pub timeout_ms: u64,
    /// The share of the queue (messages or bytes) above which whole traces are shed. Default 0.5.
    pub high_water: Share,
    /// How long it takes to come back from a tenth of the sample to all of it, in seconds. For a third of that the share
    /// stays as it is before it grows, and a trace is kept or shed as its first request was. Default 30.
    pub recover_seconds: u64,
    /// Where the answers of rules with `compare = true` are compared. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare: Option<CompareConfig>,
}

/// One rule of [`ShadowConfig`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RuleConfig {
    /// The subject pattern: `*` is one token, a trailing `>` one or more.
    #[serde(alias = "subject")]
    pub prefix: String,
    /// The share of keys that are mirrored: `0.10` or `"10%"`. Mandatory: no default is right for everyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Share>,
    /// The largest body that is mirrored, in bytes. Default 65,536.
    #[serde(default = "max_body_bytes")]
    pub max_body_bytes: usize,
    /// Which methods are mirrored. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Which headers a copy does not carry, besides those it never does. Default `authorization` and `cookie`.
    #[serde(default = "strip_headers")]
    pub strip_headers: Vec<String>,
    /// `"accepted"`: once the primary answered 2xx (default); `"arrival"`: whatever it answers.
    #[serde(default = "when")]
    pub when: String,
    /// Whether copies carry the primary's answer, for a sink that compares. Needs a
    /// [`ResponseTapLayer`](crate::ResponseTapLayer) inside of the mirror. Default false.
    #[serde(default)]
    pub compare: bool,
}

/// A share as written: a number from 0.0 to 1.0, or text such as `"10%"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Share {
    /// `0.10`
    Number(f64),
    /// `"10%"` or `"0.10"`
    Text(String),
}

/// When a copy is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// After the primary answered 2xx and the body ended.
    Accepted,
    /// As soon as the body ended, whatever the primary answers.
    Arrival,
}

const fn max_body_bytes() -> usize {
    65_536
}

fn strip_headers() -> Vec<String> {
    ["authorization", "cookie"].map(str::to_owned).into()
}

fn when() -> String {
    "accepted".to_owned()
}

impl Default for ShadowConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            seed: 0,
            rules: Vec::new(),
            queue_messages: 4_096,
            queue_bytes: 32 * 1024 * 1024,
            timeout_ms: 1_000,
            high_water: Share::Number(0.5),
            recover_seconds: 30,
            compare: None,
        }
    }
}

impl ShadowConfig {
    /// Adds a rule.
    #[must_use]
    pub fn rule(mut self, rule: RuleConfig) -> Self {
        self.rules.push(rule);
        self
    }

    /// Sets the seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Bounds the queue, in copies and in bytes.
    #[must_use]
    pub fn with_queue(mut self, messages: usize, bytes: usize) -> Self {
        self.queue_messages = messages;
        self.queue_bytes = bytes;
        self
    }

    /// Sets how long a sink may take for one copy, in milliseconds.
    #[must_use]
    pub fn with_timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.timeout_ms = timeout_ms;
        self
    }

    /// Everything that is wrong, in the order of the keys; empty when the table can be used.
    #[must_use]
    pub fn validate(&self) -> Vec<ConfigFinding> {
        self.compile()
            .err()
            .map(|invalid| invalid.findings)
            .unwrap_or_default()
    }

    /// The table made ready.
    pub(crate) fn compile(&self) -> Result<Compiled, InvalidConfig> {
        check::compile(self)
    }
}

impl RuleConfig {
    /// A rule with a pattern and a share (`0.10`, `"10%"` or a [`Fraction`]); the rest is the default.
    #[must_use]
    pub fn new(pattern: impl Into<String>, percent: impl Into<Share>) -> Self {
        Self {
            prefix: pattern.into(),
            percent: Some(percent.into()),
            max_body_bytes: max_body_bytes(),
            methods: Vec::new(),
            strip_headers: strip_headers(),
            when: when(),
            compare: false,
        }
    }

    /// Sets the largest body that is mirrored, in bytes.
    #[must_use]
    pub fn with_max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// Mirrors these methods only.
    #[must_use]
    pub fn with_methods<M: Into<String>>(mut self, methods: impl IntoIterator<Item = M>) -> Self {
        self.methods = methods.into_iter().map(Into::into).collect();
        self
    }

    /// Sets which headers a copy does not carry.
    #[must_use]
    pub fn with_strip_headers<H: Into<String>>(mut self, headers: impl IntoIterator<Item = H>) -> Self {
        self.strip_headers = headers.into_iter().map(Into::into).collect();
        self
    }

    /// Lets copies carry the primary's answer.
    #[must_use]
    pub fn comparing(mut self) -> Self {
        self.compare = true;
        self
    }

    /// Sends copies whatever the primary answers.
    #[must_use]
    pub fn at_arrival(mut self) -> Self {
        self.when = "arrival".to_owned();
        self
    }
}

impl From<f64> for Share {
    fn from(share: f64) -> Self {
        Self::Number(share)
    }
}

impl From<&str> for Share {
    fn from(share: &str) -> Self {
        Self::Text(share.to_owned())
    }
}

impl From<Fraction> for Share {
    fn from(share: Fraction) -> Self {
        Self::Number(share.get())
    }
}

/// A valid table.
pub(crate) struct Compiled {
    pub(crate) terms: Vec<Terms>,
    pub(crate) high_water: Fraction,
}
