//! What an operator sees: the state of every scope, since when, and why.

mod orders;

use std::collections::VecDeque;

use serde::Serialize;

use crate::{
    apply::Accepted,
    envelope::Message,
    latch::Brake,
    live::{Live, alone},
    record::Record,
    state::{ApprovedRollout, Lane, Scope, State},
    stats::Window,
    table::Phase,
    watch::Watch,
    wire::{DownstreamMessage, RolloutConfig, UpstreamMessage, VariantId},
};

pub use self::orders::{HeldBy, OrderStatus};

/// The state of a node, for `/v1/state` and `gov status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The position of the log this node has come to.
    pub seq: u64,
    /// Microseconds since the log was last read to its end; None before the first time in this run.
    pub contact_age_us: Option<u64>,
    /// Why shares are held here and nothing is loosened; None when they are not.
    pub hold: Option<String>,
    /// The tenant that alone is held by that; None where it is the whole node.
    pub hold_of: Option<String>,
    /// The digest of the key set with which the log begins, as this node is configured; all nodes of one log need the same. Empty
    /// without a tenant.
    pub first_keys: String,
    /// Telemetry and alerts that wait to be sent upstream.
    pub reports_waiting: usize,
    /// Every tenant.
    pub tenants: Vec<TenantStatus>,
}

/// The state of a tenant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TenantStatus {
    /// Which.
    pub tenant: String,
    /// The position of the log that this node has come to with it.
    pub seq: u64,
    /// The number of the key set.
    pub epoch: u64,
    /// The operators' last counter.
    pub counter: u64,
    /// The version of the catalog in force; 0 is none.
    pub catalog_version: u64,
    /// The version that waits for a resume.
    pub parked_catalog_version: Option<u64>,
    /// Every order that stops or pauses something of it, once.
    pub orders: Vec<OrderStatus>,
    /// How many of them hold on this node alone, because the log refused them.
    pub alone: usize,
    /// Why nothing of it is loosened on this node while other tenants go on: a catalog that is not here yet, or a state that nobody
    /// here knows; None when it is not.
    pub hold: Option<String>,
    /// Its scopes.
    pub scopes: Vec<ScopeStatus>,
    /// The proposals that wait for an approval.
    pub pending: Vec<PendingStatus>,
    /// The last things that were decided, oldest first; at most 64 of a node.
    pub decisions: Vec<DecisionStatus>,
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
    /// Whether a stop or a pause is latched on this node ahead of the log.
    pub latched: bool,
    /// Whether what is latched survives a restart of this node; None when nothing is.
    pub durable: Option<bool>,
    /// Whether an order that was not given for the whole tenant stops or pauses it, which a resume of that does not end.
    pub held_alone: bool,
    /// Every order that stops or pauses it; its tenant's `orders` say why.
    pub held_by: Vec<HeldBy>,
    /// The scope whose rollout its subjects are part of, when it has none: one that was approved since it went idle, or that
    /// they are held in by a pause; empty is the whole tenant's.
    pub joins: Option<String>,
    /// Whether the guard has lowered what is served here.
    pub guarded: bool,
    /// Since when it is so, microseconds since the Unix epoch.
    pub since_us: u64,
    /// The reason somebody gave.
    pub reason: String,
    /// The names of the keys that signed.
    pub by: Vec<String>,
    /// How many requests this node sent which way since the rollout began here.
    pub cohorts: Option<CohortStatus>,
    /// What the guard saw last; None without a guard, or before the first window ended.
    pub guard: Option<GuardStatus>,
    /// How the served share came about: a point for every change of state, and whenever it had moved by half a
    /// percent; the last 120.
    pub history: Vec<SharePoint>,
}

/// Requests by where they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CohortStatus {
    /// To the variant.
    pub canary: u64,
    /// To the baseline.
    pub baseline: u64,
}

/// A window of the guard.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GuardStatus {
    /// When it ended, microseconds since the Unix epoch.
    pub at_us: u64,
    /// `healthy`, `no_data` or `breach`.
    pub verdict: &'static str,
    /// The variant's figures.
    pub canary: SideStatus,
    /// The baseline's.
    pub baseline: SideStatus,
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SideStatus {
    /// Answers.
    pub requests: u64,
    /// The share of them that were errors, 0 to 1.
    pub error_rate: f64,
    /// Seconds.
    pub latency_p50: f64,
    /// Seconds.
    pub latency_p99: f64,
}

impl SideStatus {
    fn of(window: &Window) -> Self {
        Self {
            requests: window.requests(),
            error_rate: window.error_rate(),
            latency_p50: window.quantile(0.5),
            latency_p99: window.quantile(0.99),
        }
    }
}

/// The served share at a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SharePoint {
    /// Microseconds since the Unix epoch.
    pub at_us: u64,
    /// The state.
    pub phase: Phase,
    /// In percent.
    pub percent: f64,
}

/// How a share came about.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<SharePoint>);

impl History {
    const POINTS: usize = 120;

    pub(crate) fn push(&mut self, at_us: u64, percent: f64, phase: Phase) {
        let same = |last: &SharePoint| last.phase == phase && (last.percent - percent).abs() < 0.5;
        if self.0.back().is_some_and(same) {
            return;
        }
        if self.0.len() >= Self::POINTS {
            self.0.pop_front();
        }
        self.0.push_back(SharePoint {
            at_us,
            phase,
            percent,
        });
    }
}

