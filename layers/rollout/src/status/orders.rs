//! The orders that stop or pause what a tenant has: each once, however many scopes it holds.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    latch::Brake,
    live::Live,
    state::{Lane, Scope, State},
};

/// An order that stops or pauses something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrderStatus {
    /// `stop` or `pause`.
    pub brake: Brake,
    /// The subject pattern it was given for; empty for the whole tenant. A resume of that ends it.
    pub scope: String,
    /// Whether it is latched on this node ahead of the log.
    pub latched: bool,
    /// Since when, microseconds since the Unix epoch.
    pub since_us: u64,
    /// The reason somebody gave.
    pub reason: String,
    /// The names of the keys that signed.
    pub by: Vec<String>,
    /// Why it holds on this node alone, until a resume: what the log refused it for.
    pub refused: Option<String>,
}

/// One of a tenant's orders, as a scope that it holds names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct HeldBy {
    /// `stop` or `pause`.
    pub brake: Brake,
    /// The subject pattern it was given for; empty for the whole tenant.
    pub scope: String,
    /// Whether it is latched on this node ahead of the log.
    pub latched: bool,
}

/// Every order of a tenant; of one that was given again the first time.
pub(super) fn orders(live: &Live, state: &State) -> Vec<OrderStatus> {
    let mut known = BTreeMap::new();
    for (brake, order, cause) in state.lanes().values().flat_map(Lane::held_by) {
        let first = known.entry((brake, order)).or_insert(cause);
        if cause.seq < first.seq {
            *first = cause;
        }
    }
    let by_log = known.into_iter().map(|((brake, order), cause)| OrderStatus {
        brake,
        scope: order.to_string(),
        latched: false,
        since_us: cause.since_us,
        reason: cause.reason.clone(),
        by: cause.by.clone(),
        refused: None,
    });
    let latches = live.latches.iter().filter(|((of, ..), _)| of == state.tenant());
    let latched = latches.map(|((_, order, brake), latch)| OrderStatus {
        brake: *brake,
        scope: order.to_string(),
        latched: true,
        since_us: latch.since_us,
        reason: latch.reason.clone(),
        by: latch.by.clone(),
        refused: latch.refused.clone(),
    });
    by_log.chain(latched).collect()
}

/// The orders that hold a scope: those of the log, then those that are only latched here so far.
pub(super) fn held_by(live: &Live, state: &State, scope: &Scope, lane: &Lane) -> Vec<HeldBy> {
    let named = |brake: Brake, order: &Scope, latched| HeldBy {
        brake,
        scope: order.to_string(),
        latched,
    };
    let by_log = lane.held_by().map(|(brake, order, _)| named(brake, order, false));
    let latches = live.latches.iter().filter(|((of, order, brake), latch)| {
        let known = || {
            lane.held_by()
                .any(|(kind, known, _)| kind == *brake && known == order)
        };
        of == state.tenant() && latch.holds(order, scope) && !known()
    });
    let latched = latches.map(|((_, order, brake), _)| named(*brake, order, true));
    by_log.chain(latched).collect()
}
