//! [`SchemaLayer`].

use std::{
    cell::Cell,
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

/// Payloads above this are all timed.
const SMALL: usize = 4_096;
/// Of the smaller ones each thread times its first, and then one in so many: reading the clock twice takes longer than their
/// check.
const SAMPLED: u32 = 16;

thread_local! {
    /// Small payloads that this thread has checked.
    static CHECKED: Cell<u32> = const { Cell::new(0) };
}

/// How many payloads this one stands for in the histogram; 0: it is not timed.
fn weight(checked: &Cell<u32>, bytes: usize) -> u32 {
    if bytes > SMALL {
        return 1;
    }
    let before = checked.get();
    checked.set(before.wrapping_add(1));
    match before % SAMPLED {
        0 if before == 0 => 1,
        0 => SAMPLED,
        _ => 0,
    }
}

impl Shared {
    /// Checks a payload of that size, and tells how long it took if this is one that is timed.
    #[inline]
    pub(crate) fn timed<T>(&self, bytes: usize, check: impl FnOnce() -> T) -> T {
        let weight = CHECKED.with(|checked| weight(checked, bytes));
        if weight == 0 {
            return check();
        }
        let started = quanta::Instant::now();
        let verdict = check();
        self.metrics
            .duration
            .record_many(started.elapsed(), weight as usize);
        self.metrics.age.set(self.registry.age().as_secs_f64());
        verdict
    }

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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{SAMPLED, SMALL, weight};

    #[test]
    fn those_that_are_timed_stand_for_all_and_large_ones_for_themselves() {
        let checked = Cell::new(0);
        let mut told = 0;
        for number in 1..=1 + 10 * SAMPLED {
            let one = weight(&checked, SMALL);
            assert!(number > 1 || one == 1, "the first is timed");
            told += one;
            assert!(told <= number && number - told < SAMPLED, "{told} of {number}");
            assert_eq!(weight(&checked, SMALL + 1), 1);
        }
        assert_eq!(told, 1 + 10 * SAMPLED);
        let last = Cell::new(u32::MAX);
        assert_eq!(weight(&last, 0), 0);
        assert_eq!(weight(&last, 0), 1, "it begins anew");
    }
}
