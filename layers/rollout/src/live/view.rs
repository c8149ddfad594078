//! What requests read of a scope.

use std::{collections::HashMap, sync::Arc};

use arqon_message::{Fraction, Sampler, Threshold};

use crate::{
    catalog::VariantSpec,
    metrics::Metrics,
    snapshot::{Canary, LaneView, Served},
    state::{Lane, State},
    stats::Stats,
    table::Phase,
    variant::Variant,
    watch::Watch,
    wire::VariantId,
};

pub(super) fn pins(state: &State) -> HashMap<VariantId, Arc<Variant>> {
    let resolve = |spec: &VariantSpec| Some((spec.id, state.catalog().resolve(Some(spec.id), None).ok()?));
    state.catalog().variants().filter_map(resolve).collect()
}

pub(super) fn lane_view(
    state: &State,
    lane: &Lane,
    phase: Phase,
    percent: f64,
    base: Arc<Variant>,
    watch: Option<(&Watch, bool)>,
    metrics: &mut Metrics,
) -> LaneView {
    let mut served = |variant: Arc<Variant>, stats: Option<Arc<Stats>>| {
        let decisions = metrics.decisions(&variant.name);
        Served {
            variant,
            decisions,
            stats,
            measured: watch.is_some_and(|(_, measured)| measured),
        }
    };
    if phase == Phase::Stopped {
        return LaneView {
            same_for_all: true,
            base: served(state.catalog().baseline(), None),
            canary: None,
        };
    }
    let base = served(base, watch.map(|(watch, _)| watch.baseline.clone()));
    let threshold = Fraction::from_percent(percent).map_or(Threshold::Never, Fraction::threshold);
    let canary = lane.rollout().map(|rollout| Canary {
        served: served(
            rollout.variant().clone(),
            watch.map(|(watch, _)| watch.canary.clone()),
        ),
        threshold,
        sampler: Sampler::new(rollout.digest.seed()),
    });
    LaneView {
        same_for_all: phase == Phase::Forced,
        base,
        canary,
    }
}
