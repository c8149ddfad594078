//! Policies as configuration: the keys of `[platform.overseer]` (DESIGN 14), with named limits.
//!
//! The types hold what the file says; [`OverseerConfig::validate`] judges all of it at once.

mod duration;
mod findings;
mod parse;
mod record;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use arqon_message::MAX_BODY_BYTES;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub(crate) use self::parse::{Fuel, Parsed};
use crate::error::ConfigError;

/// Most policies in one chain.
pub const POLICIES_MAX: usize = 64;

/// `[platform.overseer]`.
///
/// ```
/// use arqon_overseer::OverseerConfig;
///
/// let config: OverseerConfig = toml::from_str(
///     r#"
///     fuel_limit = 10_000_000
///     [[policies]]
///     name = "auth_policy"
///     path = "policies/block_me.wat"
///     mode = "enfroce"
///     "#,
/// )?;
/// let findings = config.validate();
/// assert_eq!(findings.len(), 1);
/// assert_eq!(findings[0].key, "policies[0].mode");
/// assert_eq!(findings[0].fix, "did you mean \"enforce\"?");
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct OverseerConfig {
    /// `false` switches every policy off: requests pass unlooked at. Default `true`.
    pub enabled: bool,
    /// Fuel of one call, about one unit per Wasm operator. Default 10,000,000. Not together with `budget`.
    pub fuel_limit: Option<u64>,
    /// Fuel as time on this machine, such as `"5ms"`, calibrated when the engine starts.
    pub budget: Option<String>,
    /// Wall-clock time of one call, such as `"5ms"`; one that runs on has a millisecond more to end. Default: `budget`,
    /// else 5 ms.
    pub deadline: Option<String>,
    /// Bytes of a body that a policy may look at; a larger one is refused with 413. Default 1 MiB.
    pub max_body_bytes: usize,
    /// Bytes of a guest's linear memory, a multiple of 65,536. Default 4 MiB.
    pub memory_bytes_max: usize,
    /// Bytes of a guest's stack. Default 256 KiB.
    pub stack_bytes_max: usize,
    /// Elements of a guest's table. Default 4,096.
    pub table_elements_max: usize,
    /// Requests that run policies at the same time. Default 64.
    pub concurrency: usize,
    /// How long a request waits for its turn before it is refused with 503. Default `"50ms"`.
    pub pool_wait: String,
    /// Instances made ready beforehand, per worker and policy. Default 32; 0 makes each one inline.
    pub standby: usize,
    /// Engines with a pool of their own; 0 is one per CPU, at most 16. Default 0.
    pub shards: usize,
    /// Whether the kernel's page-map scan may reset guest memory, where the process cannot be swapped. Default `true`.
    pub pagemap_scan: bool,
    /// Bytes of one log line of a guest. Default 1,024.
    pub log_bytes_max: usize,
    /// Log lines of one call; the rest is dropped and counted. Default 32.
    pub log_lines_max: u32,
    /// Bytes of a rejection's reason. Default 256.
    pub reason_bytes_max: usize,
    /// Header edits of one call. Default 32.
    pub header_edits_max: usize,
    /// Bytes of names and values in the header edits of one call. Default 8,192.
    pub header_bytes_max: usize,
    /// Bytes of a module. Default 4 MiB.
    pub module_bytes_max: usize,
    /// Functions of a module. Default 10,000.
    pub functions_max: usize,
    /// Bytes of one function's code. Default 256 KiB.
    pub function_bytes_max: usize,
    /// How long a module may take to compile. Default `"5s"`.
    pub compile_deadline: String,
    /// Where compiled modules are kept, so that loading one again takes no compiling. The folder is made if need be, for
    /// the service's user alone; one that somebody else may write to is refused. Needs the feature `cache`. Default: none is kept.
    pub cache_dir: Option<PathBuf>,
    /// How often the policies' files are looked at, to load one anew that changed. Default `"500ms"`; `"0s"` is never.
    pub watch_interval: String,
    /// Writes requests down as policies see them, to be replayed. Default: none.
    pub record: Option<RecordConfig>,
    /// The chain, in order. Every policy whose scope covers the request runs.
    pub policies: Vec<PolicyConfig>,
}

impl Default for OverseerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            fuel_limit: None,
            budget: None,
            deadline: None,
            max_body_bytes: MAX_BODY_BYTES,
            memory_bytes_max: 4 << 20,
            stack_bytes_max: 256 << 10,
            table_elements_max: 4_096,
            concurrency: 64,
            pool_wait: "50ms".to_owned(),
            standby: 32,
            shards: 0,
            pagemap_scan: true,
            log_bytes_max: 1_024,
            log_lines_max: 32,
            reason_bytes_max: 256,
            header_edits_max: 32,
            header_bytes_max: 8_192,
            module_bytes_max: 4 << 20,
            functions_max: 10_000,
            function_bytes_max: 256 << 10,
            compile_deadline: "5s".to_owned(),
            cache_dir: None,
            watch_interval: "500ms".to_owned(),
            record: None,
            policies: Vec::new(),
        }
    }
}

