//! What the checks of a registry have in common.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{config::RegistryConfig, metrics::Metrics};

/// The start, on a scale that also holds contacts of earlier processes.
const STARTED: u64 = 1 << 42;

/// What every check needs besides its contract. Bindings lead to it: so a request counts one reference, to its binding.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) config: RegistryConfig,
    started: Instant,
    /// The last contact in milliseconds, [`STARTED`] being the time of `started`; 0 while nobody reports contact.
    contact: AtomicU64,
    /// Taken by the first layer.
    metrics: OnceLock<Metrics>,
    /// Per mapping.
    throttles: Vec<Throttle>,
}

/// One log line a second and mapping; the others are counted in the next.
#[derive(Debug, Default)]
struct Throttle {
    /// Milliseconds from the start, plus one, of the last line; 0: none yet.
    last: AtomicU64,
    suppressed: AtomicU64,
}

/// Payloads above this are all timed.
const SMALL: usize = 4_096;
/// Of the smaller ones each thread times its first, and then one in so many: reading the clock twice takes longer than their
/// check.
const SAMPLED: u32 = 32;

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

impl Common {
    pub(crate) fn new(config: RegistryConfig) -> Self {
        Self {
            started: Instant::now(),
            contact: AtomicU64::new(0),
            metrics: OnceLock::new(),
            throttles: config.mappings.iter().map(|_| Throttle::default()).collect(),
            config,
        }
    }

    /// The handles, registered when they are first asked for.
    pub(crate) fn metrics(&self) -> &Metrics {
        self.metrics.get_or_init(|| {
            let mappings = self.config.mappings.iter();
            Metrics::new(mappings.map(|mapping| mapping.schema_id.as_str()))
        })
    }

    fn now(&self) -> u64 {
        STARTED.saturating_add(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Time since the last contact; zero while nobody reports one.
    #[inline]
    pub(crate) fn age(&self) -> Duration {
        match self.contact.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            contact => Duration::from_millis(self.now().saturating_sub(contact)),
        }
    }

    /// The store was heard of so many milliseconds ago.
    pub(crate) fn contact(&self, ago: u64) {
        let at = self.now().saturating_sub(ago).max(1);
        self.contact.store(at, Ordering::Relaxed);
    }

    /// Checks a payload of that size, and tells how long it took if this is one that is timed.
    #[inline]
    pub(crate) fn timed<T>(&self, bytes: usize, check: impl FnOnce() -> T) -> T {
        let weight = CHECKED.with(|checked| weight(checked, bytes));
        if weight == 0 {
            return check();
        }
        let started = quanta::Instant::now();
        let verdict = check();
        let metrics = self.metrics();
        metrics.duration.record_many(started.elapsed(), weight as usize);
        metrics.age.set(self.age().as_secs_f64());
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
