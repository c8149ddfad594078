//! The gateway's bus.

use std::sync::Arc;

use arqon::{
    bus::{Bus, BusMetrics, OverflowWarning},
    config::{self, Config},
};

/// The bus, with its losses in the log and the host's label.
pub(crate) fn new(config: &Config) -> Result<Bus, String> {
    let mut counted = BusMetrics::new().with_warning(Arc::new(|warning: &OverflowWarning| {
        tracing::warn!(
            component = "bus",
            subscriber = warning.subscriber,
            lost = warning.lost,
            dropped_total = warning.dropped_total,
            held_back = warning.held_back,
            depth = warning.depth,
            "a subscriber fell behind and lost events"
        );
    }));
    if let Some(on) = config::amnesia().map_err(|finding| finding.to_string())? {
        counted = counted.with_amnesia(on);
    }
    Bus::with_metrics(config.bus.to_config(), Arc::new(counted)).map_err(|error| format!("bus: {error}"))
}
