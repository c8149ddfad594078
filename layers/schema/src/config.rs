//! `[platform.registry]`: which subjects carry which contract, and what happens when one is broken.

mod store;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use arqon_message::{MAX_BODY_BYTES, SubjectPattern, TenantId};
use serde::{Deserialize, Serialize};

pub use self::store::{OnIncompatible, OnRegression, PINS_MAX, Pins};
use crate::{
    compat::{Compatibility, Profile},
    error::Finding,
};

/// Largest `max_body_bytes`.
pub const MAX_BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most mappings of one registry.
pub const MAPPINGS_MAX: usize = 10_000;
/// Most schemas of one registry, tenants' own included.
pub const SCHEMAS_MAX: usize = 4_096;
/// Most schemas of one tenant's own: one tenant's flood leaves room for the others.
pub const TENANT_SCHEMAS_MAX: usize = 256;
/// The bucket that the source names (S3-13).
pub const KV_BUCKET: &str = "ARQON_SCHEMAS";

/// `[platform.registry]`, with the keys of DESIGN 14. Unknown keys are ignored here: the reader of the whole file
/// reports them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct RegistryConfig {
    /// Off: the layer is not in the stack.
    pub enabled: bool,
    /// The NATS KV bucket with the schemas ([`KV_BUCKET`]); excludes `dir`.
    pub kv_bucket: Option<String>,
    /// The folder with the schemas, relative to the config file; excludes `kv_bucket`.
    pub dir: Option<PathBuf>,
    /// A file with the last known good schemas, relative to the config file, for a start while the bucket is away;
    /// needs `kv_bucket`.
    pub last_known_good: Option<PathBuf>,
    /// How old the registry's last contact with its store may be, in seconds.
    pub cache_ttl_seconds: u64,
    /// What happens to a subject that no mapping matches.
    pub unmapped: Unmapped,
    /// What happens when the registry is older than `cache_ttl_seconds`.
    pub on_stale: OnStale,
    /// How an update must relate to what is in force; see [`guard`](Self::guard) for the default.
    pub compatibility: Option<Compatibility>,
    /// What compatible means.
    pub profile: Profile,
    /// What happens to an update that is not compatible.
    pub on_incompatible: OnIncompatible,
    /// What happens when the store offers an older revision than the one in force.
    pub on_regression: OnRegression,
    /// Revisions that stay in force whatever is written; needs `kv_bucket`.
    pub pins: Pins,
    /// Whether a violation is refused or only counted.
    pub mode: Mode,
    /// Largest payload that is checked, in bytes; more is 413.
    pub max_body_bytes: usize,
    /// Which subject carries which message.
    pub mappings: Vec<MappingConfig>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            kv_bucket: None,
            dir: None,
            last_known_good: None,
            cache_ttl_seconds: 300,
            unmapped: Unmapped::default(),
            on_stale: OnStale::default(),
            compatibility: None,
            profile: Profile::default(),
            on_incompatible: OnIncompatible::default(),
            on_regression: OnRegression::default(),
            pins: Pins::new(),
            mode: Mode::default(),
            max_body_bytes: MAX_BODY_BYTES,
            mappings: Vec::new(),
        }
    }
}

/// One mapping: subjects to a message of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
pub struct MappingConfig {
    /// The subject pattern. The most specific pattern wins.
    pub subject: String,
    /// The schema: `v1.events.user_created`. A tenant's own, `t.<tenant>.<schema id>`, goes before it.
    pub schema_id: String,
    /// The message, fully qualified. Without it the set's last file must have exactly one top-level message.
    #[serde(default)]
    pub message: Option<String>,
    /// How much is checked.
    #[serde(default)]
    pub level: Level,
    /// The encoding of payloads without a media type, or of `application/octet-stream`; any other type than its own is refused.
    #[serde(default)]
    pub encoding: Option<Encoding>,
    /// Paths that must be present: `user_id`, `user.email`, `items[].sku`. Checked at every level.
    #[serde(default)]
    pub required: Vec<String>,
    /// JSON goes on in the binary format, as `application/x-protobuf`: handlers, mirrors and consumers see one encoding.
    #[serde(default)]
    pub transcode: bool,
}

