//! Counters the host provides and reads (source: OBSERVABILITY 1). Nothing is registered, nothing global.

use std::{fmt, sync::Arc};

use crate::sync::{lock, AtomicU64, Mutex, Ordering};

/// Receives the rate-limited overflow warnings; called in the lagging subscriber's task, so it must be
/// quick and must not block.
pub type WarningSink = Arc<dyn Fn(&OverflowWarning) + Send + Sync>;

/// A subscriber lost events.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OverflowWarning {
    /// The name given to [`Bus::observe`](crate::Bus::observe).
    pub subscriber: &'static str,
    /// Slots lost now; each is at least one event.
    pub lost: u64,
    /// Events lost so far, all subscribers.
    pub dropped_total: u64,
    /// Warnings held back since the last one.
    pub held_back: u64,
    /// Slots still waiting for this subscriber.
    pub depth: u64,
}

/// The host's posture in post-quantum migration; a label, never a policy (source: QUANTUM 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PqPosture {
    /// Classical only.
    Off,
    /// Classical and post-quantum together.
    Hybrid,
    /// Post-quantum only.
    PqOnly,
}

impl PqPosture {
    /// `off`, `hybrid` or `pq-only`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Hybrid => "hybrid",
            Self::PqOnly => "pq-only",
        }
    }
}

/// Handles the host makes, gives to [`Bus::with_metrics`](crate::Bus::with_metrics) and reads on a scrape.
///
/// [`Subscriber`](crate::Subscriber)s keep it up to date; raw receivers do not. One may serve several
/// buses, as in a cutover.
#[derive(Default)]
pub struct BusMetrics {
    dropped: AtomicU64,
    lags: AtomicU64,
    unheard: AtomicU64,
    subscribers: AtomicU64,
    meters: Mutex<Meters>,
    warning: Option<WarningSink>,
    amnesia: Option<bool>,
    pq: Option<(PqPosture, String, String)>,
}

/// One meter for each living subscriber, and what the ended ones had received.
#[derive(Default)]
struct Meters {
    living: Vec<Arc<Meter>>,
    ended_received: u64,
}

/// What one subscriber alone writes, on a cache line of its own: counting costs a plain store.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Meter {
    received: AtomicU64,
    depth: AtomicU64,
}

impl Meter {
    pub(crate) fn set_received(&self, events: u64) {
        self.received.store(events, Ordering::Relaxed);
    }

    pub(crate) fn set_depth(&self, slots: u64) {
        self.depth.store(slots, Ordering::Relaxed);
    }
}

impl BusMetrics {
    /// Name under which a host exports [`overflow_dropped_total`](Self::overflow_dropped_total).
    pub const OVERFLOW_DROPPED_TOTAL: &'static str = "bus_overflow_dropped_total";
    /// Name under which a host exports [`queue_depth`](Self::queue_depth).
    pub const QUEUE_DEPTH: &'static str = "bus_queue_depth";
    /// Name under which a host exports [`Bus::subscribers`](crate::Bus::subscribers).
    pub const SUBSCRIBERS_TOTAL: &'static str = "bus_subscribers_total";

    /// All zero, no warning sink, no labels.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets who hears of overflows.
    #[must_use]
    pub fn with_warning(mut self, sink: WarningSink) -> Self {
        self.warning = Some(sink);
        self
    }

    /// Sets the label `amnesia`: whether the host runs without persistence.
    #[must_use]
    pub fn with_amnesia(mut self, on: bool) -> Self {
        self.amnesia = Some(on);
        self
    }

    /// Sets the labels `pq`, `kex` and `sig`; listed only with the feature `pq-labels`.
    #[must_use]
    pub fn with_pq(mut self, posture: PqPosture, kex: impl Into<String>, sig: impl Into<String>) -> Self {
        self.pq = Some((posture, kex.into(), sig.into()));
        self
    }

