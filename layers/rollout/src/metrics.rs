//! Counters and gauges, registered at 0 when an executor is made.

use std::collections::HashMap;

use arqon_message::TenantId;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use crate::{refusal::Reason, state::Scope};

/// Requests by the variant they were assigned.
pub const DECISIONS: &str = "shield_rollout_decisions_total";
/// The served share of a scope, 0 to 1; labels `tenant` and `scope`.
pub const FRACTION: &str = "shield_rollout_fraction";
/// Refused control messages by reason.
pub const REFUSED: &str = "shield_rollout_refused_total";
/// 1 while a scope is stopped; labels `tenant` and `scope`.
pub const STOPPED: &str = "shield_rollout_stopped";

/// Stops and pauses that hold on this node alone, because the log refused them; label `tenant`.
pub const ALONE: &str = "shield_rollout_alone";

/// Handles, taken once.
pub(crate) struct Metrics {
    refused: HashMap<Reason, Counter>,
    decisions: HashMap<String, Counter>,
    scopes: HashMap<(TenantId, Scope), (Gauge, Gauge)>,
    alone: HashMap<TenantId, Gauge>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        describe_counter!(DECISIONS, "requests, by the variant they were sent to");
        describe_gauge!(
            FRACTION,
            "the share that is sent to the variant here, by tenant and scope"
        );
        describe_counter!(REFUSED, "control messages that were refused, by reason");
        describe_gauge!(
            STOPPED,
            "1 while an emergency stop is in force, by tenant and scope"
        );
        describe_gauge!(
            ALONE,
            "stops and pauses that hold on this node alone, because the log refused them, by tenant"
        );
        let refused = Reason::ALL.iter().map(|reason| {
            let counter = counter!(REFUSED, "reason" => reason.as_str());
            counter.increment(0);
            (*reason, counter)
        });
        Self {
            refused: refused.collect(),
            decisions: HashMap::new(),
            scopes: HashMap::new(),
            alone: HashMap::new(),
        }
    }

    /// Placeholder while the real one is borrowed.
    pub(crate) fn empty() -> Self {
        Self {
            refused: HashMap::new(),
            decisions: HashMap::new(),
            scopes: HashMap::new(),
            alone: HashMap::new(),
        }
    }

    pub(crate) fn alone(&mut self, tenant: &TenantId, orders: usize) {
        let gauge = self
            .alone
            .entry(tenant.clone())
            .or_insert_with(|| gauge!(ALONE, "tenant" => tenant.to_string()));
        gauge.set(orders as f64);
    }

    pub(crate) fn refused(&self, reason: Reason) {
        if let Some(counter) = self.refused.get(&reason) {
            counter.increment(1);
        }
    }

    /// The counter of a variant.
    pub(crate) fn decisions(&mut self, variant: &str) -> Counter {
        if let Some(counter) = self.decisions.get(variant) {
            return counter.clone();
        }
        let counter = counter!(DECISIONS, "variant" => variant.to_owned());
        counter.increment(0);
        self.decisions.insert(variant.to_owned(), counter.clone());
        counter
    }

    pub(crate) fn scope(&mut self, tenant: &TenantId, scope: &Scope, fraction: f64, stopped: bool) {
        let key = (tenant.clone(), scope.clone());
        let (served, latched) = self.scopes.entry(key).or_insert_with(|| {
            let labels = [("tenant", tenant.to_string()), ("scope", scope.to_string())];
            (gauge!(FRACTION, &labels), gauge!(STOPPED, &labels))
        });
        served.set(fraction);
        latched.set(if stopped { 1.0 } else { 0.0 });
    }
}

/// Puts every series at 0 that an executor would register, for a program whose rollouts are off: what is not there cannot be
/// told from what was lost.
pub fn register_metrics() {
    let mut metrics = Metrics::new();
    let _ = metrics.decisions("baseline");
    if let Ok(tenant) = TenantId::new("default") {
        metrics.scope(&tenant, &Scope::default(), 0.0, false);
        metrics.alone(&tenant, 0);
    }
}