/// `[platform.overseer.record]`: live requests for `arqon policy replay`. Values of `authorization`, `proxy-authorization`,
/// `cookie`, `set-cookie`, `x-api-key`, `x-auth-token`, bearer tokens among WebSocket protocols and secret-looking query
/// parameters are masked; claims, the policy's `config` and all other headers are not, so mind who can read the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct RecordConfig {
    /// The file, a JSON object a line; appended to, and made for its owner's eyes.
    pub path: PathBuf,
    /// Calls of policies that are recorded, from the start of the program. Default 1,000.
    pub requests_max: usize,
    /// Whether bodies are recorded; without them a policy that looks at bodies cannot be replayed. Default `false`.
    pub bodies: bool,
    /// More headers whose values are masked.
    pub masked_headers: Vec<String>,
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            requests_max: 1_000,
            bodies: false,
            masked_headers: Vec::new(),
        }
    }
}

/// One policy of the chain: `[[platform.overseer.policies]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct PolicyConfig {
    /// The `module` of its logs and metrics, unique: `[A-Za-z0-9_-]{1,64}`.
    pub name: String,
    /// The module, `.wasm` or `.wat`.
    pub path: PathBuf,
    /// The module itself, instead of a path: for programs that carry their policies.
    #[serde(skip)]
    pub module: Option<Bytes>,
    /// SHA-256 of the file that it must have, hex.
    pub sha256: Option<String>,
    /// Subjects it looks at, a pattern such as `in.t.*.>`. A request without a subject is looked at too.
    pub subject: Option<String>,
    /// Methods it looks at; empty is all. `GET` covers `HEAD`.
    pub methods: Vec<String>,
    /// Paths it looks at, such as `/v1/publish/{suffix}` or `/files/{*rest}`.
    pub route: Option<String>,
    /// The tenant whose requests it looks at. A request without a tenant is looked at too.
    pub tenant: Option<String>,
    /// `"enforce"` (default), or `"monitor"`: runs and counts, changes nothing.
    pub mode: String,
    /// `"closed"` (default) or `"open"`, or a table by cause: `{ deadline = "open" }`.
    pub failure: FailureConfig,
    /// Text that the guest reads with `host_get_config`.
    pub config: Option<String>,
    /// `"rewrite"` lets it replace the payload.
    pub grants: Vec<String>,
    /// The headers it may edit; absent is every header that is not reserved.
    pub headers: Option<Vec<String>>,
    /// On a WebSocket: `"nack"` the frame (default) or `"close"` the session with 1008.
    pub on_reject: String,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            path: PathBuf::new(),
            module: None,
            sha256: None,
            subject: None,
            methods: Vec::new(),
            route: None,
            tenant: None,
            mode: "enforce".to_owned(),
            failure: FailureConfig::default(),
            config: None,
            grants: Vec::new(),
            headers: None,
            on_reject: "nack".to_owned(),
        }
    }
}

/// What happens to a request for which a policy gave no verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum FailureConfig {
    /// The same for every cause: `"closed"` or `"open"`.
    Same(String),
    /// By cause (`load trap fuel deadline memory stack pool body`); a cause left out is `"closed"`.
    ByCause(BTreeMap<String, String>),
}

impl Default for FailureConfig {
    fn default() -> Self {
        Self::Same("closed".to_owned())
    }
}

impl OverseerConfig {
    /// A chain of these policies, everything else by default.
    #[must_use]
    pub fn of(policies: impl IntoIterator<Item = PolicyConfig>) -> Self {
        Self {
            policies: policies.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Takes relative paths, of policies, of `cache_dir` and of `record`, to be relative to `base`, the folder of the configuration file.
    pub fn resolve_paths(&mut self, base: &Path) {
        if let Some(folder) = &mut self.cache_dir
            && folder.is_relative()
        {
            *folder = base.join(&*folder);
        }
        if let Some(record) = &mut self.record
            && record.path.is_relative()
            && !record.path.as_os_str().is_empty()
        {
            record.path = base.join(&record.path);
        }
        for policy in &mut self.policies {
            if policy.path.is_relative() && !policy.path.as_os_str().is_empty() {
                policy.path = base.join(&policy.path);
            }
        }
    }

    /// How often [`OverseerHandle::watch`](crate::OverseerHandle::watch) is to look at the files; `None` is never.
    #[must_use]
    pub fn watch_every(&self) -> Option<Duration> {
        duration::parse(&self.watch_interval).filter(|every| !every.is_zero())
    }

    /// Everything wrong with the values, each finding with key (relative to `platform.overseer`), value and fix. No file
    /// is opened.
    #[must_use]
    pub fn validate(&self) -> Vec<ConfigError> {
        self.parse().err().unwrap_or_default()
    }
}

impl PolicyConfig {
    /// A policy whose module is read from `path` when the layer is built.
    #[must_use]
    pub fn from_path(name: &str, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            path: path.into(),
            ..Self::default()
        }
    }

    /// A policy whose module, Wasm or WAT, the program carries.
    #[must_use]
    pub fn from_module(name: &str, module: impl Into<Bytes>) -> Self {
        Self {
            name: name.to_owned(),
            module: Some(module.into()),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
