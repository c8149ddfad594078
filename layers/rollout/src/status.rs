//! What an operator sees: the state of every scope, since when, and why.

use serde::Serialize;

use crate::{
    live::Live,
    state::{ApprovedRollout, Lane, Scope, State},
    table::Phase,
    watch::Watch,
    wire::{RolloutConfig, VariantId},
};

/// The state of a node, for `/v1/state` and `gov status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The position of the log this node has come to.
    pub seq: u64,
    /// Microseconds since the log was last read to its end.
    pub contact_age_us: u64,
    /// Why shares are held here; None when they are not.
    pub hold: Option<&'static str>,
    /// Every tenant.
    pub tenants: Vec<TenantStatus>,
}

/// The state of a tenant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TenantStatus {
    /// Which.
    pub tenant: String,
    /// The number of the key set.
    pub epoch: u64,
    /// The operators' last counter.
    pub counter: u64,
    /// The version of the catalog in force; 0 is none.
    pub catalog_version: u64,
    /// The version that waits for a resume.
    pub parked_catalog_version: Option<u64>,
    /// Its scopes.
    pub scopes: Vec<ScopeStatus>,
    /// The proposals that wait for an approval.
    pub pending: Vec<PendingStatus>,
}

/// The state of a scope.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScopeStatus {
    /// The subject pattern; empty for the whole tenant.
    pub scope: String,
    /// The state, as served here.
    pub phase: Phase,
    /// What is served here, in percent.
    pub percent: f64,
    /// What the log alone says, in percent.
    pub log_percent: f64,
    /// Who is not in the rollout gets this.
    pub baseline: VariantId,
    /// The rollout that runs or is held.
    pub rollout: Option<RolloutStatus>,
    /// The approval that waits for the resume.
    pub parked: Option<RolloutStatus>,
    /// Whether a stop is latched on this node beyond the log.
    pub latched: bool,
    /// Whether the guard has lowered what is served here.
    pub guarded: bool,
    /// Since when it is so, microseconds since the Unix epoch.
    pub since_us: u64,
    /// The reason somebody gave.
    pub reason: String,
    /// The names of the keys that signed.
    pub by: Vec<String>,
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RolloutStatus {
    /// The proposal.
    pub proposal_id: String,
    /// What was approved.
    pub digest: String,
    /// What is rolled out.
    pub variant: VariantId,
    /// Its name.
    pub variant_name: String,
    /// Its ramp.
    pub config: RolloutConfig,
    /// Who approved.
    pub approved_by: Vec<String>,
    /// When.
    pub approved_at_us: u64,
    /// When it ends by itself.
    pub until_us: Option<u64>,
}

/// A proposal that waits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PendingStatus {
    /// Its id.
    pub id: String,
    /// What an approval must name.
    pub digest: String,
    /// Who proposed.
    pub issuer: String,
    /// What is proposed.
    pub variant: Option<VariantId>,
    /// Why.
    pub reason: String,
    /// When it is forgotten.
    pub expires_at_us: u64,
}

impl Status {
    /// The status of one scope; empty is the whole tenant.
    pub fn scope(&self, tenant: &str, scope: &str) -> Option<&ScopeStatus> {
        let tenant = self.tenants.iter().find(|of| of.tenant == tenant)?;
        tenant.scopes.iter().find(|of| of.scope == scope)
    }

    pub(crate) fn of(live: &Live, now_us: u64) -> Self {
        Self {
            seq: live.seq,
            contact_age_us: now_us.saturating_sub(live.contact_us),
            hold: live.hold,
            tenants: live
                .states
                .values()
                .map(|state| tenant(live, state, now_us))
                .collect(),
        }
    }
}

fn tenant(live: &Live, state: &State, now_us: u64) -> TenantStatus {
    let pending = state.pending().iter().map(|(id, pending)| PendingStatus {
        id: id.clone(),
        digest: pending.digest.to_string(),
        issuer: pending.issuer.clone(),
        variant: pending.proposal.variant_id,
        reason: pending.proposal.reason.clone(),
        expires_at_us: pending.expires_at_us,
    });
    TenantStatus {
        tenant: state.tenant().to_string(),
        epoch: state.keys().epoch,
        counter: state.counter(),
        catalog_version: state.catalog().version(),
        parked_catalog_version: state.parked_catalog().map(crate::Catalog::version),
        scopes: state
            .lanes()
            .iter()
            .map(|(scope, lane)| of_scope(live, state, scope, lane, now_us))
            .collect(),
        pending: pending.collect(),
    }
}

fn of_scope(live: &Live, state: &State, scope: &Scope, lane: &Lane, now_us: u64) -> ScopeStatus {
    let phase = live.phase(state.tenant(), scope, lane, now_us);
    let latch = live.latch(state.tenant(), scope);
    let cause = lane.cause();
    let baseline = match phase {
        Phase::Stopped => state.catalog().baseline().id,
        _ => lane.base(state.catalog(), now_us).id,
    };
    ScopeStatus {
        scope: scope.to_string(),
        phase,
        percent: live.percent(state.tenant(), scope, lane, now_us),
        log_percent: lane.percent(now_us),
        baseline,
        rollout: lane.rollout().map(rollout),
        parked: lane.parked().map(rollout),
        latched: latch.is_some(),
        guarded: live
            .watches
            .get(&(state.tenant().clone(), scope.clone()))
            .is_some_and(Watch::breached),
        since_us: latch.map_or(cause.since_us, |latch| latch.since_us),
        reason: latch.map_or_else(|| cause.reason.clone(), |latch| latch.reason.clone()),
        by: cause.by.clone(),
    }
}

fn rollout(rollout: &ApprovedRollout) -> RolloutStatus {
    RolloutStatus {
        proposal_id: rollout.proposal.id.clone(),
        digest: rollout.digest.to_string(),
        variant: rollout.variant().id,
        variant_name: rollout.variant().name.to_string(),
        config: rollout.config,
        approved_by: rollout.approved_by.clone(),
        approved_at_us: rollout.approved_at_us,
        until_us: rollout.until_us,
    }
}
