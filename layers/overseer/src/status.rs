//! What an operator sees of a policy.

use serde::Serialize;

use crate::{
    candidate::{Candidate, Compared, Divergence},
    chain::Policy,
    report::LoadReport,
};

/// One policy as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyStatus {
    /// Its name.
    pub name: String,
    /// `enforce` or `monitor`.
    pub mode: String,
    /// Whether a module is loaded.
    pub loaded: bool,
    /// SHA-256 of the active module's file.
    pub sha256: Option<String>,
    /// What runs beside the active module, if anything does.
    pub candidate: Option<CandidateStatus>,
    /// Whether [`OverseerHandle::rollback`](crate::OverseerHandle::rollback) has something to go back to.
    pub can_roll_back: bool,
    /// What loading the active module found.
    pub report: LoadReport,
    /// Why the policy's file, as it lies there now, is not what runs; empty when it is, or when nobody watches it.
    pub refused: Vec<String>,
    /// What its calls took.
    pub fuel: FuelStatus,
}

/// The fuel of a policy's calls since the chain was configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FuelStatus {
    /// The most that one call may take.
    pub limit: u64,
    /// Calls by what they took, the cheapest first; each call is in one bucket.
    pub buckets: Vec<FuelBucket>,
}

/// Calls that took at most so much, and more than the bucket before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FuelBucket {
    /// The most a call in here took; None in the last bucket.
    pub at_most: Option<u64>,
    /// How many there were.
    pub calls: u64,
}

/// A candidate beside the active module, and how far they agree since it was installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CandidateStatus {
    /// SHA-256 of its file.
    pub sha256: String,
    /// Calls on which both came to the same verdict and the same edits.
    pub same: u64,
    /// Calls on which they differed.
    pub differs: u64,
    /// Requests on which it could not be asked, because their body was not collected.
    pub not_asked: u64,
    /// Calls on which it was not tried, because too many others waited for that.
    pub skipped: u64,
    /// Calls on which it gave no verdict; each is also the same or different.
    pub failed: u64,
    /// The newest calls on which they differed, at most [`DIVERGENCES_MAX`](crate::DIVERGENCES_MAX), newest first.
    pub divergences: Vec<Divergence>,
}

impl PolicyStatus {
    pub(crate) fn of(policy: &Policy, refused: Vec<String>) -> Self {
        let former = policy.former.is_some();
        Self {
            name: policy.spec.guest.name.to_string(),
            mode: if policy.spec.monitor { "monitor" } else { "enforce" }.to_owned(),
            loaded: policy.loaded.is_some(),
            sha256: policy.loaded.as_ref().map(|loaded| loaded.sha256.clone()),
            candidate: policy
                .candidate
                .as_ref()
                .map(|candidate| CandidateStatus::of(candidate)),
            can_roll_back: policy.candidate.is_some() || former,
            report: policy
                .loaded
                .as_ref()
                .map_or(&policy.report, |loaded| &loaded.report)
                .clone(),
            refused,
            fuel: policy.metrics.fuel(policy.spec.budget.fuel),
        }
    }
}

impl CandidateStatus {
    fn of(candidate: &Candidate) -> Self {
        let count = |compared| candidate.count(compared);
        Self {
            sha256: candidate.loaded.sha256.clone(),
            same: count(Compared::Same),
            differs: count(Compared::Differs),
            not_asked: count(Compared::NotAsked),
            skipped: count(Compared::Skipped),
            failed: candidate.failures(),
            divergences: candidate.divergences(),
        }
    }
}