impl MappingConfig {
    /// A mapping with the default level, the schema's only message and no required paths.
    #[must_use]
    pub fn new(subject: impl Into<String>, schema_id: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            schema_id: schema_id.into(),
            message: None,
            level: Level::default(),
            encoding: None,
            required: Vec::new(),
            transcode: false,
        }
    }

    /// Names the message.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Sets the level.
    #[must_use]
    pub const fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Fixes the encoding.
    #[must_use]
    pub const fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = Some(encoding);
        self
    }

    /// Lets JSON go on in the binary format.
    #[must_use]
    pub const fn transcode(mut self) -> Self {
        self.transcode = true;
        self
    }

    /// Adds a required path.
    #[must_use]
    pub fn require(mut self, path: impl Into<String>) -> Self {
        self.required.push(path.into());
        self
    }
}

/// How much of the contract is checked; each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Well-formed: types, varints, lengths, UTF-8, groups, depth 100, packed.
    Wire,
    /// No unknown fields, closed enums.
    #[default]
    Strict,
    /// proto2 `required`, `LEGACY_REQUIRED` and buf.validate's `required`.
    Required,
    /// The standard rules of buf.validate. A schema whose rules are in CEL is refused when the mapping is loaded.
    Rules,
}

impl Level {
    /// `wire`, `strict`, `required` or `rules`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Strict => "strict",
            Self::Required => "required",
            Self::Rules => "rules",
        }
    }
}

impl std::str::FromStr for Level {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = [Self::Wire, Self::Strict, Self::Required, Self::Rules];
        all.into_iter()
            .find(|level| level.as_str() == name)
            .ok_or(UnknownName("wire, strict, required or rules"))
    }
}

/// How a payload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// The binary format.
    #[serde(alias = "protobuf")]
    Proto,
    /// The Protobuf JSON mapping.
    Json,
}

impl Encoding {
    /// `proto` or `json`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proto => "proto",
            Self::Json => "json",
        }
    }
}

impl std::str::FromStr for Encoding {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "proto" | "protobuf" => Ok(Self::Proto),
            "json" => Ok(Self::Json),
            _ => Err(UnknownName("proto or json")),
        }
    }
}

/// A name that is not one of the closed set; the text lists the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use {0}")]
pub struct UnknownName(pub(crate) &'static str);

/// What happens to a subject that no mapping matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Unmapped {
    /// It passes unchecked and is counted.
    #[default]
    Allow,
    /// 400 `schema.unmapped`.
    Reject,
}

/// What happens when the store has not been heard of for `cache_ttl_seconds`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnStale {
    /// 503 `schema.unavailable`.
    #[default]
    Reject,
    /// The last known schemas stay in force.
    Serve,
}

/// Whether the contract is enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A violation is refused.
    #[default]
    Enforce,
    /// A violation is counted, logged and let through.
    Monitor,
}

impl RegistryConfig {
    /// Makes `dir` and `last_known_good` absolute: they are relative to the folder of the config file.
    pub fn resolve_paths(&mut self, base: &Path) {
        for path in [&mut self.dir, &mut self.last_known_good].into_iter().flatten() {
            *path = base.join(&*path);
        }
    }

