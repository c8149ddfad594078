//! [`SchemaLayer`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tower_layer::Layer;

use crate::{config::Unmapped, handle::Registry, metrics::Metrics, service::Schema};

/// Checks the payload of every message against the contract of its subject. See the crate's documentation.
#[derive(Clone)]
pub struct SchemaLayer {
    /// None where nothing is mapped and what is not mapped passes: no request has anything to look at.
    shared: Option<Arc<Shared>>,
}

/// What every clone of the service shares.
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    /// Per mapping.
    throttles: Vec<Throttle>,
    started: Instant,
}

/// One log line a second and mapping; the others are counted in the next.
#[derive(Default)]
struct Throttle {
    /// Milliseconds from the start, plus one, of the last line; 0: none yet.
    last: AtomicU64,
    suppressed: AtomicU64,
}

impl SchemaLayer {
    /// A layer that enforces the registry's mappings by the registry's configuration. Takes the metric handles: install
    /// the recorder first.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        let mappings = &registry.config().mappings;
        crate::metrics::relaxed(registry.config());
        let metrics = Metrics::new(mappings.iter().map(|mapping| mapping.schema_id.as_str()));
        let throttles = mappings.iter().map(|_| Throttle::default()).collect();
        let idle = mappings.is_empty() && registry.config().unmapped == Unmapped::Allow;
        let shared = Shared {
            registry,
            metrics,
            throttles,
            started: Instant::now(),
        };
        Self {
            shared: (!idle).then(|| Arc::new(shared)),
        }
    }
}

impl Shared {
    /// How many lines were suppressed since the last, if this one may be written.
    pub(crate) fn may_log(&self, mapping: usize) -> Option<u64> {
        let throttle = &self.throttles[mapping];
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1;
        let last = throttle.last.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= 1_000;
        if due
            && throttle
                .last
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            return Some(throttle.suppressed.swap(0, Ordering::Relaxed));
        }
        throttle.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl<S> Layer<S> for SchemaLayer {
    type Service = Schema<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Schema {
            inner,
            shared: self.shared.clone(),
        }
    }
}

impl fmt::Debug for SchemaLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchemaLayer")
            .field("registry", &self.shared.as_ref().map(|shared| &shared.registry))
            .finish()
    }
}
