//! How many messages were served, for the caller and as metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram};

use super::Served;

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) ok: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) poison: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> Served {
        Served {
            ok: self.ok.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            poison: self.poison.load(Ordering::Relaxed),
        }
    }
}

/// The handles of one source's metrics.
pub(super) struct Metrics {
    pub(super) ok: Counter,
    pub(super) refused: Counter,
    pub(super) failed: Counter,
    pub(super) poison: Counter,
    pub(super) in_flight: Gauge,
    pub(super) duration: Histogram,
    pub(super) replies_refused: Counter,
}

impl Metrics {
    pub(super) fn of(source: &'static str) -> Self {
        let of = |outcome: &'static str| {
            let counter =
                metrics::counter!("shield_nats_served_total", "source" => source, "outcome" => outcome);
            counter.increment(0);
            counter
        };
        let in_flight = metrics::gauge!("shield_nats_serve_in_flight", "source" => source);
        in_flight.set(0.0);
        let replies_refused = metrics::counter!("shield_nats_replies_refused_total");
        replies_refused.increment(0);
        Self {
            replies_refused,
            ok: of("ok"),
            refused: of("refused"),
            failed: of("failed"),
            poison: of("poison"),
            in_flight,
            duration: metrics::histogram!("shield_nats_serve_duration_seconds", "source" => source),
        }
    }
}

/// Puts the metrics of [`serve`](super::serve()) at 0, both sources, whether or not anything is served.
pub fn register_metrics() {
    for source in ["core", "jetstream"] {
        let _ = Metrics::of(source);
    }
}