/// Something that was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DecisionStatus {
    /// Its position in the log.
    pub seq: u64,
    /// When the log stored it.
    pub at_us: u64,
    /// Its type or action, such as `approval` or `emergency_stop`.
    pub kind: &'static str,
    /// The names of the keys that signed.
    pub by: Vec<String>,
    /// The subject pattern; empty for the whole tenant.
    pub scope: String,
    /// The proposal it is about.
    pub proposal_id: Option<String>,
    /// The reason somebody gave.
    pub reason: String,
    /// Whether it holds the whole tenant, because there was no room for its scope.
    pub widened: bool,
}

impl DecisionStatus {
    pub(crate) fn of(record: &Record, accepted: &Accepted) -> Self {
        let control = &accepted.control;
        let (proposal_id, reason, scope) = match &control.message {
            Message::Upstream(UpstreamMessage::Proposal {
                id, reason, scope, ..
            }) => (Some(id.clone()), reason.clone(), scope.clone()),
            Message::Downstream(DownstreamMessage::Approval { proposal_id, .. }) => {
                (Some(proposal_id.clone()), String::new(), None)
            }
            Message::Downstream(DownstreamMessage::Enforce { reason, .. }) => (None, reason.clone(), None),
            _ => (None, String::new(), None),
        };
        Self {
            seq: record.seq,
            at_us: record.received_at_us,
            kind: control.message.kind(),
            by: accepted.signed_by.clone(),
            scope: scope.or_else(|| control.scope.clone()).unwrap_or_default(),
            proposal_id,
            reason,
            widened: accepted.widened,
        }
    }
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
            seq: live.position(),
            contact_age_us: (live.contact_us > 0).then(|| now_us.saturating_sub(live.contact_us)),
            hold: live.held_because(),
            hold_of: live.held_alone().map(ToString::to_string),
            first_keys: live
                .first_keys
                .map_or_else(String::new, |digest| digest.to_string()),
            reports_waiting: live.reports.len(),
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
        seq: live.position_of(state.tenant()),
        epoch: state.keys().epoch,
        counter: state.counter(),
        catalog_version: state.catalog().version(),
        parked_catalog_version: state.parked_catalog().map(crate::Catalog::version),
        orders: orders::orders(live, state),
        alone: alone(&live.latches, state.tenant()),
        hold: live.apart(state.tenant()),
        scopes: scopes(live, state, now_us),
        pending: pending.collect(),
        decisions: live
            .decisions
            .iter()
            .filter(|(of, _)| of == state.tenant())
            .map(|(_, decision)| decision.clone())
            .collect(),
    }
}

/// Every scope of the state, and those that are only latched here so far.
fn scopes(live: &Live, state: &State, now_us: u64) -> Vec<ScopeStatus> {
    let mut scopes: Vec<Scope> = state.lanes().keys().cloned().collect();
    let latched = live.latches.keys().filter(|(of, ..)| of == state.tenant());
    scopes.extend(latched.map(|(_, scope, _)| scope.clone()));
    scopes.sort();
    scopes.dedup();
    let of = |scope: &Scope| of_scope(live, state, scope, &state.lane(scope), now_us);
    scopes.iter().map(of).collect()
}

fn of_scope(live: &Live, state: &State, scope: &Scope, lane: &Lane, now_us: u64) -> ScopeStatus {
    let phase = live.phase(state.tenant(), scope, lane, now_us);
    // What is latched may be overtaken by the log: a pause by a stop.
    let latch = match phase {
        Phase::Stopped => live.latch(state.tenant(), scope, Brake::Stop),
        Phase::Paused => live.latch(state.tenant(), scope, Brake::Pause),
        _ => None,
    };
    let held = live.held_around(state, scope, lane, phase, now_us);
    let cause = lane.cause();
    let key = (state.tenant().clone(), scope.clone());
    let watch = live.watches.get(&key);
    let baseline = match phase {
        Phase::Stopped => state.catalog().baseline().id,
        _ => {
            lane.base(
                state.catalog(),
                live.moment(now_us),
                live.contact_of(state.tenant()).1,
            )
            .id
        }
    };
    ScopeStatus {
        scope: scope.to_string(),
        phase,
        percent: held.as_ref().map_or_else(
            || live.percent(state.tenant(), scope, lane, now_us),
            |held| held.2,
        ),
        log_percent: lane.percent_at(live.moment(now_us)),
        baseline,
        rollout: lane.rollout().map(rollout),
        parked: lane.parked().map(rollout),
        latched: latch.is_some(),
        durable: latch.map(|latch| latch.saved),
        held_alone: lane.is_held_alone() || live.braked_alone(state.tenant(), scope),
        held_by: orders::held_by(live, state, scope, lane),
        joins: match &held {
            Some((of, ..)) => Some(of.to_string()),
            None => state
                .joins(scope)
                .filter(|_| phase == Phase::Idle)
                .map(Scope::to_string),
        },
        guarded: watch.is_some_and(Watch::breached),
        since_us: latch.map_or(cause.since_us, |latch| latch.since_us),
        reason: latch.map_or_else(|| cause.reason.clone(), |latch| latch.reason.clone()),
        by: latch.map_or_else(|| cause.by.clone(), |latch| latch.by.clone()),
        cohorts: watch.map(|watch| CohortStatus {
            canary: watch.canary.decided(),
            baseline: watch.baseline.decided(),
        }),
        guard: watch.and_then(Watch::judged).map(|judged| GuardStatus {
            at_us: judged.at_us,
            verdict: judged.verdict,
            canary: SideStatus::of(&judged.canary),
            baseline: SideStatus::of(&judged.baseline),
        }),
        history: live
            .history
            .get(&key)
            .map_or_else(Vec::new, |history| history.0.iter().copied().collect()),
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
