//! A candidate beside the active module: consulted on the same requests, never obeyed.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;

use crate::{
    abi::arqon_host_v1::Phase,
    chain::Policy,
    exchange::{Exchange, Lent},
    verdict::Verdict,
    verify::{Loaded, Loader},
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

/// How a candidate's verdict compares with the active module's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    Same,
    Differs,
    /// The candidate looks at bodies, and this one was not collected.
    NotAsked,
}

impl Compared {
    /// Whether both came to the same, if the candidate was asked.
    pub(crate) const fn verdict(self) -> Option<bool> {
        match self {
            Self::Same => Some(true),
            Self::Differs => Some(false),
            Self::NotAsked => None,
        }
    }
}

/// The newest divergences of one candidate, and how often it was compared.
#[derive(Debug, Default)]
pub(crate) struct Divergences {
    newest: Mutex<VecDeque<Divergence>>,
    counts: [AtomicU64; 3],
}

impl Divergences {
    pub(crate) fn list(&self) -> Vec<Divergence> {
        self.newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    pub(crate) fn counted(&self, compared: Compared) {
        self.counts[compared as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self, compared: Compared) -> u64 {
        self.counts[compared as usize].load(Ordering::Relaxed)
    }

    /// Consults the candidate on `twin`, a copy of what the active module saw.
    pub(crate) fn compare(
        &self,
        loader: &Loader,
        policy: &Policy,
        candidate: &Loaded,
        phase: Phase,
        active: (&Verdict, &Exchange),
        twin: Lent,
    ) -> Compared {
        if !candidate.compiled.has(phase.entry()) {
            return if matches!(active.0, Verdict::Allow) {
                Compared::Same
            } else {
                Compared::Differs
            };
        }
        if phase == Phase::Request && candidate.plan.needs_body && twin.body.is_none() {
            return Compared::NotAsked;
        }
        let (call, twin) = loader.call(policy.spec.budget, candidate, phase, Some(twin));
        let twin = twin.expect("a call hands the exchange back");
        let (verdict, exchange) = active;
        let amended_differently = exchange.edits != twin.edits || exchange.body != twin.body;
        let (said, candidate) = (describe(verdict), describe(&call.verdict));
        if said == candidate && !amended_differently {
            return Compared::Same;
        }
        let divergence = Divergence {
            method: twin.request().method.to_string(),
            path: twin.request().uri.path().to_owned(),
            phase: if phase == Phase::Response {
                "response"
            } else {
                "request"
            }
            .to_owned(),
            active: said,
            candidate,
            amended_differently,
        };
        let module = &*policy.spec.guest.name;
        tracing::debug!(
            component = "overseer",
            module,
            ?divergence,
            msg = "the candidate differs"
        );
        // A request does not wait for another's note: this one goes unkept then, and is counted all the same.
        if let Ok(mut kept) = self.newest.try_lock() {
            kept.truncate(DIVERGENCES_MAX - 1);
            kept.push_front(divergence);
        }
        Compared::Differs
    }
}

fn describe(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allow => "allow".to_owned(),
        Verdict::Deny(denial) => format!("reject {}", denial.status),
        Verdict::Fail(cause, _) => cause.to_string(),
    }
}