    /// Everything that is wrong, at once; keys are those below `[platform.registry]`.
    #[must_use]
    pub fn validate(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut find = |key: String, value: String, fix: &str| {
            findings.push(Finding {
                key,
                value,
                fix: fix.to_owned(),
            });
        };
        if let (Some(_), Some(dir)) = (&self.kv_bucket, &self.dir) {
            let fix = "schemas come from one store: remove kv_bucket or dir";
            find("dir".to_owned(), dir.display().to_string(), fix);
        }
        if let Some(bucket) = self.kv_bucket.as_deref().filter(|bucket| !is_token(bucket)) {
            find(
                "kv_bucket".to_owned(),
                bucket.to_owned(),
                "a bucket is named by A-Z a-z 0-9 _ -, such as ARQON_SCHEMAS",
            );
        }
        self.validate_store(&mut findings);
        let mut find = |key: String, value: String, fix: &str| {
            findings.push(Finding {
                key,
                value,
                fix: fix.to_owned(),
            });
        };
        if self.cache_ttl_seconds == 0 {
            find(
                "cache_ttl_seconds".to_owned(),
                "0".to_owned(),
                "use at least 1; on_stale = \"serve\" ignores the age",
            );
        }
        if self.max_body_bytes == 0 || self.max_body_bytes > MAX_BODY_BYTES_MAX {
            let fix = "use 1 to 67108864 bytes (the default is 1048576)";
            find("max_body_bytes".to_owned(), self.max_body_bytes.to_string(), fix);
        }
        if self.mappings.len() > MAPPINGS_MAX {
            find(
                "mappings".to_owned(),
                self.mappings.len().to_string(),
                "use at most 10000; patterns cover many subjects",
            );
        }
        let mut subjects = HashSet::new();
        for (at, mapping) in self.mappings.iter().enumerate() {
            let mut find = |key: &str, value: &str, fix: &str| {
                findings.push(Finding {
                    key: format!("mappings[{at}].{key}"),
                    value: value.to_owned(),
                    fix: fix.to_owned(),
                });
            };
            if let Err(error) = SubjectPattern::parse(&mapping.subject) {
                find(
                    "subject",
                    &mapping.subject,
                    &format!("{error}; write it like in.t.*.users.>"),
                );
            } else if !subjects.insert(mapping.subject.as_str()) {
                find(
                    "subject",
                    &mapping.subject,
                    "this pattern is mapped twice: keep one",
                );
            }
            if !is_schema_id(&mapping.schema_id) {
                find(
                    "schema_id",
                    &mapping.schema_id,
                    "use tokens of A-Z a-z 0-9 _ - joined by dots, not starting with t.",
                );
            }
            if let Some(message) = mapping.message.as_deref().filter(|message| !is_message(message)) {
                find(
                    "message",
                    message,
                    "use the full name without a leading dot, such as events.v1.UserCreated",
                );
            }
            if mapping.transcode && mapping.encoding == Some(Encoding::Proto) {
                find(
                    "transcode",
                    "true",
                    "this mapping takes binary payloads only: remove transcode, or encoding",
                );
            }
            for path in mapping.required.iter().filter(|path| !is_required_path(path)) {
                find(
                    "required",
                    path,
                    "write paths like user_id, user.email or items[].sku",
                );
            }
        }
        findings
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn is_message(text: &str) -> bool {
    text.split('.').all(|part| is_token(part) && !part.contains('-'))
}

fn is_required_path(text: &str) -> bool {
    text.split('.')
        .all(|part| is_message(part.strip_suffix("[]").unwrap_or(part)))
}

/// Whether the text is a schema id: tokens joined by dots, at most 255 bytes, not starting with `t.`.
pub(crate) fn is_schema_id(text: &str) -> bool {
    is_key(text) && !text.starts_with("t.")
}

fn is_key(text: &str) -> bool {
    text.len() <= 255 && text.split('.').all(is_token)
}

/// The store key of a schema id: the id, or `t.<tenant>.<schema id>` for a tenant's own; `None` if it is no schema id.
///
/// ```
/// use arqon_message::TenantId;
/// use arqon_schema::store_key;
///
/// assert_eq!(store_key(None, "v1.users").as_deref(), Some("v1.users"));
/// assert_eq!(store_key(Some(&TenantId::new("acme")?), "v1.users").as_deref(), Some("t.acme.v1.users"));
/// assert_eq!(store_key(None, "v1 users"), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn store_key(tenant: Option<&TenantId>, schema_id: &str) -> Option<String> {
    is_schema_id(schema_id).then(|| match tenant {
        Some(tenant) => format!("t.{tenant}.{schema_id}"),
        None => schema_id.to_owned(),
    })
}

/// Splits a store key into the tenant of a tenant's own schema and the schema id.
pub(crate) fn split_key(key: &str) -> Option<(Option<&str>, &str)> {
    match key.strip_prefix("t.") {
        None => is_schema_id(key).then_some((None, key)),
        Some(rest) => {
            let (tenant, id) = rest.split_once('.')?;
            (TenantId::new(tenant).is_ok() && is_schema_id(id)).then_some((Some(tenant), id))
        }
    }
}
