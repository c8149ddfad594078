//! The flags that set keys, for every command that reads a configuration.

use super::Override;

/// A flag and the key that it sets.
pub(super) const FLAGS: &[(&str, &str)] = &[
    ("--nats", "nats.url"),
    ("--listen", "gateway.listen"),
    ("--admin-listen", "gateway.admin_listen"),
    ("--bus-capacity", "bus.capacity"),
    ("--bus-overflow-warn-rate", "bus.overflow_warn_rate_per_min"),
    ("--bus-metrics-namespace", "bus.metrics_namespace"),
    ("--bus-amnesia-label", "bus.emit_amnesia_label"),
];

/// What the command line says instead of the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigFlags {
    /// The NATS server, instead of `nats.url`. Without either the engine is embedded, in memory.
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    /// Where clients connect, instead of `gateway.listen`.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where operators connect, instead of `gateway.admin_listen`.
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// How many events may wait on the bus, instead of `bus.capacity`.
    #[arg(long, value_name = "N")]
    pub bus_capacity: Option<String>,
    /// The most warnings of lost events a minute, instead of `bus.overflow_warn_rate_per_min`.
    #[arg(long, value_name = "N")]
    pub bus_overflow_warn_rate: Option<String>,
    /// The name that `/v1/state` shows, instead of `bus.metrics_namespace`.
    #[arg(long, value_name = "NAME")]
    pub bus_metrics_namespace: Option<String>,
    /// Whether metrics carry the label `amnesia`, instead of `bus.emit_amnesia_label`.
    #[arg(long, value_name = "BOOL")]
    pub bus_amnesia_label: Option<String>,
}

impl ConfigFlags {
    /// The keys that they set.
    #[must_use]
    pub fn overrides(&self) -> Vec<Override> {
        let given = [
            &self.nats,
            &self.listen,
            &self.admin_listen,
            &self.bus_capacity,
            &self.bus_overflow_warn_rate,
            &self.bus_metrics_namespace,
            &self.bus_amnesia_label,
        ];
        FLAGS
            .iter()
            .zip(given)
            .filter_map(|((_, key), value)| Some((*key, value.clone()?)))
            .collect()
    }
}
