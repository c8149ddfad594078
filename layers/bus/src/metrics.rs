//! Counters the host provides and reads (source: OBSERVABILITY 1). Nothing is registered, nothing global.

use std::{fmt, sync::Arc};

use crate::sync::{AtomicU64, Ordering};

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
    received: AtomicU64,
    unheard: AtomicU64,
    depth: AtomicU64,
    warning: Option<WarningSink>,
    amnesia: Option<bool>,
    pq: Option<(PqPosture, String, String)>,
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
    /// is added as soon as the subscriber sees the next batch, has caught up, or ends: then it is exact.
    #[must_use]
    pub fn overflow_dropped_total(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Times a subscriber was told that it lost something.
    #[must_use]
    pub fn lagged_total(&self) -> u64 {
        self.lags.load(Ordering::Relaxed)
    }

    /// Events received by subscribers; brought up to date every 32nd event and whenever one has caught up.
    #[must_use]
    pub fn received_total(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Events published while nobody subscribed (each was a [`Closed`](crate::BusError::Closed)).
    #[must_use]
    pub fn unheard_total(&self) -> u64 {
        self.unheard.load(Ordering::Relaxed)
    }

    /// Slots that waited for the subscriber that looked last: every 32nd event, on a loss, when caught up.
    /// For the slowest receiver of all, ask [`Bus::queue_depth`](crate::Bus::queue_depth) on the scrape.
    #[must_use]
    pub fn queue_depth(&self) -> u64 {
        self.depth.load(Ordering::Relaxed)
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

    pub(crate) fn add_received(&self, events: u64) {
        self.received.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn add_dropped(&self, events: u64) {
        self.dropped.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn add_lag(&self) {
        self.lags.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_depth(&self, slots: u64) {
        self.depth.store(slots, Ordering::Relaxed);
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