    /// Events lost by subscribers. Counts each lost slot at once as one event; what a lost batch held more
    /// is added as soon as the subscriber sees the next batch, has caught up, ends or is dropped: then it is
    /// exact. (One that is dropped waits for no lock: where other threads publish batches at that very moment,
    /// it may stay a lower bound.) What a dropped subscriber had not read is given up,
    /// not lost, but for what was overwritten while a loss was not settled yet.
    #[must_use]
    pub fn overflow_dropped_total(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Times a subscriber was told that it lost something.
    #[must_use]
    pub fn lagged_total(&self) -> u64 {
        self.lags.load(Ordering::Relaxed)
    }

    /// Events received by subscribers, reports in batches counted one by one; as of each one's last depth
    /// sample, loss, or catching up.
    #[must_use]
    pub fn received_total(&self) -> u64 {
        let meters = lock(&self.meters);
        let living: u64 = meters
            .living
            .iter()
            .map(|meter| meter.received.load(Ordering::Relaxed))
            .sum();
        meters.ended_received + living
    }

    /// Events published while nobody subscribed (each was a [`Closed`](crate::BusError::Closed)).
    #[must_use]
    pub fn unheard_total(&self) -> u64 {
        self.unheard.load(Ordering::Relaxed)
    }

    /// Slots that wait for the slowest subscriber, as each last saw it: every 32nd event (of all subscribers
    /// together), on a loss, when it has caught up. A scrape that wants raw and stalled receivers too asks
    /// [`Bus::queue_depth`](crate::Bus::queue_depth).
    #[must_use]
    pub fn queue_depth(&self) -> u64 {
        let meters = lock(&self.meters);
        meters
            .living
            .iter()
            .map(|meter| meter.depth.load(Ordering::Relaxed))
            .max()
            .unwrap_or(0)
    }

    /// Name and value of each label to put on the bus's metrics.
    pub(crate) fn labels(&self, with_amnesia: bool) -> Vec<(&'static str, String)> {
        let mut labels = Vec::new();
        if let Some(on) = self.amnesia.filter(|_| with_amnesia) {
            labels.push(("amnesia", if on { "on" } else { "off" }.to_owned()));
        }
        if let Some((posture, kex, sig)) = self.pq.as_ref().filter(|_| cfg!(feature = "pq-labels")) {
            labels.push(("pq", posture.as_str().to_owned()));
            labels.push(("kex", kex.clone()));
            labels.push(("sig", sig.clone()));
        }
        labels
    }

    pub(crate) fn add_unheard(&self, events: u64) {
        self.unheard.fetch_add(events, Ordering::Relaxed);
    }

    /// A meter for a new subscriber.
    pub(crate) fn begin(&self) -> Arc<Meter> {
        let meter = Arc::new(Meter::default());
        let mut meters = lock(&self.meters);
        meters.living.push(Arc::clone(&meter));
        self.subscribers
            .store(meters.living.len() as u64, Ordering::Relaxed);
        drop(meters);
        meter
    }

    /// The subscriber is gone: keeps what it had received, forgets its depth.
    pub(crate) fn end(&self, meter: &Arc<Meter>) {
        let mut meters = lock(&self.meters);
        if let Some(at) = meters.living.iter().position(|living| Arc::ptr_eq(living, meter)) {
            meters.living.swap_remove(at);
            meters.ended_received += meter.received.load(Ordering::Relaxed);
            self.subscribers
                .store(meters.living.len() as u64, Ordering::Relaxed);
        }
    }

    /// Living subscribers that count here.
    pub(crate) fn subscribers(&self) -> u32 {
        u32::try_from(self.subscribers.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    pub(crate) fn add_dropped(&self, events: u64) {
        self.dropped.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn add_lag(&self) {
        self.lags.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn warning(&self) -> Option<&WarningSink> {
        self.warning.as_ref()
    }
}

impl fmt::Debug for BusMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusMetrics")
            .field("overflow_dropped_total", &self.overflow_dropped_total())
            .field("lagged_total", &self.lagged_total())
            .field("received_total", &self.received_total())
            .field("unheard_total", &self.unheard_total())
            .field("queue_depth", &self.queue_depth())
            .finish_non_exhaustive()
    }
}
