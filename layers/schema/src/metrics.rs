//! The metrics, by the names of DESIGN 7; handles are taken once.

use metrics::{Counter, Gauge, Histogram};

use crate::config::{Mode, OnIncompatible, OnRegression, OnStale, RegistryConfig};

/// Handles of one layer. Install the recorder before the layer is built.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Per mapping: `shield_schema_violation_total{schema_id}`.
    pub(crate) violations: Vec<Counter>,
    pub(crate) duration: Histogram,
    pub(crate) age: Gauge,
    pub(crate) unmapped: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) media_type: Counter,
    pub(crate) body: Counter,
}

impl Metrics {
    /// Registers every series at 0, one violation counter per mapping.
    pub(crate) fn new<'a>(schema_ids: impl Iterator<Item = &'a str>) -> Self {
        metrics::describe_counter!(
            "shield_schema_violation_total",
            "payloads that broke their contract"
        );
        metrics::describe_histogram!(
            "shield_schema_validation_duration_seconds",
            metrics::Unit::Seconds,
            "time to check one payload"
        );
        metrics::describe_gauge!(
            "shield_schema_registry_age_seconds",
            metrics::Unit::Seconds,
            "time since the schema store was last heard of"
        );
        metrics::describe_counter!(
            "shield_schema_unmapped_total",
            "messages whose subject no mapping matches"
        );
        metrics::describe_counter!(
            "shield_schema_refused_total",
            "messages refused for another reason than their payload"
        );
        let counter = |counter: Counter| {
            counter.increment(0);
            counter
        };
        let refused = |reason: &'static str| {
            counter(metrics::counter!("shield_schema_refused_total", "reason" => reason))
        };
        metrics::describe_gauge!(
            "shield_schema_relaxed",
            "1 where the configuration lets through what the default refuses"
        );
        metrics::describe_counter!(
            "shield_schema_load_errors_total",
            "updates of schemas that were refused"
        );
        metrics::counter!("shield_schema_load_errors_total").increment(0);
        metrics::describe_counter!(
            "shield_schema_alarms_total",
            "what an operator of the schema store has to look at"
        );
        for alarm in Alarm::ALL {
            metrics::counter!("shield_schema_alarms_total", "alarm" => alarm.as_str()).increment(0);
        }
        let age = metrics::gauge!("shield_schema_registry_age_seconds");
        age.set(0.0);
        Self {
            violations: schema_ids
                .map(|id| {
                    counter(metrics::counter!("shield_schema_violation_total", "schema_id" => id.to_owned()))
                })
                .collect(),
            duration: metrics::histogram!("shield_schema_validation_duration_seconds"),
            age,
            unmapped: counter(metrics::counter!("shield_schema_unmapped_total")),
            unavailable: refused("unavailable"),
            media_type: refused("media_type"),
            body: refused("body"),
        }
    }
}

/// `shield_schema_relaxed{what}`: where an operator chose to let pass; told at the start too.
pub(crate) fn relaxed(config: &RegistryConfig) {
    let serves = config.on_stale == OnStale::Serve;
    let accepts = config.on_incompatible == OnIncompatible::Accept;
    let adopts = config.on_regression == OnRegression::Adopt;
    for (what, on) in [
        ("mode", config.mode == Mode::Monitor),
        ("on_stale", serves),
        ("on_incompatible", accepts),
        ("on_regression", adopts),
    ] {
        metrics::gauge!("shield_schema_relaxed", "what" => what).set(if on { 1.0 } else { 0.0 });
        if on {
            tracing::warn!(
                component = "registry",
                key = what,
                "contracts are not always enforced, as configured"
            );
        }
    }
}

/// `shield_schema_alarms_total{alarm}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// The store went back.
    Regressed,
    /// The store lost schemas.
    Emptied,
    /// An incompatible update came in force.
    Broken,
    /// The file of copies cannot be written or read.
    Copies,
}

impl Alarm {
    const ALL: [Self; 4] = [Self::Regressed, Self::Emptied, Self::Broken, Self::Copies];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Regressed => "registry_regressed",
            Self::Emptied => "registry_emptied",
            Self::Broken => "contract_broken",
            Self::Copies => "copies",
        }
    }

    /// Counts it. Rare, so the handle is looked up each time.
    pub(crate) fn raise(self) {
        metrics::counter!("shield_schema_alarms_total", "alarm" => self.as_str()).increment(1);
    }
}

/// `shield_schema_load_errors_total`: updates that were refused. Rare, so the handle is looked up each time.
pub(crate) fn load_error() {
    metrics::counter!("shield_schema_load_errors_total").increment(1);
}
