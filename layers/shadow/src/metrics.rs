//! The mirror's metrics, by the `metrics` facade: handles are taken when the layer is built, so install the recorder
//! first; every series is then there at 0.

use arqon_message::KeySource;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use crate::Reason;

const SOURCES: [KeySource; 5] = [
    KeySource::Given,
    KeySource::Traceparent,
    KeySource::B3,
    KeySource::RequestId,
    KeySource::Connection,
];

/// What is counted for the whole layer.
pub(crate) struct Metrics {
    dropped: [Counter; Reason::ALL.len()],
    sources: [Counter; SOURCES.len()],
    pub(crate) no_key: Counter,
    pub(crate) looped: Counter,
    pub(crate) queued: Gauge,
    pub(crate) bytes: Gauge,
    pub(crate) in_flight: Gauge,
}

impl Metrics {
    pub(crate) fn register() -> Self {
        describe_counter!(
            "shield_mirror_traffic_total",
            "Copies that the sink took, by rule"
        );
        describe_counter!(
            "shield_mirror_sampled_total",
            "Requests chosen to be mirrored, by rule"
        );
        describe_counter!(
            "shield_mirror_dropped_total",
            "Chosen requests that have no copy, by reason"
        );
        describe_counter!(
            "shield_mirror_key_source_total",
            "Requests that were looked at, by where their key came from"
        );
        describe_counter!(
            "shield_mirror_no_key_total",
            "Requests under a rule that have no key, and so no copy"
        );
        describe_counter!(
            "shield_mirror_loop_total",
            "Chosen requests that are shadow copies themselves"
        );
        describe_gauge!(
            "shield_mirror_effective_fraction",
            "The share mirrored now, shedding included, by rule"
        );
        describe_gauge!(
            "shield_mirror_queue_messages",
            "Copies waiting for the drain task"
        );
        describe_gauge!(
            "shield_mirror_queue_bytes",
            "Bytes held for copies: being teed, queued, being delivered"
        );
        describe_gauge!(
            "shield_mirror_in_flight",
            "Chosen requests neither mirrored nor dropped yet"
        );
        let zero = |counter: Counter| {
            counter.increment(0);
            counter
        };
        Self {
            dropped: Reason::ALL
                .map(|reason| zero(counter!("shield_mirror_dropped_total", "reason" => reason.as_str()))),
            sources: SOURCES
                .map(|source| zero(counter!("shield_mirror_key_source_total", "source" => source.as_str()))),
            no_key: zero(counter!("shield_mirror_no_key_total")),
            looped: zero(counter!("shield_mirror_loop_total")),
            queued: gauge!("shield_mirror_queue_messages"),
            bytes: gauge!("shield_mirror_queue_bytes"),
            in_flight: gauge!("shield_mirror_in_flight"),
        }
    }

    pub(crate) fn dropped(&self, reason: Reason) {
        self.dropped[reason.index()].increment(1);
    }

    pub(crate) fn source(&self, source: KeySource) {
        if let Some(place) = SOURCES.iter().position(|known| *known == source) {
            self.sources[place].increment(1);
        }
    }
}

/// What is counted for one rule.
pub(crate) struct RuleMetrics {
    pub(crate) sampled: Counter,
    pub(crate) mirrored: Counter,
    pub(crate) effective: Gauge,
}

impl RuleMetrics {
    pub(crate) fn register(pattern: &str) -> Self {
        let sampled = counter!("shield_mirror_sampled_total", "rule" => pattern.to_owned());
        let mirrored = counter!("shield_mirror_traffic_total", "rule" => pattern.to_owned());
        sampled.increment(0);
        mirrored.increment(0);
        Self {
            sampled,
            mirrored,
            effective: gauge!("shield_mirror_effective_fraction", "rule" => pattern.to_owned()),
        }
    }
}
