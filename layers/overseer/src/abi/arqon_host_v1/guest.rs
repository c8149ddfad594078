//! What one policy may do.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderName;

use crate::{edit, metrics::PolicyMetrics};

/// What is the same for every call of one policy.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// The policy's name: the `module` of its logs and metrics.
    pub(crate) name: Arc<str>,
    /// Its `config`, given out by `host_get_config`.
    pub(crate) config: Bytes,
    /// Whether it may replace the payload.
    pub(crate) rewrite: bool,
    /// The headers it may edit; `None` is every header that is not reserved.
    pub(crate) headers: Option<Box<[HeaderName]>>,
    pub(crate) limits: GuestLimits,
    /// Where its calls are counted, once it is part of a chain.
    pub(crate) metrics: OnceLock<Arc<PolicyMetrics>>,
}

/// Limits on what one call may hand to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestLimits {
    pub(crate) log_bytes_max: usize,
    pub(crate) log_lines_max: u32,
    pub(crate) reason_bytes_max: usize,
    pub(crate) header_edits_max: usize,
    pub(crate) header_bytes_max: usize,
    pub(crate) body_bytes_max: usize,
}

impl Guest {
    /// Whether this policy may edit the header. `name` is in lower case.
    pub(crate) fn may_edit(&self, name: &HeaderName) -> bool {
        !edit::is_reserved(name.as_str())
            && self.headers.as_ref().is_none_or(|headers| headers.contains(name))
    }
}
