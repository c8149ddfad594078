//! What a request reads: one immutable value, replaced as a whole.

use std::{collections::HashMap, sync::Arc};

use arqon_message::{Sampler, Subject, SubjectTrie, TenantId, Threshold};
use http::Extensions;
use metrics::Counter;

use crate::{stats::Stats, variant::Variant, wire::VariantId};

/// The live decisions of all tenants.
#[derive(Default)]
pub(crate) struct Snapshot {
    /// By the tenant's name: most programs have a few, which are found sooner than a name is hashed.
    tenants: Box<[TenantView]>,
}

#[derive(Clone)]
pub(crate) struct TenantView {
    pub(crate) tenant: TenantId,
    /// Every variant of the catalog, for testers; empty where no pin counts.
    pub(crate) pins: Arc<HashMap<VariantId, Arc<Variant>>>,
    pub(crate) whole: Arc<LaneView>,
    pub(crate) scoped: Arc<SubjectTrie<Arc<LaneView>>>,
}

/// One scope's decision.
pub(crate) struct LaneView {
    /// Stopped or forced: the same for everyone, whatever a session or a tester has.
    pub(crate) same_for_all: bool,
    pub(crate) base: Served,
    pub(crate) canary: Option<Canary>,
}

pub(crate) struct Canary {
    pub(crate) served: Served,
    pub(crate) threshold: Threshold,
    pub(crate) sampler: Sampler,
}

/// A variant and who counts it.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) variant: Arc<Variant>,
    pub(crate) decisions: Counter,
    /// Who counts it for the rollout that runs.
    pub(crate) stats: Option<Arc<Stats>>,
    /// Whether its answers are measured, too: a guard or telemetry asks for it.
    pub(crate) measured: bool,
}

impl Snapshot {
    /// Of tenants in the order of their names, none twice.
    pub(crate) fn new(tenants: Vec<TenantView>) -> Self {
        debug_assert!(tenants.is_sorted_by(|one, next| one.tenant < next.tenant));
        Self {
            tenants: tenants.into(),
        }
    }

    #[inline]
    fn of(&self, tenant: &str) -> Option<&TenantView> {
        if let [sole] = &*self.tenants {
            return (sole.tenant.as_str() == tenant).then_some(sole);
        }
        let at = self
            .tenants
            .binary_search_by(|view| view.tenant.as_str().cmp(tenant))
            .ok()?;
        self.tenants.get(at)
    }

    /// Whether it serves nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// The scope a request falls into: by its subject, else its tenant, else the only tenant.
    pub(crate) fn lane(&self, extensions: &Extensions) -> Option<(&TenantView, &LaneView)> {
        if self.tenants.is_empty() {
            return None;
        }
        let subject = extensions.get::<Subject>();
        let tenant = extensions
            .get::<TenantId>()
            .map(TenantId::as_str)
            .or_else(|| subject.and_then(Subject::tenant));
        let view = match tenant {
            Some(tenant) => self.of(tenant)?,
            // The tenant of a request that names none, when there is only one.
            None => match &*self.tenants {
                [sole] => sole,
                _ => return None,
            },
        };
        let scoped = subject.and_then(|subject| view.scoped.find(subject));
        Some((view, scoped.unwrap_or(&view.whole)))
    }
}

impl LaneView {
    /// What serves a variant now, if anything does.
    pub(crate) fn serving(&self, id: VariantId) -> Option<&Served> {
        let canary = self.canary().map(|canary| &canary.served);
        [Some(&self.base), canary]
            .into_iter()
            .flatten()
            .find(|served| served.variant.id == id)
    }

    /// Whether a key is needed to decide.
    pub(crate) fn canary(&self) -> Option<&Canary> {
        self.canary
            .as_ref()
            .filter(|canary| canary.threshold != Threshold::Never)
    }
}

impl Canary {
    pub(crate) fn takes(&self, key: &[u8]) -> bool {
        self.sampler.sample(key, self.threshold)
    }
}
