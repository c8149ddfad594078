//! A candidate beside the active module: consulted on the same requests, never obeyed.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use crate::{
    abi::arqon_host_v1::Phase,
    chain::Policy,
    exchange::Exchange,
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

/// The newest divergences of one candidate.
#[derive(Debug, Default)]
pub(crate) struct Divergences(Mutex<VecDeque<Divergence>>);

impl Divergences {
    pub(crate) fn list(&self) -> Vec<Divergence> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// Consults the candidate on `twin`, a copy of what the active module saw; says whether both came to the same,
    /// `None` if the candidate could not be asked.
    pub(crate) fn compare(
        &self,
        loader: &Loader,
        policy: &Policy,
        candidate: &Loaded,
        phase: Phase,
        active: (&Verdict, &Exchange),
        twin: Exchange,
    ) -> Option<bool> {
        if !candidate.compiled.has(phase.entry()) {
            return Some(matches!(active.0, Verdict::Allow));
        }
        if phase == Phase::Request && candidate.plan.needs_body && twin.body.is_none() {
            return None;
        }
        let (call, twin) = loader.call(policy.spec.budget, candidate, phase, Some(twin));
        let twin = twin.expect("a call hands the exchange back");
        let (verdict, exchange) = active;
        let amended_differently = exchange.edits != twin.edits || exchange.body != twin.body;
        let (said, candidate) = (describe(verdict), describe(&call.verdict));
        if said == candidate && !amended_differently {
            return Some(true);
        }
        let divergence = Divergence {
            method: twin.request.method.to_string(),
            path: twin.request.uri.path().to_owned(),
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
        if let Ok(mut kept) = self.0.try_lock() {
            kept.truncate(DIVERGENCES_MAX - 1);
            kept.push_front(divergence);
        }
        Some(false)
    }
}

fn describe(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allow => "allow".to_owned(),
        Verdict::Deny(denial) => format!("reject {}", denial.status),
        Verdict::Fail(cause, _) => cause.to_string(),
    }
}
