//! Which variant a request gets: the snapshot read once, one hash.

use std::sync::Arc;

use http::{Extensions, HeaderMap};

use crate::{
    assignment::{Cohort, CoinFlip, Key, Sampling},
    future::{Decided, Measure},
    handle::Handle,
    pin::{PIN_HEADER, Pin},
    session::SessionVariant,
    snapshot::{LaneView, Served, TenantView},
    variant::Variant,
    wire::VariantId,
};

/// What all services of one layer decide by.
#[derive(Debug)]
pub(crate) struct Decider {
    pub(crate) handle: Handle,
    pub(crate) key: Key,
    pub(crate) sampling: Sampling,
    pub(crate) coin: CoinFlip,
}

impl Decider {
    /// The variant of a request and who measures it; None where no catalog is.
    #[inline]
    pub(crate) fn decide(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<Decided> {
        if self.handle.is_idle() {
            return None;
        }
        self.count(headers, extensions)
    }

    fn count(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<Decided> {
        self.look(headers, extensions, |choice| match choice {
            Choice::Pinned(variant) => Decided::new(Arc::clone(variant), None),
            Choice::Served(served) => {
                served.decisions.increment(1);
                let measure = served.stats.as_ref().and_then(|stats| {
                    stats.decide();
                    served.measured.then(|| Measure::start(stats.clone()))
                });
                Decided::new(Arc::clone(&served.variant), measure)
            }
        })
    }

    /// Its number alone, counted nowhere: the bare decision.
    pub(crate) fn number(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<VariantId> {
        if self.handle.is_idle() {
            return None;
        }
        self.look(headers, extensions, |choice| match choice {
            Choice::Pinned(variant) => variant.id,
            Choice::Served(served) => served.variant.id,
        })
    }

    /// The same, counted nowhere.
    pub(crate) fn preview(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<Variant> {
        self.look(headers, extensions, |choice| match choice {
            Choice::Pinned(variant) => Variant::clone(variant),
            Choice::Served(served) => Variant::clone(&served.variant),
        })
    }

    fn look<T>(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        take: impl FnOnce(Choice<'_>) -> T,
    ) -> Option<T> {
        let snapshot = self.handle.snapshot();
        let (tenant, lane) = snapshot.lane(extensions)?;
        if let Some(pinned) = self.pinned(tenant, lane, headers, extensions) {
            return Some(take(Choice::Pinned(pinned)));
        }
        let kept = match self.handle.cohort() {
            Cohort::All => None,
            Cohort::NewSessions => kept(lane, extensions),
        };
        let served = kept.unwrap_or_else(|| self.assign(lane, headers, extensions));
        Some(take(Choice::Served(served)))
    }

    fn assign<'a>(&self, lane: &'a LaneView, headers: &HeaderMap, extensions: &Extensions) -> &'a Served {
        let takes = lane.canary().filter(|canary| match self.sampling {
            Sampling::Random => canary.threshold.contains(self.coin.flip()),
            Sampling::Sticky => self
                .key
                .with(headers, extensions, |key| canary.takes(key))
                // A frame has no cookie and no claim of its own.
                .or_else(|| Some(canary.takes(extensions.get::<SessionVariant>()?.key()?)))
                .unwrap_or(false),
        });
        takes.map_or(&lane.base, |canary| &canary.served)
    }

    /// The variant a tester's pin names.
    fn pinned<'a>(
        &self,
        tenant: &'a TenantView,
        lane: &LaneView,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Option<&'a Arc<Variant>> {
        if tenant.pins.is_empty() || lane.same_for_all {
            return None;
        }
        let carried = extensions.get::<Pin>().map(|Pin(header)| header);
        let header = carried.or_else(|| headers.get(PIN_HEADER))?.to_str().ok()?;
        let token = self.handle.verify_pin(header)?;
        let same_tenant = token.tenant == tenant.tenant.as_str();
        tenant.pins.get(&token.variant).filter(|_| same_tenant)
    }
}

/// What a request gets.
enum Choice<'a> {
    /// A tester's own choice; it counts in no rollout.
    Pinned(&'a Arc<Variant>),
    Served(&'a Served),
}

/// What an open session keeps, where sessions keep theirs and it is still served.
fn kept<'a>(lane: &'a LaneView, extensions: &Extensions) -> Option<&'a Served> {
    if lane.same_for_all {
        return None;
    }
    let session = extensions.get::<SessionVariant>()?;
    lane.serving(session.opened_with(extensions)?)
}
