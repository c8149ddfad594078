//! What a guest can see of how its policy was configured: a record without it could not be replayed.

use serde::{Deserialize, Serialize};

use crate::{
    abi::arqon_host_v1::Guest,
    config::{OverseerConfig, PolicyConfig},
    engine::Settings,
};

/// What decides, beside module and request, about a policy's verdict and fuel: part of each
/// [`Recording`](crate::Recording).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// The policy's `config`, as written; empty is none.
    pub config: String,
    /// Its `grants`.
    pub grants: Vec<String>,
    /// The headers it might edit; `null` is every header that is not reserved.
    pub headers: Option<Vec<String>>,
    /// Fuel of one call, by `fuel_limit`, or what `budget` was worth on that machine.
    pub fuel: u64,
    /// Bytes of a body.
    pub max_body_bytes: usize,
    /// Bytes of its memory.
    pub memory_bytes_max: usize,
    /// Bytes of its stack.
    pub stack_bytes_max: usize,
    /// Elements of its table.
    pub table_elements_max: usize,
    /// Bytes of a log line.
    pub log_bytes_max: usize,
    /// Log lines of a call.
    pub log_lines_max: u32,
    /// Bytes of a reason.
    pub reason_bytes_max: usize,
    /// Header edits of a call.
    pub header_edits_max: usize,
    /// Bytes of the header edits of a call.
    pub header_bytes_max: usize,
}

/// The limits that belong to the engine, not to one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EngineLimits {
    memory_bytes_max: usize,
    stack_bytes_max: usize,
    table_elements_max: usize,
}

impl EngineLimits {
    pub(crate) const fn of(settings: &Settings) -> Self {
        Self {
            memory_bytes_max: settings.memory_bytes_max,
            stack_bytes_max: settings.stack_bytes_max,
            table_elements_max: settings.table_elements_max,
        }
    }
}

impl Conditions {
    pub(crate) fn new(guest: &Guest, fuel: u64, engine: EngineLimits) -> Self {
        let limits = guest.limits;
        Self {
            config: String::from_utf8_lossy(&guest.config).into_owned(),
            grants: guest.rewrite.then(|| "rewrite".to_owned()).into_iter().collect(),
            headers: guest
                .headers
                .as_ref()
                .map(|names| names.iter().map(ToString::to_string).collect()),
            fuel,
            max_body_bytes: limits.body_bytes_max,
            memory_bytes_max: engine.memory_bytes_max,
            stack_bytes_max: engine.stack_bytes_max,
            table_elements_max: engine.table_elements_max,
            log_bytes_max: limits.log_bytes_max,
            log_lines_max: limits.log_lines_max,
            reason_bytes_max: limits.reason_bytes_max,
            header_edits_max: limits.header_edits_max,
            header_bytes_max: limits.header_bytes_max,
        }
    }

    /// The limits, for [`PolicyEngine::with_limits`](crate::PolicyEngine::with_limits). Those on modules, which no guest
    /// can see, are as wide as they go: what was recorded had been loaded.
    #[must_use]
    pub fn limits(&self) -> OverseerConfig {
        OverseerConfig {
            fuel_limit: Some(self.fuel),
            max_body_bytes: self.max_body_bytes,
            memory_bytes_max: self.memory_bytes_max,
            stack_bytes_max: self.stack_bytes_max,
            table_elements_max: self.table_elements_max,
            log_bytes_max: self.log_bytes_max,
            log_lines_max: self.log_lines_max,
            reason_bytes_max: self.reason_bytes_max,
            header_edits_max: self.header_edits_max,
            header_bytes_max: self.header_bytes_max,
            module_bytes_max: 1 << 28,
            functions_max: 1_000_000,
            function_bytes_max: 1 << 24,
            compile_deadline: "60s".to_owned(),
            // One call at a time: little address space.
            concurrency: 1,
            ..OverseerConfig::default()
        }
    }

    /// Gives `policy` the configuration, the grants and the headers of the record.
    #[must_use]
    pub fn applied_to(&self, policy: PolicyConfig) -> PolicyConfig {
        PolicyConfig {
            config: (!self.config.is_empty()).then(|| self.config.clone()),
            grants: self.grants.clone(),
            headers: self.headers.clone(),
            ..policy
        }
    }
}
