//! A candidate beside the active module: tried on the same requests, never obeyed.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use serde::Serialize;

use crate::{
    abi::arqon_host_v1::Phase,
    engine::Budget,
    exchange::Lent,
    metrics::PolicyMetrics,
    trial::{Trial, Trials},
    verdict::{Cause, Verdict},
    verify::Loaded,
};

/// Most divergences kept of one candidate: the newest.
pub const DIVERGENCES_MAX: usize = 32;

/// A request on which a candidate and the active module differed. No header, no query and no payload is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// The request's method.
    pub method: String,
    /// The request's path.
    pub path: String,
    /// `request` or `response`.
    pub phase: String,
    /// What the active module said: `allow`, `reject 403`, or a failure's cause.
    pub active: String,
    /// What the candidate said.
    pub candidate: String,
    /// Whether they amended the message differently.
    pub amended_differently: bool,
}

/// What came of one call of the active module, as its candidate is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    Same,
    Differs,
    /// The candidate looks at bodies, and this one was too long, or was not read to its end.
    NotAsked,
    /// As many as may be were being tried, or held as many bytes as may be.
    Skipped,
}

/// What [`Compared`] is called in series, in its order.
pub(crate) const COMPARED: [&str; 4] = ["same", "differs", "not_asked", "skipped"];

/// What a module said, without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Allow,
    Reject(u16),
    Failed(Cause),
}

impl From<&Verdict> for Said {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Deny(denial) => Self::Reject(denial.status),
            Verdict::Fail(cause, _) => Self::Failed(*cause),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Reject(status) => write!(f, "reject {status}"),
            Self::Failed(cause) => cause.fmt(f),
        }
    }
}

/// One candidate, how often it was compared, and where it differed.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) budget: Budget,
    pub(crate) metrics: Arc<PolicyMetrics>,
    counts: [AtomicU64; COMPARED.len()],
    failed: AtomicU64,
    newest: Mutex<VecDeque<Divergence>>,
}

impl Candidate {
    pub(crate) fn new(loaded: Arc<Loaded>, budget: Budget, metrics: Arc<PolicyMetrics>) -> Self {
        Self {
            loaded,
            budget,
            metrics,
            counts: Default::default(),
            failed: AtomicU64::new(0),
            newest: Mutex::default(),
        }
    }

    /// A trial on what the active module is about to see, if there is room for one. If it looks at a body that no policy
    /// collects, it waits for that: at most `body_bytes`, if its length is known.
    pub(crate) fn before(
        self: &Arc<Self>,
        trials: &Trials,
        shard: usize,
        phase: Phase,
        exchange: &Lent,
        body_bytes: Option<usize>,
    ) -> Option<Box<Trial>> {
        let missing = phase == Phase::Request && self.loaded.plan.needs_body && exchange.body.is_none();
        let to_come = match body_bytes {
            _ if !missing => 0,
            Some(bytes) => bytes,
            None => {
                self.counted(Compared::NotAsked);
                return None;
            }
        };
        let Some(room) = trials.room(shard, exchange.bytes() + to_come) else {
            self.counted(Compared::Skipped);
            return None;
        };
        let mut twin = exchange.clone();
        if missing && to_come == 0 {
            twin.body = Some(Bytes::new());
        }
        let awaits = twin.body.is_none() && missing;
        Some(Box::new(Trial::new(Arc::clone(self), room, phase, twin, awaits)))
    }

    pub(crate) fn counted(&self, compared: Compared) {
        self.counts[compared as usize].fetch_add(1, Ordering::Relaxed);
        self.metrics.compared(compared);
    }

    pub(crate) fn count(&self, compared: Compared) -> u64 {
        self.counts[compared as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self, cause: Cause) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.metrics.candidate_failed(cause);
    }

    /// Calls without a verdict.
    pub(crate) fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn keep(&self, divergence: Divergence) {
        let mut kept = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(DIVERGENCES_MAX - 1);
        kept.push_front(divergence);
    }

    /// The newest divergences, newest first.
    pub(crate) fn divergences(&self) -> Vec<Divergence> {
        let kept = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().cloned().collect()
    }
}
